//! Renewal against an authority of the tests' own, in virtual time.

use std::cell::{Cell, RefCell};
use std::os::unix::fs::PermissionsExt;
use std::rc::Rc;

use tasuki_identity::ca::CertificateAuthority;
use tokio::time::Instant;

use super::*;

/// Signs with an authority of its own, in virtual time; may refuse.
struct Authority {
    ca: RefCell<CertificateAuthority>,
    account: &'static str,
    ttl: Duration,
    clock: Clock,
    refusals: Rc<Cell<u32>>,
    signed: Rc<Cell<u32>>,
}

/// A wall clock that follows tokio's, and can be set. The authority has another.
#[derive(Clone)]
struct Clock {
    wall: Rc<Cell<SystemTime>>,
    start: Instant,
}

impl Clock {
    fn new() -> Clock {
        Clock {
            wall: Rc::new(Cell::new(SystemTime::now())),
            start: Instant::now(),
        }
    }

    fn now(&self) -> SystemTime {
        self.wall.get() + self.start.elapsed()
    }

    fn set_back(&self, time: Duration) {
        self.wall.set(self.wall.get() - time);
    }

    fn set_forward(&self, time: Duration) {
        self.wall.set(self.wall.get() + time);
    }
}

impl Signer for Authority {
    fn account(&self) -> Option<(String, String)> {
        Some(("shop".into(), self.account.into()))
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
        let id = SpiffeId::parse(&format!(
            "spiffe://cluster.local/ns/shop/sa/{}",
            self.account
        ))?;
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
    play_as("cart", tempfile::tempdir().unwrap(), ttl)
}

fn play_as(
    account: &'static str,
    folder: tempfile::TempDir,
    ttl: Duration,
) -> (Play, impl Future<Output = ()>) {
    let (clock, theirs) = (Clock::new(), Clock::new());
    let (refusals, signed) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    let domain = TrustDomain::new("cluster.local").unwrap();
    let ca =
        CertificateAuthority::open(&folder.path().join("authority"), &domain, clock.now()).unwrap();
    let (trust, roots) = watch::channel(None);
    let (certificates, received) = mpsc::channel(16);
    let signer = Authority {
        ca: RefCell::new(ca),
        account,
        ttl,
        clock: theirs,
        refusals: Rc::clone(&refusals),
        signed: Rc::clone(&signed),
    };
    let ours = clock.clone();
    let renewal = Renewal {
        signer,
        clock: move || ours.now(),
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

/// The next certificate, which must come within `time`.
async fn next(play: &mut Play, time: Duration) -> WorkloadCertificate {
    let next = tokio::time::timeout(time, play.received.recv());
    next.await.expect("no certificate in time").unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_back_does_not_put_the_renewal_off() {
    let hour = Duration::from_secs(3600);
    let (mut play, run) = play(hour);
    play.trust.send_replace(bundle());
    let checks = async {
        next(&mut play, hour).await;
        play.clock.set_back(100 * hour);
        next(&mut play, hour.mul_f64(0.6)).await;
    };
    tokio::select! { () = run => unreachable!(), () = checks => {} }
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_forward_is_noticed_soon() {
    let hour = Duration::from_secs(3600);
    let (mut play, run) = play(hour);
    play.trust.send_replace(bundle());
    let checks = async {
        next(&mut play, hour).await;
        play.clock.set_forward(hour.mul_f64(0.7));
        next(&mut play, LONGEST_SLEEP * 2).await;
    };
    tokio::select! { () = run => unreachable!(), () = checks => {} }
}

#[tokio::test(start_paused = true)]
async fn a_certificate_that_ran_out_is_replaced_when_the_authority_is_back() {
    let (mut play, run) = play(Duration::from_secs(10));
    play.trust.send_replace(bundle());
    let checks = async {
        let lost = next(&mut play, Duration::from_secs(1)).await;
        play.refusals.set(u32::MAX);
        tokio::time::sleep(Duration::from_secs(120)).await;
        assert!(play.clock.now() > lost.not_after());
        let tried = u32::MAX - play.refusals.get();
        // Every 30 s at the longest, and never all the time.
        assert!((4..100).contains(&tried), "{tried} tries in 120 s");
        play.refusals.set(0);
        let back = next(&mut play, Duration::from_secs(31)).await;
        assert!(play.clock.now() < back.not_after());
    };
    tokio::select! { () = run => unreachable!(), () = checks => {} }
}

/// The state dir of a workload that has got a certificate.
async fn with_certificate(ttl: Duration) -> Play {
    let (mut play, run) = play(ttl);
    play.trust.send_replace(bundle());
    let got = next(&mut play, Duration::from_secs(1));
    tokio::select! { () = run => unreachable!(), _ = got => {} }
    play
}

#[tokio::test(start_paused = true)]
async fn a_kept_certificate_serves_its_owner_until_it_has_expired() {
    let day = Duration::from_secs(86_400);
    let cases = [
        ("cart", Duration::from_secs(1), true),
        ("cart", 2 * day, false),
        ("checkout", Duration::from_secs(1), false),
    ];
    for (account, age, is_used) in cases {
        let Play { folder, .. } = with_certificate(day).await;
        let (mut play, run) = play_as(account, folder, day);
        play.clock.set_forward(age);
        // Without roots nothing is signed: what comes is what was kept.
        let got = tokio::time::timeout(Duration::from_secs(5), play.received.recv());
        tokio::select! {
            () = run => unreachable!(),
            got = got => assert_eq!(got.is_ok(), is_used, "{account} after {age:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_state_dir_that_cannot_be_written_stops_no_renewal() {
    let (mut play, run) = play(Duration::from_secs(10));
    std::fs::create_dir_all(place(play.folder.path())).unwrap();
    play.trust.send_replace(bundle());
    let checks = async {
        for _ in 0..3 {
            next(&mut play, Duration::from_secs(10)).await;
        }
        let left = place(play.folder.path()).with_extension("new");
        assert!(!left.exists(), "a key lies about");
    };
    tokio::select! { () = run => unreachable!(), () = checks => {} }
}
