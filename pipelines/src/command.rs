//! One file a verb. Each reads its arguments, calls the libraries and returns what to print.

mod extract;
mod plan;

use crate::cli::{Cli, Command};
use crate::exit::ExitCode;
use crate::report::Report;
use anyhow::Result;

/// Runs the command that `cli` names.
///
/// # Errors
/// What the command failed with; [`crate::exit::code_of`] gives its exit code.
pub fn run(cli: &Cli) -> Result<ExitCode> {
    let report = execute(cli)?;
    report.print(cli.json)?;
    Ok(report.code)
}

/// As [`run`], without printing.
///
/// # Errors
/// As [`run`].
pub fn execute(cli: &Cli) -> Result<Report> {
    match &cli.command {
        Command::Doctor(args) => doctor(args),
        Command::Plan(args) => plan::run(args),
        Command::Extract(args) => extract::run(args, cli.quiet),
        other => anyhow::bail!("{other:?} lands later"),
    }
}

fn doctor(args: &crate::cli::DoctorArgs) -> Result<Report> {
    let findings = crate::doctor::examine(&args.disk);
    let code = if findings.usable() { ExitCode::Done } else { ExitCode::BadInput };
    Report::new(&findings, findings.to_string()).map(|report| report.ending(code))
}
