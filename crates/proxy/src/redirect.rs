//! `tasuki-proxy redirect`: the packet rules that lead an application's traffic through the sidecar.
//!
//! `redirect/rules.rs` says what they are, `redirect/iptables.rs` brings them into the kernel of this network
//! namespace. Installing twice changes nothing, removing removes only what is ours.

use anyhow::Context;
use clap::{Args, ValueEnum};

mod iptables;
pub mod rules;

use self::iptables::Tool;
use self::rules::{Cidr, Family, Plan};
use crate::settings::InterceptedArgs;

/// Arguments of `tasuki-proxy redirect`.
#[derive(Clone, Debug, Args)]
pub struct RedirectArgs {
    /// What to do with the rules
    #[arg(value_enum)]
    pub action: Action,
    /// The user and group id under which the proxy runs; its own connections are not led through it again
    #[arg(
        long,
        env = "TASUKI_PROXY_UID",
        value_name = "UID",
        default_value_t = 1337
    )]
    pub proxy_uid: u32,
    /// Inbound ports that are not led through the proxy, besides 15020 and 15021
    #[arg(
        long,
        env = "TASUKI_EXCLUDE_INBOUND_PORTS",
        value_name = "PORTS",
        value_delimiter = ','
    )]
    pub exclude_inbound_ports: Vec<u16>,
    /// Outbound ports that are not led through the proxy
    #[arg(
        long,
        env = "TASUKI_EXCLUDE_OUTBOUND_PORTS",
        value_name = "PORTS",
        value_delimiter = ','
    )]
    pub exclude_outbound_ports: Vec<u16>,
    /// Outbound destinations that are not led through the proxy
    #[arg(
        long,
        env = "TASUKI_EXCLUDE_OUTBOUND_CIDRS",
        value_name = "CIDRS",
        value_delimiter = ','
    )]
    pub exclude_outbound_cidrs: Vec<Cidr>,
    #[command(flatten)]
    pub intercepted: InterceptedArgs,
}

/// What to do with the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Action {
    /// Adds the rules to this network namespace; doing so twice changes nothing
    Install,
    /// Removes what `install` added
    Remove,
    /// Prints what `install` would give to iptables-restore
    Print,
}

/// Does what the arguments say, in the network namespace of this process.
pub fn run(args: &RedirectArgs) -> anyhow::Result<()> {
    let plan = Plan::new(args);
    match args.action {
        Action::Install => {
            if args.intercepted.inbound.is_ipv6() && families().contains(&Family::V6) {
                iptables::own_source("replace")
                    .context("the source address of the proxy's connections to the application")?;
            }
            install(&plan)
        }
        Action::Remove => {
            // Not there unless IPv6 was redirected.
            drop(iptables::own_source("del"));
            remove(&plan)
        }
        Action::Print => {
            for family in [Family::V4, Family::V6] {
                print!(
                    "# {}-restore --noflush\n{}",
                    family.command(),
                    plan.restore_input(family, &plan.jumps(family))
                );
            }
            Ok(())
        }
    }
}

fn install(plan: &Plan) -> anyhow::Result<()> {
    for family in families() {
        let tool = Tool::find(family)?;
        let jumps = plan.jumps(family);
        let mut missing = Vec::new();
        for jump in jumps {
            if !tool.has(&jump)? {
                missing.push(jump);
            }
        }
        tool.restore(&plan.restore_input(family, &missing))
            .with_context(|| format!("{family:?} rules"))?;
    }
    if !has_default_route() {
        tracing::warn!("no default route: packets to unknown addresses are not seen by the rules");
    }
    Ok(())
}

fn remove(plan: &Plan) -> anyhow::Result<()> {
    for family in families() {
        let tool = Tool::find(family)?;
        for jump in plan.every_jump() {
            while tool.has(&jump)? {
                tool.delete(&jump)?;
            }
        }
        for (table, chain) in rules::CHAINS {
            tool.drop_chain(table, chain)?;
        }
    }
    Ok(())
}

/// IPv6 is left out where the kernel has none.
fn families() -> Vec<Family> {
    if std::path::Path::new("/proc/thread-self/net/if_inet6").exists() {
        vec![Family::V4, Family::V6]
    } else {
        vec![Family::V4]
    }
}

/// Without a route a connect fails before the OUTPUT chain sees a packet.
fn has_default_route() -> bool {
    let Ok(routes) = std::fs::read_to_string("/proc/thread-self/net/route") else {
        return true;
    };
    routes
        .lines()
        .skip(1)
        .any(|line| line.split_whitespace().nth(1) == Some("00000000"))
}

#[cfg(test)]
mod tests;
