//! Compiles the wire contract in `proto/` with protox, so that no protoc is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    const FILES: [&str; 6] = [
        "proto/atmosphere/v1/capability.proto",
        "proto/atmosphere/v1/advert.proto",
        "proto/atmosphere/v1/member.proto",
        "proto/atmosphere/v1/sync.proto",
        "proto/atmosphere/v1/gate.proto",
        "proto/atmosphere/v1/call.proto",
    ];
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    prost_build::Config::new().bytes(["."]).compile_fds(descriptors)?;
    Ok(())
}
