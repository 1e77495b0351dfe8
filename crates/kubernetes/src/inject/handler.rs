//! What a probe or hook does, of the sorts that cross the network, as the Pod declares it.
//!
//! The webhook sees Pods before the API server checks them. What that will refuse is left in its place, to be refused in
//! Kubernetes' own words: taken out, it would be the sidecar's to fail on.

use serde_json::Value;

use super::template::{Container, Object};

/// The field of a probe or hook that says it.
pub const KINDS: [&str; 3] = ["httpGet", "tcpSocket", "grpc"];

/// What the sidecar understands of each.
const FIELDS: [&[&str]; 3] = [
    &["path", "port", "host", "scheme", "httpHeaders"],
    &["port", "host"],
    &["port", "service"],
];

/// One of them.
pub struct Handler<'a> {
    pub kind: &'static str,
    pub fields: &'a Object,
    known: &'static [&'static str],
}

impl<'a> Handler<'a> {
    /// `None` also where there is more than one, which Kubernetes refuses.
    pub fn of(probe: &'a Object) -> Option<Self> {
        let mut found = KINDS.into_iter().zip(FIELDS).filter_map(|(kind, known)| {
            let fields = probe.get(kind)?.as_object()?;
            Some(Self {
                kind,
                fields,
                known,
            })
        });
        let (handler, more) = (found.next()?, found.next());
        let other = ["exec", "sleep"].iter().any(|kind| is_there(probe, kind));
        (more.is_none() && !other).then_some(handler)
    }

    pub fn has_host(&self) -> bool {
        let host = self.fields.get("host").and_then(Value::as_str);
        host.is_some_and(|host| !host.is_empty())
    }

    /// As Kubernetes checks it, but for the port.
    pub fn is_valid(&self) -> bool {
        let is_text = |field: &str| !is_there(self.fields, field) || self.fields[field].is_string();
        let scheme = self.fields.get("scheme").and_then(Value::as_str);
        ["path", "service", "scheme"].into_iter().all(is_text)
            && matches!(scheme, None | Some("" | "HTTP" | "HTTPS"))
            && self.headers().all(|header| {
                let name = header["name"].as_str().unwrap_or_default();
                let mut bytes = name.bytes();
                !name.is_empty() && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            })
    }

    /// As a number.
    pub fn port(&self, container: &Container) -> Option<u64> {
        let port = match self.fields.get("port")? {
            Value::String(text) => text.parse().ok().or_else(|| container.port(text)),
            number => number.as_u64(),
        };
        port.filter(|port| (1..=65535).contains(port))
    }

    /// The fields with which the sidecar does the same. Those it does not know are warned of.
    ///
    /// # Errors
    /// One sentence, for a header that cannot be sent.
    pub fn for_sidecar(
        &self,
        port: u64,
        whose: &str,
        warnings: &mut Vec<String>,
    ) -> Result<Object, String> {
        let mut fields = self.fields.clone();
        fields.retain(|name, value| {
            let known = self.known.contains(&name.as_str());
            if !known && !value.is_null() {
                let field = format!("{}.{name} of {whose}", self.kind);
                warnings.push(format!(
                    "{field} is not known to the sidecar and has no effect"
                ));
            }
            known && !value.is_null()
        });
        for (index, header) in self.headers().enumerate() {
            let value = header["value"].as_str().unwrap_or_default();
            if value
                .bytes()
                .any(|byte| byte.is_ascii_control() && byte != b'\t')
            {
                return Err(format!(
                    "{}.httpHeaders[{index}].value of {whose} has a control character, which no header can have; take it out",
                    self.kind
                ));
            }
        }
        fields.insert("port".to_owned(), port.into());
        Ok(fields)
    }

    fn headers(&self) -> impl Iterator<Item = &Value> {
        let headers = self.fields.get("httpHeaders").and_then(Value::as_array);
        headers.into_iter().flatten()
    }
}

fn is_there(object: &Object, field: &str) -> bool {
    object.get(field).is_some_and(|value| !value.is_null())
}
