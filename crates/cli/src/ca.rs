//! `tasuki ca rotate`: asks the running control plane for a rotation and tells how it goes.
//!
//! The control plane does the work and owns the authority's files; this command only leaves a request in the state dir and
//! reads the progress there. Ended early, it changes nothing: the rotation goes on, and running it again watches the same one.

mod cluster;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tasuki_identity::ca::{CertificateAuthority, rotation};
use tasuki_kubernetes::names;

/// How often the progress is looked at.
const EVERY: Duration = Duration::from_millis(200);
/// How often it is looked whether the control plane still runs.
const ALIVE_EVERY: Duration = Duration::from_secs(2);

#[derive(Clone, Debug, clap::Subcommand)]
pub enum Command {
    /// Replace the root: add one, wait until every proxy trusts it, sign with it, retire the old one when its last
    /// certificate has expired. Takes as long as certificates live; losing this command's terminal does not stop it
    Rotate(RotateArguments),
}

#[derive(Clone, Debug, clap::Args)]
pub struct RotateArguments {
    /// State dir of the running control plane
    #[arg(
        long,
        env = "TASUKI_STATE_DIR",
        value_name = "DIR",
        required_unless_present = "kube"
    )]
    state_dir: Option<PathBuf>,

    /// The control plane runs in Kubernetes: ask there
    #[arg(long)]
    kube: bool,

    /// How to reach the API server. Without it: as kubectl would
    #[arg(long, value_name = "FILE", requires = "kube")]
    kubeconfig: Option<PathBuf>,

    /// Namespace of the control plane
    #[arg(long, value_name = "NAME", default_value = names::SYSTEM_NAMESPACE)]
    namespace: String,
}

pub fn run(command: &Command) -> Result<ExitCode> {
    match command {
        Command::Rotate(arguments) if arguments.kube => {
            cluster::rotate(arguments.kubeconfig.as_deref(), &arguments.namespace)
        }
        Command::Rotate(arguments) => {
            let state_dir = arguments.state_dir.as_deref();
            rotate(state_dir.context("--state-dir or --kube is needed")?)
        }
    }
}

fn rotate(state_dir: &Path) -> Result<ExitCode> {
    if !CertificateAuthority::is_open(state_dir)? {
        bail!(
            "no control plane runs on {}: start it first, since a rotation needs every proxy to be told",
            state_dir.display()
        );
    }
    let joined = rotation::requested(state_dir)?.is_some();
    let request = rotation::request(state_dir)?;
    println!(
        "{}",
        if joined {
            "a rotation is under way already; watching it"
        } else {
            "rotation requested"
        }
    );
    let mut shown = String::new();
    let mut looked = Instant::now();
    let mut alive = true;
    loop {
        let progress =
            rotation::progress(state_dir)?.filter(|progress| progress.request == request.id);
        if let Some(progress) = progress {
            if progress.detail != shown {
                println!("{}", progress.detail);
                shown = progress.detail;
            }
            if progress.done {
                return Ok(ExitCode::SUCCESS);
            }
        }
        if looked.elapsed() >= ALIVE_EVERY {
            looked = Instant::now();
            let now_alive = CertificateAuthority::is_open(state_dir)?;
            if alive && !now_alive {
                eprintln!("the control plane has ended; the rotation goes on when it is back");
            }
            alive = now_alive;
        }
        std::thread::sleep(EVERY);
    }
}
