//! Whether `ffmpeg` is there: videos are decoded by it, as a child process, and by nothing else. Asked with a
//! time limit, because a program of that name can be anything.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use super::Check;

/// Longest time that `-version` may take.
pub const LIMIT: Duration = Duration::from_secs(5);

const ADVICE: &str =
    "needed for video only: install it with the system's package manager (apt-get install ffmpeg)";

/// Asks the program of this name or path for its version.
pub fn program(program: &str) -> Check {
    let name = "ffmpeg";
    let started = Command::new(program)
        .arg("-version")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    match started {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Check::missing(name, "not in PATH", ADVICE)
        }
        Err(error) => Check::missing(name, format!("does not start: {error}"), ADVICE),
        Ok(child) => match first_line(child) {
            Ok(line) => Check::ok(name, line),
            Err(what) => Check::warning(name, what, ADVICE),
        },
    }
}

/// The version in the first line of the child's output, or why there is none. The child has ended when this
/// returns; a grandchild that keeps the pipe open is not waited for.
fn first_line(mut child: Child) -> Result<String, String> {
    let Some(stdout) = child.stdout.take() else { return Err("has no output".into()) };
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut line = Vec::new();
        let read = BufReader::new(stdout.take(4096)).read_until(b'\n', &mut line);
        // The receiver is gone where the time is up; then nobody wants the line.
        let _ = sender.send(read.map(|_| String::from_utf8_lossy(&line).trim_end().to_owned()));
    });
    let answer = receiver.recv_timeout(LIMIT);
    let _ = child.kill();
    let _ = child.wait();
    let line = match answer {
        Ok(Ok(line)) => line,
        Ok(Err(error)) => return Err(format!("cannot be read: {error}")),
        Err(_) => return Err(format!("does not answer within {} s", LIMIT.as_secs())),
    };
    // "ffmpeg version 5.1.6 Copyright …"
    let version = line.strip_prefix("ffmpeg version ").and_then(|rest| rest.split_whitespace().next());
    version.map(str::to_owned).ok_or_else(|| format!("`-version` says `{line}`"))
}
