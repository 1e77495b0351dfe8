//! An application to put behind a sidecar by hand.

use std::net::SocketAddr;
use std::sync::Arc;

use clap::{Parser, ValueEnum};
use tasuki_testkit::origin::{Controls, Kind, run};

#[derive(Parser)]
struct Arguments {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// What `x-backend` says.
    #[arg(long, default_value = "origin")]
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
        What::Echo => Kind::Echo,
        What::ServerFirst => Kind::ServerFirst,
    };
    let listener = tokio::net::TcpListener::bind(arguments.listen).await?;
    println!("listening on {}", listener.local_addr()?);
    run(listener, arguments.name, controls, kind).await;
    Ok(())
}
