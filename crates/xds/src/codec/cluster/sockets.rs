//! `transport_socket_matches`: how endpoints are secured, by their `tlsMode`.

use envoy_types::pb::envoy::config::cluster::v3 as pb;
use envoy_types::pb::envoy::config::cluster::v3::cluster::TransportSocketMatch;
use envoy_types::pb::envoy::config::core::v3::TransportSocket;
use envoy_types::pb::google::protobuf::Struct;

use crate::codec::field::{Fault, Read, Within, each, required};
use crate::codec::{Dialect, metadata, tls};
use crate::model::cluster::TlsMatch;

pub(super) fn write(message: &mut pb::Cluster, of: &[TlsMatch], dialect: &Dialect) {
    if matches!(dialect, Dialect::Grpc { .. }) {
        // One socket for all endpoints is what gRPC knows; A29.
        message.transport_socket = of
            .first()
            .and_then(|m| tls::client(m.tls.as_ref()?, dialect));
        return;
    }
    message.transport_socket_matches = of
        .iter()
        .map(
            |TlsMatch {
                 name,
                 tls_mode,
                 tls,
             }| TransportSocketMatch {
                name: name.clone(),
                r#match: Some(Struct {
                    fields: tls_mode
                        .iter()
                        .map(|mode| ("tlsMode".to_owned(), metadata::text(mode)))
                        .collect(),
                }),
                transport_socket: Some(
                    tls.as_ref()
                        .and_then(|tls| tls::client(tls, dialect))
                        .unwrap_or_else(tls::plaintext),
                ),
            },
        )
        .collect();
    if *dialect == (Dialect::Envoy { secrets: false }) {
        // Without secrets a mesh match would only repeat the plaintext one.
        message
            .transport_socket_matches
            .retain(|m| m.r#match.as_ref().is_none_or(|s| s.fields.is_empty()));
    }
}

pub(super) fn read(
    matches: Vec<TransportSocketMatch>,
    socket: Option<TransportSocket>,
) -> Read<Vec<TlsMatch>> {
    let mut found = each("transport_socket_matches", matches, read_match)?;
    // What Envoy uses when no match fits.
    if let Some(socket) = socket {
        let tls = tls::read_client(socket).within("transport_socket")?;
        found.push(TlsMatch {
            name: "transport_socket".to_owned(),
            tls_mode: None,
            tls,
        });
    }
    Ok(found)
}

fn read_match(message: TransportSocketMatch) -> Read<TlsMatch> {
    let TransportSocketMatch {
        name,
        r#match,
        transport_socket,
    } = message;
    let Struct { fields } = r#match.unwrap_or_default();
    if fields.keys().any(|key| key != "tlsMode") {
        return Err(Fault::new("match", "only `tlsMode` is honoured"));
    }
    let tls_mode = fields
        .get("tlsMode")
        .map(|value| metadata::read_text("match.tlsMode", value))
        .transpose()?;
    let tls = tls::read_client(required("transport_socket", transport_socket)?)
        .within("transport_socket")?;
    Ok(TlsMatch {
        name,
        tls_mode,
        tls,
    })
}
