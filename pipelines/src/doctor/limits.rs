//! Memory, disk and open files: what the system allows this process.

use std::path::{Path, PathBuf};

use featcache_store::{PolicyRate, SelfTest};

use super::Check;

/// Below this much memory the larger backbones do not fit (SwinV2-B in bfloat16 at 800×1333 takes about two).
const LITTLE_MEMORY_BYTES: u64 = 4 << 30;

/// Below this much space no store of a useful size fits: a default shard is 1 GiB a level.
const LITTLE_DISK_BYTES: u64 = 4 << 30;

/// A worker holds a file a level and its claims, a reader one a shard: a thousand is comfortable.
const FEW_FILES: u64 = 1024;

/// Memory of the machine and of the control group, whichever is less.
pub(super) fn memory() -> Check {
    let name = "memory";
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let (Some(total), Some(available)) =
        (meminfo_bytes(&meminfo, "MemTotal"), meminfo_bytes(&meminfo, "MemAvailable"))
    else {
        return Check::warning(name, "not known: /proc/meminfo does not tell", "watch it on the first run");
    };
    let limit = control_group_limit().filter(|limit| *limit < total);
    let found = match limit {
        Some(limit) => {
            format!(
                "{} allowed by the control group of the host's {}, {} free",
                gib(limit),
                gib(total),
                gib(available)
            )
        }
        None => format!("{}, {} free", gib(total), gib(available)),
    };
    if limit.unwrap_or(total) < LITTLE_MEMORY_BYTES {
        Check::warning(name, found, "take a small backbone (swinv2-t) or a small --resize")
    } else {
        Check::ok(name, found)
    }
}

/// Memory that files read may come to lie in: what is available, and no more than the control group allows.
/// `None` where the system does not tell.
pub(crate) fn free_memory_bytes() -> Option<u64> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    let available = meminfo_bytes(&meminfo, "MemAvailable")?;
    Some(control_group_limit().map_or(available, |limit| limit.min(available)))
}

/// How the disk reads what is not in memory, by each page policy.
pub(super) fn cold_reading(folder: &Path) -> Check {
    let name = "cold reading";
    let mut at = std::path::absolute(folder).unwrap_or_else(|_| folder.to_path_buf());
    while !at.exists() && at.pop() {}
    let test = match SelfTest::of_folder(&at) {
        Ok(test) => test,
        Err(error) => {
            return Check::warning(name, format!("not known: {error}"), "name a folder with --disk");
        }
    };
    let rate = |rate: &PolicyRate| match rate.gb_per_s {
        Some(gb_per_s) => format!("{} {gb_per_s:.2} GB/s", rate.pages),
        None => format!("{} refused", rate.pages),
    };
    let rates = test.rates.iter().map(rate).collect::<Vec<_>>().join(", ");
    let chosen = test.fastest_around_the_cache().unwrap_or_default();
    Check::ok(name, format!("{rates}; a store beyond memory is read {chosen}"))
}

/// Free space where a store would be written; a folder that does not exist yet is judged by its parent.
pub(super) fn disk(folder: &Path) -> Check {
    let name = "disk";
    let mut at = std::path::absolute(folder).unwrap_or_else(|_| folder.to_path_buf());
    while !at.exists() && at.pop() {}
    let space = match rustix::fs::statvfs(&at) {
        Ok(space) => space,
        Err(error) => {
            return Check::warning(
                name,
                format!("not known in {}: {error}", at.display()),
                "name another with --disk",
            );
        }
    };
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    let total = space.f_blocks.saturating_mul(space.f_frsize);
    let found = format!("{} free of {} in {}", gib(free), gib(total), at.display());
    if free < LITTLE_DISK_BYTES {
        Check::warning(name, found, "`featcache plan` says how much a store takes; --disk looks elsewhere")
    } else {
        Check::ok(name, found)
    }
}

/// How many files this process may hold open.
pub(super) fn open_files() -> Check {
    let name = "open files";
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    match (limit.current, limit.maximum) {
        (Some(current), maximum) if current < FEW_FILES => {
            let most = maximum.map_or_else(|| "any number".to_owned(), |maximum| maximum.to_string());
            let advice = format!("`ulimit -n {FEW_FILES}` in the shell (up to {most} without root)");
            Check::warning(name, format!("{current} at most"), advice)
        }
        (Some(current), _) => Check::ok(name, format!("{current} at most")),
        (None, _) => Check::ok(name, "no limit"),
    }
}

/// The least memory limit on the way from this process's control group up to the root, versions 1 and 2.
fn control_group_limit() -> Option<u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    limit_files(&groups)
        .into_iter()
        .filter_map(|path| std::fs::read_to_string(path).ok()?.trim().parse().ok())
        .min()
}

/// Files that may hold a memory limit, from the text of `/proc/self/cgroup`. In a container the group's own path can be invisible and its limit lie at the
/// mount's root, so every folder upwards is named.
pub fn limit_files(groups: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in groups.lines() {
        // "0::/path" (version 2) or "4:memory:/path" (version 1).
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (mount, name) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            controllers if controllers.split(',').any(|one| one == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        let group = Path::new(path.trim_start_matches('/'));
        files.extend(group.ancestors().map(|group| Path::new(mount).join(group).join(name)));
    }
    files
}

fn meminfo_bytes(meminfo: &str, key: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

fn gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}
