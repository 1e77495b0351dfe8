//! The binary: reads the command line and hands over to the library.

use clap::Parser;
use tasuki_proxy::{run, settings};

fn main() -> std::process::ExitCode {
    match run::run(settings::CommandLine::parse()) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tasuki-proxy: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}
