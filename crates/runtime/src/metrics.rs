//! Metrics exposition: text format 0.0.4 of the `prometheus` crate's registries, and what every process says of itself.

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Gauge, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};

/// `Content-Type` of [`expose`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A registry that already has `tasuki_build_info{component, version}` and the standard `process_*` metrics.
pub fn registry(component: &str, version: &str) -> prometheus::Result<Registry> {
    let registry = Registry::new();
    let opts = Opts::new(
        "tasuki_build_info",
        "Version of the running program; always 1.",
    );
    let build = IntGaugeVec::new(opts, &["component", "version"])?;
    build.with_label_values(&[component, version]).set(1);
    registry.register(Box::new(build))?;
    registry.register(Box::new(Process::new()?))?;
    Ok(registry)
}

/// The registry's metrics in text format. A metric family that cannot be written is left out with a log line, rather than
/// failing the scrape as a whole.
pub fn expose(registry: &Registry) -> String {
    let mut text = String::new();
    for family in registry.gather() {
        let name = family.name().to_owned();
        if let Err(error) = TextEncoder::new().encode_utf8(&[family], &mut text) {
            tracing::warn!(metric = name, %error, "metric family left out of the scrape");
        }
    }
    text
}

/// `process_*` as Prometheus' client libraries name them, from `/proc/self`.
struct Process {
    resident: IntGauge,
    open_fds: IntGauge,
    cpu: Gauge,
    start: Gauge,
}

impl Process {
    fn new() -> prometheus::Result<Self> {
        let start = Gauge::new(
            "process_start_time_seconds",
            "When the process started, seconds since 1970.",
        )?;
        let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        start.set(since_epoch.unwrap_or_default().as_secs_f64());
        Ok(Self {
            resident: IntGauge::new("process_resident_memory_bytes", "Resident memory, bytes.")?,
            open_fds: IntGauge::new("process_open_fds", "Open file descriptors.")?,
            cpu: Gauge::new(
                "process_cpu_seconds_total",
                "CPU time of user and system, seconds.",
            )?,
            start,
        })
    }

    /// What cannot be read keeps its last value.
    fn refresh(&self) {
        // USER_HZ, the same on every Linux platform.
        const TICKS_PER_SECOND: f64 = 100.0;
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = resident.and_then(|text| text.trim().trim_end_matches(" kB").parse::<i64>().ok());
        if let Some(kib) = kib {
            self.resident.set(kib * 1024);
        }
        if let Ok(entries) = std::fs::read_dir("/proc/self/fd") {
            self.open_fds
                .set(entries.count().try_into().unwrap_or(i64::MAX));
        }
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        // The command's name is in parentheses and may contain spaces; utime and stime are fields 14 and 15.
        let fields = stat
            .rsplit_once(')')
            .map(|(_, rest)| rest.split_ascii_whitespace());
        if let Some(fields) = fields {
            let ticks: f64 = fields
                .skip(11)
                .take(2)
                .filter_map(|f| f.parse::<f64>().ok())
                .sum();
            self.cpu.set(ticks / TICKS_PER_SECOND);
        }
    }
}

impl Collector for Process {
    fn desc(&self) -> Vec<&Desc> {
        [
            self.resident.desc(),
            self.open_fds.desc(),
            self.cpu.desc(),
            self.start.desc(),
        ]
        .concat()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.refresh();
        let mut cpu = self.cpu.collect();
        for family in &mut cpu {
            // A gauge by implementation because it is read, not counted; a counter by meaning.
            as_counter(family);
        }
        [
            self.resident.collect(),
            self.open_fds.collect(),
            cpu,
            self.start.collect(),
        ]
        .concat()
    }
}

fn as_counter(family: &mut MetricFamily) {
    use prometheus::proto::{Counter, MetricType};
    family.set_field_type(MetricType::COUNTER);
    for metric in family.mut_metric() {
        let mut counter = Counter::default();
        counter.set_value(metric.get_gauge().get_value());
        metric.set_counter(counter);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrape_has_build_and_process() {
        let text = expose(&registry("proxy", "0.1.0").unwrap());
        assert!(
            text.contains("tasuki_build_info{component=\"proxy\",version=\"0.1.0\"} 1"),
            "{text}"
        );
        assert!(
            text.contains("# TYPE process_cpu_seconds_total counter"),
            "{text}"
        );
        let resident = text
            .lines()
            .find_map(|l| l.strip_prefix("process_resident_memory_bytes "));
        assert!(
            resident.unwrap().parse::<f64>().unwrap() > 100_000.0,
            "{text}"
        );
    }
}
