//! Resources as a control plane may send them: read without panic, and what is accepted means the same
//! when it is written and read again. The rest of the response machinery sees the same bytes.

#![no_main]

use libfuzzer_sys::fuzz_target;
use prost::Message;
use tasuki_xds::Any;
use tasuki_xds::client::{AdsClient, NodeInfo};
use tasuki_xds::codec::{Dialect, decode, encode};
use tasuki_xds::model::ResourceType;
use tasuki_xds::proto::DeltaDiscoveryResponse;

fuzz_target!(|input: (u8, &[u8])| {
    let (choice, bytes) = input;
    let ty = ResourceType::ALL[usize::from(choice) % ResourceType::ALL.len()];
    let any = Any {
        type_url: ty.type_url().to_owned(),
        value: bytes.to_vec(),
    };
    if let Ok(resource) = decode(ty, &any) {
        let again = encode(&resource, &Dialect::Tasuki);
        assert_eq!(decode(ty, &again.any), Ok(resource.clone()));
        for dialect in [
            Dialect::Envoy { secrets: true },
            Dialect::Grpc { provider: None },
        ] {
            encode(&resource, &dialect);
        }
    }
    if let Ok(response) = DeltaDiscoveryResponse::decode(bytes) {
        let mut client = AdsClient::new(&NodeInfo::default());
        client.subscribe_all(ty);
        client.connected();
        client.on_response(response);
        while client.next_request().is_some() {}
    }
});
