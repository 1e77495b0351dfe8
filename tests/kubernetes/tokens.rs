//! Who gets a certificate: whoever shows the token of a pod that lives, for itself, and nobody else.

use std::future::Future;
use std::time::Duration;

use anyhow::{Context, Result};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tasuki_identity::proto::{IstioCertificateServiceClient, request};
use tasuki_identity::{
    Roots, ServerIdentity, SpiffeId, WorkloadCertificate, client_config, key_and_csr,
};
use tasuki_testkit::cluster::{LIMIT, Space};
use tasuki_testkit::wait;
use tasuki_xds::client::{AdsClient, NodeInfo};
use tasuki_xds::model::ResourceType;
use tasuki_xds::proto::AggregatedDiscoveryServiceClient;
use tokio_rustls::TlsConnector;
use tokio_stream::StreamExt;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::app::{App, account, list, service};
use crate::mesh;
use crate::shop::INJECTED;

const NAME: &str = "tasuki-control.tasuki-system.svc";

/// The control plane as a thief reaches it: its address and the roots that every namespace has.
struct Door {
    address: String,
    roots: Roots,
}

/// What is shown at the door: a token, a certificate, and whose certificate is asked for.
#[derive(Default)]
struct Shown<'a> {
    token: Option<&'a str>,
    certificate: Option<&'a WorkloadCertificate>,
    /// Namespace, account and pod.
    whose: (&'a str, &'a str, &'a str),
}

impl Door {
    fn of(space: &Space) -> Result<Self> {
        let control =
            space
                .cluster
                .get(&["service", "tasuki-control", "--namespace=tasuki-system"])?;
        let address = control["spec"]["clusterIP"]
            .as_str()
            .context("no address")?;
        let roots = wait::until("the roots are in the namespace", LIMIT, || {
            let map = space.get(&["configmap", "tasuki-root-ca"])?;
            let pem = map["data"]["root-cert.pem"].as_str().context("no roots")?;
            Ok(Roots::from_pem(pem.as_bytes())?)
        })?;
        Ok(Self {
            address: format!("{address}:15012"),
            roots,
        })
    }

    async fn connect(&self, own: Option<&WorkloadCertificate>) -> Result<Channel> {
        let config = client_config(own, &self.roots, ServerIdentity::Dns, &[b"h2"])?;
        let address = self.address.clone();
        let connector = tower::service_fn(move |_| {
            let (config, address) = (config.clone(), address.clone());
            async move {
                let tcp = tokio::net::TcpStream::connect(address).await?;
                let name = NAME.try_into().map_err(std::io::Error::other)?;
                Ok::<_, std::io::Error>(TokioIo::new(
                    TlsConnector::from(config).connect(name, tcp).await?,
                ))
            }
        });
        Ok(Endpoint::from_static("http://control")
            .connect_with_connector(connector)
            .await?)
    }

    /// Asks for a certificate; the inner error is the control plane's refusal.
    fn ask(&self, shown: &Shown<'_>) -> Result<Result<WorkloadCertificate, Status>> {
        let exchange = async {
            let (namespace, account, pod) = shown.whose;
            let id: SpiffeId =
                format!("spiffe://cluster.local/ns/{namespace}/sa/{account}").parse()?;
            let (key, csr) = key_and_csr(&id)?;
            let mut message = tonic::Request::new(request(&csr, None, Some((namespace, pod))));
            if let Some(token) = shown.token {
                message
                    .metadata_mut()
                    .insert("authorization", format!("Bearer {token}").parse()?);
            }
            let channel = self.connect(shown.certificate).await?;
            let answer = IstioCertificateServiceClient::new(channel)
                .create_certificate(message)
                .await;
            let mut chain = match answer {
                Ok(answer) => answer.into_inner().cert_chain,
                Err(status) => return Ok(Err(status)),
            };
            if chain.len() > 1 {
                chain.pop();
            }
            anyhow::Ok(Ok(WorkloadCertificate::from_pem(
                &chain.join("\n"),
                key.as_str(),
            )?))
        };
        self.within(exchange)
    }

    /// Opens a stream of configuration as a pod, with a certificate; the inner error is the control plane's refusal.
    fn stream(&self, certificate: &WorkloadCertificate, pod: &str) -> Result<Result<(), Status>> {
        let exchange = async {
            let mut client = AdsClient::new(&NodeInfo::sidecar("tokens", pod, "0.1.0"));
            client.subscribe_all(ResourceType::Listener);
            client.connected();
            let first = client.next_request().context("nothing to ask for")?;
            // It stays open: the answer is a message, or the end.
            let requests = tokio_stream::iter([first]).chain(tokio_stream::pending());
            let channel = self.connect(Some(certificate)).await?;
            let mut service = AggregatedDiscoveryServiceClient::new(channel);
            let mut answers = match service.delta_aggregated_resources(requests).await {
                Ok(answers) => answers.into_inner(),
                Err(status) => return Ok(Err(status)),
            };
            Ok(answers.message().await.map(drop))
        };
        self.within(exchange)
    }

    fn within<T: Send>(&self, exchange: impl Future<Output = Result<T>>) -> Result<T> {
        let limit = Duration::from_secs(60);
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?
            .block_on(async { tokio::time::timeout(limit, exchange).await })?
    }

    fn refuses(&self, what: &str, shown: &Shown<'_>) {
        match self.ask(shown) {
            Ok(Err(status)) => eprintln!("{what}: {:?}, {}", status.code(), status.message()),
            other => panic!("{what}: {other:?}"),
        }
    }
}

/// A token of an account, bound to a pod or not.
fn token(space: &Space, account: &str, audience: &str, pod: Option<&str>) -> Result<String> {
    let audience = format!("--audience={audience}");
    let mut arguments = vec!["create", "token", account, "--duration=1h", &audience];
    let name = pod.map(|pod| format!("--bound-object-name={pod}"));
    if let Some(name) = &name {
        arguments.extend(["--bound-object-kind=Pod", name]);
    }
    Ok(space.kubectl(&arguments)?.trim().to_owned())
}

fn stateful(name: &str, replicas: u32) -> Value {
    let app = App::new(name);
    let set = json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": name},
        "spec": {
            "serviceName": name, "replicas": replicas, "selector": {"matchLabels": app.labels},
            "template": app.template(),
        },
    });
    list(vec![account(name), service(name), set])
}

#[test]
fn stolen_tokens_and_certificates_get_nothing() {
    let Some((cluster, _mesh)) = mesh("kubernetes: tokens") else {
        return;
    };
    let space = cluster.space("tokens", &[INJECTED]).unwrap();
    space.apply(&stateful("bank", 2).to_string()).unwrap();
    space.apply(&stateful("thief", 1).to_string()).unwrap();
    space.rolled_out("statefulset/bank").unwrap();
    space.rolled_out("statefulset/thief").unwrap();
    let door = Door::of(&space).unwrap();
    let bank = ("tokens", "bank", "bank-0");
    let make = |account, audience, pod| token(&space, account, audience, pod).unwrap();

    let good = make("bank", "tasuki-ca", Some("bank-0"));
    let honest = Shown {
        token: Some(&good),
        whose: bank,
        ..Shown::default()
    };
    let certificate = door
        .ask(&honest)
        .unwrap()
        .expect("the pod's own token is refused");
    assert_eq!(
        certificate.id().to_string(),
        "spiffe://cluster.local/ns/tokens/sa/bank"
    );

    let cases = [
        (
            "of another audience",
            make(
                "bank",
                "https://kubernetes.default.svc.cluster.local",
                Some("bank-0"),
            ),
        ),
        ("of no pod", make("bank", "tasuki-ca", None)),
        (
            "of another pod of the account",
            make("bank", "tasuki-ca", Some("bank-1")),
        ),
        (
            "of another account's pod",
            make("thief", "tasuki-ca", Some("thief-0")),
        ),
        ("that is none", "not.a.token".to_owned()),
    ];
    for (what, token) in &cases {
        door.refuses(
            &format!("a token {what}"),
            &Shown {
                token: Some(token),
                whose: bank,
                ..Shown::default()
            },
        );
    }
    let own = make("thief", "tasuki-ca", Some("thief-0"));
    // Whose pod it is, but in another account's name.
    let lie = Shown {
        token: Some(&own),
        whose: ("tokens", "bank", "thief-0"),
        ..Shown::default()
    };
    door.refuses("another account's name", &lie);
    door.refuses(
        "nothing",
        &Shown {
            whose: bank,
            ..Shown::default()
        },
    );
    let stolen = |whose| Shown {
        certificate: Some(&certificate),
        whose,
        ..Shown::default()
    };
    door.refuses("a certificate that would renew itself", &stolen(bank));
    door.refuses(
        "a certificate for another pod",
        &stolen(("tokens", "bank", "bank-1")),
    );

    door.stream(&certificate, "bank-0")
        .unwrap()
        .expect("the pod itself is refused");
    let stream_refused = |what: &str, pod: &str| {
        let status = door.stream(&certificate, pod).unwrap().expect_err(what);
        eprintln!("{what}: {:?}, {}", status.code(), status.message());
    };
    stream_refused("a stream as another pod", "bank-1");

    let uid = |pod: &str| space.kubectl(&["get", "pod", pod, "--output=jsonpath={.metadata.uid}"]);
    let before = uid("bank-0").unwrap();
    space.kubectl(&["delete", "pod", "bank-0"]).unwrap();
    wait::until("another bank-0 is there", LIMIT, || {
        let now = uid("bank-0")?;
        anyhow::ensure!(now != before, "still the same");
        Ok(())
    })
    .unwrap();
    space.rolled_out("statefulset/bank").unwrap();
    door.refuses("the token of a pod that was", &honest);
    door.refuses("the certificate of a pod that was", &stolen(bank));
    stream_refused("a stream as a pod that was", "bank-0");
}
