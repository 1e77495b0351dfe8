//! Where the built programs are, and a copy of them that any user may execute.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

/// The target folder of the running test or program.
pub fn target_dir() -> Option<PathBuf> {
    if let Some(dir) = std::env::var_os("TASUKI_TARGET_DIR") {
        return Some(dir.into());
    }
    let exe = std::env::current_exe().ok()?;
    let profile = exe
        .ancestors()
        .find(|dir| dir.ends_with("release") || dir.ends_with("debug"))?;
    profile.parent().map(Path::to_owned)
}

/// The built program `name`: from `TASUKI_BIN_DIR`, else the release folder, else the debug folder of the target in use.
pub fn find(name: &str) -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("TASUKI_BIN_DIR") {
        return Ok(PathBuf::from(dir).join(name));
    }
    let target = target_dir().context("cannot tell the target folder; set TASUKI_BIN_DIR")?;
    for profile in ["release", "debug"] {
        let path = target.join(profile).join(name);
        if path.exists() {
            return Ok(path);
        }
    }
    bail!("{name} is not built: run `cargo build --release --workspace` first")
}

/// A program in a folder that every user may read; the folder goes with the last one in it.
#[derive(Clone, Debug)]
pub struct Shared {
    path: PathBuf,
    _folder: Arc<TempDir>,
}

impl std::ops::Deref for Shared {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.path
    }
}

/// Like [`find`], where user 1337 may execute it: proxies run as that user, who may not enter the folder of the checkout.
pub fn shared(name: &str) -> Result<Shared> {
    static FOLDER: Mutex<Weak<TempDir>> = Mutex::new(Weak::new());
    let source = find(name)?;
    let mut known = FOLDER.lock().unwrap_or_else(|e| e.into_inner());
    let folder = match known.upgrade() {
        Some(folder) => folder,
        None => {
            let prefix = format!("{PREFIX}{}-", std::process::id());
            let folder = Arc::new(tempfile::Builder::new().prefix(&prefix).tempdir()?);
            std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))?;
            *known = Arc::downgrade(&folder);
            folder
        }
    };
    let path = folder.path().join(name);
    if !path.exists() {
        std::fs::copy(&source, &path).with_context(|| format!("copying {}", source.display()))?;
    }
    Ok(Shared {
        path,
        _folder: folder,
    })
}

/// Start of the name of a folder of shared programs; the process id follows.
const PREFIX: &str = "tasuki-bin-";

/// Removes what killed runs left.
pub(crate) fn sweep() {
    let Ok(entries) = std::fs::read_dir(std::env::temp_dir()) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').next())
            .and_then(|pid| pid.parse::<u32>().ok());
        if owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            // Another sweeper may be at it, too.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}
