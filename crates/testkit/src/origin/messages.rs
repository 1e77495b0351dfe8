//! The gRPC application of [`crate::message`]: h2c only, reads when it is told to.
//!
//! | path | what it does |
//! |---|---|
//! | `/echo` | every message comes back |
//! | `/hold` | reads nothing until [`Controls::release`], then all, and answers the last one |
//! | `/send/N` | N messages |
//! | `/bulk/N` | N messages, five hundred in a frame |

use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::{Context, Result};
use bytes::Bytes;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{Request, Response};
use tokio::net::TcpStream;

use super::Controls;
use crate::message::{self, FRAME_BUDGET, Messages};

/// Serves one connection.
pub async fn serve(stream: TcpStream, controls: Arc<Controls>) {
    // A broken connection is the other end's to report.
    let _ = connection(stream, controls).await;
}

async fn connection(stream: TcpStream, controls: Arc<Controls>) -> Result<()> {
    let mut builder = h2::server::Builder::new();
    builder
        .max_concurrent_streams(10_000)
        .initial_connection_window_size(64 << 20)
        .data_frame_budget(FRAME_BUDGET);
    let mut connection = builder.handshake(stream).await?;
    while let Some(next) = connection.accept().await {
        let (request, respond) = next?;
        controls.requests.fetch_add(1, Ordering::Relaxed);
        let controls = Arc::clone(&controls);
        tokio::spawn(async move { drop(answer(request, respond, &controls).await) });
    }
    Ok(())
}

async fn answer(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    controls: &Controls,
) -> Result<()> {
    let (parts, body) = request.into_parts();
    let head = Response::builder().header("content-type", "application/grpc");
    let mut sink = respond.send_response(head.body(())?, false)?;
    match parts.uri.path() {
        "/echo" => echo(Messages::new(body), &mut sink).await?,
        "/hold" => {
            let mut released = controls.released.subscribe();
            released.wait_for(|released| *released).await?;
            let count = Messages::new(body).count().await?;
            message::send(&mut sink, count).await?;
        }
        path => {
            let bulk = path.strip_prefix("/bulk/");
            let at_once = if bulk.is_some() { 500 } else { 1 };
            let count = bulk.or_else(|| path.strip_prefix("/send/"));
            let count: u64 = count.context("no such path")?.parse()?;
            for number in (0..count).step_by(at_once) {
                let numbers = number..count.min(number + at_once as u64);
                let sent = numbers.end - numbers.start;
                message::send_together(&mut sink, numbers).await?;
                controls.messages.fetch_add(sent, Ordering::Relaxed);
            }
        }
    }
    message::end(&mut sink)
}

async fn echo(mut messages: Messages, sink: &mut SendStream<Bytes>) -> Result<()> {
    let mut number = 0;
    while messages.next().await? {
        message::send(sink, number).await?;
        number += 1;
    }
    Ok(())
}
