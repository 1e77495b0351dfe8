//! 15020 `/metrics` of an injected Pod: the application's metrics and ours in one answer, so that STRICT blinds no scrape.
//!
//! The application is asked for the text format, and is an affair of its own: when it fails, ours are there all the same.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use http::header::{ACCEPT, CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderValue, StatusCode};
use http_body_util::{BodyExt, Limited};
use tasuki_runtime::metrics as exposition;

use crate::application::{Application, Place};
use crate::observe::Metrics;
use crate::settings::ApplicationMetrics;

/// Prometheus gives a scrape 10 s unless told otherwise.
const TIMEOUT: Duration = Duration::from_secs(8);

/// The most that is taken of the application.
const LARGEST: usize = 16 * 1024 * 1024;

/// Between two scrapes of the application. Prometheus' shortest sensible interval is one second.
pub const PAUSE: Duration = Duration::from_millis(500);

/// Families that every program has, and of which the application's own are wanted.
const PROCESS: &str = "process_";

/// Where the application's metrics are, and ours.
pub struct Merged {
    pub application: Application,
    pub declared: ApplicationMetrics,
    pub metrics: Arc<Metrics>,
}

impl Merged {
    /// Both.
    pub async fn expose(&self) -> String {
        let scraped = tokio::time::timeout(TIMEOUT, self.scrape()).await;
        let application = match scraped {
            Ok(Ok(text)) => text,
            Ok(Err(reason)) => self.failed(&reason),
            Err(_) => self.failed("no answer in time"),
        };
        merge(&exposition::expose(self.metrics.registry()), &application)
    }

    fn failed(&self, reason: &str) -> String {
        tracing::debug!(reason, "the application's metrics are missing");
        self.metrics.application_scrape_failures.inc();
        String::new()
    }

    async fn scrape(&self) -> Result<String, String> {
        let headers = HeaderMap::from_iter([
            (ACCEPT, HeaderValue::from_static("text/plain;version=0.0.4")),
            (USER_AGENT, HeaderValue::from_static("tasuki-proxy")),
        ]);
        let place = Place {
            host: None,
            port: self.declared.port,
        };
        let path = self.declared.path.as_str();
        let answer = self.application.get(&place, false, path, headers).await;
        let mut answer = answer.map_err(|failure| failure.to_string())?;
        let status = answer.response.status();
        if status != StatusCode::OK {
            return Err(format!("status {}", status.as_u16()));
        }
        let kind = answer.response.headers().get(CONTENT_TYPE);
        let kind = kind
            .and_then(|kind| kind.to_str().ok())
            .unwrap_or("text/plain");
        if !kind.starts_with("text/plain") && !kind.starts_with("application/openmetrics-text") {
            return Err("neither text format nor OpenMetrics".to_owned());
        }
        let body = Limited::new(answer.response.body_mut(), LARGEST)
            .collect()
            .await;
        let body = body.map_err(|error| error.to_string())?.to_bytes();
        String::from_utf8(body.into()).map_err(|error| error.to_string())
    }
}

/// Both, no family twice: `process_*` are the application's if it has any, of all others that both have ours stay.
fn merge(ours: &str, application: &str) -> String {
    let own: HashSet<&str> = ours.lines().filter_map(declares).collect();
    let with_process = application
        .lines()
        .any(|line| family(line).is_some_and(|name| name.starts_with(PROCESS)));
    let mut text = String::with_capacity(ours.len() + application.len() + 1);
    for line in ours.lines() {
        let theirs = with_process && family(line).is_some_and(|name| name.starts_with(PROCESS));
        if !theirs {
            text.push_str(line);
            text.push('\n');
        }
    }
    for line in application.lines() {
        let Some(name) = family(line) else { continue };
        let process = name.starts_with(PROCESS);
        if process || !belongs(name, &own) {
            text.push_str(without_exemplar(line));
            text.push('\n');
        }
    }
    text
}

/// The family that a `# TYPE` line declares.
fn declares(line: &str) -> Option<&str> {
    line.strip_prefix("# TYPE ")?.split(' ').next()
}

/// The name that a line is about; `None` for comments, empty lines, and what only OpenMetrics has (`# EOF`, `# UNIT`).
fn family(line: &str) -> Option<&str> {
    if line.starts_with('#') {
        let rest = line
            .strip_prefix("# HELP ")
            .or_else(|| line.strip_prefix("# TYPE "));
        return rest?.split(' ').next();
    }
    let name = line.split(['{', ' ', '\t']).next()?;
    (!name.is_empty()).then_some(name)
}

/// Whether a sample of this name is of one of these families.
fn belongs(name: &str, families: &HashSet<&str>) -> bool {
    let parts = ["", "_bucket", "_sum", "_count", "_total"];
    parts.iter().any(|part| {
        name.strip_suffix(part)
            .is_some_and(|family| families.contains(family))
    })
}

/// OpenMetrics puts exemplars behind a sample, which the text format does not know.
fn without_exemplar(line: &str) -> &str {
    match line.rfind(" # {") {
        Some(at) if !line.starts_with('#') && line[..at].matches('"').count().is_multiple_of(2) => {
            &line[..at]
        }
        _ => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ours_are_there_whatever_the_application_does() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let merged = Merged {
            application: Application::new(address.ip(), crate::loop_guard::LoopGuard::default()),
            declared: format!(":{}/metrics", address.port()).parse().unwrap(),
            metrics: Arc::new(Metrics::new().unwrap()),
        };
        tokio::spawn(async move {
            for answer in [
                "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nshop_orders_total 3\n",
                "HTTP/1.1 500 Oops\r\nconnection: close\r\n\r\nshop_orders_total 4\n",
            ] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let _ = stream.read(&mut [0; 1024]).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        let text = merged.expose().await;
        assert!(text.contains("\nshop_orders_total 3\n"), "{text}");
        assert!(
            text.contains("tasuki_application_scrape_failures_total 0"),
            "{text}"
        );
        for failures in 1..=2 {
            let text = merged.expose().await;
            assert!(!text.contains("shop_orders_total"), "{text}");
            let count = merged.metrics.application_scrape_failures.get();
            assert_eq!(count, failures, "an error, then nobody there");
            assert!(text.contains("tasuki_build_info"), "{text}");
        }
    }

    #[test]
    fn no_family_is_there_twice() {
        let ours = "# HELP a_total A.\n# TYPE a_total counter\na_total{x=\"1\"} 1\n\
                    # TYPE process_open_fds gauge\nprocess_open_fds 7\n\
                    # TYPE h histogram\nh_bucket{le=\"1\"} 1\n";
        let application = "# TYPE process_open_fds gauge\nprocess_open_fds 9\n\
                           # TYPE a_total counter\na_total 5\nh_bucket{le=\"1\"} 8\nh_sum 3\n\
                           # TYPE b counter\n# UNIT b seconds\nb_total 4 # {trace=\"1\"} 2\n\
                           c{path=\" # {\"} 1\n\n# EOF";
        assert_eq!(
            merge(ours, application),
            "# HELP a_total A.\n# TYPE a_total counter\na_total{x=\"1\"} 1\n\
             # TYPE h histogram\nh_bucket{le=\"1\"} 1\n\
             # TYPE process_open_fds gauge\nprocess_open_fds 9\n\
             # TYPE b counter\nb_total 4\nc{path=\" # {\"} 1\n"
        );
        assert_eq!(merge(ours, ""), ours);
    }
}
