//! Durations in Go's syntax.
