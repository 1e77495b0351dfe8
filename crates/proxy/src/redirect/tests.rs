//! The rules as iptables gets them, and in a namespace as the kernel follows them.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;

use super::*;
use crate::original_dst::original_dst;

fn args(action: Action) -> RedirectArgs {
    RedirectArgs {
        action,
        proxy_uid: 1337,
        exclude_inbound_ports: vec![2222],
        exclude_outbound_ports: vec![5432],
        exclude_outbound_cidrs: vec!["10.9.0.0/16".parse().unwrap(), "fd09::/16".parse().unwrap()],
        intercepted: intercepted("127.0.0.1:15001", "0.0.0.0:15006"),
    }
}

fn intercepted(outbound: &str, inbound: &str) -> InterceptedArgs {
    InterceptedArgs {
        outbound: outbound.parse().unwrap(),
        inbound: inbound.parse().unwrap(),
    }
}

#[test]
fn rules_stand_in_istios_order() {
    let plan = Plan::new(&args(Action::Print));
    let expected = "*nat
:TASUKI_INBOUND - [0:0]
:TASUKI_OUTPUT - [0:0]
-A TASUKI_INBOUND -p tcp --dport 15020 -j RETURN
-A TASUKI_INBOUND -p tcp --dport 15021 -j RETURN
-A TASUKI_INBOUND -p tcp --dport 2222 -j RETURN
-A TASUKI_INBOUND -p tcp -j REDIRECT --to-ports 15006
-A TASUKI_OUTPUT -p tcp --dport 5432 -j RETURN
-A TASUKI_OUTPUT -o lo -s 127.0.0.6/32 -j RETURN
-A TASUKI_OUTPUT -o lo ! -d 127.0.0.1/32 -p tcp -m owner --uid-owner 1337 -j REDIRECT --to-ports 15006
-A TASUKI_OUTPUT -o lo -m owner ! --uid-owner 1337 -j RETURN
-A TASUKI_OUTPUT -m owner --uid-owner 1337 -j RETURN
-A TASUKI_OUTPUT -o lo ! -d 127.0.0.1/32 -p tcp -m owner --gid-owner 1337 -j REDIRECT --to-ports 15006
-A TASUKI_OUTPUT -o lo -m owner ! --gid-owner 1337 -j RETURN
-A TASUKI_OUTPUT -m owner --gid-owner 1337 -j RETURN
-A TASUKI_OUTPUT -d 127.0.0.1/32 -j RETURN
-A TASUKI_OUTPUT -d 10.9.0.0/16 -j RETURN
-A TASUKI_OUTPUT -p tcp -j REDIRECT --to-ports 15001
-A PREROUTING -p tcp -j TASUKI_INBOUND
-A OUTPUT -p tcp -j TASUKI_OUTPUT
COMMIT
";
    assert_eq!(
        plan.restore_input(Family::V4, &plan.jumps(Family::V4)),
        expected
    );
}

#[test]
fn ipv6_is_dropped_without_a_listener_and_redirected_with_one() {
    let plan = Plan::new(&args(Action::Print));
    let expected = "*filter
:TASUKI_INPUT - [0:0]
-A TASUKI_INPUT -i lo -j RETURN
-A TASUKI_INPUT -p tcp --dport 15020 -j RETURN
-A TASUKI_INPUT -p tcp --dport 15021 -j RETURN
-A TASUKI_INPUT -p tcp --dport 2222 -j RETURN
-A TASUKI_INPUT -p tcp --syn -j DROP
-A INPUT -p tcp -j TASUKI_INPUT
COMMIT
";
    assert_eq!(
        plan.restore_input(Family::V6, &plan.jumps(Family::V6)),
        expected
    );
    let dual = RedirectArgs {
        intercepted: intercepted("[::]:15001", "[::]:15006"),
        ..args(Action::Print)
    };
    let plan = Plan::new(&dual);
    let v6 = plan.restore_input(Family::V6, &plan.jumps(Family::V6));
    assert!(v6.contains("-A TASUKI_INBOUND -p tcp -j REDIRECT --to-ports 15006"));
    assert!(v6.contains("-o lo -s ::6/128 -j RETURN"));
    assert!(v6.contains("-d fd09::/16 -j RETURN"));
    assert!(!v6.contains("DROP"));
    assert!(
        plan.restore_input(Family::V4, &[])
            .contains("TASUKI_INBOUND")
    );
}

#[test]
fn cidrs_are_checked() {
    assert!("10.0.0.0/8".parse::<Cidr>().is_ok());
    assert_eq!(
        "10.0.0.1".parse::<Cidr>().unwrap().to_string(),
        "10.0.0.1/32"
    );
    for wrong in ["10.0.0.0/33", "x", "10.0.0.0/", "::/129"] {
        assert!(wrong.parse::<Cidr>().is_err(), "{wrong}");
    }
}

/// Runs `test` on a thread in a network namespace of its own, which goes with the thread. `None` without root.
fn in_namespace<T: Send + 'static>(test: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: network namespaces need root");
        return None;
    }
    let thread = std::thread::spawn(move || {
        if let Err(e) = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET) {
            eprintln!("skipped: no network namespaces here ({e})");
            return None;
        }
        // One interface with an address and a default route, as a pod has.
        for words in [
            "link set lo up",
            "link add pod0 type veth peer name node0",
            "link set pod0 up",
            "link set node0 up",
            "addr add 10.1.0.5/24 dev pod0",
            "route add default dev pod0",
        ] {
            assert!(
                Command::new("ip")
                    .args(words.split(' '))
                    .status()
                    .unwrap()
                    .success(),
                "ip {words}"
            );
        }
        Some(test())
    });
    thread.join().unwrap()
}

fn rules_now() -> String {
    ["iptables-save", "ip6tables-save"]
        .map(|command| String::from_utf8(Command::new(command).output().unwrap().stdout).unwrap())
        .concat()
        .lines()
        .filter(|line| line.starts_with("-A"))
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn installing_twice_changes_nothing_and_removing_removes_all() {
    in_namespace(|| {
        run(&args(Action::Install)).unwrap();
        let once = rules_now();
        assert!(
            once.contains("-A TASUKI_OUTPUT") && once.contains("-A TASUKI_INPUT"),
            "{once}"
        );
        run(&args(Action::Install)).unwrap();
        assert_eq!(rules_now(), once);
        run(&args(Action::Remove)).unwrap();
        assert_eq!(rules_now(), "");
        run(&args(Action::Remove)).unwrap();
    });
}

#[test]
fn a_redirected_connection_knows_where_it_was_going() {
    in_namespace(|| {
        let outbound = TcpListener::bind("127.0.0.1:15001").unwrap();
        run(&RedirectArgs {
            exclude_outbound_ports: vec![],
            ..args(Action::Install)
        })
        .unwrap();
        let mut client = TcpStream::connect("192.0.2.10:8080").unwrap();
        let (mut accepted, _) = outbound.accept().unwrap();
        assert_eq!(
            original_dst(&accepted).unwrap(),
            "192.0.2.10:8080".parse().unwrap()
        );
        client.write_all(b"ping").unwrap();
        let mut read = [0; 4];
        accepted.read_exact(&mut read).unwrap();
        assert_eq!(&read, b"ping");
    });
}

#[test]
fn a_dual_stack_listener_knows_the_destination_of_both_families() {
    in_namespace(|| {
        for words in [
            "-6 addr add fd00:1::5/64 dev pod0 nodad",
            "-6 route add default dev pod0",
        ] {
            assert!(
                Command::new("ip")
                    .args(words.split(' '))
                    .status()
                    .unwrap()
                    .success(),
                "ip {words}"
            );
        }
        let listener = TcpListener::bind("[::]:15001").unwrap();
        run(&RedirectArgs {
            intercepted: intercepted("[::]:15001", "0.0.0.0:15006"),
            ..args(Action::Install)
        })
        .unwrap();
        for destination in ["192.0.2.10:8080", "[2001:db8::10]:8080"] {
            let _client = TcpStream::connect(destination).unwrap();
            let (accepted, _) = listener.accept().unwrap();
            assert_eq!(
                original_dst(&accepted).unwrap(),
                destination.parse().unwrap()
            );
        }
    });
}
