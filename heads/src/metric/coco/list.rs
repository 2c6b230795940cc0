//! A JSON array taken entry by entry, with errors that say which entry they are in: a file of half a million on one
//! line cannot be searched by column.

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, SeqAccess, Visitor};
use std::fmt::{Display, Formatter};
use std::marker::PhantomData;

/// Hands over each entry with its number; nothing is kept.
pub(super) struct Each<T, F> {
    take: F,
    entry: PhantomData<T>,
}

impl<T, E: Display, F: FnMut(usize, T) -> Result<(), E>> Each<T, F> {
    /// `take` may refuse an entry.
    pub(super) fn new(take: F) -> Self {
        Self { take, entry: PhantomData }
    }
}

impl<'de, T, E, F> DeserializeSeed<'de> for Each<T, F>
where
    T: Deserialize<'de>,
    E: Display,
    F: FnMut(usize, T) -> Result<(), E>,
{
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de, T, E, F> Visitor<'de> for Each<T, F>
where
    T: Deserialize<'de>,
    E: Display,
    F: FnMut(usize, T) -> Result<(), E>,
{
    type Value = ();

    fn expecting(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str("an array of objects")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut entries: A) -> Result<(), A::Error> {
        let mut number = 0;
        let wrong = |number: usize, what: &dyn Display| A::Error::custom(format!("entry {number}: {what}"));
        while let Some(entry) = entries.next_element().map_err(|error| wrong(number, &error))? {
            (self.take)(number, entry).map_err(|error| wrong(number, &error))?;
            number += 1;
        }
        Ok(())
    }
}

/// All entries of an array.
pub(super) struct List<T>(pub(super) Vec<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut entries = Vec::new();
        Each::new(|_, entry| {
            entries.push(entry);
            Ok::<_, String>(())
        })
        .deserialize(deserializer)?;
        Ok(Self(entries))
    }
}
