//! Who may call what: the seeds' two callers and two paths over every protocol, spellings of a path that
//! must not open what is closed, and the order of DENY, ALLOW and AUDIT.

use std::time::Duration;

use tasuki_e2e::{Backend, HOST, VIP, backend, client, http_server};
use tasuki_testkit::client::{Answer, Ask, raw};
use tasuki_testkit::load::Protocol;
use tasuki_testkit::mesh::{Mesh, RunningPod, Sidecar};
use tasuki_testkit::require::{Need, have};
use tasuki_testkit::wait;

const TWO_CALLERS: &str = r#"
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: callers, namespace: default}
spec:
  selector: {matchLabels: {app: http-server}}
  action: ALLOW
  rules:
  - from: [{source: {namespaces: ["service-b"]}}]
    to:
    - operation: {methods: ["GET"], paths: ["/foo"]}
    - operation: {methods: ["POST"], paths: ["/pkg.Foo/Call"]}
  - from: [{source: {namespaces: ["service-c"]}}]
    to:
    - operation: {methods: ["GET"], paths: ["/bar"]}
    - operation: {methods: ["POST"], paths: ["/pkg.Bar/Call"]}
"#;

struct Scene {
    b: (RunningPod, Sidecar),
    c: (RunningPod, Sidecar),
    server: Backend,
    mesh: Mesh,
}

fn scene(name: &str) -> Scene {
    let mesh = Mesh::start(name).unwrap();
    http_server(&mesh).unwrap();
    let server = backend(&mesh, "version-a").unwrap();
    let b = client(&mesh, "b", "service-b").unwrap();
    let c = client(&mesh, "c", "service-c").unwrap();
    let scene = Scene { b, c, server, mesh };
    scene.eventually(
        "without a policy everything is open",
        &scene.c.0,
        "/anything",
        200,
    );
    scene
}

impl Scene {
    fn get(&self, from: &RunningPod, path: &str) -> Answer {
        from.get(VIP, HOST, path).unwrap()
    }

    fn eventually(&self, what: &str, from: &RunningPod, path: &str, status: u16) {
        wait::until(what, Duration::from_secs(10), || {
            let answer = from.get(VIP, HOST, path)?;
            anyhow::ensure!(
                answer.status == status,
                "GET {path}: {} {}",
                answer.status,
                answer.body
            );
            Ok(())
        })
        .unwrap();
    }

    fn policy(&self, name: &str, action: &str, rules: &str) {
        let yaml = format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: default}}\nspec:\n  selector: {{matchLabels: {{app: http-server}}}}\n  action: {action}\n{rules}"
        );
        self.mesh.apply(name, &yaml).unwrap();
    }
}

#[test]
fn two_callers_and_two_paths_over_every_protocol() {
    if !have("authorization: callers", &[Need::Namespaces]) {
        return;
    }
    let scene = scene("authorization");
    scene.mesh.apply("callers", TWO_CALLERS).unwrap();
    scene.eventually("the policy applies", &scene.b.0, "/bar", 403);
    for (pod, open, closed) in [(&scene.b.0, "/foo", "/bar"), (&scene.c.0, "/bar", "/foo")] {
        for protocol in [Protocol::Http1, Protocol::Http2] {
            let ask = |path| Ask::get(VIP.parse().unwrap(), HOST, path).protocol(protocol);
            let allowed = pod.send(ask(open)).unwrap();
            assert_eq!(
                allowed.status, 200,
                "{protocol:?} {} {open}: {}",
                pod.spec.name, allowed.body
            );
            let denied = pod.send(ask(closed)).unwrap();
            assert_eq!(
                (denied.status, denied.body.as_str()),
                (403, "RBAC: access denied"),
                "{protocol:?} {}",
                pod.spec.name
            );
            let posted = pod.send(ask(open).method(http::Method::POST)).unwrap();
            assert_eq!(posted.status, 403, "{protocol:?} POST {open}");
        }
    }
    for (pod, open, closed) in [
        (&scene.b.0, "/pkg.Foo/Call", "/pkg.Bar/Call"),
        (&scene.c.0, "/pkg.Bar/Call", "/pkg.Foo/Call"),
    ] {
        let call = |path| {
            pod.send(Ask::get(VIP.parse().unwrap(), HOST, path).protocol(Protocol::Grpc))
                .unwrap()
        };
        assert_eq!(call(open).header("grpc-status"), "0", "{}", pod.spec.name);
        let denied = call(closed);
        assert_eq!(
            (denied.status, denied.header("grpc-status")),
            (200, "7"),
            "{}",
            pod.spec.name
        );
    }
    let seen = scene.get(&scene.b.0, "/foo").json();
    let headers = seen["headers"].to_string();
    assert!(
        headers.contains("URI=spiffe://cluster.local/ns/service-b/sa/b"),
        "identity of the caller: {headers}"
    );
    assert!(
        !headers.contains("x-tasuki"),
        "no internal header reaches the application: {headers}"
    );
}

/// Spellings that some server somewhere reads as `/bar`, or as below it.
const SPELLINGS: &[&str] = &[
    "/foo/../bar",
    "/foo/%2e%2e/bar",
    "/foo/.%2e/bar",
    "/foo/%2E./bar",
    "/foo%2f..%2fbar",
    "/foo/..%2fbar",
    "/foo/..%5cbar",
    "/foo\\..\\bar",
    "/foo/..;/bar",
    "/foo;/../bar",
    "/foo//../bar",
    "//bar",
    "/bar/",
    "/bar;x=1",
    "/./bar",
    "/bar/.",
    "/%62ar",
    "/bar%00",
    "/bar%",
    "/bar%zz",
    "/bar%2f",
    "/bar//",
    "/foo/../../bar",
    "/bar/../bar",
    "/bar#x",
];

/// Sends a request line as it stands; the status, or 0 if the connection just closed.
fn status_of(pod: &RunningPod, target: &str) -> u16 {
    let request = format!("GET {target} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
    let answer = raw(&pod.namespace, VIP.parse().unwrap(), request.as_bytes()).unwrap_or_default();
    answer
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .unwrap_or(0)
}

#[test]
fn no_spelling_of_a_path_opens_what_is_closed() {
    if !have("authorization: spellings", &[Need::Namespaces]) {
        return;
    }
    let scene = scene("spellings");
    scene.mesh.apply("callers", TWO_CALLERS).unwrap();
    scene.eventually("the policy applies", &scene.b.0, "/bar", 403);
    for spelling in SPELLINGS {
        let before = scene.server.origin.controls.seen();
        let status = status_of(&scene.b.0, spelling);
        assert!(
            matches!(status, 0 | 400 | 403),
            "ALLOW: {spelling} was answered with {status}"
        );
        assert_eq!(
            scene.server.origin.controls.seen(),
            before,
            "ALLOW: {spelling} reached the application"
        );
    }
    let absolute = format!("http://{HOST}/bar");
    assert_eq!(status_of(&scene.b.0, &absolute), 403, "absolute form");
    assert_eq!(
        status_of(&scene.b.0, "/foo?/../bar"),
        200,
        "a query is no path"
    );
    assert_eq!(
        status_of(&scene.c.0, "/foo/../bar"),
        200,
        "what is open stays open, in its plain form"
    );

    scene.mesh.config.remove("callers").unwrap();
    scene.policy(
        "closed",
        "DENY",
        "  rules:\n  - to: [{operation: {paths: [\"/bar\", \"/bar/*\"]}}]\n",
    );
    scene.eventually("everything but /bar is open", &scene.b.0, "/foo", 200);
    scene.eventually("/bar is denied", &scene.b.0, "/bar", 403);
    for spelling in SPELLINGS {
        let status = status_of(&scene.b.0, spelling);
        assert!(
            matches!(status, 0 | 400 | 403),
            "DENY: {spelling} was answered with {status}"
        );
    }
}

#[test]
fn deny_beats_allow_audit_changes_nothing_and_no_rules_means_nobody() {
    if !have("authorization: order", &[Need::Namespaces]) {
        return;
    }
    let scene = scene("order");
    let b = &scene.b.0;
    scene.policy("audit", "AUDIT", "  rules:\n  - {}\n");
    scene.policy(
        "allow",
        "ALLOW",
        "  rules:\n  - from: [{source: {namespaces: [\"service-b\"]}}]\n",
    );
    scene.eventually("ALLOW closes the rest", &scene.c.0, "/foo", 403);
    assert_eq!(scene.get(b, "/foo").status, 200, "AUDIT changes nothing");
    scene.policy("deny", "DENY", "  rules:\n  - from: [{source: {namespaces: [\"service-b\"]}}]\n    to: [{operation: {paths: [\"/foo\"]}}]\n");
    scene.eventually("DENY beats ALLOW", b, "/foo", 403);
    assert_eq!(scene.get(b, "/other").status, 200, "and only what it names");
    scene.mesh.config.remove("deny").unwrap();
    scene.eventually("back to ALLOW", b, "/foo", 200);
    scene.policy("allow", "ALLOW", "");
    scene.eventually("an ALLOW without rules lets nobody in", b, "/foo", 403);
    scene.mesh.config.remove("allow").unwrap();
    scene.eventually("only AUDIT is left", &scene.c.0, "/foo", 200);
    scene.mesh.config.remove("audit").unwrap();
    scene.eventually("no policy allows", b, "/foo", 200);
    let broken = "  rules: [{to: [{operation: {pahts: [\"/foo\"]}}]}]\n";
    scene.policy("deny", "DENY", broken);
    scene.eventually("a broken DENY closes everything", b, "/other", 403);
    let resources = scene.mesh.control_get("/debug/resources").unwrap();
    assert!(resources.contains("fails closed"), "{resources}");
    scene.policy("deny", "DENY", &broken.replace("pahts", "paths"));
    scene.eventually("until it is mended", b, "/other", 200);
    assert_eq!(scene.get(b, "/foo").status, 403);
}
