//! `injection`: what the injector gives a sidecar whose Pod does not say otherwise.

use std::time::Duration;

use crate::cidr::Cidr;
use crate::fields::Value;
use crate::quantity::Quantity;

/// `None` is "not said": the injector has defaults of its own.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Injection {
    /// Whether the sidecar is an init container that keeps running (Kubernetes 1.29 and later).
    pub native_sidecar: Option<bool>,
    /// Whether a namespace's `istio-injection: enabled` counts.
    pub istio_injection_label: Option<bool>,
    pub requests: Amounts,
    pub limits: Amounts,
    /// A log filter, as the proxy's `--log` takes it.
    pub log_level: Option<String>,
    /// At least 1.
    pub workers: Option<u32>,
    pub drain_time: Option<Duration>,
    /// How long a sidecar serves at least once its Pod is deleted.
    pub drain_minimum: Option<Duration>,
    pub exclude_inbound_ports: Vec<u16>,
    pub exclude_outbound_ports: Vec<u16>,
    pub exclude_outbound_cidrs: Vec<Cidr>,
}

/// CPU and memory of one container.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Amounts {
    pub cpu: Option<Quantity>,
    pub memory: Option<Quantity>,
}

/// More threads help no sidecar.
const MOST_WORKERS: i128 = 64;
/// Longest log filter: it becomes a variable of every sidecar.
const LONGEST_FILTER: usize = 256;
/// Longest a Pod is made to wait.
const LONGEST_DRAIN: Duration = Duration::from_secs(3600);
/// Each entry becomes a packet rule in every Pod.
const MOST_EXCLUDED: usize = 64;

pub(super) fn read(value: &Value<'_>) -> Option<Injection> {
    let fields = value.fields()?;
    let (requests, limits) = fields
        .get("resources")
        .and_then(|v| resources(&v))
        .unwrap_or_default();
    let list = |name| fields.get(name).map(|v| bounded(&v)).unwrap_or_default();
    let ports = |name| list(name).iter().filter_map(Value::port).collect();
    let duration = |name| fields.get(name).and_then(|v| drain(&v));
    let injection = Injection {
        native_sidecar: fields.get("nativeSidecar").and_then(|v| v.boolean()),
        istio_injection_label: fields.get("istioInjectionLabel").and_then(|v| v.boolean()),
        requests,
        limits,
        log_level: fields.get("logLevel").and_then(|v| filter(&v)),
        workers: fields
            .get("workers")
            .and_then(|v| v.integer(1, MOST_WORKERS))
            .and_then(|n| u32::try_from(n).ok()),
        drain_time: duration("drainTime"),
        drain_minimum: duration("drainMinimum"),
        exclude_inbound_ports: ports("excludeInboundPorts"),
        exclude_outbound_ports: ports("excludeOutboundPorts"),
        exclude_outbound_cidrs: list("excludeOutboundCidrs")
            .iter()
            .filter_map(cidr)
            .collect(),
    };
    fields.finish();
    Some(injection)
}

/// Requests and limits; what asks for more than it may have would be refused with every Pod.
fn resources(value: &Value<'_>) -> Option<(Amounts, Amounts)> {
    let fields = value.fields()?;
    let side = |name| {
        fields
            .get(name)
            .and_then(|v| amounts(&v))
            .unwrap_or_default()
    };
    let (requests, limits) = (side("requests"), side("limits"));
    fields.finish();
    for (name, request, limit) in [
        ("cpu", &requests.cpu, &limits.cpu),
        ("memory", &requests.memory, &limits.memory),
    ] {
        if let (Some(request), Some(limit)) = (request, limit)
            && request.exceeds(limit)
        {
            value.error(
                format!("{name}: {request} is requested, the limit is {limit}"),
                "",
            );
        }
    }
    Some((requests, limits))
}

fn amounts(value: &Value<'_>) -> Option<Amounts> {
    let fields = value.fields()?;
    let amount = |name| fields.get(name).and_then(|v| v.quantity());
    let amounts = Amounts {
        cpu: amount("cpu"),
        memory: amount("memory"),
    };
    fields.finish();
    Some(amounts)
}

fn filter(value: &Value<'_>) -> Option<String> {
    let text = value.text()?;
    if text.len() > LONGEST_FILTER || !is_log_filter(text) {
        value.error(
            "is not a log filter",
            "write off, error, warn, info, debug or trace, or info,tasuki_proxy=debug",
        );
        return None;
    }
    Some(text.to_owned())
}

/// What tracing's filters understand, without their spans and fields.
pub fn is_log_filter(text: &str) -> bool {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let directive = |item: &str| {
        let (target, level) = item.rsplit_once('=').unwrap_or(("", item));
        let named = |c: char| c.is_ascii_alphanumeric() || "_:-".contains(c);
        LEVELS.contains(&level.to_ascii_lowercase().as_str()) && target.chars().all(named)
    };
    text.split(',').all(directive)
}

fn drain(value: &Value<'_>) -> Option<Duration> {
    let time = value.duration_or_zero()?;
    if time > LONGEST_DRAIN {
        value.error("is longer than 1h", "");
        return None;
    }
    Some(time)
}

fn bounded<'a>(value: &Value<'a>) -> Vec<Value<'a>> {
    let items = value.list();
    if items.len() > MOST_EXCLUDED {
        value.error(
            format!("has {} entries", items.len()),
            format!("at most {MOST_EXCLUDED} can be excluded"),
        );
        return Vec::new();
    }
    items
}

fn cidr(value: &Value<'_>) -> Option<Cidr> {
    let text = value.address()?;
    let cidr = Cidr::parse(&text);
    if cidr.is_none() {
        value.error(format!("{text:?} is not an IP block"), "write 10.0.0.0/8");
    }
    cidr
}
