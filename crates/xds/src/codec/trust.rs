//! Our own `tasuki.xds.v1.TrustBundle`.

use super::field::{Fault, Read};
use crate::model::TrustBundle;
use crate::proto;

pub(super) fn write(of: &TrustBundle) -> proto::TrustBundle {
    let TrustBundle { name, roots } = of;
    proto::TrustBundle {
        name: name.clone(),
        roots: roots.clone(),
    }
}

pub(super) fn read(message: proto::TrustBundle) -> Read<TrustBundle> {
    let proto::TrustBundle { name, roots } = message;
    if roots.is_empty() {
        return Err(Fault::new("roots", "empty: nobody would be trusted"));
    }
    // DER of a certificate is a SEQUENCE; the rest is checked by whoever builds the trust store.
    if let Some(i) = roots.iter().position(|der| der.first() != Some(&0x30)) {
        return Err(Fault::new(format!("roots[{i}]"), "not a DER certificate"));
    }
    Ok(TrustBundle { name, roots })
}
