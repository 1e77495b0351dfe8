//! A connection follows the configuration of its port.

use std::net::SocketAddr;
use std::sync::Arc;

use tasuki_xds::model::Listener;
use tasuki_xds::model::listener::{
    ChainMatch, DeclaredProtocol, Filter, FilterChain, ForwardClientCert, HttpConnection,
    RouteSource, Transport,
};
use tasuki_xds::model::rbac::{Rbac, RbacAction};
use tasuki_xds::model::route::RouteConfiguration;
use tasuki_xds::model::tls::{CertificateSource, ServerTls};

use super::*;
use crate::inbound::Inbound;
use crate::settings::UnknownPolicy;
use crate::state::Outbound;

fn http_chain(name: &str, transport: Transport, rbac: Vec<Rbac>) -> FilterChain {
    let workload = || CertificateSource::ProviderInstance("workload".into());
    let tls = (transport == Transport::Tls).then(|| ServerTls {
        certificate: workload(),
        trust: Some(workload()),
        require_client_certificate: true,
        alpn: vec!["tasuki-h2".into()],
    });
    FilterChain {
        name: name.into(),
        matches: ChainMatch {
            destination_port: Some(80),
            transport,
            ..ChainMatch::default()
        },
        tls,
        filter: Filter::Http(HttpConnection {
            stat_prefix: name.into(),
            routes: RouteSource::Inline(RouteConfiguration {
                name: name.into(),
                virtual_hosts: vec![],
            }),
            rbac,
            forward_client_cert: ForwardClientCert::SanitizeSet,
        }),
    }
}

fn publish(state: &State, chains: Vec<FilterChain>) {
    let listener = Listener {
        name: "inbound".into(),
        address: None,
        protocol: DeclaredProtocol::Auto,
        workload: None,
        api: None,
        chains,
        default_chain: None,
    };
    let mut next = (*state.snapshot()).clone();
    next.generation += 1;
    next.inbound = Some(Arc::new(
        Inbound::compile(&listener, &|_| None, None).unwrap(),
    ));
    state.publish(next);
}

/// A plaintext HTTP connection to port 80, as it is when its first request arrives.
fn plaintext(state: &State) -> Connection {
    let snapshot = state.snapshot();
    let chain = snapshot.inbound.as_ref().unwrap();
    let destination = Destination::Inbound {
        generation: snapshot.generation,
        spoken: Spoken::Http1,
        chain: chain.select(80, &Spoken::Http1).unwrap().clone(),
    };
    let address = |port| SocketAddr::from(([10, 0, 0, 1], port));
    Connection::new(
        Direction::Inbound,
        address(40_000),
        address(80),
        destination,
    )
}

#[test]
fn an_open_connection_obeys_the_policy_of_now() {
    let (state, _demands) = State::new(UnknownPolicy::Refuse);
    publish(
        &state,
        vec![http_chain("open", Transport::Plaintext, vec![])],
    );
    let conn = plaintext(&state);
    let before = conn.chain(&state).unwrap();
    assert!(before.authorizer.check_tcp(&conn.source()).is_ok());

    // An ALLOW policy without rules denies everybody.
    let nobody = Rbac {
        action: RbacAction::Allow,
        policies: vec![],
    };
    publish(
        &state,
        vec![http_chain("closed", Transport::Plaintext, vec![nobody])],
    );
    let now = conn.chain(&state).unwrap();
    assert_eq!(now.name, "closed");
    assert!(now.authorizer.check_tcp(&conn.source()).is_err());
}

#[test]
fn an_open_plaintext_connection_does_not_outlive_strict() {
    let (state, _demands) = State::new(UnknownPolicy::Refuse);
    publish(
        &state,
        vec![http_chain("open", Transport::Plaintext, vec![])],
    );
    let conn = plaintext(&state);
    publish(&state, vec![http_chain("strict", Transport::Tls, vec![])]);
    assert!(matches!(conn.chain(&state), Err(Error::IdentityRequired)));
    publish(
        &state,
        vec![http_chain("again", Transport::Plaintext, vec![])],
    );
    assert_eq!(conn.chain(&state).unwrap().name, "again");
}

/// The size of what `start` returns, without calling it.
fn size<A, B, C, F>(_start: impl Fn(A, B, C) -> F) -> usize {
    size_of::<F>()
}

#[test]
fn a_waiting_connection_is_small() {
    let sizes = [size(outbound), size(inbound)];
    assert!(sizes.iter().all(|size| *size <= 2048), "{sizes:?}");
}

/// Publishes the same configuration under a new generation.
fn move_on(state: &State) {
    let mut next = (*state.snapshot()).clone();
    next.generation += 1;
    state.publish(next);
}

#[tokio::test(start_paused = true)]
async fn a_destination_that_could_not_be_asked_for_is_asked_for_again() {
    let (state, mut demands) = State::new(UnknownPolicy::Refuse);
    let name = ListenerName::exact("10.0.0.9:80");
    let address = |port| SocketAddr::from(([10, 0, 0, 9], port));
    let arriving = Destination::Outbound {
        generation: state.generation(),
        name: name.clone(),
        lookup: state.outbound(&name).await,
    };
    let conn = Connection::new(Direction::Outbound, address(40_000), address(80), arriving);
    assert!(matches!(conn.lookup(&state), Lookup::Disconnected));
    // A new certificate, say: it does not make the destination an unknown one.
    move_on(&state);
    assert!(matches!(conn.lookup(&state), Lookup::Disconnected));

    drop(demands.recv().await);
    state.set_connected(true);
    let (again, demand) = tokio::join!(conn.look_up_again(&state), async {
        let demand = demands.recv().await.unwrap();
        let _ = demand.reply.send(Lookup::Found(Outbound::allow_any()));
        demand.name
    });
    assert_eq!(demand, name);
    assert!(matches!(again, Lookup::Found(_)));
    assert!(matches!(conn.lookup(&state), Lookup::Found(_)));
}
