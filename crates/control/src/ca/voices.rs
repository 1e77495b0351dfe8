//! Who, beside the clients, must have taken over the trusted roots before a new one is used: whoever writes them where xDS does
//! not reach, such as a webhook's `caBundle`.
//!
//! A voice that is dropped is not asked any more.

use std::sync::{Arc, Mutex, Weak};

use tasuki_xds::model::TrustBundle;

use super::lock;

/// See the module; from `Authority::voice`.
#[derive(Debug)]
pub struct Voice {
    name: String,
    said: Mutex<Said>,
}

#[derive(Debug, Default)]
enum Said {
    #[default]
    Nothing,
    Confirmed(TrustBundle),
    /// Who exactly is waited for.
    Lacking(Vec<String>),
}

impl Voice {
    /// These roots are where they must be.
    pub fn confirm(&self, bundle: &TrustBundle) {
        *lock(&self.said) = Said::Confirmed(bundle.clone());
    }

    /// They are not, and this is where.
    pub fn wait_for(&self, names: Vec<String>) {
        *lock(&self.said) = Said::Lacking(names);
    }

    /// It is not known any more which are.
    pub fn withdraw(&self) {
        *lock(&self.said) = Said::Nothing;
    }
}

#[derive(Debug, Default)]
pub(super) struct Voices(Mutex<Vec<Weak<Voice>>>);

impl Voices {
    pub(super) fn add(&self, name: &str) -> Arc<Voice> {
        let voice = Arc::new(Voice {
            name: name.to_owned(),
            said: Mutex::default(),
        });
        let mut voices = lock(&self.0);
        voices.retain(|voice| voice.strong_count() > 0);
        voices.push(Arc::downgrade(&voice));
        voice
    }

    /// Those that have not confirmed exactly these.
    pub(super) fn lacking(&self, bundle: &TrustBundle) -> Vec<String> {
        let voices = lock(&self.0);
        let live = voices.iter().filter_map(Weak::upgrade);
        live.flat_map(|voice| match &*lock(&voice.said) {
            Said::Confirmed(confirmed) if confirmed == bundle => Vec::new(),
            Said::Lacking(names) => names.clone(),
            Said::Confirmed(_) | Said::Nothing => vec![voice.name.clone()],
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_confirms_for_itself_and_anew_after_a_change() {
        let bundle = |root: u8| TrustBundle {
            name: "cluster.local".to_owned(),
            roots: vec![vec![root]],
        };
        let voices = Voices::default();
        let (a, b) = (voices.add("a"), voices.add("b"));
        a.confirm(&bundle(1));
        assert_eq!(voices.lacking(&bundle(1)), ["b"]);
        b.confirm(&bundle(1));
        assert!(voices.lacking(&bundle(1)).is_empty());
        assert_eq!(voices.lacking(&bundle(2)), ["a", "b"]);
        b.withdraw();
        assert_eq!(voices.lacking(&bundle(1)), ["b"]);
        drop(b);
        assert!(voices.lacking(&bundle(1)).is_empty());
    }
}
