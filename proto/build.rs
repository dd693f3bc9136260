//! Compiles the `.proto` files with protox, so that building needs no protoc.

use std::{env, fs, path::PathBuf};

use prost::Message;

const FILES: &[&str] = &[
    "apache/rocketmq/v2/definition.proto",
    "apache/rocketmq/v2/service.proto",
    "apache/rocketmq/v2/admin.proto",
    "flotilla/peer/v1/peer.proto",
    "flotilla/record/v1/record.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let stubs = env::var_os("CARGO_FEATURE_GRPC").is_some();
    let descriptors = protox::compile(FILES, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    // The descriptor test reads what was really compiled.
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .bytes(".")
        .btree_map(".")
        .build_client(stubs)
        .build_server(stubs)
        .compile_fds(descriptors)?;
    Ok(())
}
