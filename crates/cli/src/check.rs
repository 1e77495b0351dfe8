//! `tasuki check`: the validation of the control plane, before anything is deployed.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use tasuki_resources::check::check;

/// Flags of `tasuki check`.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Files, or folders whose *.yaml, *.yml and *.json are read
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    if let Some(missing) = arguments.paths.iter().find(|path| !path.exists()) {
        bail!("{}: no such file or folder", missing.display());
    }
    let problems = check(&arguments.paths);
    for problem in &problems {
        println!("{problem}");
    }
    let errors = problems.iter().filter(|problem| problem.is_error()).count();
    // The count goes to stderr: stdout has one line for each problem and nothing else.
    eprintln!("{errors} errors, {} other remarks", problems.len() - errors);
    Ok(if errors == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
