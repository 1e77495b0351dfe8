//! The way to the control plane: dialling it, verifying it and saying who this proxy is.
//!
//! tonic's own TLS is not used, so that one place (`tasuki_identity`) decides what a good certificate is.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tasuki_identity::{Roots, ServerIdentity, WorkloadCertificate, client_config};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::settings::Settings;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A dead control plane is noticed after interval and timeout.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Where the control plane is and how to be believed there.
#[derive(Clone, Debug)]
pub struct ControlPlane {
    host: String,
    port: u16,
    tls: bool,
    ca: Option<PathBuf>,
    token: Option<PathBuf>,
    /// The token file could not be read the last time, which has been said.
    token_missing: Arc<AtomicBool>,
}

/// Why the control plane cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0:?} is not http://HOST:PORT or https://HOST:PORT")]
    Url(String),
    #[error(
        "no --control-ca and no trust bundle in the state dir: the control plane cannot be verified"
    )]
    NoRoots,
    #[error(transparent)]
    Identity(#[from] tasuki_identity::Error),
    #[error("connecting: {0}")]
    Connect(#[from] tonic::transport::Error),
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

impl ControlPlane {
    /// Reads the settings' URL.
    ///
    /// # Errors
    /// When it is no URL of a control plane.
    pub fn new(settings: &Settings) -> Result<ControlPlane, Error> {
        let wrong = || Error::Url(settings.control.clone());
        let uri: Uri = settings.control.parse().map_err(|_| wrong())?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(wrong()),
        };
        let host = uri
            .host()
            .ok_or_else(wrong)?
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        Ok(ControlPlane {
            host,
            port: uri.port_u16().unwrap_or(if tls { 15012 } else { 15010 }),
            tls,
            ca: settings.control_ca.clone(),
            token: settings.token_file.clone(),
            token_missing: Arc::default(),
        })
    }

    /// Opens a connection. `certificate` is shown over TLS; `roots` verify the server, beside the file's if one was given.
    ///
    /// # Errors
    /// When the control plane cannot be reached or not be verified.
    pub async fn connect(
        &self,
        certificate: Option<&WorkloadCertificate>,
        roots: Option<Roots>,
    ) -> Result<Channel, Error> {
        let tls = if self.tls {
            Some(self.tls_config(certificate, roots)?)
        } else {
            None
        };
        let (host, port) = (self.host.clone(), self.port);
        let connector = tower::service_fn(move |_: Uri| dial(host.clone(), port, tls.clone()));
        let authority = if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        };
        // Our connector makes the TLS; tonic must not try to.
        let endpoint = Endpoint::from_shared(format!("http://{authority}:{}", self.port))?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true);
        Ok(endpoint.connect_with_connector(connector).await?)
    }

    fn tls_config(
        &self,
        certificate: Option<&WorkloadCertificate>,
        roots: Option<Roots>,
    ) -> Result<Arc<rustls::ClientConfig>, Error> {
        let roots = match (&self.ca, roots) {
            // Read each time: a rotation may replace the file. The bundle is trusted beside it, since the file may be a copy
            // that no rotation reaches; it came over a connection that an earlier root vouched for.
            (Some(file), Some(roots)) => Roots::from_file(file)?.union(&roots),
            (Some(file), None) => Roots::from_file(file)?,
            (None, roots) => roots.ok_or(Error::NoRoots)?,
        };
        Ok(client_config(
            certificate,
            &roots,
            ServerIdentity::Dns,
            &[b"h2"],
        )?)
    }

    /// Adds the token to a request, unless it has run out and the certificate speaks for us.
    pub fn authorize<T>(
        &self,
        request: &mut tonic::Request<T>,
        certificate: Option<&WorkloadCertificate>,
    ) {
        let Some(token) = self.token() else { return };
        let now = std::time::SystemTime::now();
        let certified =
            self.tls && certificate.is_some_and(|certificate| certificate.is_valid_at(now));
        if certified && expiry(&token).is_some_and(|expiry| expiry <= now) {
            return;
        }
        if let Ok(value) = MetadataValue::try_from(format!("Bearer {token}")) {
            request.metadata_mut().insert("authorization", value);
        }
    }

    /// The token of this moment; `None` while there is none, and a certificate that is still valid has to do.
    pub fn token(&self) -> Option<String> {
        let file = self.token.as_ref()?;
        match std::fs::read_to_string(file) {
            Ok(token) => {
                self.token_missing.store(false, Ordering::Relaxed);
                Some(token.trim().to_owned()).filter(|token| !token.is_empty())
            }
            Err(error) => {
                if !self.token_missing.swap(true, Ordering::Relaxed) {
                    tracing::warn!(file = %file.display(), %error, "token could not be read");
                }
                None
            }
        }
    }
}

async fn dial(
    host: String,
    port: u16,
    tls: Option<Arc<rustls::ClientConfig>>,
) -> std::io::Result<TokioIo<Box<dyn Io>>> {
    let stream = TcpStream::connect((host.as_str(), port)).await?;
    stream.set_nodelay(true)?;
    let Some(tls) = tls else {
        return Ok(TokioIo::new(Box::new(stream)));
    };
    let name = ServerName::try_from(host).map_err(std::io::Error::other)?;
    let stream = tokio_rustls::TlsConnector::from(tls)
        .connect(name, stream)
        .await?;
    Ok(TokioIo::new(Box::new(stream)))
}

/// The part of a token's payload that is read: never believed, only used to choose what to present.
#[derive(serde::Deserialize)]
struct Claims {
    sub: Option<String>,
    exp: Option<u64>,
}

fn claims(token: &str) -> Option<Claims> {
    use base64::Engine;
    let payload = token.split('.').nth(1)?;
    let json = base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode(payload)
        .ok()?;
    serde_json::from_slice(&json).ok()
}

fn expiry(token: &str) -> Option<std::time::SystemTime> {
    Some(std::time::UNIX_EPOCH + Duration::from_secs(claims(token)?.exp?))
}

/// Namespace and service account that a token names: ours are `NS/NAME`, Kubernetes' `system:serviceaccount:NS:NAME`.
pub fn service_account(token: &str) -> Option<(String, String)> {
    let subject = claims(token)?.sub?;
    let (namespace, name) = match subject.strip_prefix("system:serviceaccount:") {
        Some(rest) => rest.split_once(':')?,
        None => subject.split_once('/')?,
    };
    Some((namespace.to_owned(), name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_say_whose_they_are() {
        use base64::Engine;
        let token = |json: &str| {
            format!(
                "x.{}.y",
                base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(json)
            )
        };
        let ours = token(r#"{"sub":"shop/cart","exp":7,"aud":["tasuki-ca"]}"#);
        assert_eq!(service_account(&ours), Some(("shop".into(), "cart".into())));
        assert_eq!(
            expiry(&ours),
            Some(std::time::UNIX_EPOCH + Duration::from_secs(7))
        );
        let kubernetes = token(r#"{"sub":"system:serviceaccount:shop:cart"}"#);
        assert_eq!(
            service_account(&kubernetes),
            Some(("shop".into(), "cart".into()))
        );
        assert_eq!(service_account("not a token"), None);
    }

    #[test]
    fn the_token_is_what_the_file_says_now() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        let control = ControlPlane {
            host: "control".into(),
            port: 15012,
            tls: true,
            ca: None,
            token: Some(file.clone()),
            token_missing: Arc::default(),
        };
        let authorization = || {
            let mut request = tonic::Request::new(());
            control.authorize(&mut request, None);
            let metadata = request.metadata();
            metadata
                .get("authorization")
                .map(|v| v.to_str().unwrap().to_owned())
        };
        assert_eq!(authorization(), None, "not there yet");
        for (content, expected) in [
            ("one\n", Some("Bearer one")),
            ("two", Some("Bearer two")),
            ("\n", None),
        ] {
            std::fs::write(&file, content).unwrap();
            assert_eq!(authorization().as_deref(), expected);
        }
        std::fs::remove_file(&file).unwrap();
        assert_eq!(authorization(), None, "gone");
    }
}
