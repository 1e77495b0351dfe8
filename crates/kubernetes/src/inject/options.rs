//! What a Pod may say about its sidecar, and what holds where it says nothing.

use std::fmt::Display;
use std::time::Duration;

use tasuki_resources::Cidr;
use tasuki_runtime::parse_duration;

use super::quantity::Quantity;
use super::template::Template;
use crate::names;

/// The settings of one sidecar: defaults, or those with a Pod's annotations applied.
#[derive(Clone, Debug)]
pub struct Options {
    pub exclude_inbound_ports: Vec<u16>,
    pub exclude_outbound_ports: Vec<u16>,
    pub exclude_outbound_cidrs: Vec<Cidr>,
    /// As `TASUKI_LOG` takes it: `info`, `tasuki_proxy=debug`.
    pub log_level: String,
    /// `None`: as many as the CPU limit allows, at most two.
    pub workers: Option<u16>,
    pub cpu: Quantity,
    pub memory: Quantity,
    pub cpu_limit: Quantity,
    pub memory_limit: Quantity,
    /// How long requests may finish once the Pod is told to end.
    pub drain_time: Duration,
    /// How long a Pod stays reachable at least that unmeshed clients, who learn late of its end, have lately called.
    pub drain_minimum: Duration,
    /// An init container that runs on, rather than one container among the others.
    pub native_sidecar: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            exclude_inbound_ports: Vec::new(),
            exclude_outbound_ports: Vec::new(),
            exclude_outbound_cidrs: Vec::new(),
            log_level: "info".to_owned(),
            workers: None,
            // Enough to start on a busy node; the limits are far above what a busy pod's workers use.
            cpu: Quantity::known("50m", 50),
            memory: Quantity::known("48Mi", (48 << 20) * 1000),
            cpu_limit: Quantity::known("2", 2000),
            memory_limit: Quantity::known("512Mi", (512 << 20) * 1000),
            drain_time: Duration::from_secs(30),
            drain_minimum: Duration::from_secs(5),
            native_sidecar: true,
        }
    }
}

/// The annotations that are read here.
const READ: [&str; 12] = [
    names::EXCLUDE_INBOUND_PORTS,
    names::EXCLUDE_OUTBOUND_PORTS,
    names::EXCLUDE_OUTBOUND_CIDRS,
    names::LOG_LEVEL,
    names::WORKERS,
    names::CPU,
    names::MEMORY,
    names::CPU_LIMIT,
    names::MEMORY_LIMIT,
    names::DRAIN_TIME,
    names::DRAIN_MINIMUM,
    names::NATIVE_SIDECAR,
];

impl Options {
    /// These, with what the Pod's annotations say instead.
    ///
    /// # Errors
    /// One sentence: which annotation is wrong and what would be right.
    pub fn with_annotations(&self, pod: &Template) -> Result<Self, String> {
        let mut own = self.clone();
        let ports = "port numbers with commas between, as in \"8080,9090\"";
        let quantity = |what: &'static str| {
            move |text: &str| text.parse::<Quantity>().map_err(|()| what.to_owned())
        };
        let time = |text: &str| {
            parse_duration(text).map_err(|_| "a time as in \"30s\" or \"1m30s\"".to_owned())
        };
        set(
            pod,
            names::EXCLUDE_INBOUND_PORTS,
            &mut own.exclude_inbound_ports,
            |text| list(text, port, ports),
        )?;
        set(
            pod,
            names::EXCLUDE_OUTBOUND_PORTS,
            &mut own.exclude_outbound_ports,
            |text| list(text, port, ports),
        )?;
        set(
            pod,
            names::EXCLUDE_OUTBOUND_CIDRS,
            &mut own.exclude_outbound_cidrs,
            |text| {
                list(
                    text,
                    Cidr::parse,
                    "addresses or blocks with commas between, as in \"10.0.0.0/8,192.0.2.1\"",
                )
            },
        )?;
        set(pod, names::LOG_LEVEL, &mut own.log_level, log_level)?;
        set(pod, names::WORKERS, &mut own.workers, workers)?;
        set(
            pod,
            names::CPU,
            &mut own.cpu,
            quantity("an amount of CPU as in \"100m\" or \"0.5\""),
        )?;
        set(
            pod,
            names::CPU_LIMIT,
            &mut own.cpu_limit,
            quantity("an amount of CPU as in \"500m\" or \"2\""),
        )?;
        set(
            pod,
            names::MEMORY,
            &mut own.memory,
            quantity("an amount of memory as in \"64Mi\""),
        )?;
        set(
            pod,
            names::MEMORY_LIMIT,
            &mut own.memory_limit,
            quantity("an amount of memory as in \"256Mi\""),
        )?;
        set(pod, names::DRAIN_TIME, &mut own.drain_time, time)?;
        set(pod, names::DRAIN_MINIMUM, &mut own.drain_minimum, time)?;
        set(
            pod,
            names::NATIVE_SIDECAR,
            &mut own.native_sidecar,
            |text| text.parse().map_err(|_| "\"true\" or \"false\"".to_owned()),
        )?;
        let asks = |name| pod.annotation(name).is_some();
        raise(
            &own.cpu,
            &mut own.cpu_limit,
            names::CPU,
            names::CPU_LIMIT,
            asks,
        )?;
        raise(
            &own.memory,
            &mut own.memory_limit,
            names::MEMORY,
            names::MEMORY_LIMIT,
            asks,
        )?;
        Ok(own)
    }
}

/// Annotations that look like ours and are read by nobody: slips.
pub fn unknown(pod: &Template) -> Vec<String> {
    let known = [names::PROXY_ANNOTATION, names::PROBES_ANNOTATION];
    pod.annotations()
        .filter(|name| name.starts_with(names::ANNOTATION_PREFIX))
        .filter(|name| !READ.contains(name) && !known.contains(name))
        .map(|name| match name {
            names::INJECT_LABEL => {
                format!("{name} is an annotation here and has no effect; it is a label")
            }
            _ => format!("annotation {name} is not known and has no effect"),
        })
        .collect()
}

/// Reads one annotation, if the Pod has it. The reader's error is what would be right.
fn set<T>(
    pod: &Template,
    name: &str,
    into: &mut T,
    read: impl Fn(&str) -> Result<T, String>,
) -> Result<(), String> {
    if let Some(text) = pod.annotation(name) {
        *into = read(text.trim()).map_err(|right| wrong(name, text, right))?;
    }
    Ok(())
}

fn wrong(name: &str, value: impl Display, right: impl Display) -> String {
    // A value may be as long as all annotations together.
    let value: String = value.to_string().chars().take(64).collect();
    format!("annotation {name} is {value:?}; write {right}")
}

/// A limit follows a request beyond it, unless it was written too.
fn raise(
    request: &Quantity,
    limit: &mut Quantity,
    request_name: &str,
    limit_name: &str,
    asks: impl Fn(&'static str) -> bool,
) -> Result<(), String> {
    if request.thousandths() <= limit.thousandths() {
        return Ok(());
    }
    let limit_is_own = READ
        .into_iter()
        .any(|name| name == limit_name && asks(name));
    if limit_is_own {
        let right = format!("at least {request}, which is what {request_name} asks for");
        return Err(wrong(limit_name, &*limit, right));
    }
    *limit = request.clone();
    Ok(())
}

fn port(text: &str) -> Option<u16> {
    text.parse().ok().filter(|port| *port != 0)
}

/// Items with commas between; none when empty.
fn list<T>(text: &str, read: impl Fn(&str) -> Option<T>, right: &str) -> Result<Vec<T>, String> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    text.split(',')
        .map(|item| read(item.trim()).ok_or_else(|| right.to_owned()))
        .collect()
}

/// What tracing's filters understand, without their spans and fields.
fn log_level(text: &str) -> Result<String, String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let directive = |item: &str| {
        let (target, level) = item.rsplit_once('=').unwrap_or(("", item));
        let named = |c: char| c.is_ascii_alphanumeric() || "_:-".contains(c);
        LEVELS.contains(&level.to_ascii_lowercase().as_str()) && target.chars().all(named)
    };
    if text.split(',').all(directive) {
        Ok(text.to_owned())
    } else {
        Err("off, error, warn, info, debug or trace, or \"info,tasuki_proxy=debug\"".to_owned())
    }
}

fn workers(text: &str) -> Result<Option<u16>, String> {
    match text.parse() {
        Ok(workers @ 1..=64) => Ok(Some(workers)),
        _ => Err("a number of threads from 1 to 64".to_owned()),
    }
}
