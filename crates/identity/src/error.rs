//! What can go wrong with keys, certificates and tokens.

use std::path::{Path, PathBuf};

use crate::id::InvalidSpiffeId;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("certificate: {0}")]
    Certificate(String),
    #[error("private key: {0}")]
    Key(String),
    #[error("roots: {0}")]
    Roots(String),
    #[error(transparent)]
    Id(#[from] InvalidSpiffeId),
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// The certificate signing request cannot be signed as it is; the caller's fault.
    #[error("certificate signing request: {0}")]
    Csr(String),
    #[error("{path}: {source}")]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
    /// A file of the state dir, or a key of a Secret, that does not say what it should.
    #[error("{path}: {reason}")]
    State { path: PathBuf, reason: String },
    /// Another process holds the certificate authority's lock.
    #[error("{0} is in use by another control plane")]
    InUse(PathBuf),
    /// A rotation step that does not follow from the present phase.
    #[error("rotation: {0}")]
    Rotation(String),
    #[error("token: {0}")]
    Token(String),
}

impl Error {
    /// Something kept under that name does not say what it should.
    pub(crate) fn state(name: &str, reason: impl Into<String>) -> Self {
        Error::State {
            path: name.into(),
            reason: reason.into(),
        }
    }

    /// The same, where the names are of files in `dir`.
    pub(crate) fn within(self, dir: &Path) -> Self {
        match self {
            Error::State { path, reason } => Error::State {
                path: dir.join(path),
                reason,
            },
            other => other,
        }
    }

    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Error::Io { path, source }
    }
}
