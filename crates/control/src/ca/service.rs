//! `istio.v1.auth.IstioCertificateService/CreateCertificate`.
//!
//! authenticate > pod claim > limit > sign. The identity comes from the credential alone; what the request says can only make
//! it fail.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus::{IntCounterVec, Opts, Registry};
use tasuki_identity::proto::{
    IstioCertificateRequest, IstioCertificateResponse, IstioCertificateService,
    IstioCertificateServiceServer,
};
use tasuki_identity::{Error, PodRecord, SpiffeId};
use tonic::{Code, Request, Response, Status};

use super::Authority;
use super::limit::SigningLimit;
use crate::ads::{Authenticator, Caller, Catalog, NsName, Presented, Purpose};

/// A request with an RSA 4096 key has less than 4 KiB.
const MAX_MESSAGE: usize = 32 * 1024;

/// Which pods exist.
pub trait WorkloadDirectory: Send + Sync + 'static {
    /// The service account of that pod, if it exists.
    fn service_account(&self, pod: &NsName) -> Option<String>;
}

/// The catalogue that answers xDS knows them.
impl WorkloadDirectory for Arc<dyn Catalog> {
    fn service_account(&self, pod: &NsName) -> Option<String> {
        self.pod(pod).map(|facts| facts.service_account)
    }
}

/// The service; see the module.
pub struct CertificateService {
    authority: Authority,
    authenticator: Arc<dyn Authenticator>,
    workloads: Box<dyn WorkloadDirectory>,
    limit: Mutex<SigningLimit>,
    requests: IntCounterVec,
}

impl CertificateService {
    /// Registers `tasuki_ca_requests_total{result}`; the results are gRPC's status codes, so they are few.
    pub fn new(
        authority: Authority,
        authenticator: Arc<dyn Authenticator>,
        workloads: impl WorkloadDirectory,
        registry: &Registry,
    ) -> prometheus::Result<Self> {
        let opts = Opts::new(
            "tasuki_ca_requests_total",
            "Certificate requests by result.",
        );
        let requests = IntCounterVec::new(opts, &["result"])?;
        registry.register(Box::new(requests.clone()))?;
        let limit = Mutex::new(SigningLimit::default());
        Ok(Self {
            authority,
            authenticator,
            workloads: Box::new(workloads),
            limit,
            requests,
        })
    }

    /// For tonic's router.
    pub fn into_server(self) -> IstioCertificateServiceServer<Self> {
        IstioCertificateServiceServer::new(self).max_decoding_message_size(MAX_MESSAGE)
    }

    async fn create(
        &self,
        presented: &Presented,
        request: &IstioCertificateRequest,
    ) -> Result<IstioCertificateResponse, Status> {
        let authenticated = self
            .authenticator
            .authenticate(presented, Purpose::Certificate);
        let caller = authenticated.await?;
        let caller =
            caller.ok_or_else(|| Status::unauthenticated("a certificate needs a token"))?;
        presented.connection.standing.prove();
        presented.connection.standing.know();
        self.check_pod(&caller, request)?;
        let Caller { id, pod, .. } = caller;
        self.check_limit(&id)?;
        let asked = validity(request.validity_duration)?;
        let record = pod.map(|pod| PodRecord::new(&pod.name.name, &pod.uid));
        let record = record.transpose().map_err(refusal)?;
        let issued = self
            .authority
            .sign(&request.csr, &id, record.as_ref(), asked)
            .map_err(refusal)?;
        tracing::info!(%id, "certificate signed");
        let mut cert_chain = vec![issued.leaf_pem];
        cert_chain.extend(issued.intermediates_pem);
        cert_chain.push(issued.root_pem);
        Ok(IstioCertificateResponse { cert_chain })
    }

    /// A pod claim must be true. None is needed: gateways claim none, and the certificate says the service account, and the Pod
    /// that was proven.
    fn check_pod(&self, caller: &Caller, request: &IstioCertificateRequest) -> Result<(), Status> {
        let claim = request.pod().map_err(Status::invalid_argument)?;
        let Some((namespace, name)) = claim else {
            return Ok(());
        };
        let pod = NsName {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        };
        let id = &caller.id;
        if caller.pod.is_some() {
            // It was seen to live a moment ago, and may be newer than what we were told.
            return caller.check_claim(&pod);
        }
        let account = self.workloads.service_account(&pod);
        if namespace == id.namespace() && account.as_deref() == Some(id.service_account()) {
            return Ok(());
        }
        // The same words whether the pod exists or not: who has no right to it learns nothing of it.
        Err(Status::permission_denied(format!("{id} has no pod {pod}")))
    }

    fn check_limit(&self, id: &SpiffeId) -> Result<(), Status> {
        let mut limit = self.limit.lock().unwrap_or_else(PoisonError::into_inner);
        limit.take(id, Instant::now()).map_err(|wait| {
            Status::resource_exhausted(format!(
                "too many certificates for {id}; try again in {} ms",
                wait.as_millis()
            ))
        })
    }
}

#[tonic::async_trait]
impl IstioCertificateService for CertificateService {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let presented = Presented::of(&request);
        let result = self.create(&presented, request.get_ref()).await;
        let code = result.as_ref().map_or_else(Status::code, |_| Code::Ok);
        self.requests.with_label_values(&[label(code)]).inc();
        if let Err(status) = &result {
            tracing::debug!(remote = ?presented.connection.remote, ?code, reason = status.message(), "no certificate");
        }
        result.map(Response::new)
    }
}

/// 0 leaves it to us.
fn validity(seconds: i64) -> Result<Option<Duration>, Status> {
    match u64::try_from(seconds) {
        Ok(0) => Ok(None),
        Ok(seconds) => Ok(Some(Duration::from_secs(seconds))),
        Err(_) => Err(Status::invalid_argument("validity_duration is negative")),
    }
}

fn refusal(error: Error) -> Status {
    match error {
        Error::Csr(reason) => Status::invalid_argument(reason),
        other => {
            // What went wrong with our own files is for our log, not for the caller.
            tracing::error!(error = %other, "signing failed");
            Status::internal("signing failed")
        }
    }
}

fn label(code: Code) -> &'static str {
    match code {
        Code::Ok => "ok",
        Code::Unauthenticated => "unauthenticated",
        Code::PermissionDenied => "permission_denied",
        Code::InvalidArgument => "invalid_argument",
        Code::ResourceExhausted => "resource_exhausted",
        Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::NotFound
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss => "error",
    }
}
