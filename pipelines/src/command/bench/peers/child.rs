//! A peer's script as a process: a line of JSON in, a line of JSON out, each within a time limit. README.md beside
//! the scripts is the protocol.

use super::contestant::{Answer, Contestant, Pass};
use anyhow::{Context, Result, bail};
use crossbeam_channel::{Receiver, RecvTimeoutError, unbounded};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a script may take to end after its last answer.
const FAREWELL: Duration = Duration::from_secs(5);

/// How scripts are started.
pub(super) struct Scripts {
    /// The interpreter.
    pub(super) python: PathBuf,
    /// Folder of the scripts.
    pub(super) folder: PathBuf,
    /// Folder of the samples.
    pub(super) samples: PathBuf,
    /// For each answer, and for all of `prepare`.
    pub(super) limit: Duration,
}

/// What a script says of its peer before it reads.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Hello {
    /// Name in the table.
    pub(super) title: String,
    /// Version of its package.
    pub(super) version: String,
    /// How it is set up, in a few words.
    pub(super) settings: String,
    /// Where the bytes are that it reads.
    pub(super) reads: Reads,
}

/// Where the bytes are that a peer reads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Reads {
    /// In its own folder.
    #[default]
    Own,
    /// In `samples.bin`.
    Samples,
    /// In the store.
    Store,
}

/// A running script. Dropping it ends the process and those that it started.
pub(super) struct Child {
    process: std::process::Child,
    requests: Option<ChildStdin>,
    answers: Receiver<String>,
    /// Gives what is to be told of stderr.
    errors: Option<JoinHandle<String>>,
    limit: Duration,
}

impl Scripts {
    /// Lets peer `name` write its own format into `folder`.
    ///
    /// # Errors
    /// Why it failed: the last thing it said on stderr.
    pub(super) fn prepare(&self, name: &str, folder: &Path) -> Result<()> {
        let mut child = self.start(name, "prepare", folder)?;
        drop(child.requests.take());
        let deadline = Instant::now() + self.limit;
        // stdout ends with the process.
        while child.answers.recv_deadline(deadline).is_ok() {}
        if Instant::now() >= deadline {
            bail!("prepare took more than {} s", self.limit.as_secs());
        }
        let status = child.process.wait()?;
        if status.success() { Ok(()) } else { Err(child.ended()) }
    }

    /// Starts the reader of peer `name`, which has prepared `folder`.
    ///
    /// # Errors
    /// Why it failed.
    pub(super) fn read(&self, name: &str, folder: &Path) -> Result<(Child, Hello)> {
        let mut child = self.start(name, "read", folder)?;
        let hello = child.answer()?;
        Ok((child, hello))
    }

    fn start(&self, name: &str, verb: &str, folder: &Path) -> Result<Child> {
        let mut command = Command::new(&self.python);
        command.arg(self.folder.join(format!("{name}.py"))).arg(verb).arg(&self.samples).arg(folder);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // torch asks for huge pages only then (c10/core/impl/alloc_cpu.cpp): a third less time for fresh batches.
        command.env("THP_MEM_ALLOC_ENABLE", "1");
        // A group of its own, so that its workers end with it.
        command.process_group(0);
        let mut process = command.spawn().with_context(|| self.python.display().to_string())?;
        let (sender, answers) = unbounded();
        if let Some(stdout) = process.stdout.take() {
            std::thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    if sender.send(line).is_err() {
                        return;
                    }
                }
            });
        }
        let errors = process.stderr.take().map(|stderr| std::thread::spawn(move || last_error(stderr)));
        let requests = process.stdin.take();
        Ok(Child { process, requests, answers, errors, limit: self.limit })
    }
}

impl Child {
    fn ask<T: DeserializeOwned>(&mut self, request: &serde_json::Value) -> Result<T> {
        let line = format!("{request}\n");
        let sent = self.requests.as_mut().map(|requests| requests.write_all(line.as_bytes()));
        if !matches!(sent, Some(Ok(()))) {
            return Err(self.ended());
        }
        self.answer()
    }

    fn answer<T: DeserializeOwned>(&mut self) -> Result<T> {
        match self.answers.recv_timeout(self.limit) {
            Ok(line) => {
                let shown: String = line.chars().take(80).collect();
                serde_json::from_str(&line).with_context(|| format!("answered {shown:?}"))
            }
            Err(RecvTimeoutError::Timeout) => {
                self.kill(Duration::ZERO);
                bail!("no answer within {} s", self.limit.as_secs())
            }
            Err(RecvTimeoutError::Disconnected) => Err(self.ended()),
        }
    }

    /// Why it ended, which it has done or does now.
    fn ended(&mut self) -> anyhow::Error {
        self.kill(FAREWELL);
        let said = self.errors.take().and_then(|errors| errors.join().ok()).unwrap_or_default();
        let said = if said.is_empty() { "it said nothing".to_owned() } else { said };
        let status = self.process.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
        anyhow::anyhow!("ended with {status}: {said}")
    }

    /// Ends the process, if it does not end by itself in time, and all of its group.
    fn kill(&mut self, farewell: Duration) {
        drop(self.requests.take());
        let deadline = Instant::now() + farewell;
        while matches!(self.process.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        let group = rustix::process::Pid::from_child(&self.process);
        // What has ended already needs no signal.
        let _gone = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
}

impl Contestant for Child {
    fn rest(&mut self) -> Result<()> {
        let _empty: serde_json::Map<String, serde_json::Value> =
            self.ask(&serde_json::json!({ "do": "close" }))?;
        Ok(())
    }

    fn pass(&mut self, pass: &Pass) -> Result<Answer> {
        self.ask(&serde_json::to_value(pass)?)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill(FAREWELL);
        // Reaped, so that no process is left behind.
        let _status = self.process.wait();
    }
}

/// The last line that names an error, or the last line at all: a traceback's point, not what came of it.
fn last_error(stderr: impl Read) -> String {
    let (mut last, mut error) = (String::new(), None);
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        let line = line.trim();
        if line.contains("Error") {
            error = Some(line.to_owned());
        }
        if !line.is_empty() {
            line.clone_into(&mut last);
        }
    }
    error.unwrap_or(last)
}
