//! Plain TCP: echo, with or without the server speaking first.

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// Sends `greeting`, then returns every byte; half-close is kept.
pub async fn echo(mut stream: TcpStream, greeting: Option<String>) {
    if let Some(greeting) = greeting
        && stream.write_all(greeting.as_bytes()).await.is_err()
    {
        return;
    }
    let (mut read, mut write) = stream.split();
    // Either side may vanish at any time, which only ends the echo.
    let _ = tokio::io::copy(&mut read, &mut write).await;
    let _ = write.shutdown().await;
}
