//! DestinationRules as users write them.

use std::time::Duration;

use super::{DestinationRule, H2Upgrade, LoadBalancer, RetryBudget, TlsMode};
use crate::{Host, Object, parse_documents};

fn read(spec: &str) -> DestinationRule {
    let text = format!(
        "apiVersion: networking.istio.io/v1alpha3\nkind: DestinationRule\nmetadata: {{name: cart, namespace: shop}}\nspec:\n{spec}"
    );
    let document = parse_documents("", &text).remove(0);
    match document.object {
        Some(Object::DestinationRule(rule)) => rule,
        other => panic!("{other:?}: {:?}", document.problems),
    }
}

#[test]
fn every_group_of_settings() {
    let rule = read(
        "  host: cart\n  trafficPolicy:\n    loadBalancer: {simple: ROUND_ROBIN}\n    connectionPool:\n      tcp: {maxConnections: 10, connectTimeout: 30ms, idleTimeout: 0s, tcpKeepalive: {time: 7200s, interval: 75s, probes: 3}}\n      http: {http1MaxPendingRequests: 1, http2MaxRequests: 2, maxRequestsPerConnection: 3, maxRetries: 4, maxConcurrentStreams: 5, idleTimeout: 1m, h2UpgradePolicy: UPGRADE}\n    outlierDetection: {consecutive5xxErrors: 7, consecutiveGatewayErrors: 0, interval: 1s, baseEjectionTime: 2s, maxEjectionPercent: 100, minHealthPercent: 50}\n    retryBudget: {percent: 12.5, minRetryConcurrency: 1, budgetInterval: 0s}\n    tls: {mode: SIMPLE, sni: cart.example, subjectAltNames: [cart.example]}\n",
    );
    assert_eq!(rule.host, Host::Exact("cart.shop.svc.cluster.local".into()));
    let settings = rule.effective(None, 80);
    assert_eq!(settings.load_balancer, Some(LoadBalancer::RoundRobin));
    let pool = settings.connection_pool.unwrap();
    assert_eq!(
        (pool.tcp.max_connections, pool.tcp.connect_timeout),
        (Some(10), Some(Duration::from_millis(30)))
    );
    assert_eq!(
        (pool.tcp.idle_timeout, pool.tcp.keepalive.unwrap().probes),
        (Some(Duration::ZERO), Some(3))
    );
    assert_eq!(
        (
            pool.http.max_pending_requests,
            pool.http.max_concurrent_streams,
            pool.http.h2_upgrade
        ),
        (Some(1), Some(5), H2Upgrade::Upgrade)
    );
    let outliers = settings.outlier_detection.unwrap();
    assert_eq!(
        (
            outliers.consecutive_5xx,
            outliers.consecutive_gateway_errors,
            outliers.min_health_percent
        ),
        (Some(7), Some(0), Some(50))
    );
    assert_eq!(
        settings.retry_budget,
        Some(RetryBudget {
            percent: 12.5,
            min_concurrent: 1
        })
    );
    assert_eq!(settings.tls.unwrap().mode, TlsMode::Simple);
}

#[test]
fn subsets_and_ports_override_as_in_istio() {
    let rule = read(
        "  host: \"*.shop.svc.cluster.local\"\n  trafficPolicy:\n    loadBalancer: {simple: RANDOM}\n    tls: {mode: ISTIO_MUTUAL}\n    retryBudget: {}\n    portLevelSettings:\n    - port: {number: 81}\n      loadBalancer: {simple: ROUND_ROBIN}\n  subsets:\n  - name: v1\n    labels: {version: v1}\n    trafficPolicy:\n      tls: {mode: DISABLE}\n      portLevelSettings:\n      - port: {number: 82}\n        outlierDetection: {}\n  - name: v2\n",
    );
    let mode = |settings: &super::PolicySettings| settings.tls.as_ref().map(|tls| tls.mode);
    // A port's settings replace: nothing of the rule's own tls is left.
    let port = rule.effective(None, 81);
    assert_eq!(
        (port.load_balancer, mode(&port)),
        (Some(LoadBalancer::RoundRobin), None)
    );
    assert!(port.retry_budget.is_some() && rule.effective(Some("v2"), 81) == port);
    // A subset's settings override group by group.
    let subset = rule.effective(Some("v1"), 80);
    assert_eq!(
        (subset.load_balancer, mode(&subset)),
        (Some(LoadBalancer::Random), Some(TlsMode::Disable))
    );
    // A subset's port replaces all that a port can set; the budget is not among it.
    let both = rule.effective(Some("v1"), 82);
    assert_eq!(
        (
            both.load_balancer,
            mode(&both),
            both.outlier_detection.is_some()
        ),
        (None, None, true)
    );
    assert_eq!(
        both.retry_budget,
        Some(RetryBudget {
            percent: 20.0,
            min_concurrent: 3
        })
    );
    assert_eq!(
        mode(&rule.effective(Some("v2"), 80)),
        Some(TlsMode::IstioMutual)
    );
    assert!(
        rule.host.matches("cart.shop.svc.cluster.local")
            && !rule.host.matches("cart.pay.svc.cluster.local")
    );
}
