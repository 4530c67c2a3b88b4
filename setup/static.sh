#!/usr/bin/env bash
# What builds a binary that needs no libc of the server: Rust's musl target, and musl's compiler for the bundled SQLite.
. "$(dirname "$0")/lib.sh"

target=$(uname -m)-unknown-linux-musl
if ! have musl-gcc; then packages musl "the libc that goes into a static binary" musl-tools; fi
[ ! -d "$(rustc --print sysroot)/lib/rustlib/$target/lib" ] || exit 0
have rustup || fail "this Rust has no standard library for $target, and there is no rustup to get it with" \
  "build on the server instead: agents/enrollment.md, step 3"
say "adding the target $target by rustup: the binary then runs on any Linux"
work static-target "is this machine online? try: rustup target add $target" rustup target add "$target"
