//! What a test needs from the machine. A test that cannot run here says so in one line; with
//! `TASUKI_REQUIRE_ALL=1` or `CI=true` that is a failure instead.

use std::io::Write;
use std::path::Path;

/// Something a machine may lack.
#[derive(Clone, Copy, Debug)]
pub enum Need<'a> {
    /// Root, `ip` and `iptables`, and a kernel that makes network namespaces.
    Namespaces,
    /// A program at a path, or in `PATH`.
    Program(&'a str),
    /// The Python environment that `tests/run` makes.
    Python,
    /// A Kubernetes beside this process: `tests/cluster test`.
    Cluster,
}

/// True if all is there, and false without a word for what `tests/run` does later. Otherwise reports the skip (or panics where none is allowed) and returns false.
pub fn have(test: &str, needs: &[Need<'_>]) -> bool {
    let later = std::env::var_os("TASUKI_CLUSTER_LATER").is_some();
    if later && needs.iter().any(|need| matches!(need, Need::Cluster)) {
        return false;
    }
    let Some(reason) = needs.iter().find_map(|need| missing(*need)) else {
        return true;
    };
    assert!(!all_required(), "{test} cannot run here: {reason}");
    println!("SKIPPED {test}: {reason}");
    if let Some(file) = std::env::var_os("TASUKI_SKIPPED_FILE") {
        let line = format!("{test}: {reason}\n");
        let opened = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(file);
        if let Ok(mut file) = opened {
            let _ = file.write_all(line.as_bytes());
        }
    }
    false
}

fn all_required() -> bool {
    let set = |name| std::env::var(name).is_ok_and(|value| value == "1" || value == "true");
    set("TASUKI_REQUIRE_ALL") || set("CI")
}

/// Why `need` is not met, in a few words.
pub fn missing(need: Need<'_>) -> Option<String> {
    match need {
        Need::Namespaces => crate::namespace::unavailable(),
        Need::Program(name) => (!in_path(name)).then(|| format!("{name} is not installed")),
        Need::Python => python()
            .is_none()
            .then(|| "no Python environment: run tests/run".to_owned()),
        Need::Cluster => crate::cluster::Cluster::find()
            .is_none()
            .then(|| "no cluster beside it: tests/cluster test".to_owned()),
    }
}

fn in_path(name: &str) -> bool {
    if name.contains('/') {
        return Path::new(name).exists();
    }
    program(name).is_some()
}

/// Where a program is: `target/tools`, then `PATH`.
pub fn program(name: &str) -> Option<std::path::PathBuf> {
    let tools = std::env::var_os("TASUKI_TOOLS").map(std::path::PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    tools
        .into_iter()
        .chain(std::env::split_paths(&path))
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

/// The interpreter of the environment that `tests/run` makes; `TASUKI_PYTHON` names another.
pub fn python() -> Option<std::path::PathBuf> {
    let named = std::env::var_os("TASUKI_PYTHON").map(std::path::PathBuf::from);
    let made = crate::binaries::target_dir().map(|dir| dir.join("e2e-python/bin/python"));
    named.into_iter().chain(made).find(|file| file.exists())
}
