//! What is accepted, and what the error says of the rest.

use super::*;

fn one(json: &str) -> Declared {
    let probes: Probes = json.parse().unwrap();
    let mut checks = probes.iter();
    let (_, declared) = checks.next().unwrap();
    assert!(checks.next().is_none());
    declared.clone()
}

#[test]
fn kubernetes_own_words() {
    let http = one(
        r#"{"app/readiness":{"httpGet":{"path":"ready?full=1","port":8080,"scheme":"HTTPS",
        "httpHeaders":[{"name":"X-A","value":"1"},{"name":"Host","value":"shop"}]},"timeoutSeconds":3}}"#,
    );
    assert_eq!(http.timeout, Duration::from_secs(3));
    let Check::Http(get) = http.check else {
        panic!("not http")
    };
    assert_eq!((get.scheme, get.port), (Scheme::Https, 8080));
    assert_eq!(get.path, "/ready?full=1");
    assert_eq!(get.headers["x-a"], "1");
    assert_eq!(get.authority.unwrap(), "shop");
    assert_eq!(get.headers.len(), 1);

    let tcp = one(r#"{"app/liveness":{"tcpSocket":{"port":5432}}}"#);
    assert_eq!(tcp.timeout, Duration::from_secs(1));
    assert_eq!(
        tcp.check,
        Check::Tcp {
            host: None,
            port: 5432
        }
    );
    let grpc = one(r#"{"app/startup":{"grpc":{"port":9000,"service":null},"timeoutSeconds":1}}"#);
    assert_eq!(
        grpc.check,
        Check::Grpc {
            port: 9000,
            service: String::new()
        }
    );
}

#[test]
fn nothing_is_no_probes() {
    assert!("".parse::<Probes>().unwrap().is_empty());
    assert!("{}".parse::<Probes>().unwrap().is_empty());
}

#[test]
fn paths_are_escaped_as_the_kubelet_does() {
    assert_eq!(target("").unwrap(), "/");
    assert_eq!(
        target("/a b/{x}?q=ü#part").unwrap(),
        "/a%20b/%7Bx%7D?q=%C3%BC"
    );
}

#[test]
fn an_error_names_the_key_and_what_would_be_right() {
    for (json, expected) in [
        ("[]", "JSON object"),
        (r#"{"app":{}}"#, r#"key "app" is not CONTAINER/readiness"#),
        (r#"{"app/ready":{}}"#, r#"key "app/ready" is not"#),
        (
            r#"{"a/readiness":{}}"#,
            r#"key "a/readiness": needs exactly one of"#,
        ),
        (r#"{"a/readiness":{"exec":{}}}"#, "unknown field `exec`"),
        (
            r#"{"a/prestop":{"tcpSocket":{"port":1}}}"#,
            r#"key "a/prestop": a hook is httpGet"#,
        ),
        (
            r#"{"a/startup":{"httpGet":{"port":1,"scheme":"ftp"}}}"#,
            "httpGet.scheme: \"ftp\" is neither",
        ),
        (
            r#"{"a/startup":{"httpGet":{"port":0}}}"#,
            "httpGet.port: not 1",
        ),
        (
            r#"{"a/startup":{"httpGet":{"port":"web"}}}"#,
            r#"key "a/startup": invalid type"#,
        ),
        (
            r#"{"a/startup":{"httpGet":{"port":1,"httpHeaders":[{"name":"a b"}]}}}"#,
            "httpHeaders[0].name",
        ),
        (
            r#"{"a/startup":{"grpc":{"port":1},"timeoutSeconds":0}}"#,
            "timeoutSeconds: not 1",
        ),
    ] {
        let error = match json.parse::<Probes>() {
            Err(error) => error,
            // The sidecar starts, and the check fails.
            Ok(probes) => match &probes.iter().next().unwrap().1.check {
                Check::Impossible(reason) => reason.clone(),
                check => panic!("{json}: {check:?}"),
            },
        };
        assert!(error.contains(expected), "{json}: {error}");
    }
}

#[test]
fn headers_are_what_the_kubelet_would_send() {
    let json = r#"{"a/liveness":{"httpGet":{"port":1,"httpHeaders":[
        {"name":"X-Shop","value":"Käse"},{"name":"Content-Length","value":"5"},{"name":"Host","value":"ü.example"}]}}}"#;
    let Check::Http(get) = one(json).check else {
        panic!("not httpGet");
    };
    assert_eq!(get.headers["x-shop"].as_bytes(), "Käse".as_bytes());
    assert_eq!(get.headers.len(), 1);
    assert_eq!(get.authority.unwrap().as_bytes(), "ü.example".as_bytes());
}
