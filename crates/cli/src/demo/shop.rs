//! Who is in the shop and who calls whom; the addresses are those of `config/shop`.

use std::net::Ipv4Addr;

use tasuki_testkit::load::Protocol;

/// A pod of the shop.
pub struct PodPlan {
    pub name: &'static str,
    pub account: &'static str,
    pub ip: Ipv4Addr,
    /// Where its application listens.
    pub port: u16,
    /// A third party has no sidecar.
    pub meshed: bool,
}

const fn pod(name: &'static str, account: &'static str, last: u8, port: u16) -> PodPlan {
    PodPlan {
        name,
        account,
        ip: Ipv4Addr::new(10, 244, 1, last),
        port,
        meshed: true,
    }
}

/// In the order in which they start.
pub const PODS: &[PodPlan] = &[
    pod("storefront", "storefront", 11, 8080),
    pod("cart-v1", "cart", 12, 8080),
    pod("cart-v2", "cart", 13, 8080),
    pod("pricing-1", "pricing", 14, 9000),
    pod("pricing-2", "pricing", 15, 9000),
    PodPlan {
        name: "payments",
        account: "",
        ip: Ipv4Addr::new(203, 0, 113, 10),
        port: 8080,
        meshed: false,
    },
];

/// A stream of requests from a pod's application.
pub struct CallPlan {
    pub caller: &'static str,
    /// What the table calls it.
    pub callee: &'static str,
    pub address: Ipv4Addr,
    pub port: u16,
    pub host: &'static str,
    pub protocol: Protocol,
    pub rate: f64,
}

const fn call(
    caller: &'static str,
    callee: &'static str,
    service: (Ipv4Addr, u16, &'static str),
    protocol: Protocol,
    rate: f64,
) -> CallPlan {
    CallPlan {
        caller,
        callee,
        address: service.0,
        port: service.1,
        host: service.2,
        protocol,
        rate,
    }
}

const CART: (Ipv4Addr, u16, &str) = (
    Ipv4Addr::new(10, 96, 1, 2),
    80,
    "cart.shop.svc.cluster.local",
);
const PRICING: (Ipv4Addr, u16, &str) = (
    Ipv4Addr::new(10, 96, 1, 3),
    9000,
    "pricing.shop.svc.cluster.local",
);
const PAYMENTS: (Ipv4Addr, u16, &str) = (Ipv4Addr::new(240, 240, 1, 1), 80, "pay.example.com");

/// All traffic of the shop. The last call is the one that no policy allows.
pub const CALLS: &[CallPlan] = &[
    call("storefront", "cart", CART, Protocol::Http1, 100.0),
    call("cart-v1", "pricing", PRICING, Protocol::Grpc, 60.0),
    call("cart-v2", "pricing", PRICING, Protocol::Grpc, 20.0),
    call("cart-v1", "payments", PAYMENTS, Protocol::Http1, 10.0),
    call("storefront", "pricing", PRICING, Protocol::Grpc, 1.0),
];

/// Index of the call that is denied.
pub const DENIED: usize = 4;

#[cfg(test)]
mod tests {
    use super::{CALLS, DENIED, PODS};

    #[test]
    fn the_addresses_are_those_of_the_example_mesh() {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../../config/shop");
        let read = |file| std::fs::read_to_string(format!("{dir}/{file}")).unwrap();
        let (pods, services, payments) = (
            read("pods.yaml"),
            read("services.yaml"),
            read("payments.yaml"),
        );
        for pod in PODS {
            let place = if pod.meshed { &pods } else { &payments };
            assert!(
                place.contains(&pod.ip.to_string()),
                "{} is not at {}",
                pod.name,
                pod.ip
            );
        }
        for call in CALLS {
            let place = if call.callee == "payments" {
                &payments
            } else {
                &services
            };
            assert!(
                place.contains(&call.address.to_string()),
                "{} is not at {}",
                call.callee,
                call.address
            );
        }
        assert_eq!(
            (CALLS[DENIED].caller, CALLS[DENIED].callee),
            ("storefront", "pricing")
        );
    }
}
