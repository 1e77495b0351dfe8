//! Bounds on what clients may hold open at one time.
