//! What the CPU can do and how much of it this process may use, as Linux tells it under `/proc`.

use super::Check;

/// A CPU's features that decide how fast a backbone runs.
#[derive(Debug, PartialEq, Eq)]
struct Instructions {
    model: String,
    avx2: bool,
    avx512: bool,
    avx512_bf16: bool,
    amx_bf16: bool,
}

/// Names the instruction sets and the kernels that libtorch takes for them.
pub(super) fn instructions() -> Check {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let forced = std::env::var("ATEN_CPU_CAPABILITY").ok();
    instructions_in(&text, forced.as_deref())
}

/// CPUs allowed to this process (affinity and control group) against the host's.
pub(super) fn allowed() -> Check {
    let name = "CPUs";
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let host = text.lines().filter(|line| line.starts_with("processor")).count();
    match std::thread::available_parallelism().map(usize::from) {
        Ok(allowed) if host > allowed => Check::ok(
            name,
            format!("{allowed} of the host's {host} (affinity and control group); no more are used"),
        ),
        Ok(allowed) => Check::ok(name, format!("{allowed}, all of the host's")),
        Err(error) => Check::warning(name, format!("not known: {error}"), "give --threads"),
    }
}

/// The same for a given `/proc/cpuinfo` and a given `ATEN_CPU_CAPABILITY`.
pub fn instructions_in(cpuinfo: &str, forced: Option<&str>) -> Check {
    let name = "CPU";
    let Some(cpu) = parse(cpuinfo) else {
        return Check::warning(
            name,
            "not known: no x86 flags in /proc/cpuinfo",
            "expect libtorch's portable kernels",
        );
    };
    let has = [
        (cpu.avx2, "AVX2"),
        (cpu.avx512, "AVX-512"),
        (cpu.avx512_bf16, "AVX512-BF16"),
        (cpu.amx_bf16, "AMX"),
    ];
    let list = |wanted: bool| {
        let names: Vec<&str> =
            has.iter().filter(|(there, _)| *there == wanted).map(|(_, name)| *name).collect();
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    };
    let kernels =
        forced.map_or_else(|| kernels(&cpu).to_owned(), |forced| format!("{forced} (ATEN_CPU_CAPABILITY)"));
    let found = format!(
        "{}: {}; without {}; libtorch takes its {kernels} kernels",
        cpu.model,
        list(true),
        list(false)
    );
    if cpu.avx512_bf16 || cpu.amx_bf16 {
        Check::ok(name, found)
    } else {
        Check::warning(
            name,
            found,
            "no bfloat16 arithmetic in hardware: try --compute fp32, it may well be faster",
        )
    }
}

/// libtorch's own rule (aten/src/ATen/native/DispatchStub.cpp, `compute_cpu_capability`).
fn kernels(cpu: &Instructions) -> &'static str {
    match (cpu.avx512, cpu.avx2) {
        (true, _) => "AVX512",
        (false, true) => "AVX2",
        (false, false) => "default",
    }
}

fn parse(cpuinfo: &str) -> Option<Instructions> {
    let value = |key: &str| {
        let line =
            cpuinfo.lines().find(|line| line.split(':').next().is_some_and(|name| name.trim() == key))?;
        Some(line.split_once(':')?.1.trim())
    };
    let flags: Vec<&str> = value("flags")?.split_whitespace().collect();
    let all = |names: &[&str]| names.iter().all(|name| flags.contains(name));
    Some(Instructions {
        model: value("model name").unwrap_or("an x86 CPU").to_owned(),
        avx2: all(&["avx2", "fma"]),
        avx512: all(&["avx512f", "avx512bw", "avx512dq", "avx512vl", "fma"]),
        avx512_bf16: all(&["avx512_bf16"]),
        amx_bf16: all(&["amx_tile", "amx_bf16"]),
    })
}
