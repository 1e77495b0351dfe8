//! Listeners: one per worker and address (SO_REUSEPORT), with backpressure when the process is full.
