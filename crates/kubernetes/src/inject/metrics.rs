//! Prometheus' annotations: whoever scrapes the application gets its metrics from the sidecar, with the sidecar's own, so
//! that STRICT does not shut a scraper out that has no certificate.

use serde_json::Value;

use super::template::{Object, Template};
use crate::names;

const SCRAPE: &str = "prometheus.io/scrape";
const PORT: &str = "prometheus.io/port";
const PATH: &str = "prometheus.io/path";
const SCHEME: &str = "prometheus.io/scheme";

/// Where the application's metrics are: `:8080/metrics`, when the annotations ask for them to be scraped. They lead to the
/// sidecar from then on; what they were is noted among `originals`.
pub fn redirect(
    pod: &mut Template,
    originals: &mut Object,
    warnings: &mut Vec<String>,
) -> Option<String> {
    if pod.annotation(SCRAPE) != Some("true") {
        return None;
    }
    if pod
        .annotation(SCHEME)
        .is_some_and(|scheme| scheme != "http")
    {
        warnings.push(format!(
            "{SCHEME} is not http, so the application's metrics are not merged with the sidecar's"
        ));
        return None;
    }
    let Some(port) = port(pod).filter(|port| *port != names::METRICS_PORT) else {
        warnings.push(format!("{PORT} names no port of the application, so the application's metrics are not merged with the sidecar's"));
        return None;
    };
    let path = pod.annotation(PATH).unwrap_or("/metrics");
    if !path
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && !b"\"#<>\\^`{|}".contains(&byte))
    {
        warnings.push(format!(
            "{PATH} is not a path, so the application's metrics are not merged with the sidecar's"
        ));
        return None;
    }
    let slash = if path.starts_with('/') { "" } else { "/" };
    let metrics = format!(":{port}{slash}{path}");
    for name in [PORT, PATH] {
        let original = pod.annotation(name).map_or(Value::Null, Value::from);
        originals.insert(name.to_owned(), original);
    }
    pod.set_annotation(PORT, names::METRICS_PORT.to_string());
    pod.set_annotation(PATH, "/metrics");
    Some(metrics)
}

/// The one that is annotated, else the only one that is declared.
fn port(pod: &Template) -> Option<u16> {
    if let Some(text) = pod.annotation(PORT) {
        return text.parse().ok().filter(|port| *port != 0);
    }
    let of_container = |container: &super::template::Container| {
        container
            .fields
            .get("ports")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default()
    };
    let ports: Vec<Value> = pod.containers.iter().flat_map(of_container).collect();
    let [port] = ports.as_slice() else {
        return None;
    };
    port["containerPort"].as_u64()?.try_into().ok()
}

/// Puts back what an earlier injection noted, unless somebody has changed it since.
pub fn restore(pod: &mut Template, originals: &Object) {
    if pod.annotation(PORT) != Some(names::METRICS_PORT.to_string().as_str()) {
        return;
    }
    for name in [PORT, PATH] {
        match originals.get(name) {
            Some(Value::String(text)) => pod.set_annotation(name, text.as_str()),
            Some(_) => drop(pod.remove_annotation(name)),
            None => {}
        }
    }
}
