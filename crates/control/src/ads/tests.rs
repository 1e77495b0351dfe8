//! Tests of the ADS service over real connections.
