#!/usr/bin/env bash
# cargo: a small program with a procedural macro and other crates among its dependencies.
set -euo pipefail
export PATH=$TOOLCHAIN/bin:$PATH CARGO_HOME=$PWD/home CARGO_INCREMENTAL=1 CARGO_TERM_COLOR=never
if [ "$1" = make ]; then
    cp -r "$SUITES/crate" program
    mkdir home
    cp -r "$VENDOR" program/vendor
    mkdir program/.cargo
    printf '[source.crates-io]\nreplace-with = "vendored"\n[source.vendored]\ndirectory = "vendor"\n' \
        >program/.cargo/config.toml
    cd program
    cargo build -q --offline --locked
    cargo test -q --offline --locked
    sed -i 's/forty-two/forty-three/' src/main.rs
    cargo build -q --offline --locked
    cd ..
fi
cd program
# Nothing is built again: cargo compares times.
cargo build --offline --locked 2>&1 | tee ../built
(! grep -q Compiling ../built)
target/debug/program | grep -Fqx '{"said":"forty-three","times":[1,2,3]}'
