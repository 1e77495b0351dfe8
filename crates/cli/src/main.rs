//! `tasuki`: the person's tool.

mod ca;
mod check;
mod cluster;
mod demo;
mod inject;
mod install;
mod token;
mod uninstall;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The person's tool of the Tasuki service mesh.
#[derive(Parser)]
#[command(name = "tasuki", version, max_term_width = 110)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Print a signed join token, with which a proxy says who it is
    Token(token::Arguments),
    /// Look after the certificate authority
    #[command(subcommand)]
    Ca(ca::Command),
    /// Say what is wrong with resources: file, object, field, reason and what would be right; exits 1 on errors
    Check(check::Arguments),
    /// Run the example shop as real processes, with traffic, and tell what happens
    Demo(demo::Arguments),
    /// Add the sidecar to manifests, as the control plane's webhook does it when Pods are created
    Inject(inject::Arguments),
    /// Put the control plane into a Kubernetes cluster, or upgrade it there, and see that it works
    Install(install::Arguments),
    /// Take the control plane out of a Kubernetes cluster; not while pods have a sidecar
    Uninstall(uninstall::Arguments),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Token(arguments) => token::run(&arguments),
        Command::Ca(command) => ca::run(&command),
        Command::Check(arguments) => check::run(&arguments),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Inject(arguments) => inject::run(&arguments),
        Command::Install(arguments) => install::run(&arguments),
        Command::Uninstall(arguments) => uninstall::run(&arguments),
    };
    result.unwrap_or_else(|error| {
        eprintln!("tasuki: {error:#}");
        ExitCode::FAILURE
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }
}
