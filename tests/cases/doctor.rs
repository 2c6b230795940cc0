//! `featcache doctor`: its findings on this machine, and its checks on made-up ones. What CUDA or a GPU is
//! worth is not tested here.

use std::path::Path;
use std::time::Instant;

use featcache::doctor::{State, cpu, examine, ffmpeg, limits};

#[test]
fn this_machine_can_extract_and_train() {
    let findings = examine(Path::new("no/such/folder/yet"));
    assert!(findings.usable(), "{findings}");
    let names: Vec<&str> = findings.checks.iter().map(|check| check.name).collect();
    for name in ["libtorch", "arithmetic", "CPU", "CPUs", "CUDA", "memory", "disk", "open files", "ffmpeg"] {
        assert_eq!(names.iter().filter(|found| **found == name).count(), 1, "{name} in {names:?}");
    }
    let libtorch = &findings.checks[0];
    assert!(libtorch.found.starts_with("2.11.0, as expected, in /"), "{}", libtorch.found);
    for check in &findings.checks {
        assert_eq!(check.state == State::Ok, check.advice.is_none(), "{check:?}");
        assert!(!check.found.contains('\n'), "{check:?}");
    }
}

#[test]
fn findings_read_as_text_and_as_json() {
    let findings = examine(Path::new("."));
    let text = findings.to_string();
    let json = serde_json::to_value(&findings).expect("findings are plain data");
    assert_eq!(json["featcache"], env!("CARGO_PKG_VERSION"));
    assert_eq!(json["usable"], true);
    for (check, line) in findings.checks.iter().zip(json["checks"].as_array().expect("a list")) {
        assert!(text.contains(&check.found), "{} in {text}", check.found);
        assert!(["ok", "warning", "missing"].iter().any(|state| line["state"] == *state), "{line}");
    }
}

#[test]
fn a_cpu_without_bfloat16_is_a_warning_and_one_with_amx_is_not() {
    let old = "model name\t: Old\nflags\t\t: fpu avx2 fma\n";
    let check = cpu::instructions_in(old, None);
    assert_eq!(check.state, State::Warning);
    assert_eq!(check.found, "Old: AVX2; without AVX-512, AVX512-BF16, AMX; libtorch takes its AVX2 kernels");
    let new =
        "model name\t: New\nflags\t\t: fpu avx2 fma avx512f avx512bw avx512dq avx512vl amx_tile amx_bf16\n";
    let check = cpu::instructions_in(new, None);
    assert_eq!(check.state, State::Ok);
    assert_eq!(
        check.found,
        "New: AVX2, AVX-512, AMX; without AVX512-BF16; libtorch takes its AVX512 kernels"
    );
    let forced = cpu::instructions_in(new, Some("default"));
    assert!(forced.found.contains("its default (ATEN_CPU_CAPABILITY) kernels"), "{}", forced.found);
    assert_eq!(cpu::instructions_in("", None).state, State::Warning);
}

#[test]
fn memory_limits_are_looked_for_in_both_kinds_of_control_groups() {
    let files = |text: &str| -> Vec<String> {
        limits::limit_files(text).iter().map(|path| path.display().to_string()).collect()
    };
    assert_eq!(
        files("0::/user/one\n"),
        ["/sys/fs/cgroup/user/one/memory.max", "/sys/fs/cgroup/user/memory.max", "/sys/fs/cgroup/memory.max"]
    );
    assert_eq!(
        files("9:name=systemd:/\n4:cpu,memory:/a\n"),
        ["/sys/fs/cgroup/memory/a/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
    );
    assert_eq!(files("nonsense\n"), Vec::<String>::new());
}

#[cfg(unix)]
#[test]
fn a_program_that_is_not_ffmpeg_costs_a_line_and_not_the_run() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let script = |name: &str, body: &str| {
        use std::os::unix::fs::PermissionsExt;
        let path = folder.path().join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).expect("the folder can be written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("it is ours");
        path.display().to_string()
    };
    assert_eq!(ffmpeg::program(&folder.path().join("gone").display().to_string()).state, State::Missing);
    let good = ffmpeg::program(&script("good", "echo ffmpeg version 5.1.6-0 Copyright"));
    assert_eq!((good.state, good.found.as_str()), (State::Ok, "5.1.6-0"));
    let other = ffmpeg::program(&script("other", "echo something else"));
    assert_eq!((other.state, other.found.as_str()), (State::Warning, "`-version` says `something else`"));
    let start = Instant::now();
    let hanging = ffmpeg::program(&script("hanging", "sleep 60"));
    assert_eq!(hanging.state, State::Warning);
    assert!(start.elapsed() < ffmpeg::LIMIT * 2, "waited for {:?}", start.elapsed());
}
