//! The access log: one JSON object a line on stdout, through a bounded queue (contract section 10).
//!
//! Workers never wait for stdout: a full queue drops the line and counts it.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::time::{Duration, SystemTime};

use prometheus::IntCounter;
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use tasuki_xds::model::proxy_settings::{self, ProxySettings};
use tokio::sync::watch;

use super::record::{Direction, Flags, Protocol};
use crate::settings::AccessLogMode;

/// Lines that may wait for stdout.
const QUEUE: usize = 8_192;

/// Longest text of one field; a path can be as long as the header limit.
const LONGEST_FIELD: usize = 4_096;

/// A worker's end of the log; cheap to clone.
#[derive(Clone)]
pub struct AccessLog {
    mode: SharedMode,
    queue: SyncSender<Vec<u8>>,
    dropped: IntCounter,
}

/// Which requests are logged at this moment, for all workers. Cheap to clone.
#[derive(Clone)]
pub struct SharedMode(Arc<AtomicU8>);

impl SharedMode {
    pub fn new(mode: AccessLogMode) -> SharedMode {
        SharedMode(Arc::new(AtomicU8::new(mode as u8)))
    }

    fn set(&self, mode: AccessLogMode) {
        self.0.store(mode as u8, Ordering::Relaxed);
    }

    fn is(&self, mode: AccessLogMode) -> bool {
        self.0.load(Ordering::Relaxed) == mode as u8
    }

    /// Does what the mesh says, until its sender is gone. Only for a proxy whose own flags say nothing.
    pub async fn follow(self, mut settings: watch::Receiver<Option<ProxySettings>>) {
        while settings.changed().await.is_ok() {
            let said = settings
                .borrow_and_update()
                .as_ref()
                .and_then(|s| s.access_log);
            self.set(match said {
                None => AccessLogMode::default(),
                Some(proxy_settings::AccessLog::Off) => AccessLogMode::Off,
                Some(proxy_settings::AccessLog::Errors) => AccessLogMode::Errors,
                Some(proxy_settings::AccessLog::All) => AccessLogMode::All,
            });
        }
    }
}

/// What one line says.
pub struct Line<'a> {
    pub time: SystemTime,
    pub direction: Direction,
    pub protocol: Protocol,
    pub method: Option<&'a str>,
    pub authority: Option<&'a str>,
    pub path: Option<&'a str>,
    pub status: u16,
    pub grpc_status: Option<u16>,
    pub flags: &'a Flags,
    pub reason: Option<&'a str>,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub duration: Duration,
    pub upstream: Option<SocketAddr>,
    pub cluster: Option<&'a str>,
    pub route: Option<&'a str>,
    pub source: Option<&'a str>,
    pub destination: Option<&'a str>,
    pub request_id: Option<&'a [u8]>,
    pub traceparent: Option<&'a [u8]>,
}

impl AccessLog {
    /// A log that writes to stdout from a thread of its own. The receiver hears when the last line is out, which is after
    /// the last clone of the log was dropped.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn stdout(
        mode: SharedMode,
        dropped: IntCounter,
    ) -> std::io::Result<(AccessLog, Receiver<()>)> {
        let (queue, lines) = sync_channel(QUEUE);
        let (done, written) = sync_channel(1);
        // Also when it is off: that may change.
        std::thread::Builder::new()
            .name("access-log".into())
            .spawn(move || {
                write_lines(&lines, std::io::stdout());
                drop(done);
            })?;
        Ok((
            AccessLog {
                mode,
                queue,
                dropped,
            },
            written,
        ))
    }

    /// A log whose lines the caller takes from the receiver.
    pub fn to_receiver(mode: AccessLogMode, dropped: IntCounter) -> (AccessLog, Receiver<Vec<u8>>) {
        let (queue, lines) = sync_channel(QUEUE);
        (
            AccessLog {
                mode: SharedMode::new(mode),
                queue,
                dropped,
            },
            lines,
        )
    }

    /// Whether a request is written at all; ask before making the line.
    pub fn wants(&self, error: bool) -> bool {
        self.mode.is(AccessLogMode::All) || (error && self.mode.is(AccessLogMode::Errors))
    }

    /// Queues the line, or drops it.
    pub fn write(&self, line: &Line<'_>) {
        let mut text = Vec::with_capacity(512);
        // Writing to memory cannot fail, nor can these fields.
        if serde_json::to_writer(&mut text, line).is_err() {
            return;
        }
        text.push(b'\n');
        if self.queue.try_send(text).is_err() {
            self.dropped.inc();
        }
    }
}

/// Writes what is there in one go, so that a burst costs few system calls.
fn write_lines(lines: &Receiver<Vec<u8>>, out: impl Write) {
    let mut out = std::io::BufWriter::with_capacity(64 * 1024, out);
    while let Ok(line) = lines.recv() {
        let mut next = Some(line);
        while let Some(line) = next.take() {
            // stdout is gone when its reader is; traffic goes on without a log.
            if out.write_all(&line).is_err() {
                return;
            }
            match lines.try_recv() {
                Ok(line) => next = Some(line),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => {}
            }
        }
        if out.flush().is_err() {
            return;
        }
    }
}

impl Serialize for Line<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("time", &timestamp(self.time))?;
        let direction = match self.direction {
            Direction::Inbound => "inbound",
            Direction::Outbound => "outbound",
            Direction::Gateway => "gateway",
        };
        map.serialize_entry("direction", direction)?;
        map.serialize_entry("protocol", self.protocol.name())?;
        text(&mut map, "method", self.method)?;
        text(&mut map, "authority", self.authority)?;
        text(&mut map, "path", self.path)?;
        if self.protocol != Protocol::Tcp {
            map.serialize_entry("status", &self.status)?;
        }
        if let Some(status) = self.grpc_status {
            map.serialize_entry("grpc_status", &status)?;
        }
        map.serialize_entry("flags", &self.flags[..])?;
        text(&mut map, "reason", self.reason)?;
        map.serialize_entry("bytes_in", &self.bytes_in)?;
        map.serialize_entry("bytes_out", &self.bytes_out)?;
        // Microseconds' precision is enough and keeps the line short.
        map.serialize_entry(
            "duration_ms",
            &((self.duration.as_secs_f64() * 1e6).round() / 1e3),
        )?;
        if let Some(upstream) = self.upstream {
            map.serialize_entry("upstream", &upstream)?;
        }
        text(&mut map, "cluster", self.cluster)?;
        text(&mut map, "route", self.route)?;
        text(&mut map, "source", self.source)?;
        text(&mut map, "destination", self.destination)?;
        bytes(&mut map, "request_id", self.request_id)?;
        bytes(&mut map, "traceparent", self.traceparent)?;
        map.end()
    }
}

fn text<M: SerializeMap>(map: &mut M, key: &str, value: Option<&str>) -> Result<(), M::Error> {
    let Some(value) = value else { return Ok(()) };
    let mut end = value.len().min(LONGEST_FIELD);
    while !value.is_char_boundary(end) {
        end -= 1;
    }
    map.serialize_entry(key, &value[..end])
}

fn bytes<M: SerializeMap>(map: &mut M, key: &str, value: Option<&[u8]>) -> Result<(), M::Error> {
    let Some(value) = value else { return Ok(()) };
    map.serialize_entry(
        key,
        &String::from_utf8_lossy(&value[..value.len().min(LONGEST_FIELD)]),
    )
}

/// RFC 3339 in UTC with milliseconds.
fn timestamp(time: SystemTime) -> String {
    let since = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(days as i64);
    let (h, m, s) = (second / 3_600, second / 60 % 60, second % 60);
    format!(
        "{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}.{:03}Z",
        since.subsec_millis()
    )
}

/// Year, month and day of a day since 1970 (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn civil(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (
        yoe + era * 400 + i64::from(month <= 2),
        month,
        doy - (153 * mp + 2) / 5 + 1,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line<'a>(path: &'a str, flags: &'a Flags) -> Line<'a> {
        Line {
            time: SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123),
            direction: Direction::Outbound,
            protocol: Protocol::Http11,
            method: Some("GET"),
            authority: Some("cart:8080"),
            path: Some(path),
            status: 503,
            grpc_status: None,
            flags,
            reason: Some("no cluster"),
            bytes_in: 0,
            bytes_out: 19,
            duration: Duration::from_micros(1_234),
            upstream: None,
            cluster: None,
            route: None,
            source: None,
            destination: None,
            request_id: Some(b"a\xffb"),
            traceparent: None,
        }
    }

    #[test]
    fn one_line_whatever_the_peer_sends() {
        let flags = Flags::from_slice(&["NC"]);
        let (log, lines) =
            AccessLog::to_receiver(AccessLogMode::All, IntCounter::new("x", "x").unwrap());
        log.write(&line("/a\"b\n{\"status\":200}\u{2028}", &flags));
        let text = String::from_utf8(lines.recv().unwrap()).unwrap();
        assert_eq!(text.matches('\n').count(), 1);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["status"], 503);
        assert_eq!(value["time"], "2023-11-14T22:13:20.123Z");
        assert_eq!(value["path"], "/a\"b\n{\"status\":200}\u{2028}");
        assert_eq!(value["duration_ms"], 1.234);
        assert_eq!(value["flags"][0], "NC");
        assert_eq!(value["request_id"], "a\u{fffd}b");
    }

    #[tokio::test]
    async fn the_mesh_says_what_is_logged_and_takes_it_back() {
        let (mesh, settings) = watch::channel(None);
        let mode = SharedMode::new(AccessLogMode::default());
        let (mut log, _lines) =
            AccessLog::to_receiver(AccessLogMode::Off, IntCounter::new("x", "x").unwrap());
        log.mode = mode.clone();
        let mut following = std::pin::pin!(mode.follow(settings));
        let says = |access_log| {
            mesh.send_replace(Some(ProxySettings {
                name: "default".to_owned(),
                access_log,
            }));
        };
        for (said, failed, good) in [
            (Some(proxy_settings::AccessLog::All), true, true),
            (Some(proxy_settings::AccessLog::Off), false, false),
            (None, true, false),
        ] {
            says(said);
            assert!(futures_util::poll!(following.as_mut()).is_pending());
            assert_eq!(
                (log.wants(true), log.wants(false)),
                (failed, good),
                "{said:?}"
            );
        }
    }

    #[test]
    fn a_full_queue_drops_and_counts() {
        let dropped = IntCounter::new("x", "x").unwrap();
        let (log, _lines) = AccessLog::to_receiver(AccessLogMode::All, dropped.clone());
        let flags = Flags::new();
        (0..QUEUE + 7).for_each(|_| log.write(&line("/", &flags)));
        assert_eq!(dropped.get(), 7);
    }
}
