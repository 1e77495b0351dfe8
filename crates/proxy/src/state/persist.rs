//! The shelf: the last accepted form of each resource, one file each in `STATE/config`, so that a restart without a
//! control plane serves.
//!
//! A file is written beside its place and renamed into it; its content begins with its own SHA-256, so a torn or
//! tampered file is noticed and dropped rather than believed. Names that are no longer subscribed to stay on the
//! shelf until the control plane removes them or the shelf is full.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use prost::Message;
use sha2::{Digest, Sha256};
use tasuki_xds::{Any, ResourceType};

/// Files on the shelf; the oldest go first.
const MOST_FILES: usize = 16_384;

/// Largest resource that is kept. Larger ones come from the control plane only.
const LARGEST: u64 = 16 * 1024 * 1024;

const DIGEST: usize = 32;

/// One resource as it was accepted.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    pub ty: ResourceType,
    pub name: String,
    pub version: String,
    pub any: Any,
}

/// The wire form of [`Kept`].
#[derive(Clone, PartialEq, Message)]
struct File {
    #[prost(string, tag = "1")]
    ty: String,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, tag = "3")]
    version: String,
    #[prost(string, tag = "4")]
    type_url: String,
    #[prost(bytes = "vec", tag = "5")]
    value: Vec<u8>,
}

type Id = [u8; 16];

/// The files and their order of arrival.
pub struct Shelf {
    folder: PathBuf,
    files: HashMap<Id, u64>,
    next: u64,
}

impl Shelf {
    /// Opens or makes `STATE/config`. Where that cannot be, the shelf is empty: a proxy serves without it, and a later
    /// [`Shelf::put`] tries again.
    pub fn open(state_dir: &Path) -> Shelf {
        let folder = state_dir.join("config");
        let found = fs::create_dir_all(&folder)
            .and_then(|()| list(&folder))
            .unwrap_or_else(|error| {
                tracing::warn!(
                    folder = %folder.display(), %error,
                    "the state dir cannot be used; without control plane there is no configuration"
                );
                Vec::new()
            });
        let numbered = found.into_iter().enumerate();
        let files: HashMap<Id, u64> = numbered.map(|(i, id)| (id, i as u64)).collect();
        let next = files.len() as u64;
        Shelf {
            folder,
            files,
            next,
        }
    }

    /// Puts a resource on the shelf, in place of its older form.
    ///
    /// # Errors
    /// Those of the file system; the older form stays.
    pub fn put(&mut self, kept: &Kept) -> io::Result<()> {
        let payload = File {
            ty: type_name(kept.ty).to_owned(),
            name: kept.name.clone(),
            version: kept.version.clone(),
            type_url: kept.any.type_url.clone(),
            value: kept.any.value.clone(),
        }
        .encode_to_vec();
        if payload.len() as u64 > LARGEST {
            return Ok(());
        }
        let id = id(kept.ty, &kept.name);
        let mut content = Sha256::digest(&payload).to_vec();
        content.extend_from_slice(&payload);
        if let Err(error) = self.write(&id, &content) {
            // What a full disk took of it only makes the disk fuller.
            let _ = fs::remove_file(self.path(&id).with_extension("new"));
            return Err(error);
        }
        self.files.insert(id, self.next);
        self.next += 1;
        if self.files.len() > MOST_FILES {
            self.drop_oldest();
        }
        Ok(())
    }

    fn write(&self, id: &Id, content: &[u8]) -> io::Result<()> {
        let place = self.path(id);
        let beside = place.with_extension("new");
        // No fsync: after a power cut the digest tells, and the control plane has it all.
        match fs::write(&beside, content) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(&self.folder)?;
                fs::write(&beside, content)?;
            }
            written => written?,
        }
        fs::rename(&beside, &place)
    }

    /// Takes a resource off the shelf.
    ///
    /// # Errors
    /// Those of the file system; it would be back after a restart.
    pub fn remove(&mut self, ty: ResourceType, name: &str) -> io::Result<()> {
        let id = id(ty, name);
        if !self.files.contains_key(&id) {
            return Ok(());
        }
        match fs::remove_file(self.path(&id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => {
                self.files.remove(&id);
                Ok(())
            }
        }
    }

    /// Whether there is a kept form, intact or not.
    pub fn holds(&self, ty: ResourceType, name: &str) -> bool {
        self.files.contains_key(&id(ty, name))
    }

    /// The kept form, if there is an intact one.
    pub fn get(&mut self, ty: ResourceType, name: &str) -> Option<Kept> {
        let id = id(ty, name);
        self.files.get(&id)?;
        let kept = self
            .read(&id)
            .filter(|kept| kept.ty == ty && kept.name == name);
        if kept.is_none() {
            tracing::warn!(
                name,
                kind = type_name(ty),
                "kept resource is damaged and was dropped"
            );
            self.files.remove(&id);
            let _ = fs::remove_file(self.path(&id));
        }
        kept
    }

    /// All intact resources of a type.
    pub fn all(&self, ty: ResourceType) -> Vec<Kept> {
        let mut all: Vec<Kept> = self
            .files
            .keys()
            .filter_map(|id| self.read(id))
            .filter(|kept| kept.ty == ty)
            .collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    pub fn len(&self) -> usize {
        self.files.len()
    }

    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    fn read(&self, id: &Id) -> Option<Kept> {
        let path = self.path(id);
        if fs::metadata(&path).ok()?.len() > LARGEST + DIGEST as u64 {
            return None;
        }
        let content = fs::read(path).ok()?;
        let (digest, payload) = content.split_at_checked(DIGEST)?;
        if Sha256::digest(payload)[..] != *digest {
            return None;
        }
        let file = File::decode(payload).ok()?;
        Some(Kept {
            ty: parse_type(&file.ty)?,
            name: file.name,
            version: file.version,
            any: Any {
                type_url: file.type_url,
                value: file.value,
            },
        })
    }

    fn path(&self, id: &Id) -> PathBuf {
        self.folder.join(hex(id))
    }

    fn drop_oldest(&mut self) {
        if let Some(oldest) = self
            .files
            .iter()
            .min_by_key(|(_, at)| **at)
            .map(|(id, _)| *id)
        {
            self.files.remove(&oldest);
            let _ = fs::remove_file(self.path(&oldest));
        }
    }
}

/// The files in the folder, oldest first. What a single entry has wrong with it does not spoil the others.
fn list(folder: &Path) -> io::Result<Vec<Id>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)?.flatten() {
        let metadata = entry.metadata().ok().filter(fs::Metadata::is_file);
        let id = entry.file_name().to_str().and_then(parse_id);
        match (id, metadata) {
            (Some(id), Some(metadata)) => {
                found.push((metadata.modified().unwrap_or(UNIX_EPOCH), id));
            }
            // Left by a write that did not finish.
            (None, Some(_)) => drop(fs::remove_file(entry.path())),
            (_, None) => {
                tracing::warn!(path = %entry.path().display(), "is no file of this folder")
            }
        }
    }
    found.sort_unstable();
    Ok(found.into_iter().map(|(_, id)| id).collect())
}

/// How a type is called in files, logs and metrics.
pub fn type_name(ty: ResourceType) -> &'static str {
    match ty {
        ResourceType::TrustBundle => "trust",
        ResourceType::ProxySettings => "settings",
        ResourceType::Secret => "secret",
        ResourceType::Cluster => "cluster",
        ResourceType::Endpoint => "endpoints",
        ResourceType::Listener => "listener",
        ResourceType::Route => "route",
        ResourceType::Departure => "departure",
    }
}

fn parse_type(name: &str) -> Option<ResourceType> {
    ResourceType::ALL
        .into_iter()
        .find(|ty| type_name(*ty) == name)
}

/// Names can be longer than file names may be.
fn id(ty: ResourceType, name: &str) -> Id {
    let digest = Sha256::new()
        .chain_update(type_name(ty))
        .chain_update([0])
        .chain_update(name)
        .finalize();
    let mut id = Id::default();
    id.copy_from_slice(&digest[..16]);
    id
}

fn hex(id: &Id) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn parse_id(name: &str) -> Option<Id> {
    if name.len() != 32 || !name.is_ascii() {
        return None;
    }
    let mut id = Id::default();
    for (i, byte) in id.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&name[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(id)
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    fn kept(name: &str) -> Kept {
        Kept {
            ty: ResourceType::Cluster,
            name: name.into(),
            version: "v1".into(),
            any: Any {
                type_url: "t".into(),
                value: vec![1, 2, 3],
            },
        }
    }

    #[test]
    fn what_was_put_is_there_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let mut shelf = Shelf::open(folder.path());
        shelf.put(&kept("a")).unwrap();
        shelf.put(&kept("b")).unwrap();
        let mut again = Shelf::open(folder.path());
        assert_eq!(again.get(ResourceType::Cluster, "a"), Some(kept("a")));
        assert_eq!(again.get(ResourceType::Listener, "a"), None);
        assert_eq!(again.all(ResourceType::Cluster).len(), 2);
        again.remove(ResourceType::Cluster, "a").unwrap();
        assert_eq!(
            Shelf::open(folder.path()).get(ResourceType::Cluster, "a"),
            None
        );
    }

    #[test]
    fn damage_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let mut shelf = Shelf::open(folder.path());
        for (i, name) in ["cut", "flipped", "empty"].into_iter().enumerate() {
            shelf.put(&kept(name)).unwrap();
            let path = shelf.path(&id(ResourceType::Cluster, name));
            let mut content = fs::read(&path).unwrap();
            match i {
                0 => content.truncate(content.len() - 1),
                1 => *content.last_mut().unwrap() ^= 1,
                _ => content.clear(),
            }
            fs::write(&path, content).unwrap();
            assert_eq!(shelf.get(ResourceType::Cluster, name), None, "{name}");
            assert!(!path.exists());
        }
        fs::write(folder.path().join("config/unfinished.new"), b"x").unwrap();
        assert!(Shelf::open(folder.path()).is_empty());
        assert!(!folder.path().join("config/unfinished.new").exists());
    }

    #[test]
    fn a_folder_that_cannot_be_used_is_used_when_it_can() {
        let state = tempfile::tempdir().unwrap();
        let folder = state.path().join("config");
        fs::write(&folder, "a file where a folder belongs").unwrap();
        let mut shelf = Shelf::open(state.path());
        assert!(shelf.is_empty());
        assert!(shelf.put(&kept("a")).is_err());
        assert_eq!(shelf.get(ResourceType::Cluster, "a"), None);
        fs::remove_file(&folder).unwrap();
        shelf.put(&kept("a")).unwrap();
        assert_eq!(shelf.get(ResourceType::Cluster, "a"), Some(kept("a")));
    }

    #[test]
    fn strange_entries_spoil_nothing() {
        let state = tempfile::tempdir().unwrap();
        let mut shelf = Shelf::open(state.path());
        shelf.put(&kept("a")).unwrap();
        // A folder where a resource's file belongs, a link to nowhere, a name that is not text.
        let taken = shelf.path(&id(ResourceType::Cluster, "b"));
        fs::create_dir(&taken).unwrap();
        std::os::unix::fs::symlink("nowhere", state.path().join("config").join("link")).unwrap();
        let odd = std::ffi::OsStr::from_bytes(&[0xff, 0xfe]);
        fs::write(state.path().join("config").join(odd), "x").unwrap();
        let mut again = Shelf::open(state.path());
        assert_eq!(again.get(ResourceType::Cluster, "a"), Some(kept("a")));
        assert_eq!(again.get(ResourceType::Cluster, "b"), None);
        assert!(again.put(&kept("b")).is_err());
        let beside = taken.with_extension("new");
        assert!(!beside.exists(), "a failed write leaves nothing");
        assert_eq!(again.all(ResourceType::Cluster).len(), 1);
    }
}
