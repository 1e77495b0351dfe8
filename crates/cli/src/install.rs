//! `tasuki install`: puts the control plane into a cluster, or brings the one that is there up to these settings, and sees
//! that it works. `--print` only says what would be put there.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use tasuki_kubernetes::manifests::{InstallSettings, Manifests, Values, to_yaml};

#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Print the objects as YAML and touch no cluster
    #[arg(long)]
    print: bool,

    /// File of values, like the chart's values.yaml; may be repeated, a later one wins
    #[arg(short = 'f', long = "values", value_name = "FILE")]
    values: Vec<PathBuf>,

    /// One value, such as webhook.port=10250; may be repeated and wins over files
    #[arg(long = "set", value_name = "NAME=VALUE")]
    set: Vec<String>,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let settings = settings(arguments)?;
    let manifests = Manifests::render(&settings);
    if arguments.print {
        print!("{}", to_yaml(&manifests.objects()?)?);
        return Ok(ExitCode::SUCCESS);
    }
    anyhow::bail!("only --print yet")
}

fn settings(arguments: &Arguments) -> Result<InstallSettings> {
    let mut values = Values::defaults()?;
    for file in &arguments.values {
        let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
        values.merge(&file.display().to_string(), &text)?;
    }
    for assignment in &arguments.set {
        values.set(assignment)?;
    }
    Ok(values.settings()?)
}
