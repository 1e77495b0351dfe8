//! Whom endpoints mean.

use std::collections::BTreeSet;
use std::net::IpAddr;

use tasuki_resources::core::endpoint_slice::SliceEndpoint;
use tasuki_resources::{EndpointSlice, NamespacedName};

/// How an endpoint says which pod it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Reference {
    Pod(NamespacedName),
    Address(IpAddr),
}

fn reference(endpoint: &SliceEndpoint) -> Option<(Reference, IpAddr)> {
    let address = *endpoint.addresses.first()?;
    let reference = match &endpoint.pod {
        Some(pod) => Reference::Pod(pod.clone()),
        None => Reference::Address(address),
    };
    Some((reference, address))
}

/// All whom a slice means, and where.
pub(super) fn meant(slice: Option<&EndpointSlice>) -> BTreeSet<(Reference, IpAddr)> {
    let endpoints = slice.into_iter().flat_map(|slice| &slice.endpoints);
    endpoints.filter_map(reference).collect()
}

pub(super) fn references(slice: Option<&EndpointSlice>) -> BTreeSet<Reference> {
    let meant = meant(slice).into_iter();
    meant.map(|(reference, _)| reference).collect()
}
