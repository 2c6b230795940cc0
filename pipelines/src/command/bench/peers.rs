//! `featcache bench peers`: the same bytes through our reader and loader, through other formats and theirs, and
//! through raw `preadv`, in turns. A peer that cannot take part has a row that says why.
//!
//! Modules in reading order: what is read ([`samples`]), by whom ([`contestant`], [`mod@ours`], [`child`]), what is in
//! the page cache ([`pages`]), in what turns ([`lane`], [`race`]) and what is shown of it ([`table`]).

mod child;
mod contestant;
mod lane;
mod ours;
mod pages;
mod race;
mod samples;
mod table;

use super::workplace::Workplace;
use super::{machine_line, write_section};
use crate::cli::BenchPeersArgs;
use crate::exit::{ExitCode, failure, one_line};
use crate::progress::bytes;
use crate::report::Report;
use crate::{interrupt, machine};
use anyhow::Result;
use child::{Hello, Reads, Scripts};
use contestant::Contestant;
use featcache_store::{OpenOptions, PagePolicy, Store, Verify};
use lane::Lane;
use ours::{Ours, Raw};
use race::Race;
use samples::Samples;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::Duration;
use table::Outcome;

pub(super) fn run(args: &BenchPeersArgs) -> Result<Report> {
    let mut args = args.clone();
    for counts in [&mut args.threads, &mut args.workers] {
        counts.sort_unstable();
        counts.dedup();
    }
    let args = &args;
    let store = Store::open(&args.store, OpenOptions::default())?;
    check_scripts(args)?;
    // From here on a signal must not leave the folder behind.
    let stop = interrupt::flag()?;
    let workplace = Workplace::create(&args.work)?;
    let folder = workplace.folder();
    log::info!("writing the samples");
    let samples = Samples::export(&store, args.samples, folder.join("samples"))?;
    let scripts = Scripts {
        python: args.python.clone(),
        folder: args.scripts.clone(),
        samples: samples.folder.clone(),
        limit: Duration::from_secs(args.limit_s),
    };
    let mut lanes = vec![ours(&samples, "raw preadv", false, Box::new(Raw::new(&store, &samples)))];
    for (title, verify, pages) in [
        ("featcache", Verify::Off, PagePolicy::Mapped),
        ("featcache, verified", Verify::On, PagePolicy::Mapped),
        ("featcache, verified, buffered", Verify::On, PagePolicy::Buffered),
        ("featcache, verified, direct", Verify::On, PagePolicy::Direct),
    ] {
        let mut lane = ours(&samples, title, true, Box::new(Ours::new(&store, &samples, verify, pages)));
        lane.required = pages != PagePolicy::Direct;
        lanes.push(lane);
    }
    for name in &args.peers {
        if stop.load(Ordering::Relaxed) {
            return Err(failure(ExitCode::Incomplete, "interrupted"));
        }
        log::info!("{name}: writing its format");
        lanes.push(peer(&scripts, name, folder, &samples));
    }
    let mut race = Race { args, samples: &samples, lanes, passes: 0 };
    race.bare()?;
    race.loaders()?;

    let outcome = Outcome::new(&race, machine_line(), machine::command_line());
    if let Some(path) = &args.markdown {
        let section = format!("bench peers {}", bytes(samples.bytes as u64));
        write_section(path, &section, &outcome.markdown())?;
    }
    Report::new(&outcome, outcome.text())
}

/// One clear error for what would otherwise be the same reason in every row.
fn check_scripts(args: &BenchPeersArgs) -> Result<()> {
    let started = Command::new(&args.python).args(["-c", ""]).stdin(Stdio::null()).output();
    if let Err(error) = started {
        let what = format!("--python {}: cannot be started: {error}", args.python.display());
        return Err(failure(ExitCode::BadInput, what));
    }
    for name in &args.peers {
        let script = args.scripts.join(format!("{name}.py"));
        if !script.is_file() {
            let what = format!(
                "--peers {name}: expected a script {}; run in the repository or say --scripts",
                script.display()
            );
            return Err(failure(ExitCode::BadInput, what));
        }
    }
    Ok(())
}

fn ours<'a>(samples: &Samples, title: &str, hands_out: bool, who: Box<dyn Contestant + 'a>) -> Lane<'a> {
    let hello = Hello { title: title.to_owned(), ..Hello::default() };
    let folder = samples.features.clone();
    let (contestant, times, tried) = (Ok(who), Vec::new(), Vec::new());
    Lane { hello, contestant, folder, peer: false, required: true, hands_out, times, tried }
}

/// A peer that has written its format and waits for passes, or why it does not.
fn peer<'a>(scripts: &Scripts, name: &str, folder: &Path, samples: &Samples) -> Lane<'a> {
    let folder = folder.join(name);
    let started = scripts.prepare(name, &folder).and_then(|()| scripts.read(name, &folder));
    let (hello, contestant): (_, Result<Box<dyn Contestant>, _>) = match started {
        Ok((child, hello)) => (hello, Ok(Box::new(child))),
        Err(error) => {
            let reason = one_line(&error);
            log::warn!("{name}: {reason}");
            (Hello { title: name.to_owned(), ..Hello::default() }, Err(reason))
        }
    };
    let folder = match hello.reads {
        Reads::Own => folder,
        Reads::Samples => samples.folder.clone(),
        Reads::Store => samples.features.clone(),
    };
    let (times, tried) = (Vec::new(), Vec::new());
    Lane { hello, contestant, folder, peer: true, required: false, hands_out: true, times, tried }
}
