//! Applications: an HTTP/1.1, h2c and gRPC echo that misbehaves on demand and counts what it executed,
//! plain TCP ones, and rude ones that break the protocol.

pub mod http;
pub mod messages;
pub mod rude;
pub mod tcp;
mod tls;

use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};

use crate::namespace::Namespace;

/// What an origin counts, and the switches that change its manners while it runs.
#[derive(Debug, Default)]
pub struct Controls {
    /// Share of requests answered with `fail_status`, in percent.
    pub fail_percent: AtomicU32,
    /// 503 when 0.
    pub fail_status: AtomicU32,
    /// Every answer waits this long.
    pub delay_ms: AtomicU64,
    /// Requests whose head was read.
    pub requests: AtomicU64,
    pub connections: AtomicU64,
    /// Open right now.
    pub open: AtomicU64,
    /// What [`Kind::Messages`] has sent by itself.
    pub messages: AtomicU64,
    released: watch::Sender<bool>,
    ending: watch::Sender<bool>,
    executed: Mutex<HashMap<String, u32>>,
}

impl Controls {
    /// Fails this share of requests from now on.
    pub fn fail(&self, percent: u32, status: u16) {
        self.fail_status.store(u32::from(status), Ordering::Relaxed);
        self.fail_percent.store(percent, Ordering::Relaxed);
    }

    /// Has every HTTP connection end after the requests that are on it.
    pub fn end(&self) {
        self.ending.send_replace(true);
    }

    /// Lets the held streams of [`Kind::Messages`] read.
    pub fn release(&self) {
        self.released.send_replace(true);
    }

    /// How often the request marked `x-once: KEY` was executed, for every key seen.
    pub fn executions(&self) -> HashMap<String, u32> {
        self.executed
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .clone()
    }

    fn executed(&self, headers: &::http::HeaderMap) {
        if let Some(key) = headers.get("x-once").and_then(|value| value.to_str().ok()) {
            *self
                .executed
                .lock()
                .unwrap_or_else(|e| e.into_inner())
                .entry(key.to_owned())
                .or_default() += 1;
        }
    }

    /// Requests seen so far.
    pub fn seen(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

/// What an origin is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// HTTP/1.1, h2c with prior knowledge, gRPC.
    Http,
    /// The same over TLS, with a certificate that nobody trusts.
    Https,
    /// Every byte comes back.
    Echo,
    /// Says `220 NAME` first, then echoes.
    ServerFirst,
    /// Small gRPC messages in both directions, read or not.
    Messages,
    /// Breaks the protocol after reading a request.
    Rude(rude::Manner),
}

/// A running origin; stops on drop.
pub struct Origin {
    pub name: String,
    pub address: SocketAddr,
    pub controls: Arc<Controls>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Origin {
    /// Starts it on a thread inside the namespace; port 0 lets the kernel choose.
    pub fn start(
        namespace: &Namespace,
        name: &str,
        address: SocketAddr,
        kind: Kind,
    ) -> Result<Self> {
        let controls = Arc::new(Controls::default());
        let (stop, stopped) = oneshot::channel();
        let (bound, ready) = std::sync::mpsc::channel();
        let (shared, label) = (Arc::clone(&controls), name.to_owned());
        let thread = namespace.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async move {
                let listener = bind(address);
                let address = listener.as_ref().map_err(|error| error.to_string()).and_then(|l| l.local_addr().map_err(|e| e.to_string()));
                // Nobody waits any more if the starter gave up.
                let _ = bound.send(address);
                if let Ok(listener) = listener {
                    tokio::select! { () = run(listener, label, shared, kind) => {}, _ = stopped => {} }
                }
                anyhow::Ok(())
            })
        });
        let thread = std::thread::spawn(move || match thread.join() {
            Ok(result) => result.and_then(|inner| inner),
            Err(_) => anyhow::bail!("the origin panicked"),
        });
        let address = ready
            .recv()
            .context("the origin did not start")?
            .map_err(anyhow::Error::msg)?;
        Ok(Self {
            name: name.to_owned(),
            address,
            controls,
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        tokio::net::TcpSocket::new_v4()
    } else {
        tokio::net::TcpSocket::new_v6()
    }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    // Thousands of connections may arrive at once in the load tests.
    socket.listen(4096)
}

/// Serves connections until dropped.
pub async fn run(listener: TcpListener, name: String, controls: Arc<Controls>, kind: Kind) {
    let name: Arc<str> = name.into();
    loop {
        let Ok((stream, peer)) = listener.accept().await else {
            // Out of file descriptors: let some connection end.
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        controls.connections.fetch_add(1, Ordering::Relaxed);
        let (name, shared) = (Arc::clone(&name), Arc::clone(&controls));
        match kind {
            Kind::Http => tokio::spawn(counted(
                Arc::clone(&controls),
                http::serve(stream, peer, name, shared),
            )),
            Kind::Https => tokio::spawn(counted(
                Arc::clone(&controls),
                tls::serve(stream, peer, name, shared),
            )),
            Kind::Echo => tokio::spawn(counted(Arc::clone(&controls), tcp::echo(stream, None))),
            Kind::ServerFirst => tokio::spawn(counted(
                Arc::clone(&controls),
                tcp::echo(stream, Some(format!("220 {name}\r\n"))),
            )),
            Kind::Messages => tokio::spawn(counted(
                Arc::clone(&controls),
                messages::serve(stream, shared),
            )),
            Kind::Rude(manner) => tokio::spawn(counted(
                Arc::clone(&controls),
                rude::serve(stream, shared, manner),
            )),
        };
    }
}

async fn counted(controls: Arc<Controls>, connection: impl Future<Output = ()>) {
    controls.open.fetch_add(1, Ordering::Relaxed);
    connection.await;
    controls.open.fetch_sub(1, Ordering::Relaxed);
}

#[cfg(test)]
mod tests;
