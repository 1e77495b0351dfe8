//! The binary: reads the command line and hands over to the library.

use clap::Parser;
use mimalloc::MiMalloc;
use tasuki_proxy::{run, settings};

/// A request makes about fifteen allocations, some of them aligned and of kilobytes (tasks): glibc's allocator took a tenth of the
/// proxy's instructions for them.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> std::process::ExitCode {
    match run::run(settings::CommandLine::parse()) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tasuki-proxy: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}
