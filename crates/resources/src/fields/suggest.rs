//! Which field a misspelt one was meant to be.

/// The known name that a misspelt one most likely means.
pub fn closest(key: &str, known: &[&'static str]) -> Option<&'static str> {
    let allowed = (key.len() / 2).clamp(1, 3);
    known
        .iter()
        .map(|name| (distance(&key.to_lowercase(), &name.to_lowercase()), *name))
        .filter(|(distance, _)| *distance <= allowed)
        .min()
        .map(|(_, name)| name)
}

/// Levenshtein distance over bytes; names are short, longer ones are never close.
fn distance(a: &str, b: &str) -> usize {
    if a.len().max(b.len()) > 64 {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::closest;

    #[test]
    fn near_names_only() {
        let known = ["host", "subset", "port", "consecutive5xxErrors"];
        assert_eq!(closest("hots", &known), Some("host"));
        assert_eq!(closest("Subset", &known), Some("subset"));
        assert_eq!(
            closest("consecutive5xxError", &known),
            Some("consecutive5xxErrors")
        );
        assert_eq!(closest("weight", &known), None);
        assert_eq!(closest(&"x".repeat(1000), &known), None);
    }
}
