//! Tasuki's data plane. The binary only parses its command line and calls [`run::run`]; everything else is here, so
//! that tests and fuzz targets reach it.
//!
//! The path of a request is one top-down function per itinerary; each module is one of its stages and is named after
//! what it does (README, "the walk of one request").

pub mod accept;
pub mod admin;
pub mod application;
pub mod attempt;
pub mod authorize;
pub mod balance;
pub mod body;
pub mod breaker;
pub mod cluster;
pub mod connection;
pub mod control;
pub mod departure;
pub mod detect;
pub mod drain;
pub mod eject;
pub mod error;
pub mod fast_map;
pub mod gateway;
pub mod headers;
pub mod http;
pub mod identity;
pub mod inbound;
pub mod limit;
pub mod loop_guard;
pub mod observe;
pub mod original_dst;
pub mod outbound;
pub mod probe;
pub mod reach;
pub mod redirect;
pub mod request;
pub mod request_id;
pub mod respond;
pub mod route;
pub mod run;
pub mod settings;
pub mod state;
pub mod stream;
pub mod tcp;
pub mod terminate;
pub mod upstream;
pub mod wait;
pub mod worker;
