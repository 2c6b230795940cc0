//! The one binary: reads the command line, runs a command, ends with a documented exit code.

use clap::{CommandFactory, Parser};
use featcache::cli::Cli;
use featcache::exit::{self, ExitCode};
use featcache::{command, config};
use std::io::Write;

fn main() -> std::process::ExitCode {
    let code = exit::caught(run);
    std::process::ExitCode::from(code as u8)
}

fn run() -> ExitCode {
    let args = match config::expand(std::env::args_os().collect(), &Cli::command()) {
        Ok(args) => args,
        Err(error) => return report(&error),
    };
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way too; a broken pipe while printing them is no failure.
            drop(error.print());
            return if error.use_stderr() { ExitCode::Usage } else { ExitCode::Done };
        }
    };
    let level = if cli.quiet { log::LevelFilter::Warn } else { log::LevelFilter::Info };
    env_logger::Builder::new()
        .filter_level(log::LevelFilter::Warn)
        .filter_module("featcache", level)
        .filter_module("featcache_extractor", level)
        .filter_module("featcache_heads", level)
        .filter_module("featcache_store", level)
        .parse_default_env()
        .format(|out, record| match record.level() {
            log::Level::Info => writeln!(out, "{}", record.args()),
            level => writeln!(out, "{}: {}", level.as_str().to_lowercase(), record.args()),
        })
        .init();
    match command::run(&cli) {
        Ok(code) => code,
        Err(error) if broken_pipe(&error) => ExitCode::Done,
        Err(error) => report(&error),
    }
}

fn report(error: &anyhow::Error) -> ExitCode {
    // Nothing is left to tell the user with if stderr is closed.
    drop(writeln!(std::io::stderr(), "error: {}", exit::one_line(error)));
    exit::code_of(error)
}

/// `featcache … | head` is a success.
fn broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
    })
}
