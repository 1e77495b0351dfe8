//! The load client as a program; prints one JSON object.

use std::io::Read;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use tasuki_testkit::load::{Plan, Protocol, Stop, run_until};

#[derive(Parser)]
struct Arguments {
    /// Address to connect to, or a name and a port, which is looked up once.
    target: String,
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
    /// Bytes of request body, or of each gRPC message.
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
    /// Messages of a gRPC stream.
    #[arg(long, default_value_t = 10)]
    messages: u32,
    /// Milliseconds between them.
    #[arg(long, default_value_t = 50)]
    pause: u64,
    /// Exits 1 when a request failed.
    #[arg(long)]
    strict: bool,
    /// Ends when standard input does, too.
    #[arg(long)]
    until_input_ends: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let target = tokio::net::lookup_host(&arguments.target)
        .await
        .with_context(|| arguments.target.clone())?
        .next()
        .with_context(|| format!("{} has no address", arguments.target))?;
    let authority = arguments.authority.unwrap_or(arguments.target);
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
        messages: (arguments.messages, Duration::from_millis(arguments.pause)),
        ..Plan::new(target, &authority)
    };
    let stop = Stop::default();
    if arguments.until_input_ends {
        let stop = stop.clone();
        // A thread of its own: reading standard input cannot be given up.
        std::thread::spawn(move || {
            drop(std::io::stdin().read_to_end(&mut Vec::new()));
            stop.stop();
        });
    }
    let report = run_until(plan, stop, None).await;
    println!("{report}");
    anyhow::ensure!(
        !arguments.strict || report.failed() == 0,
        "{} of {} failed",
        report.failed(),
        report.total()
    );
    Ok(())
}
