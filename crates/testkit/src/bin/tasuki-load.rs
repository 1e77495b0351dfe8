//! The load client as a program; prints one JSON object.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Parser;
use tasuki_testkit::load::{Plan, Protocol, run};

#[derive(Parser)]
struct Arguments {
    /// Address to connect to.
    target: SocketAddr,
    /// Host or `:authority`; the target when absent.
    #[arg(long)]
    authority: Option<String>,
    #[arg(long, value_enum, default_value = "http1")]
    protocol: Protocol,
    #[arg(long, default_value = "GET")]
    method: http::Method,
    #[arg(long, default_value = "/")]
    path: String,
    /// `name: value`; may be repeated.
    #[arg(long)]
    header: Vec<String>,
    /// Bytes of request body.
    #[arg(long, default_value_t = 0)]
    body: usize,
    /// Requests in flight.
    #[arg(long, default_value_t = 1)]
    concurrency: usize,
    /// HTTP/2 connections; 0: one for each request in flight.
    #[arg(long, default_value_t = 0)]
    connections: usize,
    #[arg(long)]
    requests: Option<u64>,
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Requests a second; as fast as answers come when absent.
    #[arg(long)]
    rate: Option<f64>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let authority = arguments
        .authority
        .unwrap_or_else(|| arguments.target.to_string());
    let split = |line: &String| {
        line.split_once(':')
            .map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()))
    };
    let plan = Plan {
        protocol: arguments.protocol,
        method: arguments.method,
        path: arguments.path,
        headers: arguments.header.iter().filter_map(split).collect(),
        body: vec![b'x'; arguments.body].into(),
        concurrency: arguments.concurrency,
        connections: arguments.connections,
        requests: arguments.requests,
        duration: Some(Duration::from_secs_f64(arguments.seconds)),
        rate: arguments.rate,
        ..Plan::new(arguments.target, &authority)
    };
    println!("{}", run(plan).await);
    Ok(())
}
