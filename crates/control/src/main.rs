//! `tasuki-control`: the control plane's process.

use std::process::ExitCode;

use clap::Parser;
use tasuki_control::{serve, settings::Settings};

fn main() -> ExitCode {
    let settings = Settings::parse();
    if let Err(error) = tasuki_runtime::logging::init("info", false) {
        eprintln!("tasuki-control: {error}");
        return ExitCode::FAILURE;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(serve::run(settings)),
        Err(error) => Err(error.into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tasuki-control: {error:#}");
            ExitCode::FAILURE
        }
    }
}
