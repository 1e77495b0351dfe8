//! The values of an installation: the chart's own `values.yaml`, with files and single values laid over it the way Helm does.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

/// The chart's defaults are the only ones.
const DEFAULTS: &str = include_str!("../../../../deploy/tasuki/values.yaml");

/// What can be set of an installation; `values.yaml` says what each is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InstallSettings {
    pub image: Image,
    pub replicas: u16,
    pub resources: Resources,
    pub node_selector: BTreeMap<String, String>,
    pub tolerations: Vec<Toleration>,
    pub priority_class_name: String,
    pub log_level: String,
    pub trust_domain: String,
    pub outbound_traffic_policy: OutboundTrafficPolicy,
    pub proxy: Proxy,
    pub injection: Injection,
    pub webhook: Webhook,
    pub network_policy: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Image {
    pub registry: String,
    /// Empty: this version.
    pub tag: String,
    pub pull_policy: PullPolicy,
    pub pull_secrets: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

/// Quantities by the name of their resource, as Kubernetes writes them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    pub requests: BTreeMap<String, String>,
    pub limits: BTreeMap<String, String>,
}

/// Kubernetes' own, but with unknown fields as errors.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Toleration {
    pub key: Option<String>,
    pub operator: Option<String>,
    pub value: Option<String>,
    pub effect: Option<String>,
    pub toleration_seconds: Option<i64>,
}

/// The control plane's flag of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OutboundTrafficPolicy {
    AllowAny,
    RegistryOnly,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proxy {
    /// Empty: from [`Image::registry`].
    pub image: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Injection {
    pub istio_label: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Webhook {
    pub port: u16,
    pub host_network: bool,
    pub failure_policy: FailurePolicy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum FailurePolicy {
    Fail,
    Ignore,
}

/// What is wrong with the values.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{place}: {reason}")]
    Syntax { place: String, reason: String },
    #[error("{path}: there is no such value")]
    Unknown { path: String },
    #[error("{path}: {reason}")]
    Value { path: String, reason: String },
}

/// Values on their way to becoming [`InstallSettings`]: the defaults, and what was laid over them so far.
#[derive(Clone, Debug)]
pub struct Values(Value);

impl Values {
    /// # Errors
    /// Never, as the tests see: the defaults are part of the program.
    pub fn defaults() -> Result<Self, Error> {
        parse("the defaults", DEFAULTS).map(Self)
    }

    /// Lays a file's values over: maps are merged, all else is replaced.
    ///
    /// # Errors
    /// When it is not YAML, or not a map.
    pub fn merge(&mut self, file: &str, text: &str) -> Result<(), Error> {
        match parse(file, text)? {
            Value::Null => Ok(()),
            values @ Value::Object(_) => {
                overlay(&mut self.0, values);
                Ok(())
            }
            _ => Err(Error::Syntax {
                place: file.to_owned(),
                reason: "must be a map of values".to_owned(),
            }),
        }
    }

    /// Sets one value, `webhook.port=10250`. Text stays text where the default is text; everything else is read as YAML;
    /// `null` takes away.
    ///
    /// # Errors
    /// When there is no `=`, no such value, or it cannot be read.
    pub fn set(&mut self, assignment: &str) -> Result<(), Error> {
        let (path, text) = assignment.split_once('=').ok_or_else(|| Error::Syntax {
            place: assignment.to_owned(),
            reason: "must be NAME=VALUE, such as replicas=3".to_owned(),
        })?;
        let (parents, last) = path.rsplit_once('.').unwrap_or(("", path));
        let unknown = || Error::Unknown {
            path: path.to_owned(),
        };
        let mut place = &mut self.0;
        for part in parents.split('.').filter(|part| !part.is_empty()) {
            place = place.get_mut(part).ok_or_else(unknown)?;
        }
        let parent = place.as_object_mut().ok_or_else(unknown)?;
        if text == "null" {
            parent.remove(last);
            return Ok(());
        }
        let value = match parent.get(last) {
            Some(Value::String(_)) => Value::String(text.to_owned()),
            Some(_) => parse(path, text)?,
            // Names below these maps are the user's own.
            None if OPEN_MAPS.contains(&parents) => Value::String(text.to_owned()),
            None => return Err(unknown()),
        };
        parent.insert(last.to_owned(), value);
        Ok(())
    }

    /// # Errors
    /// The first value that has no name we know, is missing or is not what it must be.
    pub fn settings(self) -> Result<InstallSettings, Error> {
        let settings: InstallSettings =
            serde_json::from_value(self.0).map_err(|error| Error::Value {
                path: "values".to_owned(),
                reason: error.to_string(),
            })?;
        settings.check()?;
        Ok(settings)
    }
}

/// Maps whose keys are not ours.
const OPEN_MAPS: [&str; 3] = ["nodeSelector", "resources.requests", "resources.limits"];

fn parse(place: &str, text: &str) -> Result<Value, Error> {
    serde_saphyr::from_str(text).map_err(|error| Error::Syntax {
        place: place.to_owned(),
        reason: error.to_string(),
    })
}

/// Helm's rule: maps are merged, everything else is replaced, `null` takes away.
fn overlay(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                if value.is_null() {
                    base.remove(&key);
                } else {
                    overlay(base.entry(key).or_insert(Value::Object(Map::new())), value);
                }
            }
        }
        (base, over) => *base = over,
    }
}

impl InstallSettings {
    /// The defaults, as the chart has them.
    ///
    /// # Errors
    /// Never, as the tests see.
    pub fn defaults() -> Result<Self, Error> {
        Values::defaults()?.settings()
    }

    /// What the types do not say; the chart's schema says the same.
    fn check(&self) -> Result<(), Error> {
        let wrong = |path: &str, reason: &str| {
            Err(Error::Value {
                path: path.to_owned(),
                reason: reason.to_owned(),
            })
        };
        if self.image.registry.is_empty() {
            return wrong("image.registry", "must not be empty");
        }
        if self.replicas == 0 {
            return wrong("replicas", "must be at least 1");
        }
        if self.webhook.port < 1024 {
            return wrong(
                "webhook.port",
                "must be at least 1024: the control plane is not root",
            );
        }
        if RESERVED_PORTS.contains(&self.webhook.port) {
            return wrong(
                "webhook.port",
                "the control plane needs 15010, 15012 and 15014 for itself",
            );
        }
        if self.trust_domain.is_empty() {
            return wrong("trustDomain", "must not be empty");
        }
        if self.log_level.is_empty() {
            return wrong("logLevel", "must not be empty");
        }
        Ok(())
    }

    /// `REGISTRY/tasuki-control:TAG`.
    pub fn control_image(&self) -> String {
        self.image("tasuki-control")
    }

    /// What sidecars are made of.
    pub fn proxy_image(&self) -> String {
        if self.proxy.image.is_empty() {
            self.image("tasuki-proxy")
        } else {
            self.proxy.image.clone()
        }
    }

    fn image(&self, name: &str) -> String {
        let tag = if self.image.tag.is_empty() {
            VERSION
        } else {
            &self.image.tag
        };
        format!("{}/{name}:{tag}", self.image.registry)
    }
}

/// The version of chart, images and programs.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Plaintext xDS, xDS over TLS, administration.
const RESERVED_PORTS: [u16; 3] = [15010, 15012, 15014];

#[cfg(test)]
mod tests {
    use super::*;

    fn with(file: &str, set: &[&str]) -> Result<InstallSettings, Error> {
        let mut values = Values::defaults().unwrap();
        values.merge("values.yaml", file)?;
        for assignment in set {
            values.set(assignment)?;
        }
        values.settings()
    }

    #[test]
    fn the_defaults_are_the_charts() {
        let settings = InstallSettings::defaults().unwrap();
        assert_eq!(settings.webhook.port, 15017);
        assert_eq!(settings.webhook.failure_policy, FailurePolicy::Fail);
        assert_eq!(
            settings.control_image(),
            format!("ghcr.io/tasuki-mesh/tasuki-control:{VERSION}")
        );
    }

    #[test]
    fn files_merge_and_single_values_win() {
        let settings = with(
            "image: {tag: a}\nresources: {limits: {memory: null}}\ntolerations: [{operator: Exists}]\n",
            &[
                "image.tag=1.30",
                "replicas=3",
                "webhook.hostNetwork=true",
                "nodeSelector.disk=ssd",
            ],
        )
        .unwrap();
        assert_eq!(
            settings.proxy_image(),
            "ghcr.io/tasuki-mesh/tasuki-proxy:1.30"
        );
        assert_eq!(settings.replicas, 3);
        assert!(settings.webhook.host_network);
        assert!(settings.resources.limits.is_empty());
        assert_eq!(settings.resources.requests["cpu"], "100m");
        assert_eq!(settings.node_selector["disk"], "ssd");
        assert_eq!(settings.tolerations[0].operator.as_deref(), Some("Exists"));
    }

    #[test]
    fn slips_are_named() {
        let said = |file: &str, set: &[&str]| with(file, set).unwrap_err().to_string();
        assert_eq!(
            said("", &["webhook.prot=1"]),
            "webhook.prot: there is no such value"
        );
        assert!(said("", &["replicas"]).contains("NAME=VALUE"));
        assert!(said("webhook: {prot: 1}", &[]).contains("unknown field `prot`"));
        assert!(said("webhook: {failurePolicy: Maybe}", &[]).contains("`Fail`"));
        assert!(said("[]", &[]).contains("map of values"));
        assert!(said("", &["replicas=0"]).starts_with("replicas: "));
        assert!(said("", &["webhook.port=443"]).starts_with("webhook.port: "));
        assert!(said("", &["webhook.port=15012"]).starts_with("webhook.port: "));
        assert!(said("trustDomain: null", &[]).contains("missing field"));
    }
}
