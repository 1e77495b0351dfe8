//! What the rules are: Istio's, in Istio's order (semantics section 4), under names of our own.

use std::fmt::{self, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use super::RedirectArgs;

/// Metrics and health are asked by those who are not in the mesh.
const OPEN_PORTS: [u16; 2] = [15020, 15021];

const INBOUND: &str = "TASUKI_INBOUND";
const OUTPUT: &str = "TASUKI_OUTPUT";
const INPUT: &str = "TASUKI_INPUT";

/// Every chain that `install` may add, with its table.
pub(super) const CHAINS: [(&str, &str); 3] = [("nat", INBOUND), ("nat", OUTPUT), ("filter", INPUT)];

/// An address family, and so a set of commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) fn command(self) -> &'static str {
        match self {
            Family::V4 => "iptables",
            Family::V6 => "ip6tables",
        }
    }

    /// The source address of the proxy's connections to its own application.
    fn to_application(self) -> &'static str {
        match self {
            Family::V4 => "127.0.0.6/32",
            Family::V6 => "::6/128",
        }
    }

    fn loopback(self) -> &'static str {
        match self {
            Family::V4 => "127.0.0.1/32",
            Family::V6 => "::1/128",
        }
    }

    /// Whether a listener on `address` takes connections of this family; an IPv6 wildcard takes both.
    fn served_by(self, address: SocketAddr) -> bool {
        match self {
            Family::V4 => address.is_ipv4() || address.ip().is_unspecified(),
            Family::V6 => address.is_ipv6(),
        }
    }
}

/// `10.0.0.0/8`, `fd00::/8` or a single address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    address: IpAddr,
    prefix_len: u8,
}

impl Cidr {
    fn family(self) -> Family {
        if self.address.is_ipv4() {
            Family::V4
        } else {
            Family::V6
        }
    }
}

impl FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not an address or ADDRESS/BITS");
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse::<u8>().map_err(|_| wrong())?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let prefix_len = bits.unwrap_or(width);
        if prefix_len > width {
            Err(wrong())
        } else {
            Ok(Self {
                address,
                prefix_len,
            })
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_len)
    }
}

/// A rule in one of the kernel's own chains that leads to one of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Jump {
    pub table: &'static str,
    pub from: &'static str,
    pub to: &'static str,
}

impl Jump {
    /// Its words after `-A CHAIN`, `-C CHAIN` or `-D CHAIN`.
    pub fn words(&self) -> [&'static str; 4] {
        ["-p", "tcp", "-j", self.to]
    }
}

const TO_INBOUND: Jump = Jump {
    table: "nat",
    from: "PREROUTING",
    to: INBOUND,
};
const TO_OUTPUT: Jump = Jump {
    table: "nat",
    from: "OUTPUT",
    to: OUTPUT,
};
const TO_INPUT: Jump = Jump {
    table: "filter",
    from: "INPUT",
    to: INPUT,
};

/// What `install` does, decided from the arguments alone.
#[derive(Clone, Debug)]
pub struct Plan {
    proxy: u32,
    inbound: SocketAddr,
    outbound: SocketAddr,
    open_inbound: Vec<u16>,
    exclude_outbound_ports: Vec<u16>,
    exclude_outbound_cidrs: Vec<Cidr>,
}

impl Plan {
    pub fn new(args: &RedirectArgs) -> Self {
        let mut open_inbound = OPEN_PORTS.to_vec();
        open_inbound.extend(&args.exclude_inbound_ports);
        Self {
            proxy: args.proxy_uid,
            inbound: args.intercepted.inbound,
            outbound: args.intercepted.outbound,
            open_inbound,
            exclude_outbound_ports: args.exclude_outbound_ports.clone(),
            exclude_outbound_cidrs: args.exclude_outbound_cidrs.clone(),
        }
    }

    /// The jumps that this plan needs.
    pub(super) fn jumps(&self, family: Family) -> Vec<Jump> {
        let mut jumps = vec![if family.served_by(self.inbound) {
            TO_INBOUND
        } else {
            TO_INPUT
        }];
        if family.served_by(self.outbound) {
            jumps.push(TO_OUTPUT);
        }
        jumps
    }

    /// The jumps that any plan may have made.
    pub(super) fn every_jump(&self) -> [Jump; 3] {
        [TO_INBOUND, TO_OUTPUT, TO_INPUT]
    }

    /// What `iptables-restore --noflush` reads. Naming a chain of ours empties it first, so the result is the same
    /// whatever was there; `jumps` are those that the kernel does not have yet.
    pub(super) fn restore_input(&self, family: Family, jumps: &[Jump]) -> String {
        let mut nat = Vec::new();
        let mut filter = Vec::new();
        if family.served_by(self.inbound) {
            nat.extend(self.inbound_rules().into_iter().map(|rule| (INBOUND, rule)));
        } else {
            filter.extend(self.input_rules().into_iter().map(|rule| (INPUT, rule)));
        }
        if family.served_by(self.outbound) {
            nat.extend(
                self.output_rules(family)
                    .into_iter()
                    .map(|rule| (OUTPUT, rule)),
            );
        }
        table("nat", &nat, jumps) + &table("filter", &filter, jumps)
    }

    fn inbound_rules(&self) -> Vec<String> {
        let mut rules: Vec<String> = self
            .open_inbound
            .iter()
            .map(|port| format!("-p tcp --dport {port} -j RETURN"))
            .collect();
        rules.push(format!(
            "-p tcp -j REDIRECT --to-ports {}",
            self.inbound.port()
        ));
        rules
    }

    /// Without a listener of this family nothing may reach the application around the proxy: a link-local
    /// address would walk around STRICT. New connections only, so what is open stays.
    fn input_rules(&self) -> Vec<String> {
        let mut rules = vec!["-i lo -j RETURN".to_owned()];
        rules.extend(
            self.open_inbound
                .iter()
                .map(|port| format!("-p tcp --dport {port} -j RETURN")),
        );
        rules.push("-p tcp --syn -j DROP".to_owned());
        rules
    }

    fn output_rules(&self, family: Family) -> Vec<String> {
        let mut rules: Vec<String> = self
            .exclude_outbound_ports
            .iter()
            .map(|port| format!("-p tcp --dport {port} -j RETURN"))
            .collect();
        // The proxy reaches its own application.
        rules.push(format!("-o lo -s {} -j RETURN", family.to_application()));
        for owner in ["uid-owner", "gid-owner"] {
            let proxy = self.proxy;
            // The application calls its own Service and the proxy has chosen this very pod: inbound again.
            if family.served_by(self.inbound) {
                let inbound = self.inbound.port();
                let loopback = family.loopback();
                rules.push(format!("-o lo ! -d {loopback} -p tcp -m owner --{owner} {proxy} -j REDIRECT --to-ports {inbound}"));
            }
            // Containers of the pod talk to each other without the proxy.
            rules.push(format!("-o lo -m owner ! --{owner} {proxy} -j RETURN"));
            rules.push(format!("-m owner --{owner} {proxy} -j RETURN"));
        }
        rules.push(format!("-d {} -j RETURN", family.loopback()));
        let excluded = self
            .exclude_outbound_cidrs
            .iter()
            .filter(|cidr| cidr.family() == family);
        rules.extend(excluded.map(|cidr| format!("-d {cidr} -j RETURN")));
        rules.push(format!(
            "-p tcp -j REDIRECT --to-ports {}",
            self.outbound.port()
        ));
        rules
    }
}

fn table(name: &str, rules: &[(&str, String)], jumps: &[Jump]) -> String {
    let mut text = String::new();
    if rules.is_empty() {
        return text;
    }
    let mut chains: Vec<&str> = rules.iter().map(|(chain, _)| *chain).collect();
    chains.dedup();
    // Writing to a String does not fail.
    let _ = writeln!(text, "*{name}");
    for chain in chains {
        let _ = writeln!(text, ":{chain} - [0:0]");
    }
    for (chain, rule) in rules {
        let _ = writeln!(text, "-A {chain} {rule}");
    }
    for jump in jumps.iter().filter(|jump| jump.table == name) {
        let _ = writeln!(text, "-A {} {}", jump.from, jump.words().join(" "));
    }
    text + "COMMIT\n"
}
