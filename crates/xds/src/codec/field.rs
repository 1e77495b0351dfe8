//! Reading one field: faults that carry their path, what counts as unset, and the small well-known types.

use std::collections::HashMap;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;
use envoy_types::pb::envoy::config::core::v3::{
    AggregatedConfigSource, ApiVersion, ConfigSource, DataSource,
    config_source::ConfigSourceSpecifier,
};
use envoy_types::pb::envoy::r#type::v3::Percent;
use envoy_types::pb::google::protobuf::{Any, BoolValue, Duration as PbDuration, UInt32Value};
use prost::{Message, Name};

/// What is wrong with a message, and where in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    path: String,
    reason: String,
}

pub(super) type Read<T> = Result<T, Fault>;

impl Fault {
    pub(super) fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            path: field.into(),
            reason: reason.into(),
        }
    }

    /// A field that is set but means something that we do not do.
    pub(super) fn not_honoured(field: &str) -> Self {
        Self::new(field, "not honoured")
    }

    pub(super) fn missing(field: &str) -> Self {
        Self::new(field, "missing")
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.path.is_empty() {
            f.write_str(&self.reason)
        } else {
            write!(f, "{}: {}", self.path, self.reason)
        }
    }
}

/// Prefixes the path of a fault on its way up.
pub(super) trait Within<T> {
    fn within(self, segment: &str) -> Read<T>;
}

impl<T> Within<T> for Read<T> {
    fn within(self, segment: &str) -> Read<T> {
        self.map_err(|fault| {
            let path = match fault.path.as_str() {
                "" => segment.to_owned(),
                rest if rest.starts_with('[') => format!("{segment}{rest}"),
                rest => format!("{segment}.{rest}"),
            };
            Fault {
                path,
                reason: fault.reason,
            }
        })
    }
}

/// Reads each element of a repeated field.
pub(super) fn each<A, B>(
    field: &str,
    items: impl IntoIterator<Item = A>,
    read: impl Fn(A) -> Read<B>,
) -> Read<Vec<B>> {
    items
        .into_iter()
        .enumerate()
        .map(|(i, item)| read(item).within(&format!("{field}[{i}]")))
        .collect()
}

pub(super) fn required<T>(field: &str, value: Option<T>) -> Read<T> {
    value.ok_or_else(|| Fault::missing(field))
}

/// The value protobuf gives to a field that was not sent.
pub(super) trait Unset {
    fn unset(&self) -> bool;
}

impl<T> Unset for Option<T> {
    fn unset(&self) -> bool {
        self.is_none()
    }
}
impl<T> Unset for Vec<T> {
    fn unset(&self) -> bool {
        self.is_empty()
    }
}
impl<K, V> Unset for HashMap<K, V> {
    fn unset(&self) -> bool {
        self.is_empty()
    }
}
impl Unset for String {
    fn unset(&self) -> bool {
        self.is_empty()
    }
}
impl Unset for bool {
    fn unset(&self) -> bool {
        !self
    }
}
impl Unset for i32 {
    fn unset(&self) -> bool {
        *self == 0
    }
}
impl Unset for u32 {
    fn unset(&self) -> bool {
        *self == 0
    }
}

/// Refuses each of the named local variables that is set: `refuse!(vhds, vhost_header)`.
macro_rules! refuse {
    ($($field:ident),+ $(,)?) => {
        $(if !$crate::codec::field::Unset::unset(&$field) {
            return Err($crate::codec::field::Fault::not_honoured(stringify!($field).trim_start_matches("r#")));
        })+
    };
}
pub(super) use refuse;

pub(super) fn duration(value: Duration) -> Option<PbDuration> {
    // Protobuf bounds a duration to about 10,000 years.
    let seconds = i64::try_from(value.as_secs())
        .unwrap_or(i64::MAX)
        .min(315_576_000_000);
    Some(PbDuration {
        seconds,
        nanos: value.subsec_nanos() as i32,
    })
}

pub(super) fn read_duration(field: &str, value: PbDuration) -> Read<Duration> {
    let PbDuration { seconds, nanos } = value;
    match (u64::try_from(seconds), u32::try_from(nanos)) {
        (Ok(seconds), Ok(nanos)) if nanos < 1_000_000_000 && seconds <= 315_576_000_000 => {
            Ok(Duration::new(seconds, nanos))
        }
        _ => Err(Fault::new(field, "not a duration of zero or more")),
    }
}

pub(super) fn optional_duration(field: &str, value: Option<PbDuration>) -> Read<Option<Duration>> {
    value.map(|value| read_duration(field, value)).transpose()
}

pub(super) fn uint(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}

pub(super) fn boolean(value: bool) -> Option<BoolValue> {
    Some(BoolValue { value })
}

pub(super) fn read_uint(value: Option<UInt32Value>) -> Option<u32> {
    value.map(|UInt32Value { value }| value)
}

pub(super) fn read_bool(value: Option<BoolValue>) -> Option<bool> {
    value.map(|BoolValue { value }| value)
}

pub(super) fn percent(value: f64) -> Option<Percent> {
    Some(Percent { value })
}

pub(super) fn read_percent(field: &str, value: Percent) -> Read<f64> {
    let Percent { value } = value;
    if (0.0..=100.0).contains(&value) {
        Ok(value)
    } else {
        Err(Fault::new(field, "not between 0 and 100"))
    }
}

pub(super) fn pack<M: Message + Name>(message: &M) -> Any {
    Any {
        type_url: M::type_url(),
        value: message.encode_to_vec(),
    }
}

/// Reads an `Any` that must hold an `M`.
pub(super) fn unpack<M: Message + Name + Default>(any: &Any) -> Read<M> {
    let expected = M::type_url();
    if any.type_url != expected {
        return Err(Fault::new(
            "type_url",
            format!("`{}` where `{expected}` is expected", any.type_url),
        ));
    }
    M::decode(any.value.as_slice()).map_err(|error| Fault::new("", format!("malformed: {error}")))
}

/// "Over this same stream."
pub(super) fn ads() -> Option<ConfigSource> {
    Some(ConfigSource {
        resource_api_version: ApiVersion::V3 as i32,
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        ..ConfigSource::default()
    })
}

pub(super) fn read_ads(source: Option<ConfigSource>) -> Read<()> {
    let ConfigSource {
        authorities,
        initial_fetch_timeout: _,
        resource_api_version: _,
        config_source_specifier,
    } = required("config_source", source)?;
    refuse!(authorities);
    match config_source_specifier {
        Some(ConfigSourceSpecifier::Ads(_) | ConfigSourceSpecifier::Self_(_)) => Ok(()),
        _ => Err(Fault::new(
            "config_source",
            "only `ads` and `self` are honoured",
        )),
    }
}

/// Bytes that are in the message itself; files and the environment of the proxy are not read.
pub(super) fn read_inline(source: DataSource) -> Read<Vec<u8>> {
    let DataSource {
        watched_directory,
        specifier,
    } = source;
    refuse!(watched_directory);
    match specifier {
        Some(Specifier::InlineBytes(bytes)) => Ok(bytes),
        Some(Specifier::InlineString(text)) => Ok(text.into_bytes()),
        Some(Specifier::Filename(_)) => Err(Fault::not_honoured("filename")),
        Some(Specifier::EnvironmentVariable(_)) => Err(Fault::not_honoured("environment_variable")),
        None => Ok(Vec::new()),
    }
}

/// A port: 1..=65535, as protobuf's `uint32`.
pub(super) fn read_port(field: &str, value: u32) -> Read<u16> {
    u16::try_from(value).map_err(|_| Fault::new(field, format!("{value} is not a port")))
}
