use std::cell::{Cell, RefCell};
use std::os::unix::fs::PermissionsExt;
use std::rc::Rc;

use tasuki_identity::ca::CertificateAuthority;
use tokio::time::Instant;

use super::*;

/// Signs with an authority of its own, in virtual time; may refuse.
struct Authority {
    ca: RefCell<CertificateAuthority>,
    ttl: Duration,
    clock: Clock,
    refusals: Rc<Cell<u32>>,
    signed: Rc<Cell<u32>>,
}

/// The wall clock that follows tokio's.
#[derive(Clone, Copy)]
struct Clock {
    wall: SystemTime,
    start: Instant,
}

impl Clock {
    fn now(self) -> SystemTime {
        self.wall + self.start.elapsed()
    }
}

impl Signer for Authority {
    fn account(&self) -> Option<(String, String)> {
        Some(("shop".into(), "cart".into()))
    }

    async fn sign(
        &self,
        csr: &CsrPem,
        _current: Option<&WorkloadCertificate>,
    ) -> anyhow::Result<String> {
        if self.refusals.get() > 0 {
            self.refusals.set(self.refusals.get() - 1);
            return Err(anyhow!("not now"));
        }
        self.signed.set(self.signed.get() + 1);
        let id = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/cart")?;
        Ok(self
            .ca
            .borrow_mut()
            .sign(csr.as_str(), &id, self.ttl, self.clock.now())?
            .leaf_pem)
    }
}

struct Play {
    clock: Clock,
    folder: tempfile::TempDir,
    trust: watch::Sender<Option<Arc<TrustBundle>>>,
    refusals: Rc<Cell<u32>>,
    signed: Rc<Cell<u32>>,
    received: mpsc::Receiver<WorkloadCertificate>,
}

fn play(ttl: Duration) -> (Play, impl Future<Output = ()>) {
    let clock = Clock {
        wall: SystemTime::now(),
        start: Instant::now(),
    };
    let folder = tempfile::tempdir().unwrap();
    let (refusals, signed) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    let domain = TrustDomain::new("cluster.local").unwrap();
    let ca =
        CertificateAuthority::open(&folder.path().join("authority"), &domain, clock.now()).unwrap();
    let (trust, roots) = watch::channel(None);
    let (certificates, received) = mpsc::channel(16);
    let signer = Authority {
        ca: RefCell::new(ca),
        ttl,
        clock,
        refusals: Rc::clone(&refusals),
        signed: Rc::clone(&signed),
    };
    let renewal = Renewal {
        signer,
        clock: move || clock.now(),
        state_dir: folder.path().to_owned(),
        trust: roots,
        certificates,
        metrics: Arc::new(Metrics::new().unwrap()),
    };
    (
        Play {
            clock,
            folder,
            trust,
            refusals,
            signed,
            received,
        },
        renewal.run(),
    )
}

fn bundle() -> Option<Arc<TrustBundle>> {
    Some(Arc::new(TrustBundle {
        name: "cluster.local".into(),
        roots: vec![vec![1]],
    }))
}

#[tokio::test(start_paused = true)]
async fn certificates_of_ten_seconds_never_run_out() {
    let (mut play, run) = play(Duration::from_secs(10));
    let checks = async {
        // Nothing without roots.
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(play.signed.get(), 0);
        play.trust.send_replace(bundle());
        let mut current = play.received.recv().await.unwrap();
        let end = Instant::now() + Duration::from_secs(60);
        while Instant::now() < end {
            play.refusals.set(2);
            let next = play.received.recv().await.unwrap();
            assert!(
                play.clock.now() < current.not_after(),
                "ran out before its successor came"
            );
            current = next;
        }
        assert!(play.signed.get() >= 9, "{}", play.signed.get());
    };
    tokio::select! { () = run => unreachable!(), () = checks => {} }
}

#[tokio::test(start_paused = true)]
async fn the_certificate_is_kept_for_its_owner_only() {
    let (mut play, run) = play(Duration::from_secs(3600));
    play.trust.send_replace(bundle());
    let checks = async { play.received.recv().await.unwrap() };
    let certificate = tokio::select! { () = run => unreachable!(), got = checks => got };
    let file = place(play.folder.path());
    assert_eq!(
        std::fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert_eq!(
        load(play.folder.path()).unwrap().chain_pem(),
        certificate.chain_pem()
    );
    std::fs::write(&file, "-----BEGIN PRIVATE KEY-----\nnonsense").unwrap();
    assert!(load(play.folder.path()).is_none());
}
