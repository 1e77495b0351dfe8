//! From text to objects: which documents a file holds, whose they are, and which reader they need.

use crate::fields::{Fields, Report, Value, is_dns_label, is_dns_subdomain, metadata};
use crate::node::{MAX_TEXT, Node, SyntaxError, Tree, parse_json_stream, parse_yaml, with_stack};
use crate::object::{DEFAULT_NAMESPACE, Kind, Metadata, NamespacedName, Object, ObjectKey};
use crate::problem::{NOT_HONOURED, Problem, Severity};

mod kinds;

pub use crate::node::split_documents;
use kinds::{Reading, reading};

/// What became of one document.
#[derive(Clone, Debug)]
pub struct Document {
    /// Where the object begins, 1-based; 0 when unknown.
    pub line: usize,
    /// Which object it is. `None` for kinds that are only reported ("not honoured yet"), and when `unreadable`.
    pub identity: Option<ObjectKey>,
    /// It could not even be said which object this is (a syntax error, no kind, no name): whoever watches the file must
    /// not take the absence of any object from it as a deletion.
    pub unreadable: bool,
    /// The object, unless an error is among the problems.
    pub object: Option<Object>,
    /// What is to be in force instead of an object with errors that has no earlier version; only policies have it.
    pub stand_in: Option<Object>,
    /// Errors when there is no object; otherwise warnings.
    pub problems: Vec<Problem>,
}

impl Document {
    fn unreadable(file: &str, line: usize, reason: String, expected: &str) -> Self {
        let mut problem = Problem::error(file, "", reason);
        problem.line = (line > 0).then_some(line);
        problem.expected = expected.to_owned();
        Document {
            line,
            identity: None,
            unreadable: true,
            object: None,
            stand_in: None,
            problems: vec![problem],
        }
    }
}

/// Reads every document of a YAML or JSON text. Documents that are empty or of kinds that the mesh does not read
/// (Deployment, ConfigMap, ...) yield nothing. `path` is only quoted in problems, except that `.json` allows what YAML does not.
pub fn parse_documents(path: &str, text: &str) -> Vec<Document> {
    if text.len() > MAX_TEXT {
        let reason = format!(
            "the file has {} bytes, at most {MAX_TEXT} are read",
            text.len()
        );
        return vec![Document::unreadable(path, 0, reason, "split it")];
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    with_stack(|| nodes(path, text))
        .unwrap_or_else(|error| vec![Err(error)])
        .into_iter()
        .flat_map(|node| match node {
            Ok(node) => objects(path, &node),
            Err(SyntaxError { line, message }) => {
                vec![Document::unreadable(path, line, message, "")]
            }
        })
        .collect()
}

/// Reads one object (or a List) as the Kubernetes API gives it.
pub fn parse_json(value: &serde_json::Value) -> Vec<Document> {
    objects("", &Node::from(value))
}

fn nodes(path: &str, text: &str) -> Vec<Result<Node, SyntaxError>> {
    if path.ends_with(".json") && !text.trim().is_empty() {
        // Nearly all JSON is YAML, and YAML's parser remembers lines; tabs and several values in a row are JSON only.
        return match parse_yaml(text, 1) {
            Ok(node) => vec![Ok(node)],
            Err(_) => parse_json_stream(text),
        };
    }
    split_documents(text)
        .into_iter()
        .map(|(line, document)| parse_yaml(document, line))
        .collect()
}

/// A document's objects: one, or those of a `List`.
fn objects(path: &str, node: &Node) -> Vec<Document> {
    let is_list = node
        .get("kind")
        .and_then(Node::as_str)
        .is_some_and(|kind| kind.ends_with("List"));
    match node.get("items").map(|items| &items.tree) {
        Some(Tree::List(items)) if is_list => {
            items.iter().filter_map(|item| object(path, item)).collect()
        }
        _ => object(path, node).into_iter().collect(),
    }
}

/// One object, or nothing when it is empty or not for the mesh.
fn object(path: &str, node: &Node) -> Option<Document> {
    match &node.tree {
        Tree::Null => return None,
        Tree::Map(_) => {}
        other => {
            let reason = format!("the document is {}, not an object", other.kind());
            return Some(Document::unreadable(
                path,
                node.line,
                reason,
                "begin with apiVersion and kind",
            ));
        }
    }
    let text = |name: &str| {
        node.get(name)
            .and_then(Node::as_str)
            .filter(|text| !text.is_empty())
    };
    let (Some(api_version), Some(kind)) = (text("apiVersion"), text("kind")) else {
        let missing = if text("apiVersion").is_none() {
            "apiVersion"
        } else {
            "kind"
        };
        let mut document = Document::unreadable(
            path,
            node.line,
            "is missing".to_owned(),
            "begin with apiVersion and kind",
        );
        document.problems[0].field = missing.to_owned();
        return Some(document);
    };
    match reading(api_version, kind) {
        Reading::Read(known) => Some(read(path, node, known)),
        Reading::Skip => None,
        Reading::NotHonoured => Some(refused(path, node, kind, "kind", NOT_HONOURED, "")),
        Reading::UnknownKind => {
            let reason = "no such kind in this API group";
            // A slip in the kind: whatever it was before is kept.
            let unreadable = true;
            Some(Document {
                unreadable,
                ..refused(path, node, kind, "kind", reason, "")
            })
        }
        Reading::UnknownVersion(known, versions) => {
            let reason = format!("no version {api_version:?} of this kind");
            // A slip in the version: it is known whose earlier version is kept.
            let identity = identity(path, node, known).ok();
            Some(Document {
                unreadable: identity.is_none(),
                stand_in: identity.as_ref().and_then(|key| stand_in(node, key)),
                identity,
                ..refused(path, node, kind, "apiVersion", &reason, versions)
            })
        }
    }
}

/// A document of a kind that has no reader, reported and left.
fn refused(
    path: &str,
    node: &Node,
    kind: &str,
    field: &str,
    reason: &str,
    versions: &str,
) -> Document {
    let meta = |name: &str| {
        node.get("metadata")
            .and_then(|m| m.get(name))
            .and_then(Node::as_str)
    };
    let mut problem = Problem::error(path, field, reason);
    problem.line = node.get(field).map(|n| n.line).filter(|line| *line > 0);
    let namespace = meta("namespace").unwrap_or(DEFAULT_NAMESPACE);
    problem.object = Some(format!(
        "{kind} {namespace}/{}",
        meta("name").unwrap_or("?")
    ));
    if !versions.is_empty() {
        problem.expected = format!("write {versions}");
    }
    Document {
        line: node.line,
        identity: None,
        unreadable: false,
        object: None,
        stand_in: None,
        problems: vec![problem],
    }
}

fn read(path: &str, node: &Node, kind: Kind) -> Document {
    let key = match identity(path, node, kind) {
        Ok(key) => key,
        Err(problem) => {
            return Document {
                line: node.line,
                identity: None,
                unreadable: true,
                object: None,
                stand_in: None,
                problems: vec![*problem],
            };
        }
    };
    let report = Report::new(path, Some(key.to_string()), key.namespace.clone());
    let root = Value {
        report: &report,
        node,
        path: String::new(),
    };
    let object = root.fields().and_then(|root| {
        let meta = metadata(
            &root,
            NamespacedName::new(key.namespace.clone(), key.name.clone()),
        );
        read_kind(kind, root, meta)
    });
    if object.is_none() && !report.failed() {
        // A reader that gives up has said why; this keeps the promise even if one forgets.
        report.add(
            Severity::Error,
            node.line,
            "",
            "could not be read".to_owned(),
            String::new(),
        );
    }
    let object = object.filter(|_| !report.failed());
    let stand_in = match object {
        Some(_) => None,
        None => stand_in(node, &key),
    };
    Document {
        line: node.line,
        identity: Some(key),
        unreadable: false,
        object,
        stand_in,
        problems: report.into_problems(),
    }
}

/// For a document with errors, which have been reported.
fn stand_in(node: &Node, key: &ObjectKey) -> Option<Object> {
    if key.kind != Kind::AuthorizationPolicy {
        return None;
    }
    let scratch = Report::new("", None, key.namespace.clone());
    let root = Value {
        report: &scratch,
        node,
        path: String::new(),
    };
    let root = root.fields()?;
    let name = NamespacedName::new(key.namespace.clone(), key.name.clone());
    let meta = metadata(&root, name);
    crate::authorization_policy::closed(root.get("spec"), meta, &scratch)
        .map(Object::AuthorizationPolicy)
}

/// Name and namespace, checked as Kubernetes would.
fn identity(path: &str, node: &Node, kind: Kind) -> Result<ObjectKey, Box<Problem>> {
    let name = metadata_text(path, node, kind, "name")?.unwrap_or_default();
    let fail =
        |field, reason: String, expected| Err(misnamed(path, node, kind, field, reason, expected));
    if name.is_empty() {
        return fail("name", "is missing".to_owned(), "every object needs a name");
    }
    if !is_dns_subdomain(name) {
        let reason = format!("{name:?} is not a name");
        return fail(
            "name",
            reason,
            "write lower-case letters, digits, dashes and dots",
        );
    }
    let namespace = match (kind, metadata_text(path, node, kind, "namespace")?) {
        (Kind::Namespace, _) => "",
        (_, None | Some("")) => DEFAULT_NAMESPACE,
        (_, Some(namespace)) => namespace,
    };
    if !namespace.is_empty() && !is_dns_label(namespace) {
        let reason = format!("{namespace:?} is not a namespace");
        return fail(
            "namespace",
            reason,
            "write lower-case letters, digits and dashes",
        );
    }
    Ok(ObjectKey {
        kind,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    })
}

/// A string of `metadata`, or the problem that it is none (`name: on` is a boolean).
fn metadata_text<'a>(
    path: &str,
    node: &'a Node,
    kind: Kind,
    field: &str,
) -> Result<Option<&'a str>, Box<Problem>> {
    match node
        .get("metadata")
        .and_then(|m| m.get(field))
        .map(|n| &n.tree)
    {
        None | Some(Tree::Null) => Ok(None),
        Some(Tree::String(text)) => Ok(Some(text)),
        Some(other) => {
            let reason = format!("a string is wanted, this is {}", other.kind());
            Err(misnamed(
                path,
                node,
                kind,
                field,
                reason,
                "put it in quotes",
            ))
        }
    }
}

/// A problem of an object's name or namespace.
fn misnamed(
    path: &str,
    node: &Node,
    kind: Kind,
    field: &str,
    reason: String,
    expected: &str,
) -> Box<Problem> {
    let meta = node.get("metadata");
    let mut problem = Problem::error(path, format!("metadata.{field}"), reason);
    let line = meta
        .and_then(|m| m.get(field))
        .or(meta)
        .unwrap_or(node)
        .line;
    problem.line = (line > 0).then_some(line);
    let name = meta.and_then(|m| m.get("name")).and_then(Node::as_str);
    problem.object = Some(format!("{kind} {}", name.unwrap_or("?")));
    problem.expected = expected.to_owned();
    Box::new(problem)
}

fn read_kind(kind: Kind, root: Fields<'_>, meta: Metadata) -> Option<Object> {
    use crate::core::{endpoint_slice, namespace, pod, service};
    match kind {
        Kind::Service => service::read(&root, meta).map(Object::Service),
        Kind::Pod => pod::read(&root, meta).map(Object::Pod),
        Kind::EndpointSlice => endpoint_slice::read(&root, meta).map(Object::EndpointSlice),
        Kind::Namespace => Some(Object::Namespace(namespace::read(&root, meta))),
        Kind::VirtualService => {
            mesh(root, meta, crate::virtual_service::read).map(Object::VirtualService)
        }
        Kind::DestinationRule => {
            mesh(root, meta, crate::destination_rule::read).map(Object::DestinationRule)
        }
        Kind::AuthorizationPolicy => {
            crate::authorization_policy::refuse_dry_run(&root, &meta);
            mesh(root, meta, crate::authorization_policy::read).map(Object::AuthorizationPolicy)
        }
        Kind::PeerAuthentication => {
            mesh(root, meta, crate::peer_authentication::read).map(Object::PeerAuthentication)
        }
        Kind::ServiceEntry => {
            mesh(root, meta, crate::service_entry::read).map(Object::ServiceEntry)
        }
        Kind::Gateway => mesh(root, meta, crate::gateway::read).map(Object::Gateway),
        Kind::MeshSettings => {
            crate::mesh_settings::warn_of_name(&root, &meta);
            mesh(root, meta, crate::mesh_settings::read).map(Object::MeshSettings)
        }
    }
}

/// Reads a mesh kind's `spec`, and refuses what stands beside it. `None` is a spec that is absent.
fn mesh<T>(
    root: Fields<'_>,
    meta: Metadata,
    read: fn(Option<Fields<'_>>, Metadata) -> Option<T>,
) -> Option<T> {
    root.get("apiVersion");
    root.get("kind");
    // Written by controllers, never by users.
    root.get("status");
    let object = match root.get("spec") {
        None => read(None, meta),
        Some(spec) => read(Some(spec.fields()?), meta),
    };
    if object.is_none() && !root.has("spec") {
        root.error_at("spec", "is missing", "");
    }
    root.finish();
    object
}
