//! Whether the cluster has a kind, as its CustomResourceDefinition says.

use kube::Client;
use serde::Deserialize;
use tasuki_kubernetes::watched::Watched;

/// What can be watched of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Definition {
    /// In this version.
    Served(&'static str),
    /// It is being deleted: the API server deletes its objects first, one by one, and those with finalizers may stay for long. In
    /// this version they can still be read.
    Leaving(Option<&'static str>),
    /// There is none, or none in a version that is read.
    Absent,
}

/// The part of a CustomResourceDefinition that matters.
#[derive(Debug, Deserialize)]
struct Declared {
    metadata: Metadata,
    spec: Spec,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    deletion_timestamp: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Spec {
    versions: Vec<Version>,
}

#[derive(Debug, Deserialize)]
struct Version {
    name: String,
    served: bool,
}

/// Asks the API server.
///
/// # Errors
/// When it does not answer the question.
pub async fn look(client: &Client, watched: &Watched) -> kube::Result<Definition> {
    if !watched.custom {
        return Ok(watched
            .versions
            .first()
            .map_or(Definition::Absent, |version| Definition::Served(version)));
    }
    let name = watched.full_name();
    let path = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}");
    let request = http::Request::get(path)
        .body(Vec::new())
        .map_err(kube::Error::HttpError)?;
    match client.request::<Declared>(request).await {
        Ok(declared) => Ok(declared.definition(watched)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(Definition::Absent),
        Err(error) => Err(error),
    }
}

impl Declared {
    fn definition(&self, watched: &Watched) -> Definition {
        let served = |wanted: &&&str| {
            let mut versions = self.spec.versions.iter();
            versions.any(|version| version.served && version.name == **wanted)
        };
        let version = watched.versions.iter().find(served).copied();
        match version {
            version if self.metadata.deletion_timestamp.is_some() => Definition::Leaving(version),
            Some(version) => Definition::Served(version),
            None => Definition::Absent,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tasuki_kubernetes::watched::WATCHED;
    use tasuki_resources::Kind;

    use super::*;

    #[test]
    fn the_best_served_version_is_taken() {
        let watched = WATCHED.iter().find(|w| w.kind == Kind::VirtualService);
        let definition = |versions: &[(&str, bool)], deleted: bool| {
            let version = |(name, served): &(&str, bool)| json!({"name": name, "served": served});
            let mut definition = json!({
                "metadata": {"name": "virtualservices.networking.istio.io"},
                "spec": {"versions": versions.iter().map(version).collect::<Vec<_>>()},
            });
            if deleted {
                definition["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
            }
            let declared: Declared = serde_json::from_value(definition).unwrap();
            declared.definition(watched.unwrap())
        };
        let all = [("v1alpha3", true), ("v1beta1", true), ("v1", true)];
        assert_eq!(definition(&all, false), Definition::Served("v1"));
        let old = [("v1alpha3", true), ("v1beta1", true), ("v1", false)];
        assert_eq!(definition(&old, false), Definition::Served("v1beta1"));
        assert_eq!(definition(&[("v9", true)], false), Definition::Absent);
        assert_eq!(definition(&all, true), Definition::Leaving(Some("v1")));
        let unread = definition(&[("v9", true)], true);
        assert_eq!(unread, Definition::Leaving(None));
    }
}
