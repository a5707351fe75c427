//! What is measured, and where it is read.

use std::time::Duration;

use anyhow::Context as _;

/// Resident memory of this process.
pub fn resident_bytes() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse::<u64>()? * 1024)
}

/// What the loopback interface has carried, headers included.
pub fn wire_bytes() -> anyhow::Result<u64> {
    let table = std::fs::read_to_string("/proc/net/dev")?;
    let Some(line) = table.lines().find_map(|line| line.trim().strip_prefix("lo:")) else { return Ok(0) };
    Ok(line.split_whitespace().next().context("no bytes")?.parse()?)
}

/// Processor time of this process.
pub fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// The median, the 99th percentile and the worst.
pub fn percentiles(times: &mut [Duration]) -> (Duration, Duration, Duration) {
    times.sort_unstable();
    let at =
        |share: usize| times.get((times.len() * share).div_ceil(100).saturating_sub(1)).copied().unwrap_or_default();
    (at(50), at(99), at(100))
}
