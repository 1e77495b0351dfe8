//! The demo as a person runs it: what Ctrl-C leaves behind.

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tasuki_testkit::binaries;
use tasuki_testkit::require::{Need, have};
use tasuki_testkit::wait;

/// The demo; ended as Ctrl-C would if the test fails before that.
struct Demo(Child);

impl Demo {
    fn interrupt(&self) {
        let _ = kill(Pid::from_raw(self.0.id() as i32), Signal::SIGINT);
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        self.interrupt();
        let ended = wait::until("the demo ends", Duration::from_secs(30), || {
            anyhow::ensure!(self.0.try_wait()?.is_some(), "it runs");
            Ok(())
        });
        if ended.is_err() {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

/// Network namespaces that carry the process id.
fn namespaces(pid: u32) -> Vec<String> {
    let prefix = format!("tasuki-{pid}-");
    let names = std::fs::read_dir("/run/netns").unwrap();
    names
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with(&prefix))
        .collect()
}

/// Processes inside a namespace.
fn inside(namespace: &str) -> Vec<u32> {
    let output = Command::new("ip")
        .args(["netns", "pids", namespace])
        .output()
        .unwrap();
    let pids = String::from_utf8(output.stdout).unwrap();
    pids.split_whitespace()
        .map(|pid| pid.parse().unwrap())
        .collect()
}

/// The program that a process runs, if there is such a process.
fn program(pid: u32) -> Option<String> {
    let path = std::fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    Some(path.display().to_string())
}

fn entries(folder: &Path) -> Vec<String> {
    std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect()
}

#[test]
fn ctrl_c_leaves_nothing_behind() {
    if !have("demo: Ctrl-C", &[Need::Namespaces]) {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    // Whatever it writes lands here. Its proxies run as another user.
    let folder = home.path().join("tmp");
    std::fs::create_dir(&folder).unwrap();
    for path in [home.path(), &folder] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let output = home.path().join("output");
    let file = File::create(&output).unwrap();
    let said = || std::fs::read_to_string(&output).unwrap();
    let mut command = Command::new(binaries::find("tasuki").unwrap());
    command
        .args(["demo", "--seconds", "300"])
        // Run by cargo, it would build the planes first.
        .env_remove("CARGO")
        .env("TMPDIR", &folder)
        .stdin(Stdio::null())
        .stdout(file.try_clone().unwrap())
        .stderr(file)
        .process_group(0);
    let mut demo = Demo(command.spawn().unwrap());
    let pid = demo.0.id();

    wait::until("the shop is served", Duration::from_secs(120), || {
        let ended = demo.0.try_wait()?;
        assert!(ended.is_none(), "it ended: {ended:?}: {}", said());
        anyhow::ensure!(said().contains("answered by"), "{}", said());
        Ok(())
    })
    .unwrap();
    let worlds = namespaces(pid);
    assert!(worlds.len() > 5, "{worlds:?}: {}", said());
    let running: Vec<_> = worlds.iter().flat_map(|name| inside(name)).collect();
    let planes: Vec<_> = running
        .iter()
        .filter(|process| **process != pid)
        .filter_map(|process| Some((*process, program(*process)?)))
        .collect();
    assert!(
        ["tasuki-control", "tasuki-proxy"]
            .iter()
            .all(|name| planes.iter().any(|(_, program)| program.contains(name))),
        "{planes:?}"
    );
    assert!(!entries(&folder).is_empty(), "it wrote elsewhere");

    demo.interrupt();
    let status = wait::until("it ends", Duration::from_secs(60), || {
        demo.0
            .try_wait()?
            .ok_or_else(|| anyhow::anyhow!("{}", said()))
    })
    .unwrap();
    assert!(status.success(), "{status}: {}", said());
    assert!(said().contains("nothing is left behind"), "{}", said());
    assert_eq!(namespaces(pid), Vec::<String>::new(), "namespaces are left");
    assert_eq!(entries(&folder), Vec::<String>::new(), "folders are left");
    for (process, name) in planes {
        assert_ne!(program(process), Some(name), "process {process} is left");
    }
}
