//! Durations as people write them in flags and annotations: `30s`, `1h30m`, `10ms`.

use std::time::Duration;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is not a duration: write 10ms, 30s, 5m, 1h30m or 0")]
pub struct InvalidDuration {
    value: String,
}

/// Go's notation without sign: numbers, possibly with decimals, each followed by `ns`, `us`, `ms`, `s`, `m`, `h` or `d`. A bare `0`
/// is allowed. Usable as clap's `value_parser`.
pub fn parse_duration(text: &str) -> Result<Duration, InvalidDuration> {
    let refuse = || InvalidDuration {
        value: text.chars().take(64).collect(),
    };
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(refuse)?;
        let (number, tail) = rest.split_at(digits);
        let letters = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let part = seconds(number, unit).ok_or_else(refuse)?;
        total = total.checked_add(part).ok_or_else(refuse)?;
        rest = tail;
    }
    if text.is_empty() {
        Err(refuse())
    } else {
        Ok(total)
    }
}

fn seconds(number: &str, unit: &str) -> Option<Duration> {
    let nanos_per_unit: u64 = match unit {
        "ns" => 1,
        "us" | "µs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        "d" => 86_400_000_000_000,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.len() > 18 {
        return None;
    }
    let whole: u64 = if whole.is_empty() {
        0
    } else {
        whole.parse().ok()?
    };
    let mut nanos = u128::from(whole) * u128::from(nanos_per_unit);
    if !fraction.is_empty() {
        let parts: u128 = fraction.parse().ok()?;
        nanos += parts * u128::from(nanos_per_unit) / 10u128.pow(fraction.len() as u32);
    }
    Some(Duration::from_nanos(nanos.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write() {
        for (text, expected) in [
            ("0", Duration::ZERO),
            ("0s", Duration::ZERO),
            ("10ms", Duration::from_millis(10)),
            ("30s", Duration::from_secs(30)),
            ("1h", Duration::from_secs(3600)),
            ("1h30m", Duration::from_secs(5400)),
            ("1.5s", Duration::from_millis(1500)),
            (".5s", Duration::from_millis(500)),
            ("1m0.25s", Duration::from_millis(60_250)),
            ("7d", Duration::from_secs(7 * 86_400)),
        ] {
            assert_eq!(parse_duration(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_refused() {
        for text in [
            "",
            "5",
            "s",
            "-1s",
            "1 s",
            "1x",
            "1.2.3s",
            ".s",
            "99999999999999999999h",
            "1h-1m",
            "+1s",
        ] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}
