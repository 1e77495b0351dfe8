//! Compiles our own messages (`proto/`); Envoy's come ready made from `envoy-types`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = "../../proto";
    let files = [
        "tasuki/xds/v1/trust.proto",
        "tasuki/xds/v1/proxy_settings.proto",
        "tasuki/xds/v1/rejected.proto",
        "tasuki/xds/v1/departure.proto",
    ];
    for file in files {
        println!("cargo:rerun-if-changed={root}/{file}");
    }
    let set = protox::compile(files, [root])?;
    tonic_prost_build::configure()
        .build_client(false)
        .build_server(false)
        .compile_fds(set)?;
    Ok(())
}
