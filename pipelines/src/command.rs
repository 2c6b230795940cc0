//! One file a verb. Each reads its arguments, calls the libraries and returns what to print.

mod bench;
mod demo;
mod eval;
mod extract;
mod inspect;
mod plan;
mod predict;
mod train;
mod transcode;
mod tune;
mod verify;

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
        Command::Verify(args) => verify::run(args, cli.quiet),
        Command::Inspect(args) => inspect::run(args),
        Command::Transcode(args) => transcode::run(args, cli.quiet),
        Command::Train(args) => train::run(args, cli.quiet),
        Command::Eval(args) => eval::run(args, cli.quiet),
        Command::Tune(args) => tune::run(args, cli.quiet),
        Command::Predict(args) => predict::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Demo(args) => demo::run(args, cli.quiet),
    }
}

fn doctor(args: &crate::cli::DoctorArgs) -> Result<Report> {
    let findings = crate::doctor::examine(&args.disk);
    let code = if findings.usable() { ExitCode::Done } else { ExitCode::BadInput };
    Report::new(&findings, findings.to_string()).map(|report| report.ending(code))
}
