//! What a Pod may say about its sidecar, and what holds where it says nothing.

use std::fmt::Display;
use std::time::Duration;

use tasuki_resources::mesh_settings::{Injection, is_log_filter};
use tasuki_resources::{Cidr, Quantity};
use tasuki_runtime::parse_duration;

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
    pub workers: Option<u32>,
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
            cpu: Quantity::milli(50),
            memory: Quantity::mebi(48),
            cpu_limit: Quantity::milli(2000),
            memory_limit: Quantity::mebi(512),
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
    /// These, with what the mesh's settings say instead.
    pub fn with_mesh(&self, mesh: &Injection) -> Self {
        let own = self.clone();
        let or = |said: &Option<Quantity>, own: Quantity| said.clone().unwrap_or(own);
        let (cpu, memory) = (
            or(&mesh.requests.cpu, own.cpu),
            or(&mesh.requests.memory, own.memory),
        );
        // A request alone takes the limit along: the two came from different places.
        let at_least = |limit: Quantity, request: &Quantity| {
            if request.exceeds(&limit) {
                request.clone()
            } else {
                limit
            }
        };
        Self {
            exclude_inbound_ports: mesh.exclude_inbound_ports.clone(),
            exclude_outbound_ports: mesh.exclude_outbound_ports.clone(),
            exclude_outbound_cidrs: mesh.exclude_outbound_cidrs.clone(),
            log_level: mesh.log_level.clone().unwrap_or(own.log_level),
            workers: mesh.workers.or(own.workers),
            cpu_limit: at_least(or(&mesh.limits.cpu, own.cpu_limit), &cpu),
            memory_limit: at_least(or(&mesh.limits.memory, own.memory_limit), &memory),
            cpu,
            memory,
            drain_time: mesh.drain_time.unwrap_or(own.drain_time),
            drain_minimum: mesh.drain_minimum.unwrap_or(own.drain_minimum),
            native_sidecar: own.native_sidecar && mesh.native_sidecar.unwrap_or(true),
        }
    }

    /// These, with what the Pod's annotations say instead.
    ///
    /// # Errors
    /// One sentence: which annotation is wrong and what would be right.
    pub fn with_annotations(&self, pod: &Template) -> Result<Self, String> {
        let mut own = self.clone();
        let annotations = Annotations(pod);
        annotations.ports(names::EXCLUDE_INBOUND_PORTS, &mut own.exclude_inbound_ports)?;
        annotations.ports(
            names::EXCLUDE_OUTBOUND_PORTS,
            &mut own.exclude_outbound_ports,
        )?;
        annotations.read(
            names::EXCLUDE_OUTBOUND_CIDRS,
            &mut own.exclude_outbound_cidrs,
            blocks,
        )?;
        annotations.read(names::LOG_LEVEL, &mut own.log_level, log_level)?;
        annotations.read(names::WORKERS, &mut own.workers, workers)?;
        annotations.amount(names::CPU, &mut own.cpu, "0.5 or 100m")?;
        annotations.amount(names::CPU_LIMIT, &mut own.cpu_limit, "2 or 500m")?;
        annotations.amount(names::MEMORY, &mut own.memory, "64Mi")?;
        annotations.amount(names::MEMORY_LIMIT, &mut own.memory_limit, "256Mi")?;
        annotations.follow(names::CPU_LIMIT, &own.cpu, &mut own.cpu_limit)?;
        annotations.follow(names::MEMORY_LIMIT, &own.memory, &mut own.memory_limit)?;
        annotations.time(names::DRAIN_TIME, &mut own.drain_time)?;
        annotations.time(names::DRAIN_MINIMUM, &mut own.drain_minimum)?;
        annotations.read(names::NATIVE_SIDECAR, &mut own.native_sidecar, |text| {
            text.parse().map_err(|_| "true or false".to_owned())
        })?;
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

/// A Pod's annotations, read over what holds without them.
struct Annotations<'a>(&'a Template);

impl Annotations<'_> {
    /// One annotation, if the Pod has it. The reader's error is what would be right.
    fn read<T>(
        &self,
        name: &str,
        into: &mut T,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Result<(), String> {
        if let Some(text) = self.0.annotation(name) {
            *into = read(text.trim()).map_err(|right| wrong(name, text, right))?;
        }
        Ok(())
    }

    fn ports(&self, name: &str, into: &mut Vec<u16>) -> Result<(), String> {
        let port = |text: &str| text.parse().ok().filter(|port| *port != 0);
        let right = "port numbers with commas between, as in 8080,9090";
        self.read(name, into, |text| list(text, port, right))
    }

    fn amount(&self, name: &str, into: &mut Quantity, right: &str) -> Result<(), String> {
        let right = || format!("an amount as in {right}");
        self.read(name, into, |text| Quantity::parse(text).ok_or_else(right))
    }

    fn time(&self, name: &str, into: &mut Duration) -> Result<(), String> {
        self.read(name, into, |text| match parse_duration(text) {
            Ok(time) if time <= LONGEST_DRAIN => Ok(time),
            _ => Err("a time of at most 1h as in 30s or 1m30s".to_owned()),
        })
    }

    /// A limit follows a request beyond it, unless it was annotated too.
    fn follow(&self, name: &str, request: &Quantity, limit: &mut Quantity) -> Result<(), String> {
        if !request.exceeds(limit) {
            return Ok(());
        }
        if let Some(text) = self.0.annotation(name) {
            let right = format!("at least {request}, which is what the sidecar asks for");
            return Err(wrong(name, text, right));
        }
        *limit = request.clone();
        Ok(())
    }
}

fn wrong(name: &str, value: &str, right: impl Display) -> String {
    // A value may be as long as all annotations together.
    let value: String = value.chars().take(64).collect();
    format!("annotation {name} is {value:?}; write {right}")
}

/// As in `MeshSettings`.
const LONGEST_DRAIN: Duration = Duration::from_secs(3600);
/// Each becomes a packet rule.
const MOST_EXCLUDED: usize = 64;

fn blocks(text: &str) -> Result<Vec<Cidr>, String> {
    let right = "addresses or blocks with commas between, as in 10.0.0.0/8,192.0.2.1";
    list(text, Cidr::parse, right)
}

/// Items with commas between; none when empty.
fn list<T>(text: &str, read: impl Fn(&str) -> Option<T>, right: &str) -> Result<Vec<T>, String> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    if text.split(',').count() > MOST_EXCLUDED {
        return Err(format!("at most {MOST_EXCLUDED} of them"));
    }
    text.split(',')
        .map(|item| read(item.trim()).ok_or_else(|| right.to_owned()))
        .collect()
}

/// What tracing's filters understand, without their spans and fields.
fn log_level(text: &str) -> Result<String, String> {
    if is_log_filter(text) {
        Ok(text.to_owned())
    } else {
        Err("off, error, warn, info, debug or trace, also as in info,tasuki_proxy=debug".to_owned())
    }
}

fn workers(text: &str) -> Result<Option<u32>, String> {
    match text.parse() {
        Ok(workers @ 1..=64) => Ok(Some(workers)),
        _ => Err("a number of threads from 1 to 64".to_owned()),
    }
}
