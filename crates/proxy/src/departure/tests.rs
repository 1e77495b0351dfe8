//! When the hook returns, in virtual time.

use super::*;
use crate::settings::UnknownPolicy;

fn leave() -> Leave {
    let (state, _demands) = State::new(UnknownPolicy::Refuse);
    state.set_connected(true);
    Leave {
        state,
        drain: Drain::new(),
        limit: Duration::from_secs(10),
        minimum: Duration::from_secs(5),
    }
}

fn say(leave: &Leave, deleting: bool, acknowledged: bool) {
    leave.state.set_departure(Some(Departure {
        name: "shop/cart-1".into(),
        deleting,
        acknowledged,
    }));
}

/// The hook's reason and how long it took, while `meanwhile` happens.
async fn pre_stop(leave: &Leave, meanwhile: impl Future<Output = ()>) -> (Reason, Duration) {
    let start = Instant::now();
    let (reason, ()) = tokio::join!(
        async { (leave.pre_stop().await, start.elapsed()) },
        meanwhile
    );
    reason
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[tokio::test(start_paused = true)]
async fn a_container_that_is_restarted_is_not_held_up() {
    let leave = leave();
    say(&leave, false, false);
    let nothing = async {};
    assert_eq!(pre_stop(&leave, nothing).await, (Reason::Stays, NEWS));
    assert!(!leave.drain.watch().is_draining());
}

#[tokio::test(start_paused = true)]
async fn news_may_be_late_and_the_acknowledgement_later() {
    let leave = leave();
    say(&leave, false, false);
    let happens = async {
        sleep(Duration::from_millis(900)).await;
        say(&leave, true, false);
        sleep(Duration::from_millis(2_100)).await;
        say(&leave, true, true);
    };
    let (reason, waited) = pre_stop(&leave, happens).await;
    assert_eq!(
        (reason, waited),
        (Reason::Acknowledged, seconds(3) + LAST_ARRIVALS)
    );
}

#[tokio::test(start_paused = true)]
async fn clients_outside_the_mesh_get_the_minimum() {
    let leave = leave();
    say(&leave, true, true);
    leave.drain.watch().serves_outsider();
    assert_eq!(
        pre_stop(&leave, async {}).await,
        (Reason::Acknowledged, seconds(5))
    );
    // The limit is short where the grace period is, and holds.
    let short = Leave {
        limit: seconds(3),
        ..leave
    };
    assert_eq!(
        pre_stop(&short, async {}).await,
        (Reason::Acknowledged, seconds(3))
    );
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_longer_than_the_limit() {
    let unheard = leave();
    say(&unheard, true, false);
    assert_eq!(
        pre_stop(&unheard, async {}).await,
        (Reason::TimedOut, seconds(10))
    );

    let away = leave();
    say(&away, false, false);
    away.state.set_connected(false);
    let told = away.drain.watch();
    assert_eq!(
        pre_stop(&away, told.draining()).await,
        (Reason::TimedOut, seconds(10))
    );
    // The container was only restarted.
    sleep(LATELY + LOOK).await;
    assert!(!told.is_draining());

    // A control plane that knows no departures.
    let old = leave();
    assert_eq!(
        pre_stop(&old, async {}).await,
        (Reason::TimedOut, seconds(10))
    );
}

#[tokio::test(start_paused = true)]
async fn a_control_plane_that_comes_back_is_asked_again() {
    let leave = leave();
    say(&leave, false, false);
    leave.state.set_connected(false);
    let happens = async {
        sleep(seconds(4)).await;
        leave.state.set_connected(true);
    };
    let (reason, waited) = pre_stop(&leave, happens).await;
    assert_eq!(reason, Reason::Stays);
    assert!(waited >= seconds(5) && waited < seconds(6), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn clients_are_told_as_soon_as_the_pod_is_deleted() {
    let leave = leave();
    let told = leave.drain.watch();
    tokio::select! {
        () = leave.clone().watch() => unreachable!(),
        () = async {
            say(&leave, false, false);
            sleep(seconds(1)).await;
            assert!(!told.is_draining());
            say(&leave, true, false);
            told.draining().await;
        } => {}
    }
    assert!(!leave.drain.is_draining());
}
