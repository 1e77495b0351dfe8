//! Logs go to stderr: stdout belongs to the access log and to the output of commands.

use std::sync::OnceLock;

use tracing_subscriber::EnvFilter;

type Reload = Box<dyn Fn(EnvFilter) -> Result<(), Error> + Send + Sync>;

/// How the filter of the running process is replaced; set by [`init`].
static RELOAD: OnceLock<Reload> = OnceLock::new();

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
    let parsed = parse(&text)?;
    let builder = tracing_subscriber::fmt().with_writer(std::io::stderr);
    let reload: Reload;
    let done = if json {
        let builder = builder.json().with_env_filter(parsed);
        let builder = builder.with_filter_reloading();
        let handle = builder.reload_handle();
        reload = Box::new(move |filter| {
            handle
                .reload(filter)
                .map_err(|e| Error::Init(e.to_string()))
        });
        builder.try_init()
    } else {
        let builder = builder.with_ansi(false).with_env_filter(parsed);
        let builder = builder.with_filter_reloading();
        let handle = builder.reload_handle();
        reload = Box::new(move |filter| {
            handle
                .reload(filter)
                .map_err(|e| Error::Init(e.to_string()))
        });
        builder.try_init()
    };
    done.map_err(|e| Error::Init(e.to_string()))?;
    // A second `init` has failed above already.
    let _ = RELOAD.set(reload);
    Ok(())
}

/// Unless the filter mentions them, these are heard only in earnest. `h2` warns of single frames, so that a peer could fill the
/// log. `kube_client` calls each failed try an error, and `kube_runtime` each failed watch a warning: who tries says it once.
const QUIET: [(&str, &str); 3] = [
    ("h2", "error"),
    ("kube_client", "off"),
    ("kube_runtime", "error"),
];

fn parse(filter: &str) -> Result<EnvFilter, Error> {
    EnvFilter::try_new(quietened(filter)).map_err(|e| Error::Filter {
        filter: filter.to_owned(),
        reason: e.to_string(),
    })
}

fn quietened(filter: &str) -> String {
    let mentions = |target: &str| {
        let mut directives = filter.split(',').map(str::trim);
        directives.any(|directive| {
            let rest = directive.strip_prefix(target);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['=', ':', '[']))
        })
    };
    let quiet = QUIET.iter().filter(|(target, _)| !mentions(target));
    let quiet: String = quiet
        .map(|(target, level)| format!("{target}={level},"))
        .collect();
    quiet + filter
}

/// Replaces the filter of the running process; [`init`] has set up logging before.
pub fn set_filter(filter: &str) -> Result<(), Error> {
    let parsed = parse(filter)?;
    let reload = RELOAD
        .get()
        .ok_or_else(|| Error::Init("not set up".to_owned()))?;
    reload(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_quiet_unless_asked_for() {
        let quiet = "h2=error,kube_client=off,kube_runtime=error,";
        assert_eq!(quietened("info"), format!("{quiet}info"));
        assert_eq!(
            quietened("info,kube_client::client=debug, h2=trace"),
            "kube_runtime=error,info,kube_client::client=debug, h2=trace"
        );
        assert_eq!(
            quietened("kube_clients=info"),
            format!("{quiet}kube_clients=info")
        );
        assert!(parse("info").is_ok() && parse("no=such=filter").is_err());
    }
}
