//! Where the built programs are, and a copy of them that any user may execute.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};

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

/// Like [`find`], in a folder that every user may read: proxies run as user 1337, who may not enter the folder of the checkout.
pub fn shared(name: &str) -> Result<PathBuf> {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let source = find(name)?;
    if FOLDER.get().is_none() {
        let dir = tempfile::Builder::new().prefix("tasuki-bin-").tempdir()?;
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755))?;
        // Another thread may have been first; its folder wins and ours goes.
        let _ = FOLDER.set(dir);
    }
    let folder = FOLDER.get().context("folder of shared programs")?.path();
    let shared = folder.join(name);
    if !shared.exists() {
        let partial = folder.join(format!("{name}.{:?}", std::thread::current().id()));
        std::fs::copy(&source, &partial)
            .with_context(|| format!("copying {}", source.display()))?;
        std::fs::rename(&partial, &shared)?;
    }
    Ok(shared)
}
