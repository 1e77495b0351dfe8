//! The watched folder, on a real file system.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::symlink;

use super::*;

fn service(name: &str, port: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{clusterIP: 10.0.0.1, ports: [{{port: {port}}}]}}\n"
    )
}

fn names(objects: &Objects) -> Vec<String> {
    objects
        .objects
        .iter()
        .map(|sourced| sourced.object.meta().name.name.clone())
        .collect()
}

#[test]
fn writes_renames_and_deletions_are_seen() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("a.yaml"), service("one", 1)).unwrap();
    fs::write(path("b.txt"), service("no", 1)).unwrap();
    fs::write(path(".hidden.yaml"), service("no", 1)).unwrap();
    let mut files = Files::open(folder.path()).unwrap();
    assert_eq!(names(&files.objects()), ["one"]);
    assert!(!files.look().unwrap());
    // The same length within one tick of the file system's clock.
    fs::write(path("a.yaml"), service("two", 1)).unwrap();
    assert!(files.look().unwrap());
    assert_eq!(names(&files.objects()), ["two"]);
    fs::write(path(".swap"), service("three", 1)).unwrap();
    fs::rename(path(".swap"), path("a.yaml")).unwrap();
    assert!(files.look().unwrap());
    assert_eq!(names(&files.objects()), ["three"]);
    fs::create_dir(path("sub")).unwrap();
    fs::write(
        path("sub/c.json"),
        r#"{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}}"#,
    )
    .unwrap();
    assert!(files.look().unwrap());
    assert_eq!(names(&files.objects()), ["three", "n"]);
    fs::remove_file(path("a.yaml")).unwrap();
    fs::remove_dir_all(path("sub")).unwrap();
    assert!(files.look().unwrap());
    assert!(names(&files.objects()).is_empty());
}

#[test]
fn a_file_that_is_being_written_stays_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.yaml");
    fs::write(&path, service("one", 1)).unwrap();
    let mut files = Files::open(folder.path()).unwrap();
    fs::write(&path, service("two", 1)).unwrap();
    let hour = Duration::from_secs(3600);
    let look = files.look_at_the_quiet(hour).unwrap();
    assert!(look.again && !look.different);
    assert_eq!(names(&files.objects()), ["one"]);
    // Written long enough ago.
    let file = fs::File::options().append(true).open(&path).unwrap();
    file.set_modified(std::time::SystemTime::now() - 2 * hour)
        .unwrap();
    let look = files.look_at_the_quiet(hour).unwrap();
    assert!(look.different && !look.again);
    assert_eq!(names(&files.objects()), ["two"]);
}

#[test]
fn a_config_map_swaps_by_symlink() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for (version, name) in [("..1", "one"), ("..2", "two")] {
        fs::create_dir(path(version)).unwrap();
        fs::write(path(version).join("mesh.yaml"), service(name, 1)).unwrap();
    }
    symlink("..1", path("..data")).unwrap();
    symlink("..data/mesh.yaml", path("mesh.yaml")).unwrap();
    let mut files = Files::open(folder.path()).unwrap();
    assert_eq!(
        names(&files.objects()),
        ["one"],
        "once, not also by its target's path"
    );
    symlink("..2", path("..data_tmp")).unwrap();
    fs::rename(path("..data_tmp"), path("..data")).unwrap();
    assert!(files.look().unwrap());
    assert_eq!(names(&files.objects()), ["two"]);
}

#[test]
fn a_folder_that_vanishes_takes_nothing_with_it() {
    let outer = tempfile::tempdir().unwrap();
    let folder = outer.path().join("config");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("a.yaml"), service("one", 1)).unwrap();
    let mut files = Files::open(&folder).unwrap();
    fs::rename(&folder, outer.path().join("away")).unwrap();
    assert!(files.look().is_err());
    assert_eq!(names(&files.objects()), ["one"]);
    fs::rename(outer.path().join("away"), &folder).unwrap();
    assert!(!files.look().unwrap());
}

#[test]
fn a_file_that_cannot_be_reached_for_a_while_takes_nothing_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("real"), service("one", 1)).unwrap();
    symlink("real", path("a.yaml")).unwrap();
    let mut files = Files::open(folder.path()).unwrap();
    assert_eq!(names(&files.objects()), ["one"]);
    // Links that lead in a circle cannot be followed, whoever looks.
    symlink("a.yaml", path("circle")).unwrap();
    symlink("circle", path("new")).unwrap();
    fs::rename(path("new"), path("a.yaml")).unwrap();
    assert!(files.look().unwrap());
    let objects = files.objects();
    assert_eq!(names(&objects), ["one"]);
    assert!(objects.problems.iter().any(|p| p.file == "a.yaml"));
    symlink("real", path("new")).unwrap();
    fs::rename(path("new"), path("a.yaml")).unwrap();
    assert!(files.look().unwrap());
    assert!(files.objects().problems.is_empty());
}

#[test]
fn what_is_too_large_or_not_text_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let file = fs::File::create(folder.path().join("big.yaml")).unwrap();
    file.set_len(super::super::scan::MAX_FILE_BYTES + 1)
        .unwrap();
    fs::write(folder.path().join("bytes.yaml"), [0xff, 0xfe]).unwrap();
    let report: String = Files::open(folder.path())
        .unwrap()
        .objects()
        .problems
        .iter()
        .map(|p| format!("{p}\n"))
        .collect();
    assert!(
        report.contains("big.yaml") && report.contains("bytes.yaml"),
        "{report}"
    );
}

#[tokio::test]
async fn followers_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let mut objects = Files::open(folder.path()).unwrap().follow();
    assert!(names(&objects.borrow_and_update()).is_empty());
    for name in ["one", "two"] {
        fs::write(folder.path().join("a.yaml"), service(name, 1)).unwrap();
        // A write is a truncation first: an empty file may be seen in between.
        objects
            .wait_for(|objects| names(objects) == [name])
            .await
            .unwrap();
    }
    fs::remove_file(folder.path().join("a.yaml")).unwrap();
    objects
        .wait_for(|objects| names(objects).is_empty())
        .await
        .unwrap();
}

#[test]
fn a_restart_while_a_file_is_broken_loses_nothing() {
    let (config, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path = |name: &str| config.path().join(name);
    let open = || Files::open_with(config.path(), state.path()).unwrap();
    fs::create_dir(path("sub")).unwrap();
    let both = format!("{}---\n{}", service("two", 2), service("three", 3));
    fs::write(path("a.yaml"), service("one", 1)).unwrap();
    fs::write(path("b.yaml"), &both).unwrap();
    fs::write(path("c.yaml"), service("gone", 4)).unwrap();
    fs::write(path("sub/d.yaml"), service("four", 4)).unwrap();
    let mut files = open();
    fs::write(path("a.yaml"), service("one", 5)).unwrap();
    assert!(files.look().unwrap());
    drop(files);

    fs::write(path("a.yaml"), "").unwrap();
    fs::write(path("b.yaml"), both.replace("port: 3", "port: many")).unwrap();
    fs::remove_file(path("c.yaml")).unwrap();
    fs::write(path("sub/d.yaml"), &service("four", 4)[..40]).unwrap();
    // And once more: a broken file is not what is kept.
    for _ in 0..2 {
        let objects = open().objects();
        let mut found = names(&objects);
        found.sort();
        assert_eq!(found, ["four", "one", "three", "two"]);
        let broken: HashSet<&str> = objects.problems.iter().map(|p| p.file.as_str()).collect();
        assert_eq!(broken.len(), 3, "{:?}", objects.problems);
    }
    // The last good form, not the first.
    let kept = state.path().join(".last-good/a.yaml");
    assert_eq!(fs::read_to_string(kept).unwrap(), service("one", 5));
    fs::write(path("a.yaml"), service("five", 5)).unwrap();
    assert!(names(&open().objects()).contains(&"five".to_owned()));
    fs::remove_file(path("a.yaml")).unwrap();
    assert!(!names(&open().objects()).contains(&"five".to_owned()));
}

#[test]
fn copies_that_cannot_be_written_stop_nothing() {
    let (config, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(state.path().join(".last-good"), "in the way").unwrap();
    fs::write(config.path().join("a.yaml"), service("one", 1)).unwrap();
    let mut files = Files::open_with(config.path(), state.path()).unwrap();
    assert_eq!(names(&files.objects()), ["one"]);
    fs::write(config.path().join("a.yaml"), service("two", 1)).unwrap();
    assert!(files.look().unwrap());
    assert_eq!(names(&files.objects()), ["two"]);
}

#[test]
fn a_state_dir_within_the_folder_declares_nothing() {
    let config = tempfile::tempdir().unwrap();
    fs::write(config.path().join("a.yaml"), service("one", 1)).unwrap();
    let state = config.path().join("state");
    for _ in 0..2 {
        let objects = Files::open_with(config.path(), &state).unwrap().objects();
        assert_eq!(names(&objects), ["one"]);
        assert!(objects.problems.is_empty(), "{:?}", objects.problems);
    }
}

#[test]
fn a_folder_that_is_not_filled_yet_takes_nothing_away() {
    let (config, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path = |name: &str| config.path().join(name);
    let open = || Files::open_with(config.path(), state.path()).unwrap();
    fs::write(path("a.yaml"), service("one", 1)).unwrap();
    fs::write(path("b.yaml"), service("two", 2)).unwrap();
    drop(open());
    fs::remove_file(path("a.yaml")).unwrap();
    fs::remove_file(path("b.yaml")).unwrap();
    let mut files = open();
    assert_eq!(names(&files.objects()), ["one", "two"]);
    assert!(!files.look().unwrap());
    fs::write(path("a.yaml"), service("three", 3)).unwrap();
    assert!(files.look().unwrap());
    assert_eq!(names(&files.objects()), ["three"]);
    // From then on an empty folder is what somebody wants.
    fs::remove_file(path("a.yaml")).unwrap();
    assert!(files.look().unwrap());
    assert!(names(&files.objects()).is_empty());
}
