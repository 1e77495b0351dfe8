//! What the demo claims, proved from the metrics of the proxies, not from what the clients saw.

use anyhow::Result;
use tasuki_testkit::metrics::Metrics;

use super::screen::Screen;
use super::stage::Stage;

/// A claim and what the metrics say of it.
pub struct Fact {
    pub claim: &'static str,
    pub seen: String,
    pub holds: bool,
}

/// What can only be seen while it happens.
#[derive(Default)]
pub struct Witness {
    ejections: f64,
    /// Requests that pricing-2 had served when it was last seen to be ejected.
    served_at_ejection: Option<f64>,
    returned: bool,
    denial: Option<String>,
}

const REQUESTS: &str = "istio_requests_total";

impl Witness {
    /// Compares the metrics with those of a second ago and tells what changed.
    pub fn look(&mut self, stage: &Stage, screen: &Screen) {
        let callers: Vec<Metrics> = ["cart-v1", "cart-v2"]
            .iter()
            .filter_map(|pod| stage.metrics(pod).ok())
            .collect();
        let ejections: f64 = callers
            .iter()
            .map(|metrics| metrics.sum("tasuki_ejections_total", &[]))
            .sum();
        let served = stage
            .metrics("pricing-2")
            .map(|metrics| metrics.sum(REQUESTS, &[("reporter", "destination")]))
            .unwrap_or(0.0);
        if ejections > self.ejections {
            screen.say(&format!(
                "pricing-2 was ejected ({ejections} ejections so far by the sidecars of the cart)"
            ));
            self.served_at_ejection = Some(served);
            self.returned = false;
        } else if let Some(before) = self.served_at_ejection
            && !self.returned
            && served > before + 5.0
            && stage.pod("pricing-2").is_some_and(|pod| {
                pod.origin
                    .controls
                    .fail_percent
                    .load(std::sync::atomic::Ordering::Relaxed)
                    == 0
            })
        {
            screen.say("pricing-2 is back and serves again");
            self.returned = true;
        }
        self.ejections = ejections;
        if self.denial.is_none()
            && let Some(reason) = denial(stage)
        {
            screen.say(&format!(
                "a denied call from storefront to pricing: {reason}"
            ));
            self.denial = Some(reason);
        }
    }
}

/// The first denial in the access logs of pricing, as its reason.
fn denial(stage: &Stage) -> Option<String> {
    let logs = ["pricing-1", "pricing-2"].map(|pod| stage.log(pod));
    let lines = logs
        .iter()
        .flat_map(|log| log.lines())
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let mut reasons = lines.filter_map(|line| line.get("reason")?.as_str().map(str::to_owned));
    reasons.find(|reason| reason.contains("rbac"))
}

/// Every fact that `--check` asserts.
pub fn facts(stage: &Stage, witness: &Witness) -> Result<Vec<Fact>> {
    let storefront = stage.metrics("storefront")?;
    let cart = [stage.metrics("cart-v1")?, stage.metrics("cart-v2")?];
    let pricing = [stage.metrics("pricing-1")?, stage.metrics("pricing-2")?];
    Ok(vec![
        calls_succeed(&storefront),
        weights(&storefront),
        mutual_tls(&cart),
        denied(&pricing),
        fact(
            "the denial says why",
            witness.denial.is_some(),
            witness
                .denial
                .clone()
                .unwrap_or("no reason in the access log".into()),
        ),
        fact(
            "a failing endpoint is ejected",
            witness.ejections >= 1.0,
            format!("{} ejections", witness.ejections),
        ),
        fact(
            "and comes back",
            witness.returned,
            format!("served again after its ejection: {}", witness.returned),
        ),
        third_party(&cart[0]),
    ])
}

fn fact(claim: &'static str, holds: bool, seen: String) -> Fact {
    Fact { claim, seen, holds }
}

fn calls_succeed(storefront: &Metrics) -> Fact {
    let to_cart = [("reporter", "source"), ("destination_service_name", "cart")];
    let all = storefront.sum(REQUESTS, &to_cart);
    let good = storefront.sum(
        REQUESTS,
        &[to_cart[0], to_cart[1], ("response_code", "200")],
    );
    fact(
        "storefront's calls to the cart succeed",
        all >= 100.0 && good == all,
        format!("{good} of {all}"),
    )
}

fn weights(storefront: &Metrics) -> Fact {
    let to = |version| {
        let labels = [
            ("reporter", "source"),
            ("destination_service_name", "cart"),
            ("destination_version", version),
        ];
        storefront.sum(REQUESTS, &labels)
    };
    let (v1, v2) = (to("v1"), to("v2"));
    let share = v1 * 100.0 / (v1 + v2).max(1.0);
    // 2,000 draws at 80 % lie within 4 points but for one run in 100,000.
    fact(
        "the cart's weights are 80 and 20 %",
        (76.0..=84.0).contains(&share),
        format!("v1 {v1}, v2 {v2}: {share:.1} % to v1"),
    )
}

fn mutual_tls(cart: &[Metrics]) -> Fact {
    let count = |policy: Option<&str>| {
        let mut labels = vec![("reporter", "destination")];
        labels.extend(policy.map(|policy| ("connection_security_policy", policy)));
        cart.iter()
            .map(|metrics| metrics.sum(REQUESTS, &labels))
            .sum::<f64>()
    };
    let (all, mutual) = (count(None), count(Some("mutual_tls")));
    fact(
        "calls between pods use mutual TLS",
        all > 0.0 && mutual == all,
        format!("{mutual} of {all}"),
    )
}

fn denied(pricing: &[Metrics]) -> Fact {
    let count = |status: Option<&str>| {
        let mut labels = vec![
            ("reporter", "destination"),
            (
                "source_principal",
                "spiffe://cluster.local/ns/shop/sa/storefront",
            ),
        ];
        labels.extend(status.map(|status| ("grpc_response_status", status)));
        pricing
            .iter()
            .map(|metrics| metrics.sum(REQUESTS, &labels))
            .sum::<f64>()
    };
    let (all, refused) = (count(None), count(Some("7")));
    fact(
        "storefront may not ask for prices",
        all > 0.0 && refused == all,
        format!("{refused} of {all} denied"),
    )
}

fn third_party(cart: &Metrics) -> Fact {
    let to = [
        ("reporter", "source"),
        ("destination_service", "pay.example.com"),
    ];
    let all = cart.sum(REQUESTS, &to);
    let good = cart.sum(REQUESTS, &[to[0], to[1], ("response_code", "200")]);
    fact(
        "payments outside the mesh are reached by name",
        all > 0.0 && good == all,
        format!("{good} of {all}"),
    )
}

/// That the namespaces are gone.
pub fn nothing_left(namespaces: &[String]) -> Fact {
    let left: Vec<_> = namespaces
        .iter()
        .filter(|name| std::path::Path::new("/run/netns").join(name).exists())
        .collect();
    fact(
        "nothing is left behind",
        left.is_empty(),
        format!("{} of {} namespaces remain", left.len(), namespaces.len()),
    )
}
