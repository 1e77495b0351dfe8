//! What lies at the mesh's edges: `Gateway` and `ServiceEntry`.

use super::schema::{Schema, boolean, choice, integer, list, map, object, text, text_map, texts};

pub fn gateway() -> Schema {
    object([("selector", text_map()), ("servers", list(server()))])
}

fn server() -> Schema {
    object([
        ("name", text()),
        ("bind", text()),
        ("hosts", texts()),
        ("port", port()),
        ("tls", server_tls()),
        ("defaultEndpoint", text()),
    ])
}

fn server_tls() -> Schema {
    let version = || choice(&["TLS_AUTO", "TLSV1_0", "TLSV1_1", "TLSV1_2", "TLSV1_3"]);
    let certificate = object([
        ("caCertificates", text()),
        ("privateKey", text()),
        ("serverCertificate", text()),
    ]);
    object([
        (
            "mode",
            choice(&[
                "PASSTHROUGH",
                "SIMPLE",
                "MUTUAL",
                "AUTO_PASSTHROUGH",
                "ISTIO_MUTUAL",
                "OPTIONAL_MUTUAL",
            ]),
        ),
        ("httpsRedirect", boolean()),
        ("credentialName", text()),
        ("credentialNames", texts()),
        ("serverCertificate", text()),
        ("privateKey", text()),
        ("tlsCertificates", list(certificate)),
        ("caCertificates", text()),
        ("caCertCredentialName", text()),
        ("caCrl", text()),
        ("insecureSkipVerify", boolean()),
        ("subjectAltNames", texts()),
        ("verifyCertificateHash", texts()),
        ("verifyCertificateSpki", texts()),
        ("minProtocolVersion", version()),
        ("maxProtocolVersion", version()),
        ("cipherSuites", texts()),
        ("ecdhCurves", texts()),
    ])
}

pub fn service_entry() -> Schema {
    let endpoint = object([
        ("address", text()),
        ("ports", map(integer())),
        ("labels", text_map()),
        ("network", text()),
        ("locality", text()),
        ("weight", integer()),
        ("serviceAccount", text()),
    ]);
    object([
        ("hosts", texts()),
        ("addresses", texts()),
        ("ports", list(port())),
        ("location", choice(&["MESH_EXTERNAL", "MESH_INTERNAL"])),
        (
            "resolution",
            choice(&["NONE", "STATIC", "DNS", "DNS_ROUND_ROBIN", "DYNAMIC_DNS"]),
        ),
        ("endpoints", list(endpoint)),
        ("workloadSelector", object([("labels", text_map())])),
        ("exportTo", texts()),
        ("subjectAltNames", texts()),
    ])
}

fn port() -> Schema {
    object([
        ("number", integer()),
        ("name", text()),
        ("protocol", text()),
        ("targetPort", integer()),
    ])
}
