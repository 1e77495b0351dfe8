//! Every example mesh under `config/` is accepted, and `check` has nothing to say about it.

use std::path::{Path, PathBuf};

use tasuki_resources::check::check;
use tasuki_resources::{NamespacedName, Object, parse_documents};

fn config() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config")
}

fn meshes() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(config())
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries.filter(|path| path.is_dir()).collect()
}

#[test]
fn check_has_nothing_to_say() {
    assert!(meshes().len() >= 5);
    for mesh in meshes() {
        let problems: Vec<_> = check(std::slice::from_ref(&mesh))
            .iter()
            .map(ToString::to_string)
            .collect();
        assert!(
            problems.is_empty(),
            "{}:\n{}",
            mesh.display(),
            problems.join("\n")
        );
    }
}

/// Each mesh stands for itself: what it routes to, it declares.
#[test]
fn every_mesh_has_a_workload() {
    for mesh in meshes() {
        let files = std::fs::read_dir(&mesh)
            .unwrap()
            .map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap());
        let objects: Vec<Object> = files
            .flat_map(|text| parse_documents("", &text))
            .filter_map(|d| d.object)
            .collect();
        let live = objects
            .iter()
            .any(|object| matches!(object, Object::Pod(pod) if pod.is_live() && pod.ready));
        assert!(live, "{}", mesh.display());
        let namespaces: Vec<&NamespacedName> =
            objects.iter().map(|object| &object.meta().name).collect();
        assert!(
            namespaces.iter().all(|name| name.namespace != "default"),
            "{}",
            mesh.display()
        );
    }
}
