//! Who a workload is, and how it proves it.
//!
//! SPIFFE ids, certificates and roots; the rustls configurations of both ends of a mesh connection;
//! the certificate authority, the join tokens and the messages of the certificate service. No
//! sockets and no runtime: who connects, renews or serves is the business of the planes.

pub mod ca;
mod certificate;
mod csr;
mod error;
mod files;
mod id;
mod peer;
mod pod_record;
pub mod proto;
mod tls;
pub mod token;

pub use certificate::{Roots, WorkloadCertificate};
pub use csr::{CsrPem, KeyPem, key_and_csr};
pub use error::Error;
pub use id::{InvalidSpiffeId, SpiffeId, TrustDomain};
pub use peer::{PeerCertificate, digest, peer_certificate};
pub use pod_record::PodRecord;
pub use tls::{ClientAuth, ServerIdentity, client_config, server_config};
