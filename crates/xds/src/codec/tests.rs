//! Round trips of every type in the Tasuki dialect, and what is refused.

mod arbitrary;
mod envoy;

use envoy_types::pb::envoy::config::cluster::v3 as cluster_pb;
use envoy_types::pb::envoy::config::listener::v3 as listener_pb;
use envoy_types::pb::envoy::config::route::v3 as route_pb;
use proptest::prelude::{ProptestConfig, proptest};

use super::field::{duration, pack};
use super::{Dialect, decode, encode, version};
use crate::model::cluster::{Balance, Cluster, TlsMatch};
use crate::model::route::{
    Forward, PathMatch, Route, RouteAction, RouteConfiguration, RouteMatch, WeightedCluster,
};
use crate::model::tls::{CertificateSource, ClientTls};
use crate::model::{Resource, ResourceType};

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_for_tasuki_is_read_as_it_was(resource in arbitrary::resource()) {
        let encoded = encode(&resource, &Dialect::Tasuki);
        assert_eq!(encoded.ty, resource.ty());
        assert_eq!(encoded.name, resource.name());
        let read = decode(resource.ty(), &encoded.any).unwrap();
        assert_eq!(read, resource);
        assert_eq!(encoded.version, version(&read, &Dialect::Tasuki));
    }

    #[test]
    fn writing_for_others_never_panics(resource in arbitrary::resource()) {
        for dialect in others() {
            encode(&resource, &dialect);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..256)) {
        for ty in ResourceType::ALL {
            let any = crate::Any { type_url: ty.type_url().to_owned(), value: bytes.clone() };
            let _ = decode(ty, &any);
        }
    }
}

/// Not a test: `fuzz/README.md` says how it makes seeds, each a byte that chooses the type and then a resource.
#[test]
#[ignore = "writes seeds for fuzzing to the folder TASUKI_SEEDS"]
fn seeds_for_fuzzing() {
    use proptest::strategy::{Strategy, ValueTree};
    let folder = std::path::PathBuf::from(std::env::var_os("TASUKI_SEEDS").unwrap());
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    for index in 0..500 {
        let resource = arbitrary::resource()
            .new_tree(&mut runner)
            .unwrap()
            .current();
        let ty = ResourceType::ALL.iter().position(|ty| *ty == resource.ty());
        let mut seed = vec![u8::try_from(ty.unwrap()).unwrap()];
        seed.extend(&encode(&resource, &Dialect::Tasuki).any.value);
        std::fs::write(folder.join(format!("seed-{index:03}")), seed).unwrap();
    }
}

fn others() -> [Dialect; 4] {
    [
        Dialect::Envoy { secrets: false },
        Dialect::Envoy { secrets: true },
        Dialect::Grpc { provider: None },
        Dialect::Grpc {
            provider: Some("mesh".to_owned()),
        },
    ]
}

fn mesh_cluster() -> Cluster {
    let workload = || CertificateSource::ProviderInstance("workload".to_owned());
    let tls = ClientTls {
        certificate: Some(workload()),
        trust: Some(workload()),
        server_identities: vec!["spiffe://cluster.local/ns/shop/sa/cart".to_owned()],
        server_names: Vec::new(),
        sni: None,
        alpn: vec!["tasuki-h2".to_owned()],
    };
    Cluster {
        balance: Balance::LeastRequest { choices: 2 },
        tls: vec![
            TlsMatch {
                name: "mesh".to_owned(),
                tls_mode: Some("istio".to_owned()),
                tls: Some(tls),
            },
            TlsMatch {
                name: "plain".to_owned(),
                tls_mode: None,
                tls: None,
            },
        ],
        ..Cluster::eds("outbound|80||cart")
    }
}

fn written(cluster: &Cluster, dialect: &Dialect) -> cluster_pb::Cluster {
    super::cluster::write(cluster, dialect)
}

#[test]
fn tls_has_three_dialects() {
    let mesh = mesh_cluster();
    let with_secrets = format!("{:?}", written(&mesh, &Dialect::Envoy { secrets: true }));
    assert!(with_secrets.contains("tlsMode"), "{with_secrets}");
    let matches = written(&mesh, &Dialect::Envoy { secrets: false }).transport_socket_matches;
    assert_eq!(
        matches.len(),
        1,
        "without secrets an Envoy gets plaintext only"
    );
    let plain = written(&mesh, &Dialect::Grpc { provider: None });
    assert!(plain.transport_socket.is_none() && plain.transport_socket_matches.is_empty());
    let named = written(
        &mesh,
        &Dialect::Grpc {
            provider: Some("mesh".to_owned()),
        },
    );
    assert!(named.transport_socket.is_some() && named.transport_socket_matches.is_empty());
    assert_eq!(
        named.lb_policy,
        cluster_pb::cluster::LbPolicy::RoundRobin as i32
    );
}

fn table(path: PathMatch) -> RouteConfiguration {
    let forward = Forward::to(vec![WeightedCluster::new("c", 1)]);
    let route = Route::new("r", RouteMatch::path(path), RouteAction::Forward(forward));
    RouteConfiguration::of_any_host("t", vec![route])
}

fn first_action(table: &route_pb::RouteConfiguration) -> &route_pb::RouteAction {
    match &table.virtual_hosts[0].routes[0].action {
        Some(route_pb::route::Action::Route(action)) => action,
        other => panic!("{other:?}"),
    }
}

#[test]
fn envoy_gets_the_safe_retry_policy_where_the_model_has_none() {
    let table = table(PathMatch::Prefix("/".to_owned()));
    let envoy = super::route::write(&table, &Dialect::Envoy { secrets: false });
    let retry = first_action(&envoy).retry_policy.as_ref().unwrap();
    assert_eq!(retry.retry_on, "connect-failure,refused-stream");
    let tasuki = super::route::write(&table, &Dialect::Tasuki);
    assert_eq!(first_action(&tasuki).retry_policy, None);
    let grpc = super::route::write(&table, &Dialect::Grpc { provider: None });
    assert_eq!(first_action(&grpc).retry_policy, None);
}

#[test]
#[allow(deprecated, reason = "the field that Envoy is given")]
fn envoy_keeps_the_routes_timeout_beside_the_clients_deadline() {
    let mut table = table(PathMatch::Prefix("/".to_owned()));
    let second = std::time::Duration::from_secs(1);
    if let RouteAction::Forward(forward) = &mut table.virtual_hosts[0].routes[0].action {
        forward.timeout = Some(second);
        forward.grpc_timeout_max = Some(std::time::Duration::ZERO);
    }
    let envoy = super::route::write(&table, &Dialect::Envoy { secrets: false });
    let action = first_action(&envoy);
    assert_eq!(action.max_stream_duration, None);
    assert_eq!((action.timeout, action.max_grpc_timeout), {
        let second = duration(second);
        (second, second)
    });
}

#[test]
fn grpc_gets_segments_as_a_regex() {
    let table = table(PathMatch::Segments("/a.b".to_owned()));
    let grpc = super::route::write(&table, &Dialect::Grpc { provider: None });
    let path = grpc.virtual_hosts[0].routes[0]
        .r#match
        .as_ref()
        .unwrap()
        .path_specifier
        .as_ref()
        .unwrap();
    let route_pb::route_match::PathSpecifier::SafeRegex(matcher) = path else {
        panic!("{path:?}")
    };
    let regex = regex::Regex::new(&format!("^(?:{})$", matcher.regex)).unwrap();
    assert!(regex.is_match("/a.b") && regex.is_match("/a.b/c"));
    assert!(!regex.is_match("/a.bc") && !regex.is_match("/axb"));
}

fn refusal_of(ty: ResourceType, any: &crate::Any) -> super::Refusal {
    decode(ty, any).unwrap_err()
}

#[test]
fn a_field_that_is_not_honoured_is_refused_by_its_path() {
    let mut table =
        super::route::write(&table(PathMatch::Prefix("/".to_owned())), &Dialect::Tasuki);
    let Some(route_pb::route::Action::Route(action)) = &mut table.virtual_hosts[0].routes[0].action
    else {
        panic!()
    };
    action.idle_timeout = duration(std::time::Duration::from_secs(1));
    let refusal = refusal_of(ResourceType::Route, &pack(&table));
    assert_eq!(refusal.name, "t");
    assert_eq!(
        refusal.reason,
        "virtual_hosts[0].routes[0].route.idle_timeout: not honoured"
    );
}

#[test]
fn a_broken_regex_is_refused() {
    let table = table(PathMatch::Regex("(".to_owned()));
    let refusal = refusal_of(
        ResourceType::Route,
        &encode(&Resource::Route(table), &Dialect::Tasuki).any,
    );
    assert!(
        refusal
            .reason
            .starts_with("virtual_hosts[0].routes[0].match.safe_regex.regex: "),
        "{refusal}"
    );
}

#[test]
fn a_domain_in_two_virtual_hosts_is_refused() {
    let mut table = table(PathMatch::Prefix("/".to_owned()));
    let mut second = table.virtual_hosts[0].clone();
    second.name = "w".to_owned();
    table.virtual_hosts.push(second);
    let refusal = refusal_of(
        ResourceType::Route,
        &encode(&Resource::Route(table), &Dialect::Tasuki).any,
    );
    assert_eq!(refusal.reason, "virtual_hosts[1].domains: `*` twice");
}

#[test]
fn a_timeout_that_is_not_said_is_envoys() {
    let mut table =
        super::route::write(&table(PathMatch::Prefix("/".to_owned())), &Dialect::Tasuki);
    let Some(route_pb::route::Action::Route(action)) = &mut table.virtual_hosts[0].routes[0].action
    else {
        panic!()
    };
    action.timeout = None;
    let Resource::Route(read) = decode(ResourceType::Route, &pack(&table)).unwrap() else {
        panic!()
    };
    let RouteAction::Forward(forward) = &read.virtual_hosts[0].routes[0].action else {
        panic!()
    };
    assert_eq!(forward.timeout, Some(std::time::Duration::from_secs(15)));
}

#[test]
fn a_resource_without_name_or_of_another_type_is_refused() {
    let nameless = pack(&listener_pb::Listener::default());
    assert_eq!(
        refusal_of(ResourceType::Listener, &nameless).reason,
        "name: missing"
    );
    assert!(
        refusal_of(ResourceType::Cluster, &nameless)
            .reason
            .starts_with("type_url: ")
    );
}

#[test]
fn unknown_filters_are_refused_unless_optional() {
    use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
    let http = crate::model::listener::HttpConnection {
        stat_prefix: "s".to_owned(),
        routes: crate::model::listener::RouteSource::Rds("t".to_owned()),
        rbac: Vec::new(),
        forward_client_cert: crate::model::listener::ForwardClientCert::Sanitize,
    };
    let listener = crate::model::Listener {
        name: "l".to_owned(),
        address: None,
        protocol: crate::model::listener::DeclaredProtocol::Http,
        workload: None,
        api: Some(http),
        chains: Vec::new(),
        default_chain: None,
    };
    let with_filter = |is_optional| {
        let mut message = super::listener::write(&listener, &Dialect::Tasuki);
        let api = message
            .api_listener
            .as_mut()
            .unwrap()
            .api_listener
            .as_mut()
            .unwrap();
        let mut manager: hcm::HttpConnectionManager = super::field::unpack(api).unwrap();
        let any = crate::Any {
            type_url: "type.googleapis.com/x.Fault".to_owned(),
            value: Vec::new(),
        };
        let config_type = Some(hcm::http_filter::ConfigType::TypedConfig(any));
        let filter = hcm::HttpFilter {
            name: "fault".to_owned(),
            is_optional,
            config_type,
            disabled: false,
        };
        manager.http_filters.insert(0, filter);
        *api = pack(&manager);
        pack(&message)
    };
    let refusal = refusal_of(ResourceType::Listener, &with_filter(false));
    assert_eq!(
        refusal.reason,
        "api_listener.http_filters[0]: filter `fault` is not honoured"
    );
    assert_eq!(
        decode(ResourceType::Listener, &with_filter(true)),
        Ok(Resource::Listener(listener.clone()))
    );
}

#[test]
fn envoy_never_sees_an_api_listener_nor_typed_metadata() {
    use proptest::strategy::{Strategy, ValueTree};
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    for _ in 0..64 {
        let Resource::Listener(listener) = arbitrary::listener()
            .new_tree(&mut runner)
            .unwrap()
            .current()
        else {
            panic!()
        };
        let message = super::listener::write(&listener, &Dialect::Envoy { secrets: true });
        assert!(message.api_listener.is_none());
        assert!(message.metadata.is_none());
    }
}
