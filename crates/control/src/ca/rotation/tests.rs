//! Rotation of the root, stage by stage.

use std::sync::{Arc, Mutex};

use tasuki_identity::ca::rotation::{progress, request, requested};
use tasuki_identity::{SpiffeId, TrustDomain, key_and_csr};
use tempfile::TempDir;
use tokio::time::advance;

use super::*;

const TTL: Duration = Duration::from_secs(3600);

struct Fixture {
    dir: TempDir,
    lacking: Arc<Mutex<Vec<String>>>,
    now: SystemTime,
}

impl Fixture {
    fn new() -> Self {
        Self {
            dir: TempDir::new().unwrap(),
            lacking: Arc::default(),
            now: SystemTime::now(),
        }
    }

    /// A control plane that has just started.
    fn driver(&self) -> Driver {
        let domain = TrustDomain::new("cluster.local").unwrap();
        let authority = Authority::open(self.dir.path(), &domain, TTL).unwrap();
        let id = SpiffeId::new(&domain, "shop", "cart").unwrap();
        authority
            .sign(key_and_csr(&id).unwrap().1.as_str(), &id, None, None)
            .unwrap();
        let lacking = Arc::clone(&self.lacking);
        Driver::new(
            authority,
            Box::new(move |_| lacking.lock().unwrap().clone()),
        )
    }

    fn set_lacking(&self, names: &[&str]) {
        *self.lacking.lock().unwrap() = names.iter().map(|n| (*n).to_owned()).collect();
    }

    async fn pass(&self, driver: &mut Driver, time: Duration) {
        advance(time).await;
        driver.tick(self.now).await.unwrap();
    }

    fn detail(&self) -> String {
        progress(self.dir.path()).unwrap().unwrap().detail
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_is_left_behind() {
    let f = Fixture::new();
    let mut driver = f.driver();
    let mut bundles = driver.authority.bundles();
    f.pass(&mut driver, RETURN).await;
    assert!(matches!(driver.authority.phase(), Phase::Steady { .. }));

    let asked = request(f.dir.path()).unwrap();
    f.set_lacking(&["web", "cart", "pay", "stock", "mail"]);
    f.pass(&mut driver, TICK).await;
    assert!(matches!(driver.authority.phase(), Phase::Adding { .. }));
    assert!(bundles.has_changed().unwrap());
    assert_eq!(bundles.borrow_and_update().roots.len(), 2);
    f.pass(&mut driver, RETURN).await;
    assert_eq!(
        f.detail(),
        "waiting until the new root is trusted by web, cart, pay and 2 more"
    );

    // All trust it, then one more connects that does not yet, then it does too.
    f.set_lacking(&[]);
    f.pass(&mut driver, TICK).await;
    f.set_lacking(&["late"]);
    f.pass(&mut driver, SETTLED).await;
    f.set_lacking(&[]);
    f.pass(&mut driver, TICK).await;
    assert!(matches!(driver.authority.phase(), Phase::Adding { .. }));
    f.pass(&mut driver, SETTLED).await;
    assert!(matches!(driver.authority.phase(), Phase::Switched { .. }));
    assert!(!bundles.has_changed().unwrap());

    driver.tick(f.now + TTL).await.unwrap();
    assert!(matches!(driver.authority.phase(), Phase::Switched { .. }));
    driver
        .tick(f.now + TTL + SKEW + Duration::from_secs(1))
        .await
        .unwrap();
    assert!(matches!(driver.authority.phase(), Phase::Steady { .. }));
    assert_eq!(bundles.borrow_and_update().roots.len(), 1);
    let last = progress(f.dir.path()).unwrap().unwrap();
    assert!(last.done && last.request == asked.id);
    assert_eq!(requested(f.dir.path()).unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn goes_on_after_a_restart_but_first_lets_the_clients_return() {
    let f = Fixture::new();
    let mut driver = f.driver();
    request(f.dir.path()).unwrap();
    f.pass(&mut driver, TICK).await;
    drop(driver);

    let mut driver = f.driver();
    f.pass(&mut driver, TICK).await;
    f.pass(&mut driver, SETTLED).await;
    assert!(
        matches!(driver.authority.phase(), Phase::Adding { .. }),
        "nobody is connected yet"
    );
    f.pass(&mut driver, RETURN).await;
    assert!(matches!(driver.authority.phase(), Phase::Switched { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_crash_before_the_last_report_does_not_rotate_again() {
    let f = Fixture::new();
    let mut driver = f.driver();
    let asked = request(f.dir.path()).unwrap();
    f.pass(&mut driver, RETURN).await;
    f.pass(&mut driver, TICK).await;
    f.pass(&mut driver, SETTLED).await;
    driver
        .authority
        .step(|keys| keys.retire_old(f.now + 2 * TTL))
        .await
        .unwrap();
    let root = driver.authority.bundle();
    drop(driver);

    let mut driver = f.driver();
    f.pass(&mut driver, TICK).await;
    f.pass(&mut driver, TICK).await;
    assert_eq!(driver.authority.bundle(), root);
    assert!(progress(f.dir.path()).unwrap().unwrap().done);
    assert_ne!(request(f.dir.path()).unwrap(), asked);
}
