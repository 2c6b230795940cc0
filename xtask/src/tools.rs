//! The programs that a build needs and cargo cannot bring: a C++ compiler, Python with pip, CMake, make
//! and NASM (libjpeg-turbo is compiled from source). Root on Debian gets them by apt-get; everyone else is told in
//! one line per package manager. Nothing is installed that is there already.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use crate::cargo::{find_program, output, run};
use crate::say;

/// One program and the package that brings it.
struct Tool {
    name: &'static str,
    debian: &'static str,
    fedora: &'static str,
    arch: &'static str,
    brew: &'static str,
    why: &'static str,
    present: fn() -> bool,
}

const TOOLS: [Tool; 6] = [
    Tool {
        name: "a C++ compiler",
        debian: "g++",
        fedora: "gcc-c++",
        arch: "gcc",
        brew: "gcc",
        why: "compiles the bindings of libtorch",
        present: || find_program("cc").is_some() && find_program("c++").is_some(),
    },
    Tool {
        name: "python3",
        debian: "python3",
        fedora: "python3",
        arch: "python",
        brew: "python3",
        why: "fetches libtorch through pip",
        present: || find_program("python3").is_some(),
    },
    Tool {
        name: "pip for python3",
        debian: "python3-pip",
        fedora: "python3-pip",
        arch: "python-pip",
        brew: "python3",
        why: "fetches libtorch",
        present: || output(Command::new("python3").args(["-m", "pip", "--version"])).is_ok(),
    },
    Tool {
        name: "cmake",
        debian: "cmake",
        fedora: "cmake",
        arch: "cmake",
        brew: "cmake",
        why: "compiles libjpeg-turbo",
        present: || find_program("cmake").is_some(),
    },
    Tool {
        name: "make",
        debian: "make",
        fedora: "make",
        arch: "make",
        brew: "make",
        why: "CMake compiles libjpeg-turbo with it",
        present: || find_program("make").is_some() || find_program("gmake").is_some(),
    },
    Tool {
        name: "nasm",
        debian: "nasm",
        fedora: "nasm",
        arch: "nasm",
        brew: "nasm",
        why: "without it JPEG decoding is several times slower",
        present: || find_program("nasm").is_some() || find_program("yasm").is_some(),
    },
];

/// Installs what is missing, or says how to. `need_pip` is false where libtorch is there already.
pub(crate) fn ensure(need_pip: bool) -> Result<()> {
    let missing = missing(need_pip);
    if missing.is_empty() {
        return Ok(());
    }
    let names = packages(&missing, |tool| tool.name).join(", ");
    if is_root() && find_program("apt-get").is_some() {
        let packages = packages(&missing, |tool| tool.debian);
        say(&format!("installing {} (missing: {names})", packages.join(" ")));
        // A fresh container has no package lists; a failing update still leaves an install worth trying.
        let _ = run(apt().args(["update", "-qq"]));
        run(apt().args(["install", "-y", "-qq", "--no-install-recommends"]).args(&packages))?;
        let missing = self::missing(need_pip);
        if !missing.is_empty() {
            bail!("still missing after apt-get: {}", self::packages(&missing, |tool| tool.name).join(", "));
        }
        return Ok(());
    }
    for tool in &missing {
        say(&format!("missing: {} ({})", tool.name, tool.why));
    }
    bail!("missing: {names}. Install it, then give the same command again:\n{}", advice(&missing));
}

/// One line per package manager.
fn advice(missing: &[&Tool]) -> String {
    let line = |manager: &str, name: fn(&Tool) -> &'static str| {
        format!("  {manager} {}", packages(missing, name).join(" "))
    };
    [
        line("Debian, Ubuntu:  sudo apt-get install", |tool| tool.debian),
        line("Fedora, RHEL:    sudo dnf install", |tool| tool.fedora),
        line("Arch:            sudo pacman -S", |tool| tool.arch),
        line("Homebrew:        brew install", |tool| tool.brew),
    ]
    .join("\n")
}

fn missing(need_pip: bool) -> Vec<&'static Tool> {
    let wanted = |tool: &&Tool| need_pip || !tool.name.contains("python3");
    TOOLS.iter().filter(wanted).filter(|tool| !(tool.present)()).collect()
}

fn packages(tools: &[&Tool], name: fn(&Tool) -> &'static str) -> Vec<&'static str> {
    let mut names: Vec<&str> = tools.iter().map(|tool| name(tool)).collect();
    names.dedup();
    names
}

fn apt() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
    command
}

/// Whether this process may install packages, as the kernel sees it: the effective user is 0.
fn is_root() -> bool {
    let status = std::fs::read_to_string(Path::new("/proc/self/status")).unwrap_or_default();
    let users = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap_or_default();
    users.split_whitespace().nth(1) == Some("0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_names_each_manager_once_and_each_package_once() {
        let all: Vec<&Tool> = TOOLS.iter().collect();
        let text = advice(&all);
        assert_eq!(text.lines().count(), 4);
        assert!(text.contains("apt-get install g++ python3 python3-pip cmake make nasm"), "{text}");
        assert!(text.contains("brew install gcc python3 cmake make nasm"), "{text}");
    }
}
