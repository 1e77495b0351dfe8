//! Who this proxy is: its certificate and the roots it trusts, and how it keeps them fresh.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::{ClientConfig, ServerConfig};
use tasuki_identity::{
    ClientAuth, Error, Roots, ServerIdentity, SpiffeId, WorkloadCertificate, client_config,
    server_config,
};

pub mod renew;

/// Distinct TLS configurations that are kept; one more empties the cache.
const CACHED: usize = 256;

/// A certificate with the roots of its moment. Replaced as a whole when either is renewed.
pub struct Identity {
    pub certificate: WorkloadCertificate,
    pub roots: Roots,
    cache: Mutex<Cache>,
}

#[derive(Default)]
struct Cache {
    servers: Vec<(Vec<String>, ClientAuth, Arc<ServerConfig>)>,
    clients: Vec<(Vec<String>, ServerIdentity, Arc<ClientConfig>)>,
}

impl Identity {
    pub fn new(certificate: WorkloadCertificate, roots: Roots) -> Arc<Identity> {
        Arc::new(Identity {
            certificate,
            roots,
            cache: Mutex::default(),
        })
    }

    pub fn id(&self) -> &SpiffeId {
        self.certificate.id()
    }

    /// The rustls configuration for accepting connections; built once per combination.
    ///
    /// # Errors
    /// When certificate and roots do not make one, which `tasuki_identity` explains.
    pub fn server(&self, alpn: &[String], auth: ClientAuth) -> Result<Arc<ServerConfig>, Error> {
        let mut cache = self.lock();
        if let Some((_, _, config)) = cache
            .servers
            .iter()
            .find(|(a, c, _)| a == alpn && *c == auth)
        {
            return Ok(Arc::clone(config));
        }
        let config = server_config(&self.certificate, &self.roots, &bytes(alpn), auth)?;
        if cache.servers.len() >= CACHED {
            cache.servers.clear();
        }
        cache
            .servers
            .push((alpn.to_vec(), auth, Arc::clone(&config)));
        Ok(config)
    }

    /// The rustls configuration for connections to a mesh peer that must be `expected`; built once per combination.
    ///
    /// # Errors
    /// As for [`Identity::server`].
    pub fn client(
        &self,
        expected: &ServerIdentity,
        alpn: &[String],
    ) -> Result<Arc<ClientConfig>, Error> {
        let mut cache = self.lock();
        if let Some((_, _, config)) = cache
            .clients
            .iter()
            .find(|(a, e, _)| a == alpn && e == expected)
        {
            return Ok(Arc::clone(config));
        }
        let config = client_config(
            Some(&self.certificate),
            &self.roots,
            expected.clone(),
            &bytes(alpn),
        )?;
        if cache.clients.len() >= CACHED {
            cache.clients.clear();
        }
        cache
            .clients
            .push((alpn.to_vec(), expected.clone(), Arc::clone(&config)));
        Ok(config)
    }

    fn lock(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn bytes(alpn: &[String]) -> Vec<&[u8]> {
    alpn.iter().map(String::as_bytes).collect()
}
