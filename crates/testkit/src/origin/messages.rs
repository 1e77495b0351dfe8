//! The gRPC application of [`crate::message`]: h2c only, reads when it is told to.
//!
//! | path | what it does |
//! |---|---|
//! | `/echo` | every message comes back |
//! | `/hold` | reads nothing until [`Controls::release`], then all, and answers the last one |
//! | `/send/N` | N messages |

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
            let count = path.strip_prefix("/send/").context("no such path")?;
            for number in 0..count.parse()? {
                message::send(&mut sink, number).await?;
                controls.messages.fetch_add(1, Ordering::Relaxed);
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
