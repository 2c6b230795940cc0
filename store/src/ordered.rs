//! A stage that works on several items at a time and passes them on in their order. Knows nothing of what
//! the items are.

use crossbeam_channel::{Receiver, Sender};
use rayon::prelude::*;

/// Takes what waits in `from`, at most `most` items at a time, maps these in parallel on rayon's threads and
/// sends them to `to` in the order in which they came, until `from` is at its end or nobody listens to `to`.
///
/// # Errors
/// That of the first item whose mapping failed; those before it are passed on.
pub fn ordered<T: Send, U: Send, E: Send>(
    from: &Receiver<T>,
    to: &Sender<U>,
    most: usize,
    map: impl Fn(T) -> Result<U, E> + Sync,
) -> Result<(), E> {
    while let Ok(first) = from.recv() {
        let waiting = from.try_iter().take(most.saturating_sub(1));
        let group: Vec<T> = std::iter::once(first).chain(waiting).collect();
        let mapped: Vec<Result<U, E>> = group.into_par_iter().map(&map).collect();
        for item in mapped {
            if to.send(item?).is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::bounded;
    use std::time::Duration;

    #[test]
    fn items_keep_their_order_however_long_each_takes() {
        let (to_stage, from) = bounded(16);
        let (to, results) = bounded(4);
        let doubled = std::thread::scope(|scope| {
            scope.spawn(move || (0..100u64).for_each(|item| to_stage.send(item).unwrap()));
            scope.spawn(move || {
                ordered(&from, &to, 4, |item| {
                    std::thread::sleep(Duration::from_micros(item * 37 % 11 * 100));
                    Ok::<_, ()>(2 * item)
                })
            });
            results.iter().collect::<Vec<u64>>()
        });
        assert_eq!(doubled, (0..100).map(|item| 2 * item).collect::<Vec<_>>());
    }

    #[test]
    fn the_first_failure_ends_the_stage_and_what_came_before_is_passed_on() {
        let ((to_stage, from), (to, results)) = (bounded(16), bounded(16));
        (0..16).for_each(|item| to_stage.send(item).unwrap());
        drop(to_stage);
        let ended = ordered(&from, &to, 3, |item: u64| if item < 7 { Ok(item) } else { Err(item) });
        assert_eq!(ended, Err(7));
        drop(to);
        assert_eq!(results.iter().collect::<Vec<_>>(), (0..7).collect::<Vec<_>>());
    }
}
