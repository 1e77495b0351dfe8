//! The key by which a sidecar tells the kubelet's call of a hook from a stranger's (contract section 12).
//!
//! The injector makes one for each Pod and puts it into the hook's handler, which the kubelet performs, and into the sidecar's
//! environment. Whoever may read the Pod can read it, and may end the Pod's traffic: that is the boundary. It is a
//! header rather than part of the URL, which the kubelet writes into events when a hook fails.

use std::fmt;
use std::hint::black_box;
use std::str::FromStr;

/// The request header that carries it.
pub const HEADER: &str = "tasuki-hook-key";
/// Too many to be tried.
const BYTES: usize = 16;

/// 32 hexadecimal digits.
#[derive(Clone, Copy)]
pub struct HookKey([u8; BYTES]);

impl HookKey {
    /// One that nobody has had.
    pub fn random() -> Self {
        Self(rand::random())
    }

    /// Whether `presented` is this key. Takes as long for a key that begins right as for any other.
    pub fn is(&self, presented: &[u8]) -> bool {
        let own = self.digits();
        if presented.len() != own.len() {
            return false;
        }
        let pairs = own.as_bytes().iter().zip(presented);
        let differences = pairs.fold(0, |all, (a, b)| black_box(all | (a ^ b)));
        differences == 0
    }

    /// As it is written.
    pub fn digits(&self) -> String {
        let digits = self.0.iter().map(|byte| format!("{byte:02x}"));
        digits.collect()
    }
}

impl FromStr for HookKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("a hook key has {} hexadecimal digits", 2 * BYTES);
        if text.len() != 2 * BYTES || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        let number = u128::from_str_radix(text, 16).map_err(|_| wrong())?;
        Ok(Self(number.to_be_bytes()))
    }
}

/// Never the key itself: settings are logged.
impl fmt::Debug for HookKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HookKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_itself_and_no_other() {
        let key = HookKey::random();
        let digits = key.digits();
        assert!(key.is(digits.as_bytes()));
        assert!(digits.parse::<HookKey>().unwrap().is(digits.as_bytes()));
        assert!(!HookKey::random().is(digits.as_bytes()));
        assert!(!key.is(b"") && !key.is(&digits.as_bytes()[1..]));
        for place in 0..digits.len() {
            let mut wrong = digits.clone().into_bytes();
            wrong[place] ^= 1;
            assert!(!key.is(&wrong), "digit {place}");
        }
        assert!(!format!("{key:?}").contains(&digits));
    }

    #[test]
    fn what_is_no_key_says_what_is() {
        for text in ["", "0", "+0123456789abcdef0123456789abcde", "gg"] {
            let error = text.parse::<HookKey>().unwrap_err();
            assert!(error.contains("32 hexadecimal digits"), "{error}");
        }
    }
}
