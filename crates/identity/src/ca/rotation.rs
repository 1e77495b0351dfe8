//! The two files through which `tasuki ca rotate` and the control plane talk: a request and its progress.
//!
//! A request stays until the rotation is done, so a control plane that is restarted in between goes on with it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::directory;
use crate::error::Error;
use crate::files;
use crate::peer::hex;

/// `ca/rotation-request.json`: somebody wants the root replaced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    pub id: String,
}

impl Request {
    /// One that nobody has made before.
    #[allow(clippy::new_without_default, reason = "no two are equal")]
    pub fn new() -> Self {
        Self {
            id: hex(&rand::random::<[u8; 8]>()),
        }
    }
}

/// `ca/rotation.json`: how far the control plane is with a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// [`Request::id`].
    pub request: String,
    pub done: bool,
    /// One sentence for a person.
    pub detail: String,
}

/// Asks for a rotation; if one has been asked for already, that one is returned.
pub fn request(state_dir: &Path) -> Result<Request, Error> {
    let new = Request::new();
    files::create_new(&request_path(state_dir), &json(&new), files::SECRET)?;
    match requested(state_dir)? {
        Some(request) => Ok(request),
        // Done between the two lines: then by this very request or the one that was there.
        None => Ok(new),
    }
}

/// The request that waits or is under way.
pub fn requested(state_dir: &Path) -> Result<Option<Request>, Error> {
    parse(request_path(state_dir))
}

pub fn progress(state_dir: &Path) -> Result<Option<Progress>, Error> {
    parse(progress_path(state_dir))
}

/// Control plane only. Reporting completion takes the request away, after the report is on disk.
pub fn report(state_dir: &Path, progress: &Progress) -> Result<(), Error> {
    files::replace(&progress_path(state_dir), &json(progress), files::PUBLIC)?;
    if progress.done {
        files::remove(&request_path(state_dir))
    } else {
        Ok(())
    }
}

fn request_path(state_dir: &Path) -> PathBuf {
    directory(state_dir).join("rotation-request.json")
}

fn progress_path(state_dir: &Path) -> PathBuf {
    directory(state_dir).join("rotation.json")
}

fn json<T: Serialize>(value: &T) -> String {
    // Two flat structs of strings and a bool: there is nothing that could fail.
    serde_json::to_string(value).unwrap_or_default()
}

fn parse<T: for<'de> Deserialize<'de>>(path: PathBuf) -> Result<Option<T>, Error> {
    let Some(text) = files::read(&path)? else {
        return Ok(None);
    };
    let parsed = serde_json::from_str(&text);
    parsed.map(Some).map_err(|e| Error::State {
        path,
        reason: e.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_made_once_and_ends_with_its_completion() {
        let dir = tempfile::TempDir::new().unwrap();
        std::fs::create_dir(directory(dir.path())).unwrap();
        assert_eq!(requested(dir.path()).unwrap(), None);
        let first = request(dir.path()).unwrap();
        assert_eq!(request(dir.path()).unwrap(), first);
        let mut now = Progress {
            request: first.id.clone(),
            done: false,
            detail: "waiting".to_owned(),
        };
        report(dir.path(), &now).unwrap();
        assert_eq!(requested(dir.path()).unwrap(), Some(first));
        now.done = true;
        report(dir.path(), &now).unwrap();
        assert_eq!(progress(dir.path()).unwrap(), Some(now));
        assert_eq!(requested(dir.path()).unwrap(), None);
    }
}
