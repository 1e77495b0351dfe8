//! Where redirects lead.

use super::*;

fn follow(location: &str) -> Option<(bool, u16, String)> {
    let here = Target {
        tls: false,
        place: Place {
            host: None,
            port: 8080,
        },
        path: "/health/ready?full=1".into(),
    };
    here.follow(location, "10.0.0.7:8080")
        .map(|next| (next.tls, next.place.port, next.path))
}

#[test]
fn redirects_stay_on_the_host() {
    for (location, expected) in [
        ("/live", (false, 8080, "/live")),
        ("live?x=1", (false, 8080, "/health/live?x=1")),
        ("../live", (false, 8080, "/live")),
        ("?x", (false, 8080, "/health/ready?x")),
        ("http://10.0.0.7:9090/x#part", (false, 9090, "/x")),
        ("https://10.0.0.7/x", (true, 443, "/x")),
        ("//10.0.0.7:81", (false, 81, "/")),
    ] {
        let (tls, port, path) = expected;
        assert_eq!(
            follow(location),
            Some((tls, port, path.to_owned())),
            "{location}"
        );
    }
    for location in [
        "http://10.0.0.8:8080/x",
        "//shop.example/x",
        "ftp://10.0.0.7/x",
        "http://[",
    ] {
        assert_eq!(follow(location), None, "{location}");
    }
}

#[test]
fn headers_are_the_kubelets_unless_declared() {
    let declared = |headers: &str| {
        let text =
            format!(r#"{{"a/liveness":{{"httpGet":{{"port":1,"httpHeaders":[{headers}]}}}}}}"#);
        let probes: super::super::Probes = text.parse().unwrap();
        let (_, declared) = probes.iter().next().unwrap();
        match &declared.check {
            super::super::Check::Http(get) => headers_of(get),
            _ => panic!("not http"),
        }
    };
    fn headers_of(get: &HttpGet) -> HeaderMap {
        headers(get)
    }
    let plain = declared("");
    assert_eq!(plain[ACCEPT], "*/*");
    assert!(
        plain[USER_AGENT]
            .to_str()
            .unwrap()
            .starts_with("kube-probe/")
    );
    assert!(!plain.contains_key(HOST));
    let own = declared(
        r#"{"name":"user-agent","value":""},{"name":"Accept","value":"text/html"},{"name":"host","value":"shop"}"#,
    );
    assert!(!own.contains_key(USER_AGENT));
    assert_eq!(
        (&own[ACCEPT], &own[HOST]),
        (&"text/html".parse().unwrap(), &"shop".parse().unwrap())
    );
}
