//! `tasuki demo`: the shop of `config/shop` as real processes in network namespaces, with traffic, told
//! as it happens; with `--check`, a proof from the metrics instead of a picture.
//!
//! Pods, applications and load come from `tasuki-testkit`, which the tests use too. Nothing outlives the
//! command: processes, namespaces and folders belong to values that remove them.

mod check;
mod screen;
mod shop;
mod stage;
mod traffic;

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tasuki_testkit::namespace;

use screen::Screen;
use stage::{Ground, Stage};
use traffic::Traffic;

/// The story of one round, in seconds: when the second pricing pod begins to fail, and when it is mended.
const FAILS_AT: u64 = 8;
const MENDED_AT: u64 = 12;
/// Then it starts over.
const ROUND: u64 = 30;
/// What `--check` needs to see everything: one round without its idle end.
const CHECK_SECONDS: u64 = 24;

/// Flags of `tasuki demo`.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Assert every fact from the metrics and exit non-zero, naming what failed, instead of waiting for Ctrl-C
    #[arg(long)]
    check: bool,
    /// Stop after so many seconds (0: at Ctrl-C; with --check: when all has been seen)
    #[arg(long, default_value_t = 0)]
    seconds: u64,
    /// Folder of the mesh's resources
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../../config/shop"))]
    config_dir: PathBuf,
    /// Run on loopback addresses even where network namespaces could be made
    #[arg(long)]
    loopback: bool,
}

/// Runs the demo; the exit code says whether every fact held.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let stop = signals()?;
    build()?;
    let ground = choose_ground(arguments);
    let screen = Screen::start();
    screen.say("starting the control plane and the shop's pods");
    let stage = Stage::set(ground, &arguments.config_dir)?;
    screen.introduce(&stage);
    let traffic = Traffic::start(&stage)?;
    let facts = perform(arguments, &stage, traffic, &screen, &stop)?;
    let namespaces = stage.namespaces();
    stage.strike();
    let Some(mut facts) = facts else {
        screen.say("stopped; nothing is left behind");
        return Ok(ExitCode::SUCCESS);
    };
    facts.push(check::nothing_left(&namespaces));
    Ok(screen.verdict(&facts))
}

/// One flag for Ctrl-C and SIGTERM: the story ends at its next tick.
fn signals() -> Result<tokio::sync::watch::Receiver<bool>> {
    let (tell, told) = tokio::sync::watch::channel(false);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            runtime.block_on(async {
                let terminate =
                    tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate());
                let Ok(mut terminate) = terminate else { return };
                tokio::select! { _ = tokio::signal::ctrl_c() => {}, _ = terminate.recv() => {} }
                tell.send_replace(true);
            });
        })?;
    Ok(told)
}

/// Builds the planes when cargo runs us; an installed `tasuki` finds them beside itself.
fn build() -> Result<()> {
    let Some(cargo) = std::env::var_os("CARGO") else {
        return Ok(());
    };
    println!("building tasuki-control and tasuki-proxy in release (the first time takes minutes)");
    let status = Command::new(cargo)
        .args([
            "build",
            "--release",
            "--package",
            "tasuki-control",
            "--package",
            "tasuki-proxy",
            "--package",
            "tasuki-cli",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .context("running cargo build")?;
    ensure!(status.success(), "the build failed");
    Ok(())
}

fn choose_ground(arguments: &Arguments) -> Ground {
    let reason = if arguments.loopback {
        Some("--loopback".to_owned())
    } else {
        namespace::unavailable()
    };
    match reason {
        None => Ground::Namespaces,
        Some(reason) => {
            println!(
                "{reason}: the shop runs on loopback addresses with explicit listeners, without interception."
            );
            Ground::Loopback
        }
    }
}

/// Plays rounds until told to stop. With `--check`, the facts that the metrics prove.
fn perform(
    arguments: &Arguments,
    stage: &Stage,
    mut traffic: Traffic,
    screen: &Screen,
    stop: &tokio::sync::watch::Receiver<bool>,
) -> Result<Option<Vec<check::Fact>>> {
    let limit = match (arguments.seconds, arguments.check) {
        (0, true) => CHECK_SECONDS,
        (0, false) => u64::MAX,
        (seconds, _) => seconds,
    };
    let started = Instant::now();
    let mut witness = check::Witness::default();
    for second in 1..=limit {
        let due = started + Duration::from_secs(second);
        while Instant::now() < due && !*stop.borrow() {
            std::thread::sleep(Duration::from_millis(20));
        }
        if *stop.borrow() {
            return Ok(None);
        }
        stage.still_running()?;
        turn(stage, second % ROUND, screen);
        witness.look(stage, screen);
        if second % 2 == 0 {
            screen.show(&traffic.take());
        }
    }
    drop(traffic);
    if arguments.check {
        return Ok(Some(check::facts(stage, &witness)?));
    }
    Ok(None)
}

/// The turns of the story.
fn turn(stage: &Stage, second: u64, screen: &Screen) {
    match second {
        FAILS_AT => {
            screen.say("pricing-2 begins to fail every call");
            stage.fail("pricing-2", 100);
        }
        MENDED_AT => {
            screen.say("pricing-2 is mended");
            stage.fail("pricing-2", 0);
        }
        _ => {}
    }
}
