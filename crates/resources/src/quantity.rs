//! Kubernetes' quantities: amounts of CPU and memory.

use std::fmt;

/// An amount such as `100m`, `0.5`, `128Mi`; kept as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quantity {
    text: String,
    /// Thousandths, rounded up; the API server keeps no less of CPU, and no fractions of memory.
    milli: u128,
}

impl Quantity {
    /// Reads what is neither negative nor out of all proportion.
    pub fn parse(text: &str) -> Option<Self> {
        let end = text
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(text.len());
        let (number, suffix) = text.split_at(end);
        let (numerator, denominator) = scale(suffix)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let digits = format!("{whole}{fraction}");
        // 20 digits times the largest scale stay below 2^128.
        if digits.is_empty() || digits.len() > 20 || fraction.contains('.') {
            return None;
        }
        let digits: u128 = digits.parse().ok()?;
        let places = 10u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
        let milli = digits
            .checked_mul(numerator)?
            .checked_mul(1000)?
            .div_ceil(places.checked_mul(denominator)?);
        Some(Self {
            text: text.to_owned(),
            milli,
        })
    }

    /// Thousandths: of a core, mostly.
    pub fn milli(number: u32) -> Self {
        Self {
            text: format!("{number}m"),
            milli: number.into(),
        }
    }

    /// 2^20 of them: of bytes, mostly.
    pub fn mebi(number: u32) -> Self {
        Self {
            text: format!("{number}Mi"),
            milli: (u128::from(number) << 20) * 1000,
        }
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether this is more than `other`; `1` and `1000m` are the same.
    pub fn exceeds(&self, other: &Quantity) -> bool {
        self.milli > other.milli
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What a suffix multiplies by, as a fraction.
fn scale(suffix: &str) -> Option<(u128, u128)> {
    Some(match suffix {
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1_000),
        "" => (1, 1),
        "k" => (1_000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::Quantity;

    #[test]
    fn reads_what_kubernetes_reads() {
        let milli = |text| Quantity::parse(text).map(|q| q.milli);
        assert_eq!(milli("100m"), Some(100));
        assert_eq!(milli("0.5"), Some(500));
        assert_eq!(milli(".5"), Some(500));
        assert_eq!(milli("1n"), Some(1));
        assert_eq!(milli("128Mi"), Some(128 * 1024 * 1024 * 1000));
        assert_eq!(milli("1.5Gi"), Some(1536 * 1024 * 1024 * 1000));
        for text in [
            "",
            ".",
            "-1",
            "+1",
            "1..2",
            "1KB",
            "1 Mi",
            "Mi",
            "999999999999999999999",
        ] {
            assert_eq!(milli(text), None, "{text}");
        }
    }

    #[test]
    fn writes_what_it_reads() {
        for quantity in [Quantity::milli(50), Quantity::mebi(48)] {
            assert_eq!(Quantity::parse(quantity.as_str()), Some(quantity));
        }
    }

    #[test]
    fn compares_amounts() {
        let exceeds = |a, b| {
            let read = |text| Quantity::parse(text).unwrap();
            read(a).exceeds(&read(b))
        };
        assert!(exceeds("0.2", "100m"));
        assert!(exceeds("1Gi", "1G"));
        assert!(!exceeds("1", "1000m") && !exceeds("1000m", "1"));
    }
}
