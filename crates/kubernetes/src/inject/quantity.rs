//! Kubernetes' resource quantities (`100m`, `64Mi`, `1.5`, `1e3`), so far as it takes to check and compare them.

use std::fmt;
use std::str::FromStr;

/// An amount that is more than nothing, as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quantity {
    text: String,
    /// In thousandths, rounded up as the API server does beyond them.
    thousandths: u128,
}

const SUFFIXES: [(&str, u128, u128); 15] = [
    // Suffix, times, divided by.
    ("Ki", 1 << 10, 1),
    ("Mi", 1 << 20, 1),
    ("Gi", 1 << 30, 1),
    ("Ti", 1 << 40, 1),
    ("Pi", 1 << 50, 1),
    ("Ei", 1 << 60, 1),
    ("n", 1, 1_000_000_000),
    ("u", 1, 1_000_000),
    ("m", 1, 1_000),
    ("k", 1_000, 1),
    ("M", 1_000_000, 1),
    ("G", 1_000_000_000, 1),
    ("T", 1_000_000_000_000, 1),
    ("P", 1_000_000_000_000_000, 1),
    ("E", 1_000_000_000_000_000_000, 1),
];

impl Quantity {
    /// One that is known to be right.
    pub(super) fn known(text: &str, thousandths: u128) -> Self {
        let text = text.to_owned();
        Self { text, thousandths }
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// In thousandths of the unit: of a core, of a byte.
    pub fn thousandths(&self) -> u128 {
        self.thousandths
    }
}

impl FromStr for Quantity {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let found = SUFFIXES.iter().find(|(suffix, ..)| text.ends_with(suffix));
        let (number, times, divided) = match found {
            Some((suffix, times, divided)) => {
                (&text[..text.len() - suffix.len()], *times, *divided)
            }
            None => exponent(text)?,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let digits = format!("{whole}{fraction}");
        // 12 digits are a terabyte in bytes; what is longer was not meant.
        if digits.is_empty() || digits.len() > 15 || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(());
        }
        let digits: u128 = digits.parse().map_err(drop)?;
        let scale = 10u128.pow(fraction.len() as u32) * divided;
        let amount = digits.checked_mul(times).and_then(|n| n.checked_mul(1000));
        let thousandths = amount.ok_or(())?.div_ceil(scale);
        if thousandths == 0 {
            return Err(());
        }
        Ok(Self {
            text: text.to_owned(),
            thousandths,
        })
    }
}

/// `1e3`, `5E-1`, or no exponent.
fn exponent(text: &str) -> Result<(&str, u128, u128), ()> {
    let Some((number, exponent)) = text.split_once(['e', 'E']) else {
        return Ok((text, 1, 1));
    };
    let exponent: i32 = exponent.parse().map_err(drop)?;
    let power = 10u128
        .checked_pow(exponent.unsigned_abs())
        .filter(|_| exponent.unsigned_abs() <= 18)
        .ok_or(())?;
    Ok(if exponent < 0 {
        (number, 1, power)
    } else {
        (number, power, 1)
    })
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kubernetes_takes() {
        for (text, thousandths) in [
            ("100m", 100),
            ("1", 1000),
            ("1.5", 1500),
            (".5", 500),
            ("1e3", 1_000_000),
            ("5E-1", 500),
            ("2k", 2_000_000),
            ("64Mi", 67_108_864_000),
        ] {
            assert_eq!(
                text.parse::<Quantity>().unwrap().thousandths(),
                thousandths,
                "{text}"
            );
        }
        assert_eq!("1n".parse::<Quantity>().unwrap().thousandths(), 1);
        assert!("7E".parse::<Quantity>().is_ok());
    }

    #[test]
    fn the_defaults_are_written_as_they_are_meant() {
        let defaults = super::super::Options::default();
        for quantity in [
            defaults.cpu,
            defaults.memory,
            defaults.cpu_limit,
            defaults.memory_limit,
        ] {
            assert_eq!(quantity.as_str().parse(), Ok(quantity.clone()));
        }
    }

    #[test]
    fn what_is_refused() {
        for text in [
            "",
            "m",
            "-1",
            "+1",
            "0",
            "0m",
            "1 Gi",
            "1gi",
            "1.2.3",
            "1e99",
            "1e",
            "abc",
            "9999999999999999",
        ] {
            assert!(text.parse::<Quantity>().is_err(), "{text}");
        }
    }
}
