//! Logs go to stderr: stdout belongs to the access log and to the output of commands.

use tracing_subscriber::EnvFilter;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("log filter {filter:?}: {reason}")]
    Filter { filter: String, reason: String },
    #[error("logging: {0}")]
    Init(String),
}

/// Sets up logging for the process, once. `filter` is tracing's notation (`info`, `warn,tasuki_proxy::xds=debug`); the
/// environment variable `TASUKI_LOG` overrides it. `json` writes one object a line.
pub fn init(filter: &str, json: bool) -> Result<(), Error> {
    let text = std::env::var("TASUKI_LOG").unwrap_or_else(|_| filter.to_owned());
    let parsed = EnvFilter::try_new(&text).map_err(|e| Error::Filter {
        filter: text,
        reason: e.to_string(),
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(parsed)
        .with_writer(std::io::stderr);
    let done = if json {
        builder.json().try_init()
    } else {
        builder.with_ansi(false).try_init()
    };
    done.map_err(|e| Error::Init(e.to_string()))
}
