//! Our own `tasuki.xds.v1.Departure`.

use super::field::{Fault, Read};
use crate::model::Departure;
use crate::proto;

pub(super) fn write(of: &Departure) -> proto::Departure {
    let Departure {
        name,
        deleting,
        acknowledged,
    } = of;
    proto::Departure {
        name: name.clone(),
        deleting: *deleting,
        acknowledged: *acknowledged,
    }
}

pub(super) fn read(message: proto::Departure) -> Read<Departure> {
    let proto::Departure {
        name,
        deleting,
        acknowledged,
    } = message;
    if acknowledged && !deleting {
        return Err(Fault::new(
            "acknowledged",
            "of a Pod that is not being deleted",
        ));
    }
    Ok(Departure {
        name,
        deleting,
        acknowledged,
    })
}
