//! Compiles what replicas say to each other; protox stands in for `protoc`.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let (root, file) = ("../../proto", "tasuki/control/v1/departures.proto");
    println!("cargo:rerun-if-changed={root}/{file}");
    let descriptors = protox::compile([file], [root])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
