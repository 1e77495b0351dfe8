//! `AdmissionReview` of `admission.k8s.io/v1`, with objects as plain JSON: nothing of them may be lost on the way.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value;

const API_VERSION: &str = "admission.k8s.io/v1";
/// The API server cuts a warning at 256 characters and all of them at 4,096.
const MOST_WARNINGS: usize = 16;

/// A question.
#[derive(Debug, Deserialize)]
pub struct Review {
    #[serde(rename = "apiVersion")]
    api_version: String,
    pub request: Request,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    uid: String,
    pub kind: GroupVersionKind,
    #[serde(default)]
    pub sub_resource: String,
    #[serde(default)]
    pub namespace: String,
    pub operation: Operation,
    /// Null for DELETE.
    #[serde(default)]
    pub object: Value,
    /// Null for CREATE.
    #[serde(default)]
    pub old_object: Value,
}

#[derive(Debug, Deserialize)]
pub struct GroupVersionKind {
    #[serde(default)]
    pub group: String,
    pub kind: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

/// An answer, without the question's name.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Response {
    pub allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch_type: Option<&'static str>,
    /// Base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    patch: Option<String>,
}

/// Why it is refused; the API server shows it as it is.
#[derive(Debug, PartialEq, Serialize)]
pub struct Status {
    pub code: u16,
    pub message: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    api_version: &'static str,
    kind: &'static str,
    response: Named,
}

#[derive(Serialize)]
struct Named {
    uid: String,
    #[serde(flatten)]
    response: Response,
}

impl Review {
    /// # Errors
    /// Why this is no review.
    pub fn parse(body: &[u8]) -> Result<Self, String> {
        let review: Self = serde_json::from_slice(body)
            .map_err(|error| format!("not an AdmissionReview: {error}"))?;
        if review.api_version != API_VERSION {
            return Err(format!("not an AdmissionReview of {API_VERSION}"));
        }
        Ok(review)
    }

    /// The whole message that answers this one.
    pub fn answered(self, response: Response) -> Vec<u8> {
        let answer = Answer {
            api_version: API_VERSION,
            kind: "AdmissionReview",
            response: Named {
                uid: self.request.uid,
                response,
            },
        };
        // Texts and numbers are always JSON.
        serde_json::to_vec(&answer).unwrap_or_default()
    }
}

impl Request {
    /// A Pod is about to be: the only moment at which it can get a container.
    pub fn creates_pod(&self) -> bool {
        self.operation == Operation::Create
            && self.kind.group.is_empty()
            && self.kind.kind == "Pod"
            && self.sub_resource.is_empty()
    }
}

impl Response {
    pub fn allowed(mut warnings: Vec<String>) -> Self {
        warnings.truncate(MOST_WARNINGS);
        Self {
            allowed: true,
            status: None,
            warnings,
            patch_type: None,
            patch: None,
        }
    }

    pub fn patched(patch: &[u8], warnings: Vec<String>) -> Self {
        Self {
            patch_type: Some("JSONPatch"),
            patch: Some(BASE64_STANDARD.encode(patch)),
            ..Self::allowed(warnings)
        }
    }

    pub fn refused(code: u16, message: String) -> Self {
        Self {
            allowed: false,
            status: Some(Status { code, message }),
            ..Self::allowed(Vec::new())
        }
    }

    /// For the metrics.
    pub fn outcome(&self) -> &'static str {
        match (self.allowed, &self.patch) {
            (true, None) => "allowed",
            (true, Some(_)) => "injected",
            (false, _) => "refused",
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn review(request: Value) -> Result<Review, String> {
        let review =
            json!({"apiVersion": API_VERSION, "kind": "AdmissionReview", "request": request});
        Review::parse(review.to_string().as_bytes())
    }

    #[test]
    fn a_question_is_answered_by_its_name() {
        let kind = json!({"group": "", "version": "v1", "kind": "Pod"});
        let review = review(json!({
            "uid": "7", "kind": kind, "resource": {}, "namespace": "shop", "operation": "CREATE",
            "object": {"spec": {}}, "oldObject": null, "dryRun": true, "options": {},
        }));
        let review = review.unwrap();
        assert!(review.request.creates_pod());
        let answer = review.answered(Response::patched(b"[]", vec!["mind".to_owned()]));
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        let expected = json!({
            "apiVersion": API_VERSION,
            "kind": "AdmissionReview",
            "response": {"uid": "7", "allowed": true, "warnings": ["mind"], "patchType": "JSONPatch", "patch": "W10="},
        });
        assert_eq!(answer, expected);
    }

    #[test]
    fn a_refusal_has_its_reason() {
        let refused = serde_json::to_value(Response::refused(422, "no".to_owned())).unwrap();
        assert_eq!(
            refused,
            json!({"allowed": false, "status": {"code": 422, "message": "no"}})
        );
    }

    #[test]
    fn what_is_no_review() {
        assert!(Review::parse(b"{}").is_err());
        assert!(Review::parse(b"[").is_err());
        assert!(review(json!({"uid": "7"})).is_err());
        let beta = br#"{"apiVersion": "admission.k8s.io/v1beta1", "request": {"uid": "1", "kind": {"kind": "Pod"}, "operation": "CREATE"}}"#;
        assert!(Review::parse(beta).is_err());
    }
}
