//! The project's own commands: `cargo xtask <command>`. Only the table of commands; each is a file.
//!
//! This crate MUST NOT depend on torch, nor on any other member of the workspace: it runs before libtorch
//! is there.

mod bench;
mod cargo;
mod check;
mod demo;
mod graph;
mod libtorch;
mod program;
mod setup;
mod tensorstore;
mod test;
mod tidy;
mod tools;
mod wheel;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask <command>

  setup   install what is missing (libtorch into .libtorch, system packages where this user may), prove it
  demo    setup, then draw a small data set, extract, train and score on it, into demo/
  test    setup, then every test of the workspace
  check   the whole gate, cheapest first: fmt, tidy, graph, store tests, clippy, docs, all tests
  bench   the measured figures of docs/benchmarks.md
  tidy    house rules that no compiler checks
  graph   who may depend on whom";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (command, rest) = match arguments.split_first() {
        Some((command, rest)) => (command.as_str(), rest),
        None => ("help", [].as_slice()),
    };
    let root = workspace_root();
    let done = match command {
        "setup" => setup::setup_and_prove(&root),
        "demo" => demo::demo(&root, rest),
        "test" => test::test(&root, rest),
        "check" => check::check(&root),
        "bench" => bench::bench(&root, rest),
        "tidy" => tidy::tidy(&root),
        "graph" => graph::graph(&root),
        "help" | "--help" | "-h" => {
            say(USAGE);
            Ok(())
        }
        other => {
            say(&format!("unknown command `{other}`\n\n{USAGE}"));
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("xtask: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// The one place of this crate that prints. Everything goes to stderr: stdout belongs to the programs that
/// are started from here.
#[expect(clippy::print_stderr, reason = "a command-line program talks to its user in one place")]
fn say(text: &str) {
    eprintln!("{text}");
}

/// The folder that holds the workspace's `Cargo.toml`, wherever the clone lies and wherever the command is
/// given: cargo tells it at run time, so a moved clone is found too.
fn workspace_root() -> PathBuf {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let manifest = manifest.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")));
    manifest.parent().unwrap_or(Path::new(".")).to_path_buf()
}
