//! A folder of resources that a control plane watches.

use std::path::{Path, PathBuf};

use anyhow::Result;

/// The folder. Files appear whole: they are written beside it and renamed into place.
#[derive(Clone, Debug)]
pub struct ConfigFolder {
    dir: PathBuf,
    staging: PathBuf,
}

impl ConfigFolder {
    /// Makes `dir/config` and `dir/staging`.
    pub fn create(dir: &Path) -> Result<Self> {
        let folder = Self {
            dir: dir.join("config"),
            staging: dir.join("staging"),
        };
        std::fs::create_dir_all(&folder.dir)?;
        std::fs::create_dir_all(&folder.staging)?;
        Ok(folder)
    }

    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Writes `NAME.yaml` in one step.
    pub fn apply(&self, name: &str, yaml: &str) -> Result<()> {
        let staged = self.staging.join(format!("{name}.yaml"));
        std::fs::write(&staged, yaml)?;
        std::fs::rename(&staged, self.dir.join(format!("{name}.yaml")))?;
        Ok(())
    }

    /// Copies every file of an example mesh.
    pub fn copy_from(&self, example: &Path) -> Result<()> {
        for entry in std::fs::read_dir(example)? {
            let path = entry?.path();
            if let Some(stem) = path.file_stem().and_then(|stem| stem.to_str()) {
                self.apply(stem, &std::fs::read_to_string(&path)?)?;
            }
        }
        Ok(())
    }

    /// Deletes `NAME.yaml`.
    pub fn remove(&self, name: &str) -> Result<()> {
        Ok(std::fs::remove_file(self.dir.join(format!("{name}.yaml")))?)
    }
}
