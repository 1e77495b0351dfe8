//! `tasuki inject`: adds sidecars to manifests, for clusters without the webhook and for people who want to see it first.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow};
use tasuki_kubernetes::inject::{InjectionSettings, inject_manifests};
use tasuki_runtime::HookKey;

/// Flags of `tasuki inject`.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// The manifests, YAML or JSON; - for standard input. May be repeated. Each run makes new keys for hooks, so that pods are replaced; what was injected before keeps its own
    #[arg(short, long = "filename", required = true, value_name = "FILE")]
    filename: Vec<PathBuf>,
    /// The image of the sidecar and of its init container
    #[arg(
        long,
        env = "TASUKI_PROXY_IMAGE",
        value_name = "IMAGE",
        default_value = concat!("tasuki-proxy:", env!("CARGO_PKG_VERSION"))
    )]
    image: String,
    /// false adds an ordinary container instead of a native sidecar, which needs Kubernetes 1.29; a Pod's annotation tasuki.dev/native-sidecar comes first
    #[arg(
        long,
        value_name = "BOOL",
        default_value_t = true,
        action = clap::ArgAction::Set
    )]
    native_sidecar: bool,
}

/// The manifests with sidecars on stdout, remarks on stderr; nothing on stdout when one of them is wrong.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let mut settings = InjectionSettings::new(&arguments.image);
    settings.defaults.native_sidecar = arguments.native_sidecar;
    let mut texts = Vec::new();
    for file in &arguments.filename {
        let name = file.display();
        let text = read(file).with_context(|| format!("{name}"))?;
        let injected = inject_manifests(&text, &settings, HookKey::random)
            .map_err(|reason| anyhow!("{name}: {reason}"))?;
        for note in &injected.notes {
            eprintln!("{name}: {note}");
        }
        texts.push(injected.text);
    }
    print!("{}", texts.join("---\n"));
    Ok(ExitCode::SUCCESS)
}

fn read(file: &Path) -> std::io::Result<String> {
    if file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text)?;
        return Ok(text);
    }
    std::fs::read_to_string(file)
}
