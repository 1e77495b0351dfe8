//! httpGet as the kubelet does it: no certificate is verified, redirects are followed on the same host only, 2xx and 3xx
//! are success.

use http::header::{ACCEPT, HOST, LOCATION, USER_AGENT};
use http::{HeaderMap, HeaderValue, StatusCode, Uri};
use http_body_util::BodyExt;

use super::AGENT;
use super::declared::{HttpGet, Scheme};
use crate::application::{Answer, Application, Failure, Place};
use crate::authorize::path::without_dot_segments;

/// As the kubelet's HTTP client.
const REDIRECTS: usize = 10;

/// The kubelet reads this much of a body, and calls it a failure when the application breaks off before.
const BODY: usize = 10 * 1024;

/// Where the next request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    tls: bool,
    place: Place,
    path: String,
}

/// The status with which the application answered in the end.
pub async fn get(application: &Application, declared: &HttpGet) -> Result<StatusCode, Failure> {
    let mut target = Target {
        tls: declared.scheme == Scheme::Https,
        place: Place {
            host: declared.host.clone(),
            port: declared.port,
        },
        path: declared.path.to_string(),
    };
    for _ in 0..=REDIRECTS {
        let answer = application
            .get(&target.place, target.tls, &target.path, headers(declared))
            .await?;
        let status = answer.response.status();
        let next = location(&answer)
            .and_then(|location| target.follow(location, &application.authority(&target.place)));
        match next {
            Some(next) => target = next,
            None => return read(answer).await.map(|()| status),
        }
    }
    Err(Failure::Broken)
}

fn headers(declared: &HttpGet) -> HeaderMap {
    let mut headers = declared.headers.clone();
    for (name, value) in [(USER_AGENT, AGENT), (ACCEPT, "*/*")] {
        headers
            .entry(name)
            .or_insert(HeaderValue::from_static(value));
    }
    // A declared header with an empty value is left out: so one says "none at all".
    for name in [USER_AGENT, ACCEPT] {
        if headers.get(&name).is_some_and(HeaderValue::is_empty) {
            headers.remove(name);
        }
    }
    if let Some(authority) = &declared.authority {
        headers.insert(HOST, authority.clone());
    }
    headers
}

fn location(answer: &Answer) -> Option<&str> {
    match answer.response.status().as_u16() {
        301 | 302 | 303 | 307 | 308 => answer.response.headers().get(LOCATION)?.to_str().ok(),
        _ => None,
    }
}

impl Target {
    /// Where `location` leads from here; `None` for another host, which makes the redirect itself the answer.
    /// `authority` is this target's own.
    fn follow(&self, location: &str, authority: &str) -> Option<Target> {
        let scheme = if self.tls { "https" } else { "http" };
        let here: Uri = format!("{scheme}://{authority}{}", self.path)
            .parse()
            .ok()?;
        let next = join(&here, location)?;
        if !next.host()?.eq_ignore_ascii_case(here.host()?) {
            return None;
        }
        let tls = match next.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return None,
        };
        Some(Target {
            tls,
            place: Place {
                host: self.place.host.clone(),
                port: next.port_u16().unwrap_or(if tls { 443 } else { 80 }),
            },
            path: next.path_and_query()?.to_string(),
        })
    }
}

/// A reference as RFC 3986 section 5 resolves it, for the forms that servers send.
fn join(here: &Uri, location: &str) -> Option<Uri> {
    let location = location.split_once('#').map_or(location, |(url, _)| url);
    let (scheme, authority) = (here.scheme_str()?, here.authority()?);
    let absolute = location
        .split_once("://")
        .is_some_and(|(scheme, _)| scheme.bytes().all(|b| b.is_ascii_alphanumeric()));
    if absolute {
        return location.parse().ok();
    }
    if location.starts_with("//") {
        return format!("{scheme}:{location}").parse().ok();
    }
    let folder = here
        .path()
        .rfind('/')
        .map_or("/", |end| &here.path()[..=end]);
    let (path, query) = match location.find('?') {
        Some(at) => location.split_at(at),
        None => (location, ""),
    };
    let path = match path {
        "" => here.path().to_owned(),
        path if path.starts_with('/') => without_dot_segments(path),
        path => without_dot_segments(&format!("{folder}{path}")),
    };
    format!("{scheme}://{authority}{path}{query}").parse().ok()
}

async fn read(mut answer: Answer) -> Result<(), Failure> {
    let mut length = 0;
    while let Some(frame) = answer.response.body_mut().frame().await {
        let frame = frame.map_err(|_| Failure::Broken)?;
        length += frame.data_ref().map_or(0, bytes::Bytes::len);
        if length >= BODY {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
