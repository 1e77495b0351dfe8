//! `tasuki token`: a join token on stdout.

use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use tasuki_identity::token;
use tasuki_runtime::parse_duration;

/// Flags of `tasuki token`.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// The control plane's state dir, where the signing key is (made if there is none yet)
    #[arg(long, env = "TASUKI_STATE_DIR", value_name = "DIR")]
    state_dir: PathBuf,
    /// Whom the token is for
    #[arg(long, env = "TASUKI_SERVICE_ACCOUNT", value_name = "NS/NAME")]
    service_account: ServiceAccount,
    /// How long it is valid: 1s to 7d. A proxy reads its token file anew for each use
    #[arg(long, env = "TASUKI_TTL", value_name = "TIME", default_value = "1h", value_parser = parse_duration)]
    ttl: Duration,
}

/// `NS/NAME`.
#[derive(Clone, Debug)]
struct ServiceAccount {
    namespace: String,
    name: String,
}

impl FromStr for ServiceAccount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => Ok(Self {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            }),
            _ => Err("write NAMESPACE/NAME".to_owned()),
        }
    }
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let account = &arguments.service_account;
    let token = token::issue(
        &arguments.state_dir,
        &account.namespace,
        &account.name,
        arguments.ttl,
        SystemTime::now(),
    )?;
    println!("{token}");
    Ok(ExitCode::SUCCESS)
}
