//! Host names: canonical forms, short names of services, `HOST:PORT`. Everything here is lower case.

use tasuki_resources::host::{CLUSTER_DOMAIN, service_host};

/// Lower case without a trailing dot (contract section 3).
pub fn canonical(host: &str) -> String {
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}

/// All names by which the service `name.namespace` may be called from `viewer_namespace`, the longest first.
pub fn short_names(name: &str, namespace: &str, viewer_namespace: &str) -> Vec<String> {
    let mut names = vec![
        service_host(name, namespace),
        format!("{name}.{namespace}.svc"),
        format!("{name}.{namespace}"),
    ];
    if namespace == viewer_namespace {
        names.push(name.to_owned());
    }
    names
}

/// What a name used by an application in `viewer_namespace` may stand for, in the order in which a
/// pod's resolver would try it.
pub fn candidates(host: &str, viewer_namespace: &str) -> Vec<String> {
    let mut all = Vec::with_capacity(4);
    match host.matches('.').count() {
        0 => all.push(service_host(host, viewer_namespace)),
        1 => all.push(format!("{host}.svc.{CLUSTER_DOMAIN}")),
        2 if host.ends_with(".svc") => all.push(format!("{host}.{CLUSTER_DOMAIN}")),
        _ => {}
    }
    all.push(host.to_owned());
    all
}

/// `HOST:PORT` or `[V6]:PORT` in its parts; the host is canonical and without brackets.
pub fn split_host_port(name: &str) -> Option<(String, u16)> {
    let (host, port) = name.rsplit_once(':')?;
    let port: u16 = port.parse().ok().filter(|port| *port != 0)?;
    let host = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']')?,
        None if host.contains(':') => return None,
        None => host,
    };
    if host.is_empty() {
        None
    } else {
        Some((canonical(host), port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_depend_on_the_viewer() {
        assert_eq!(short_names("cart", "shop", "shop").last().unwrap(), "cart");
        assert_eq!(
            short_names("cart", "shop", "other").last().unwrap(),
            "cart.shop"
        );
        assert_eq!(
            candidates("cart.shop", "x")[0],
            "cart.shop.svc.cluster.local"
        );
        assert_eq!(candidates("example.com", "x")[1], "example.com");
    }

    #[test]
    fn host_and_port() {
        assert_eq!(split_host_port("A.b.:80"), Some(("a.b".into(), 80)));
        assert_eq!(
            split_host_port("[fd00::1]:80"),
            Some(("fd00::1".into(), 80))
        );
        assert_eq!(split_host_port("fd00::1:80"), None);
        assert_eq!(split_host_port("a"), None);
        assert_eq!(split_host_port("a:0"), None);
        assert_eq!(split_host_port(":80"), None);
    }
}
