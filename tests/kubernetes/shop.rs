//! The seeds of `config/`, as they are, with Deployments in place of their pods.

use anyhow::ensure;
use tasuki_testkit::cluster::{Cluster, LIMIT, Load, Outcome, Space};
use tasuki_testkit::wait;

use crate::app::{App, deployment};
use crate::{app, mesh};

/// Label of a namespace.
pub const INJECTED: &str = "tasuki.dev/inject=enabled";

/// A seed without the addresses, which this cluster gives out itself.
fn services(seed: &str) -> String {
    seed.lines()
        .filter(|line| !line.contains("clusterIP:"))
        .map(|line| format!("{line}\n"))
        .collect()
}

/// Repeats a load until it is answered as it should be: a client learns of routes and endpoints after they are applied.
pub fn settled(
    what: &str,
    load: &Load,
    space: &Space,
    pod: &str,
    holds: impl Fn(&Outcome) -> bool,
) -> Outcome {
    wait::until(what, LIMIT, || {
        let outcome = load.clone().run(space, pod)?;
        ensure!(holds(&outcome), "{outcome:?}");
        Ok(outcome)
    })
    .unwrap()
}

#[test]
fn the_shop() {
    let Some((cluster, _mesh)) = mesh("kubernetes: the shop") else {
        return;
    };
    let shop = cluster.space("shop", &[INJECTED]).unwrap();
    shop.apply(&services(include_str!("../../config/shop/services.yaml")))
        .unwrap();
    for seed in [
        include_str!("../../config/shop/routes.yaml"),
        include_str!("../../config/shop/policies.yaml"),
        include_str!("../../config/shop/payments.yaml"),
    ] {
        cluster.apply(seed).unwrap();
    }
    let apps = [
        App::new("storefront").label("version", "v1"),
        App::new("cart-v1")
            .account("cart")
            .label("app", "cart")
            .label("version", "v1"),
        App::new("cart-v2")
            .account("cart")
            .label("app", "cart")
            .label("version", "v2"),
        App::new("pricing")
            .replicas(2)
            .label("version", "v1")
            .port("grpc", 9000),
    ];
    for app in &apps {
        app.deploy(&shop).unwrap();
    }
    for app in &apps {
        shop.rolled_out(&deployment(&app.name)).unwrap();
    }
    let pods = shop.pods("app").unwrap();
    assert!(
        pods.len() >= 5 && pods.iter().all(app::has_sidecar),
        "{pods:?}"
    );

    let storefront = deployment("storefront");
    let few = Load::new("cart:80").requests(40);
    settled("both carts answer", &few, &shop, &storefront, |outcome| {
        outcome.failed() == 0 && outcome.share("cart-v1") > 0.0 && outcome.share("cart-v2") > 0.0
    });
    let outcome = Load::new("cart:80")
        .requests(3_000)
        .with("--concurrency=4")
        .run(&shop, &storefront)
        .unwrap();
    assert_eq!(outcome.failed(), 0, "{outcome:?}");
    // Five standard deviations of 3,000 draws are 3.7 %.
    let share = outcome.share("cart-v1");
    assert!((76.0..=84.0).contains(&share), "{share} %: {outcome:?}");

    let prices = Load::new("pricing:9000").protocol("grpc").requests(40);
    settled(
        "the cart gets prices",
        &prices,
        &shop,
        &deployment("cart-v1"),
        |outcome| outcome.failed() == 0 && outcome.backends.len() == 2,
    );
    settled(
        "the storefront gets none",
        &prices,
        &shop,
        &storefront,
        |outcome| outcome.outcomes.get("grpc:7") == Some(&40),
    );
}

#[test]
fn a_canary() {
    let Some((cluster, _mesh)) = mesh("kubernetes: canary") else {
        return;
    };
    let web = cluster.space("web", &[INJECTED]).unwrap();
    cluster
        .apply(&services(include_str!("../../config/canary/services.yaml")))
        .unwrap();
    cluster
        .apply(include_str!("../../config/canary/routes.yaml"))
        .unwrap();
    let apps = [
        App::new("version-a")
            .label("app", "http-server")
            .label("version", "version-a"),
        App::new("version-b")
            .label("app", "http-server")
            .label("version", "version-b"),
        App::new("client"),
    ];
    for app in &apps {
        app.deploy(&web).unwrap();
    }
    for app in &apps {
        web.rolled_out(&deployment(&app.name)).unwrap();
    }
    let client = deployment("client");
    let load = Load::new("http-server:8080").with("--concurrency=4");
    settled(
        "both versions answer",
        &load.clone().requests(40),
        &web,
        &client,
        |outcome| outcome.failed() == 0 && outcome.backends.len() == 2,
    );
    let outcome = load.clone().requests(4_000).run(&web, &client).unwrap();
    assert_eq!(outcome.failed(), 0, "{outcome:?}");
    let share = outcome.share("version-a");
    assert!((66.0..=74.0).contains(&share), "{share} %: {outcome:?}");
    let outcome = load
        .requests(200)
        .with("--header=x-user: tester")
        .run(&web, &client)
        .unwrap();
    assert_eq!(outcome.share("version-b"), 100.0, "{outcome:?}");
}

#[test]
fn policy_by_path() {
    let Some((cluster, _mesh)) = mesh("kubernetes: policy by path") else {
        return;
    };
    let spaces = ["service-a", "service-b", "service-c"].map(|name| space_with_app(cluster, name));
    let [a, b, c] = &spaces;
    cluster
        .apply(&services(include_str!("../../config/authz/services.yaml")))
        .unwrap();
    cluster
        .apply(include_str!("../../config/authz/policies.yaml"))
        .unwrap();
    for space in &spaces {
        space.rolled_out(&deployment(&space.name)).unwrap();
    }
    // Where each may go; everything else is refused.
    let cases = [
        (b, "/foo", "200"),
        (b, "/bar", "403"),
        (b, "/", "403"),
        (c, "/foo", "403"),
        (c, "/bar", "200"),
        (a, "/foo", "403"),
    ];
    for (from, path, expected) in cases {
        let load = Load::new("service-a.service-a:80").path(path).requests(10);
        let what = format!("{} {path}: {expected}", from.name);
        settled(&what, &load, from, &deployment(&from.name), |outcome| {
            outcome.outcomes.get(expected) == Some(&10)
        });
    }
}

fn space_with_app(cluster: Cluster, name: &str) -> Space {
    let space = cluster.space(name, &[INJECTED]).unwrap();
    let ports = serde_json::json!({"ports": [
        {"name": "http", "containerPort": 8080},
        {"name": "grpc", "containerPort": 9090},
    ]});
    App::new(name).container(ports).deploy(&space).unwrap();
    space
}
