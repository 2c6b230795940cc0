//! A TOML file as a second spelling of the flags: `[extract] backbone = "swinv2-b"` is `--backbone swinv2-b`.
//!
//! Each key becomes its flag in front of those that were typed, and a typed flag wins. So there is one
//! typed config, the clap structs of [`crate::cli`], and an unknown key is an error like an unknown flag.

use crate::exit::{ExitCode, failure};
use anyhow::Result;
use std::ffi::OsString;
use std::path::Path;

/// Replaces `--config FILE` in `args` (program name first) by the flags that the file's table for the
/// command holds; `commands` are the names of the subcommands, `bench read` being the table `[bench.read]`.
///
/// # Errors
/// The file cannot be read, is not TOML, or holds a value that no flag can express.
pub fn expand(args: Vec<OsString>, commands: &[String]) -> Result<Vec<OsString>> {
    let (path, mut args) = take_config(args)?;
    let Some(path) = path else { return Ok(args) };
    let shown = Path::new(&path).display().to_string();
    let text = std::fs::read_to_string(&path)
        .map_err(|error| failure(ExitCode::BadInput, format!("config {shown}: {error}")))?;
    let mut table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        failure(ExitCode::Usage, format!("config {shown}: {}", error.message()))
    })?;
    let Some(mut at) = args.iter().skip(1).position(|a| commands.iter().any(|c| a == c.as_str())) else {
        return Ok(args);
    };
    at += 1;
    let mut name = args[at].to_string_lossy().into_owned();
    let mut section = table.remove(&name);
    if name == "bench"
        && let Some(which) = args.get(at + 1).map(|a| a.to_string_lossy().into_owned())
    {
        section = section.and_then(|s| s.as_table().and_then(|t| t.get(&which).cloned()));
        name = format!("bench.{which}");
        at += 1;
    }
    let Some(section) = section else { return Ok(args) };
    let Some(section) = section.as_table() else {
        return Err(failure(ExitCode::Usage, format!("config {shown}: {name} is not a table")));
    };
    let mut flags = Vec::new();
    for (key, value) in section {
        if typed(&args, key) {
            continue;
        }
        let words = flag(key, value)
            .map_err(|what| failure(ExitCode::Usage, format!("config {shown}: [{name}] {key}: {what}")))?;
        flags.extend(words.into_iter().map(OsString::from));
    }
    args.splice(at + 1..at + 1, flags);
    Ok(args)
}

/// Whether the flag of this key is on the command line: lists would otherwise add up.
fn typed(args: &[OsString], key: &str) -> bool {
    let name = format!("--{}", key.replace('_', "-"));
    args.iter()
        .filter_map(|arg| arg.to_str())
        .any(|arg| arg == name || arg.strip_prefix(&name).is_some_and(|rest| rest.starts_with('=')))
}

/// The config path, if there is one, and the arguments without it.
fn take_config(args: Vec<OsString>) -> Result<(Option<OsString>, Vec<OsString>)> {
    let mut rest = Vec::with_capacity(args.len());
    let mut path = None;
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        if arg == "--config" {
            path = Some(args.next().ok_or_else(|| failure(ExitCode::Usage, "--config wants a file"))?);
        } else if let Some(value) = arg.to_str().and_then(|a| a.strip_prefix("--config=")) {
            path = Some(value.into());
        } else {
            rest.push(arg);
        }
    }
    Ok((path, rest))
}

/// One key and its value as command-line words.
fn flag(key: &str, value: &toml::Value) -> Result<Vec<String>, String> {
    let name = format!("--{}", key.replace('_', "-"));
    Ok(match value {
        toml::Value::Boolean(true) => vec![name],
        toml::Value::Boolean(false) => vec![],
        toml::Value::Array(items) => {
            let words: Result<Vec<_>, _> = items.iter().map(word).collect();
            vec![format!("{name}={}", words?.join(","))]
        }
        other => vec![format!("{name}={}", word(other)?)],
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
