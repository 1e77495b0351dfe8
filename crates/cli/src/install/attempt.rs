//! The last step: does the API server reach the webhook, does it trust it, and does a pod come back with a sidecar? The pod
//! is a dry run, in a namespace of its own that is taken away again.

use std::time::Duration;

use anyhow::{Result, bail};
use k8s_openapi::api::core::v1::{Container, Namespace, Pod, PodSpec, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt};
use tasuki_kubernetes::manifests::Webhook;
use tasuki_kubernetes::names::{
    FIELD_MANAGER, INJECT_LABEL, PART_OF, PART_OF_LABEL, SYSTEM_NAMESPACE,
};
use tokio::time::{Instant, sleep};

use crate::cluster::{EVERY, delete, injected, said};

/// Where webhooks have just been written, and pods have just become ready, API server and node know it a moment later; what
/// is wrong after this time stays wrong.
const PATIENCE: Duration = Duration::from_secs(45);

/// # Errors
/// When the pod gets no sidecar, with what would change that.
pub async fn wait(client: &Client, webhook: &Webhook, deadline: Instant) -> Result<()> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let made = namespaces
        .create(&PostParams::default(), &throw_away())
        .await
        .map_err(|error| said("a namespace to try a pod in", error))?;
    let name = made.name_any();
    let result = in_namespace(client, &name, webhook, deadline).await;
    if let Err(error) = delete(&namespaces, &name).await {
        eprintln!("tasuki: left behind: {error:#}");
    }
    result
}

async fn in_namespace(
    client: &Client,
    namespace: &str,
    webhook: &Webhook,
    deadline: Instant,
) -> Result<()> {
    account(client, namespace, deadline).await?;
    let until = deadline.min(Instant::now() + PATIENCE);
    attempts(client, namespace, webhook, until).await
}

/// Waits for the namespace's account, without which every pod is refused. The controller manager makes it: after an outage of the
/// API server that may be a minute later, which is no fault of the webhook.
async fn account(client: &Client, namespace: &str, deadline: Instant) -> Result<()> {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    loop {
        let found = accounts.get_opt("default").await;
        if found
            .map_err(|error| said("a ServiceAccount", error))?
            .is_some()
        {
            return Ok(());
        }
        if Instant::now() >= deadline {
            bail!(
                "namespace {namespace} was given no ServiceAccount \"default\": is the cluster's controller manager running?"
            );
        }
        sleep(EVERY).await;
    }
}

async fn attempts(
    client: &Client,
    namespace: &str,
    webhook: &Webhook,
    until: Instant,
) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let dry = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    loop {
        let finding = match pods.create(&dry, &pod()).await {
            Ok(pod) if injected(&pod) => {
                println!("a pod (dry run) gets its sidecar");
                return Ok(());
            }
            Ok(_) => Finding::NotInjected,
            Err(kube::Error::Api(status)) => Finding::of(&status.message),
            Err(error) => return Err(said("a pod (dry run)", error)),
        };
        if Instant::now() >= until {
            bail!("{}", finding.advice(webhook));
        }
        sleep(EVERY).await;
    }
}

/// Labelled as a user's would be, and open to the init container whatever the cluster's default is.
fn throw_away() -> Namespace {
    let labels = [
        (INJECT_LABEL, "enabled"),
        ("pod-security.kubernetes.io/enforce", "privileged"),
        (PART_OF_LABEL, PART_OF),
    ];
    let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
    Namespace {
        metadata: ObjectMeta {
            generate_name: Some(format!("{FIELD_MANAGER}-install-check-")),
            labels: Some(labels.into()),
            ..ObjectMeta::default()
        },
        ..Namespace::default()
    }
}

fn pod() -> Pod {
    Pod {
        metadata: ObjectMeta {
            name: Some("check".to_owned()),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec {
            containers: vec![Container {
                name: "check".to_owned(),
                image: Some("check".to_owned()),
                ..Container::default()
            }],
            ..PodSpec::default()
        }),
        ..Pod::default()
    }
}

/// Why a pod has no sidecar.
#[derive(Debug, PartialEq, Eq)]
enum Finding {
    /// The API server got no connection, or no answer.
    Unreachable(String),
    /// It got one and does not trust it.
    Untrusted(String),
    /// It created the pod as it was.
    NotInjected,
    /// Something else was wrong with the pod, or the webhook refused it.
    Refused(String),
}

impl Finding {
    fn of(message: &str) -> Self {
        let text = message.to_owned();
        if !message.contains("failed calling webhook") {
            return Self::Refused(text);
        }
        if message.contains("x509:") || message.contains("tls:") {
            return Self::Untrusted(text);
        }
        Self::Unreachable(text)
    }

    fn advice(&self, webhook: &Webhook) -> String {
        match self {
            Self::Unreachable(message) => format!(
                "the API server does not reach the webhook: {message}\n{}",
                firewall(webhook)
            ),
            Self::Untrusted(message) => format!(
                "the API server does not trust the webhook: {message}\n\
                 caBundle of MutatingWebhookConfiguration tasuki-control is not the authority of Secret tasuki-ca: \
                 does something else write it, or answer in the control plane's place?"
            ),
            Self::NotInjected => format!(
                "a pod (dry run) was created without a sidecar. Either another webhook undoes it, or the API server does \
                 not reach ours and failurePolicy Ignore hides it:\n{}",
                firewall(webhook)
            ),
            Self::Refused(message) => format!("a pod (dry run) was refused: {message}"),
        }
    }
}

fn firewall(webhook: &Webhook) -> String {
    let port = webhook.port;
    if webhook.host_network {
        return format!(
            "A firewall must let the API servers reach the nodes at TCP port {port} (webhook.port); another port that is \
             open already will do as well."
        );
    }
    format!(
        "A firewall must let the API servers reach pods at TCP port {port}: from the control plane's addresses to the \
         nodes'; on private clusters that is a rule of its own. Or choose a port that is open already (--set \
         webhook.port=10250), or, where API servers reach nodes but no pods, --set webhook.hostNetwork=true. The pods: \
         kubectl get pods --namespace {SYSTEM_NAMESPACE} --output wide"
    )
}

#[cfg(test)]
mod tests {
    use tasuki_kubernetes::manifests::InstallSettings;
    use tasuki_kubernetes::names::PROXY_CONTAINER;

    use super::*;

    #[test]
    fn what_the_api_server_says_is_told_apart() {
        let of = |reason: &str| {
            Finding::of(&format!(
                "failed calling webhook \"namespace.inject.tasuki.dev\": {reason}"
            ))
        };
        for reason in [
            "context deadline exceeded",
            "dial tcp 10.0.0.1:15017: connect: connection refused",
            "dial tcp 10.0.0.1:15017: connect: no route to host",
        ] {
            assert!(matches!(of(reason), Finding::Unreachable(_)), "{reason}");
        }
        let untrusted =
            of("tls: failed to verify certificate: x509: certificate signed by unknown authority");
        assert!(matches!(untrusted, Finding::Untrusted(_)));
        let refused = Finding::of("pods \"check\" is forbidden: exceeded quota");
        assert!(matches!(refused, Finding::Refused(_)));
    }

    #[test]
    fn the_firewall_rule_is_named() {
        let mut webhook = InstallSettings::defaults().unwrap().webhook;
        let advice = |webhook: &Webhook| Finding::Unreachable("timeout".into()).advice(webhook);
        let pods = advice(&webhook);
        assert!(pods.contains("reach pods at TCP port 15017"), "{pods}");
        assert!(pods.contains("webhook.hostNetwork=true"), "{pods}");
        webhook.host_network = true;
        webhook.port = 10260;
        let nodes = advice(&webhook);
        assert!(
            nodes.contains("reach the nodes at TCP port 10260"),
            "{nodes}"
        );
    }

    #[test]
    fn a_sidecar_is_found_wherever_it_is() {
        assert!(!injected(&pod()));
        let sidecar = Container {
            name: PROXY_CONTAINER.to_owned(),
            ..Container::default()
        };
        let mut native = pod();
        let spec = native.spec.as_mut().unwrap();
        spec.init_containers = Some(vec![sidecar.clone()]);
        assert!(injected(&native));
        let mut classic = pod();
        classic.spec.as_mut().unwrap().containers.push(sidecar);
        assert!(injected(&classic));
    }
}
