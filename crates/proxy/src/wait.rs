//! `tasuki-proxy wait`: returns once the sidecar of the same pod is ready.
//!
//! The postStart of a sidecar that is an ordinary container: the kubelet starts containers one after the other and waits
//! for each one's postStart, so that no application starts before its network is there.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use clap::Args;
use tasuki_runtime::parse_duration;

/// Between two questions.
const PERIOD: Duration = Duration::from_millis(200);
/// For one answer.
const ANSWER: Duration = Duration::from_secs(3);

/// Flags of `tasuki-proxy wait`.
#[derive(Clone, Debug, Args)]
pub struct WaitArgs {
    /// Where the sidecar answers /ready
    #[arg(
        long,
        env = "TASUKI_HEALTH",
        value_name = "ADDR:PORT",
        default_value = "0.0.0.0:15021"
    )]
    pub health: SocketAddr,
    /// When to give up
    #[arg(long, env = "TASUKI_WAIT_TIMEOUT", value_name = "DURATION", default_value = "10m", value_parser = parse_duration)]
    pub timeout: Duration,
}

/// Waits.
///
/// # Errors
/// What the sidecar said last, when the time is over.
pub fn wait(args: &WaitArgs) -> anyhow::Result<()> {
    let address = reachable(args.health);
    let start = Instant::now();
    loop {
        let answer = ask(address);
        match answer {
            Ok(answer) if answer.starts_with("HTTP/1.1 200") => return Ok(()),
            answer if start.elapsed() >= args.timeout => {
                let said = answer.unwrap_or_else(|error| error.to_string());
                let said = said.lines().last().unwrap_or("nothing").to_owned();
                anyhow::bail!("the sidecar at {address} is not ready: {said}");
            }
            Ok(_) | Err(_) => std::thread::sleep(PERIOD),
        }
    }
}

/// A listener on all addresses is reached on loopback.
fn reachable(health: SocketAddr) -> SocketAddr {
    let ip: IpAddr = match health.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, health.port())
}

fn ask(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, ANSWER)?;
    stream.set_read_timeout(Some(ANSWER))?;
    stream.write_all(b"GET /ready HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(4096).read_to_string(&mut answer)?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn args(health: SocketAddr) -> WaitArgs {
        WaitArgs {
            health,
            timeout: Duration::ZERO,
        }
    }

    #[test]
    fn not_ready_is_waited_for_and_told_in_the_end() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            for answer in [
                "HTTP/1.1 503 Oops\r\n\r\nno certificate yet\n",
                "HTTP/1.1 503 Oops\r\n\r\nno certificate yet\n",
                "HTTP/1.1 200 OK\r\n\r\nready\n",
            ] {
                let (mut stream, _) = listener.accept().unwrap();
                let _ = stream.read(&mut [0; 1024]).unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        let error = wait(&args(address)).unwrap_err().to_string();
        assert!(
            error.ends_with("is not ready: no certificate yet"),
            "{error}"
        );
        let patient = WaitArgs {
            timeout: Duration::from_secs(3600),
            ..args(address)
        };
        wait(&patient).unwrap();
        server.join().unwrap();
        assert!(wait(&args(address)).is_err(), "nobody there");
    }

    #[test]
    fn all_addresses_are_reached_on_loopback() {
        let at = |text: &str| reachable(text.parse().unwrap()).to_string();
        assert_eq!(at("0.0.0.0:15021"), "127.0.0.1:15021");
        assert_eq!(at("[::]:15021"), "[::1]:15021");
        assert_eq!(at("10.0.0.1:1"), "10.0.0.1:1");
    }
}
