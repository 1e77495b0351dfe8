//! An application to put behind a sidecar by hand.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use tasuki_testkit::origin::{Controls, Kind, run};
use tokio::signal::unix::{SignalKind, signal};

#[derive(Parser)]
struct Arguments {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// What `x-backend` says; in a container its pod's name.
    #[arg(long, env = "HOSTNAME", default_value = "origin")]
    name: String,
    #[arg(long, value_enum, default_value = "http")]
    kind: What,
    /// Share of HTTP requests to fail, in percent.
    #[arg(long, default_value_t = 0)]
    fail_percent: u32,
    #[arg(long, default_value_t = 503)]
    fail_status: u16,
}

#[derive(Clone, Copy, ValueEnum)]
enum What {
    Http,
    Https,
    Echo,
    ServerFirst,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let controls = Arc::new(Controls::default());
    controls.fail(arguments.fail_percent, arguments.fail_status);
    let kind = match arguments.kind {
        What::Http => Kind::Http,
        What::Https => Kind::Https,
        What::Echo => Kind::Echo,
        What::ServerFirst => Kind::ServerFirst,
    };
    let listener = tokio::net::TcpListener::bind(arguments.listen).await?;
    println!("listening on {}", listener.local_addr()?);
    let mut terminated = signal(SignalKind::terminate())?;
    tokio::select! {
        () = run(listener, arguments.name, Arc::clone(&controls), kind) => {}
        _ = terminated.recv() => {}
    }
    // As a well-behaved application has it: no new connections, no new requests, and the end of those that are here.
    controls.end();
    while controls.open.load(Ordering::Relaxed) > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}
