//! Replicas and their vault: races, and what may become of the Secret.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tasuki_identity::ca::Phase;
use tasuki_identity::{SpiffeId, key_and_csr};

use super::backup::{AGAIN, LEADERS_TURN};
use super::*;
use crate::ca::Authority;

const TTL: Duration = Duration::from_secs(3600);

/// A Secret in memory, of an API server that may be away.
#[derive(Clone, Default)]
struct Fake(Arc<Cluster>);

#[derive(Default)]
struct Cluster {
    secret: Mutex<Option<Kept>>,
    versions: Mutex<u64>,
    away: AtomicBool,
    led: AtomicBool,
}

impl Fake {
    fn reach(&self) -> Result<(), VaultError> {
        match self.0.away.load(Ordering::SeqCst) {
            true => Err(VaultError::Unknown("away".to_owned())),
            false => Ok(()),
        }
    }

    fn version(&self) -> String {
        let mut versions = lock(&self.0.versions);
        *versions += 1;
        versions.to_string()
    }

    fn seen(&self) -> Option<Kept> {
        lock(&self.0.secret).clone()
    }

    fn edit(&self, key: &str, text: &str) {
        let version = self.version();
        let mut secret = lock(&self.0.secret);
        let kept = secret.as_mut().unwrap();
        kept.files.insert(key.to_owned(), text.to_owned());
        kept.version = version;
    }

    /// As etcd is restored from a backup: the past comes back with its versions.
    fn roll_back(&self, kept: Kept) {
        *lock(&self.0.versions) = kept.version.parse().unwrap();
        *lock(&self.0.secret) = Some(kept);
    }

    async fn try_open(&self, domain: &str) -> anyhow::Result<Authority> {
        let domain = TrustDomain::new(domain).unwrap();
        Authority::open_shared(Box::new(self.clone()), Ok(None), &domain, TTL, self).await
    }

    async fn open(&self) -> Authority {
        self.try_open("cluster.local").await.unwrap()
    }
}

#[tonic::async_trait]
impl Led for Fake {
    async fn is_led(&self) -> bool {
        self.0.led.load(Ordering::SeqCst)
    }
}

#[tonic::async_trait]
impl Vault for Fake {
    fn name(&self) -> String {
        "Secret tasuki-system/tasuki-ca".to_owned()
    }

    async fn read(&self) -> Result<Option<Kept>, VaultError> {
        self.reach()?;
        let seen = self.seen();
        // Others run between a look and a change.
        tokio::task::yield_now().await;
        Ok(seen)
    }

    async fn create(&self, files: BTreeMap<String, String>) -> Result<Kept, VaultError> {
        self.reach()?;
        let kept = Kept {
            files,
            annotations: BTreeMap::new(),
            version: self.version(),
        };
        let mut secret = lock(&self.0.secret);
        match &*secret {
            Some(_) => Err(VaultError::Conflict),
            None => Ok(secret.insert(kept).clone()),
        }
    }

    async fn change(
        &self,
        files: Changes,
        annotations: Changes,
        version: Option<&str>,
    ) -> Result<Kept, VaultError> {
        self.reach()?;
        let next = self.version();
        let mut secret = lock(&self.0.secret);
        let kept = secret.as_mut().ok_or(VaultError::Gone)?;
        if version.is_some_and(|version| version != kept.version) {
            return Err(VaultError::Conflict);
        }
        apply(&mut kept.files, files);
        apply(&mut kept.annotations, annotations);
        kept.version = next;
        Ok(kept.clone())
    }
}

fn apply(map: &mut BTreeMap<String, String>, changes: Changes) {
    for (key, value) in changes {
        match value {
            Some(value) => drop(map.insert(key, value)),
            None => drop(map.remove(&key)),
        }
    }
}

fn signs(authority: &Authority) -> String {
    let id = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/cart").unwrap();
    let csr = key_and_csr(&id).unwrap().1;
    let issued = authority.sign(csr.as_str(), &id, None, None).unwrap();
    issued.root_pem
}

async fn add_root(authority: &Authority) -> anyhow::Result<()> {
    let now = SystemTime::now();
    authority.step(|keys| keys.add_root(None, now)).await
}

#[tokio::test]
async fn replicas_that_start_together_have_one_authority() {
    let cluster = Fake::default();
    let (a, b, c) = tokio::join!(cluster.open(), cluster.open(), cluster.open());
    assert_eq!(a.roots(), b.roots());
    assert_eq!(b.roots(), c.roots());
    assert_eq!(signs(&a), signs(&c));
}

#[tokio::test]
async fn one_step_wins_and_the_loser_learns_of_it() {
    let cluster = Fake::default();
    let (a, b) = (cluster.open().await, cluster.open().await);
    let (first, second) = tokio::join!(add_root(&a), add_root(&b));
    assert!(first.is_ok() != second.is_ok());
    assert_eq!(a.roots(), b.roots());
    assert!(matches!(b.phase(), Phase::Adding { .. }));
    // What is late is not believed.
    let late = cluster.seen();
    let step = |keys: &KeyRing| keys.switch_signer(TTL, SystemTime::now());
    a.step(step).await.unwrap();
    a.observe(late);
    assert!(matches!(a.phase(), Phase::Switched { .. }));
    b.observe(cluster.seen());
    assert_eq!(signs(&a), signs(&b));
}

#[tokio::test]
async fn the_longest_life_is_everybodys() {
    let cluster = Fake::default();
    let a = cluster.open().await;
    let longer = 10 * TTL;
    let domain = TrustDomain::new("cluster.local").unwrap();
    let vault = Box::new(cluster.clone());
    let b = Authority::open_shared(vault, Ok(None), &domain, longer, &cluster);
    let b = b.await.unwrap();
    a.observe(cluster.seen());
    let now = SystemTime::now();
    add_root(&a).await.unwrap();
    a.step(|keys| keys.switch_signer(TTL, now)).await.unwrap();
    let end = a.phase().old_leaves_end().unwrap();
    assert!(end >= now + longer, "b may have signed for that long");
    // Whoever has not heard of it signs for no longer than it had recorded.
    a.set_ttl(100 * TTL);
    let id = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/cart").unwrap();
    let certificate = a.workload_certificate(&id).unwrap();
    assert!(certificate.not_after() <= SystemTime::now() + TTL);
    drop(b);
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_is_away_is_waited_for_and_signing_goes_on() {
    let cluster = Fake::default();
    let a = cluster.open().await;
    cluster.0.away.store(true, Ordering::SeqCst);
    signs(&a);
    assert!(add_root(&a).await.is_err());
    assert!(matches!(a.phase(), Phase::Steady { .. }));
    let late = cluster.clone();
    let waiting = tokio::spawn(async move { late.open().await });
    sleep(Duration::from_secs(60)).await;
    assert!(!waiting.is_finished());
    cluster.0.away.store(false, Ordering::SeqCst);
    assert_eq!(waiting.await.unwrap().roots(), a.roots());
}

#[tokio::test(start_paused = true)]
async fn a_deleted_secret_is_made_again_from_memory() {
    let cluster = Fake::default();
    let a = cluster.open().await;
    let roots = a.roots();
    *lock(&cluster.0.secret) = None;
    a.observe(None);
    signs(&a);
    // Whoever starts now does not make another authority while there is somebody who knows this one.
    cluster.0.led.store(true, Ordering::SeqCst);
    let late = cluster.clone();
    let waiting = tokio::spawn(async move { late.open().await });
    sleep(Duration::from_secs(10)).await;
    assert!(!waiting.is_finished() && cluster.seen().is_none());
    a.restore().await.unwrap();
    assert_eq!(waiting.await.unwrap().roots(), roots);
    add_root(&a).await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_read_is_named_and_never_written_over() {
    let cluster = Fake::default();
    let a = cluster.open().await;
    let good = cluster.seen().unwrap().files["state.json"].clone();
    for (key, text, reason) in [
        ("state.json", "{", "tasuki-ca: key state.json: "),
        (
            "state.json",
            r#"{"version":7}"#,
            "tasuki-ca: key state.json: ",
        ),
    ] {
        cluster.edit(key, text);
        let refused = cluster.try_open("cluster.local").await.map(drop);
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains(reason), "{refused}");
        a.observe(cluster.seen());
        signs(&a);
        assert!(add_root(&a).await.unwrap_err().to_string().contains(reason));
        assert_eq!(cluster.seen().unwrap().files[key], text);
    }
    cluster.edit("state.json", &good);
    a.observe(cluster.seen());
    add_root(&a).await.unwrap();
    let other = cluster.try_open("other.local").await.map(drop);
    let other = other.unwrap_err().to_string();
    assert!(other.contains("trust domain cluster.local"), "{other}");
}

#[tokio::test]
async fn an_empty_secret_is_filled() {
    let cluster = Fake::default();
    let empty = Kept {
        version: cluster.version(),
        ..Kept::default()
    };
    *lock(&cluster.0.secret) = Some(empty);
    let (a, b) = tokio::join!(cluster.open(), cluster.open());
    assert_eq!(a.roots(), b.roots());
}

#[tokio::test]
async fn requests_and_progress_are_annotations() {
    let cluster = Fake::default();
    let a = cluster.open().await;
    assert_eq!(a.requested().unwrap(), None);
    let request = Changes::from([(names::ROTATION_REQUEST.to_owned(), Some("r1".to_owned()))]);
    let kept = cluster.change(Changes::new(), request, None).await.unwrap();
    a.observe(Some(kept));
    assert_eq!(a.requested().unwrap().unwrap().id, "r1");
    let mut progress = Progress {
        request: "r1".to_owned(),
        done: false,
        detail: "waiting".to_owned(),
    };
    a.report(&progress).await.unwrap();
    assert_eq!(a.progress().unwrap().as_ref(), Some(&progress));
    assert!(a.requested().unwrap().is_some());
    progress.done = true;
    a.report(&progress).await.unwrap();
    assert_eq!(a.requested().unwrap(), None);
    let b = cluster.open().await;
    assert_eq!(b.progress().unwrap(), Some(progress));
}

/// Two replicas that have switched to a new root, and what was kept before.
async fn rotated(cluster: &Fake) -> (Authority, Authority, Kept) {
    let (a, b) = (cluster.open().await, cluster.open().await);
    let backup = cluster.seen().unwrap();
    add_root(&a).await.unwrap();
    let step = |keys: &KeyRing| keys.switch_signer(TTL, SystemTime::now());
    a.step(step).await.unwrap();
    b.observe(cluster.seen());
    (a, b, backup)
}

#[tokio::test(start_paused = true)]
async fn a_restored_backup_brings_no_authority_back() {
    let cluster = Fake::default();
    let (leader, follower, backup) = rotated(&cluster).await;
    let (guard, another) = (leader.clone(), follower.clone());
    tokio::spawn(async move { tokio::join!(guard.guard(), another.guard()) });
    let (root, past) = (signs(&leader), backup.version.clone());
    cluster.roll_back(backup);
    for replica in [&leader, &follower] {
        replica.observe(cluster.seen());
    }
    sleep(AGAIN).await;
    // It is told again and again, by every new watch.
    follower.observe(cluster.seen());
    assert_eq!(
        (signs(&leader), signs(&follower)),
        (root.clone(), root.clone())
    );
    assert!(add_root(&follower).await.is_err(), "nothing is built on it");
    leader.restore().await.unwrap();
    let kept = cluster.seen().unwrap();
    assert!(kept.version != past);
    follower.observe(Some(kept));
    assert_eq!(signs(&cluster.open().await), root);
    // And they are one again.
    let end = SystemTime::now() + 2 * TTL;
    leader.step(|keys| keys.retire_old(end)).await.unwrap();
    follower.observe(cluster.seen());
    assert_eq!(follower.roots(), leader.roots());
    assert!(matches!(follower.phase(), Phase::Steady { .. }));
}

#[tokio::test(start_paused = true)]
async fn without_a_leader_any_replica_writes_it_back() {
    let cluster = Fake::default();
    let (_, follower, backup) = rotated(&cluster).await;
    let guard = follower.clone();
    tokio::spawn(async move { guard.guard().await });
    let root = signs(&follower);
    cluster.roll_back(backup);
    // Who starts now knows no better, for a moment.
    let young = cluster.open().await;
    assert!(signs(&young) != root);
    cluster.0.away.store(true, Ordering::SeqCst);
    follower.observe(cluster.seen());
    sleep(LEADERS_TURN * 2).await;
    cluster.0.away.store(false, Ordering::SeqCst);
    sleep(LEADERS_TURN * 2).await;
    young.observe(cluster.seen());
    assert_eq!((signs(&young), signs(&follower)), (root.clone(), root));
}

#[tokio::test(start_paused = true)]
async fn what_is_told_late_is_no_backup() {
    let cluster = Fake::default();
    let (leader, follower, backup) = rotated(&cluster).await;
    let guard = follower.clone();
    tokio::spawn(async move { guard.guard().await });
    follower.observe(Some(backup));
    sleep(AGAIN).await;
    add_root(&leader).await.unwrap_err();
    let end = SystemTime::now() + 2 * TTL;
    follower.step(|keys| keys.retire_old(end)).await.unwrap();
}
