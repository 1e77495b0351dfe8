//! The origin against the load client, on loopback.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::load::{Plan, Protocol, run};
use crate::namespace::Namespace;
use crate::origin::{Kind, Origin};

fn origin(kind: Kind) -> Origin {
    Origin::start(&Namespace::own(), "one", ([127, 0, 0, 1], 0).into(), kind).unwrap()
}

#[test]
fn every_protocol_is_answered_and_counted() {
    let origin = origin(Kind::Http);
    for protocol in [
        Protocol::Http1,
        Protocol::Http2,
        Protocol::Grpc,
        Protocol::GrpcStream,
    ] {
        let plan = Plan {
            concurrency: 4,
            requests: Some(100),
            messages: (3, Duration::from_millis(1)),
            body: vec![b'x'; 100].into(),
            protocol,
            ..Plan::new(origin.address, "one:80")
        };
        let report = Namespace::own().block_on(|| run(plan)).unwrap();
        assert_eq!(report.succeeded(), 100, "{protocol:?}: {report}");
        assert_eq!(report.by_backend()["one"], 100);
    }
    assert_eq!(origin.controls.seen(), 400);
}

#[test]
fn failures_on_demand_are_seen_by_the_client() {
    let origin = origin(Kind::Http);
    origin.controls.fail(100, 503);
    for (protocol, label) in [
        (Protocol::Http1, "503"),
        (Protocol::Http2, "503"),
        (Protocol::Grpc, "grpc:14"),
    ] {
        let plan = Plan {
            requests: Some(5),
            protocol,
            ..Plan::new(origin.address, "one:80")
        };
        let report = Namespace::own().block_on(|| run(plan)).unwrap();
        assert_eq!(report.by_outcome().get(label), Some(&5), "{report}");
    }
}

#[test]
fn a_rude_origin_counts_and_resets() {
    let origin = origin(Kind::Rude(super::rude::Manner::ResetAfterRequest));
    let plan = Plan {
        requests: Some(3),
        once: true,
        method: http::Method::POST,
        ..Plan::new(origin.address, "one:80")
    };
    let report = Namespace::own().block_on(|| run(plan)).unwrap();
    assert_eq!(report.succeeded(), 0);
    assert_eq!(origin.controls.executions().len(), 3);
    assert_eq!(origin.controls.requests.load(Ordering::Relaxed), 3);
}
