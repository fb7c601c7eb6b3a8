//! What this machine has, and what is left of it.

use std::path::Path;

use engine::{Capacity, EngineError};

use crate::error;

/// Of the machine, and of the file system that a directory is on.
pub(crate) fn of(data: &Path) -> Result<Capacity, EngineError> {
    let memory = std::fs::read_to_string("/proc/meminfo").map_err(error::host("read the memory"))?;
    let disk = rustix::fs::statvfs(data)
        .map_err(std::io::Error::from)
        .map_err(error::host("read the room on the disk"))?;
    Ok(Capacity {
        memory: kibibytes(&memory, "MemTotal:") << 10,
        memory_available: kibibytes(&memory, "MemAvailable:") << 10,
        disk: disk.f_blocks.saturating_mul(disk.f_frsize),
        disk_available: disk.f_bavail.saturating_mul(disk.f_frsize),
    })
}

fn kibibytes(text: &str, key: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    let number = line.and_then(|rest| rest.split_whitespace().next());
    number.and_then(|number| number.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{kibibytes, of};

    #[test]
    fn a_machine_has_something() {
        let here = of(std::path::Path::new("/tmp")).expect("a machine");
        assert!(
            here.memory > 0 && here.memory_available <= here.memory,
            "{here:?}"
        );
        assert!(here.disk > 0 && here.disk_available <= here.disk, "{here:?}");
        assert_eq!(kibibytes("MemTotal:  12 kB\nMemFree: 3 kB\n", "MemFree:"), 3);
    }
}
