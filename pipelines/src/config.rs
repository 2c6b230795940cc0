//! A TOML file as a second spelling of the flags: `[extract] backbone = "swinv2-b"` is `--backbone swinv2-b`.
//!
//! Each key becomes its flag in front of those that were typed, and a typed flag wins. So there is one
//! typed config, the clap structs of [`crate::cli`]: which tables and keys there are is read from them, and
//! the whole file is checked, not only the table of the command that runs.

use crate::exit::{ExitCode, failure};
use anyhow::Result;
use clap::{Arg, Command};
use std::ffi::OsString;
use std::ops::Range;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use toml::de::{DeTable, DeValue};

/// Flags that are no keys: the file cannot name another file, and help is for the shell.
const NOT_KEYS: [&str; 3] = ["config", "help", "version"];

/// Replaces `--config FILE` in `args` (program name first) by the flags that the file's table for the
/// command holds; the table of `bench read` is `[bench.read]`.
///
/// # Errors
/// The file cannot be read, is not TOML, names a table or key that there is not, or holds a value that no
/// flag can express; each with its line.
pub fn expand(args: Vec<OsString>, program: &Command) -> Result<Vec<OsString>> {
    let (path, mut args) = take_config(args)?;
    let Some(path) = path else { return Ok(args) };
    let shown = Path::new(&path).display().to_string();
    let text = std::fs::read_to_string(&path)
        .map_err(|error| failure(ExitCode::BadInput, format!("config {shown}: {error}")))?;
    let file = File { shown, text: &text, program, typed: &args };
    let no_toml = |error: toml::de::Error| file.refuse(error.span(), error.message());
    let keys = DeTable::parse(&text).map_err(no_toml)?;
    let values: toml::Table = text.parse().map_err(no_toml)?;
    let (verbs, at) = verbs(&args, program);
    let mut flags = Vec::new();
    for (key, value) in keys.get_ref().iter() {
        let name = key.get_ref().as_ref();
        let Some(command) = program.get_subcommands().find(|command| command.get_name() == name) else {
            let known: Vec<&str> = program.get_subcommands().map(Command::get_name).collect();
            let kind = if matches!(value.get_ref(), DeValue::Table(_)) { "table" } else { "key" };
            let what = format!("{kind} {name} is unknown: expected tables {}", known.join(", "));
            return Err(file.refuse(Some(key.span()), &what));
        };
        let rest = verbs.strip_prefix(&[name.to_owned()]);
        file.table(command, name, (value, &values[name]), rest, &mut flags)?;
    }
    args.splice(at + 1..at + 1, flags);
    Ok(args)
}

/// The names of the command that `args` name (`bench`, `read`), and where the last one stands.
fn verbs(args: &[OsString], program: &Command) -> (Vec<String>, usize) {
    let (mut command, mut names, mut at) = (program, Vec::new(), 0);
    for (index, arg) in args.iter().enumerate().skip(1) {
        if let Some(found) = command.get_subcommands().find(|command| arg == command.get_name()) {
            names.push(found.get_name().to_owned());
            (command, at) = (found, index);
        }
    }
    (names, at)
}

/// The config file, and what it is a second spelling of.
struct File<'a> {
    shown: String,
    text: &'a str,
    program: &'a Command,
    typed: &'a [OsString],
}

impl File<'_> {
    /// Checks the table of a command and those below it. Where `verbs` is empty it is the command that
    /// runs: its keys become flags.
    fn table(
        &self,
        command: &Command,
        name: &str,
        (spanned, value): (&toml::Spanned<DeValue<'_>>, &toml::Value),
        verbs: Option<&[String]>,
        flags: &mut Vec<OsString>,
    ) -> Result<()> {
        let (DeValue::Table(keys), toml::Value::Table(values)) = (spanned.get_ref(), value) else {
            return Err(self.refuse(Some(spanned.span()), &format!("{name} is not a table")));
        };
        for (key, spanned) in keys.iter() {
            let word = key.get_ref().as_ref();
            let value = &values[word];
            if let Some(below) = command.get_subcommands().find(|below| below.get_name() == word) {
                let rest = verbs.and_then(|verbs| verbs.strip_prefix(&[word.to_owned()]));
                self.table(below, &format!("{name}.{word}"), (spanned, value), rest, flags)?;
                continue;
            }
            let at = |what: &str| self.refuse(Some(key.span()), &format!("[{name}] {word}: {what}"));
            let long = word.replace('_', "-");
            let Some(arg) = self.keys(command).find(|arg| arg.get_long() == Some(&long)) else {
                let known = command.get_subcommands().map(Command::get_name);
                let known: Vec<&str> = known.chain(self.keys(command).filter_map(Arg::get_long)).collect();
                return Err(at(&format!("unknown key: expected one of {}", known.join(", "))));
            };
            if value.is_bool() == arg.get_action().takes_values() {
                let expected = if value.is_bool() { "a value" } else { "true or false" };
                return Err(at(&format!("expected {expected}, found {value}")));
            }
            let words = words(&long, value).map_err(|what| at(&what))?;
            if verbs.is_some_and(<[String]>::is_empty) && !self.is_typed(command, arg) {
                flags.extend(words.into_iter().map(OsString::from));
            }
        }
        Ok(())
    }

    /// The flags of a command, those of every command included.
    fn keys<'c>(&'c self, command: &'c Command) -> impl Iterator<Item = &'c Arg> {
        let everywhere = self.program.get_arguments().filter(|arg| arg.is_global_set());
        let flags = command.get_arguments().chain(everywhere);
        flags.filter(|arg| arg.get_long().is_some_and(|long| !NOT_KEYS.contains(&long)))
    }

    /// Whether this flag is on the command line, where lists would otherwise add up, or another of a group
    /// that allows only one.
    fn is_typed(&self, command: &Command, arg: &Arg) -> bool {
        let groups = command.get_groups().filter(|group| !(*group).clone().is_multiple());
        let groups = groups.filter(|group| group.get_args().any(|id| id == arg.get_id()));
        let excluded: Vec<_> = groups.flat_map(|group| group.get_args()).collect();
        let same = |other: &&Arg| other.get_id() == arg.get_id() || excluded.contains(&other.get_id());
        self.keys(command).filter(same).filter_map(Arg::get_long).any(|long| {
            let name = format!("--{long}");
            self.typed
                .iter()
                .filter_map(|arg| arg.to_str())
                .any(|arg| arg == name || arg.strip_prefix(&name).is_some_and(|rest| rest.starts_with('=')))
        })
    }

    fn refuse(&self, span: Option<Range<usize>>, what: &str) -> anyhow::Error {
        let before = span.and_then(|span| self.text.get(..span.start));
        let line = before.map_or(String::new(), |text| {
            format!(", line {}", 1 + text.bytes().filter(|byte| *byte == b'\n').count())
        });
        failure(ExitCode::Usage, format!("config {}{line}: {what}", self.shown))
    }
}

/// The config path, if there is one, and the arguments without it.
fn take_config(args: Vec<OsString>) -> Result<(Option<OsString>, Vec<OsString>)> {
    let mut rest = Vec::with_capacity(args.len());
    let mut path = None;
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        if arg == "--config" {
            path = Some(args.next().ok_or_else(|| failure(ExitCode::Usage, "--config wants a file"))?);
        } else if let Some(value) = arg.as_bytes().strip_prefix(b"--config=") {
            path = Some(OsString::from_vec(value.to_vec()));
        } else {
            rest.push(arg);
        }
    }
    Ok((path, rest))
}

/// One flag and its value as command-line words.
fn words(long: &str, value: &toml::Value) -> Result<Vec<String>, String> {
    Ok(match value {
        toml::Value::Boolean(true) => vec![format!("--{long}")],
        toml::Value::Boolean(false) => vec![],
        toml::Value::Array(items) => {
            let words: Result<Vec<_>, _> = items.iter().map(word).collect();
            vec![format!("--{long}={}", words?.join(","))]
        }
        other => vec![format!("--{long}={}", word(other)?)],
    })
}

fn word(value: &toml::Value) -> Result<String, String> {
    match value {
        toml::Value::String(text) => Ok(text.clone()),
        toml::Value::Integer(number) => Ok(number.to_string()),
        toml::Value::Float(number) => Ok(number.to_string()),
        other => Err(format!("expected a string, number, boolean or list, found {}", other.type_str())),
    }
}
