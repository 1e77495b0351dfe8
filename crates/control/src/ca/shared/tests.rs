//! Replicas and their vault.
