#!/usr/bin/env bash
# What builds the page: rust's wasm target, trunk, and wasm-bindgen at exactly the version of Cargo.lock.
# A user's own tools are used where they fit; what is missing goes to .tools/.
# Either way, PATH=$PWD/.tools/bin:$PATH and `trunk build` in frontend/ make the page.
. "$(dirname "$0")/lib.sh"

# The first argument that is an executable, so that what lies in .tools/bin is never taken for the user's.
first() { for tool in "$@"; do if [ -x "$tool" ]; then echo "$tool"; return; fi; done; }
installed() { type -aP "$1" | grep -v '/\.tools/' || true; }

# cargo_install NAME WHY PACKAGE...: without optimization, as that takes minutes more and saves nothing here.
# The crate's own lock file is tried first; where the registry's copy lags behind it, it cannot be had.
cargo_install() {
  local name=$1 why=$2
  shift 2
  have cargo || fail "there is no cargo to install $name with" "install Rust by rustup, then run make again"
  say "installing $name by cargo, a few minutes, once: $why"
  local how=(cargo install "$@" --root .tools/cargo --debug --force --config 'profile.dev.debug=false')
  work "$name" "try it by hand: cargo install $*" \
    bash -c '"$@" --locked || "$@"' - "${how[@]}"
}

version=$(grep -A1 '^name = "wasm-bindgen"$' Cargo.lock | sed -n 's/^version = "\(.*\)"/\1/p')
bindgen=
for tool in $(installed wasm-bindgen) "$HOME/.cache/trunk/wasm-bindgen-$version/wasm-bindgen" .tools/cargo/bin/wasm-bindgen; do
  if [ -x "$tool" ] && [ "$("$tool" --version 2>/dev/null)" = "wasm-bindgen $version" ]; then bindgen=$tool; break; fi
done
if [ -z "$bindgen" ]; then
  cargo_install wasm-bindgen-cli "it joins the page's wasm and JavaScript" wasm-bindgen-cli --version "$version"
  bindgen=.tools/cargo/bin/wasm-bindgen
fi

trunk=$(first $(installed trunk) .tools/cargo/bin/trunk)
if [ -z "$trunk" ]; then
  cargo_install trunk "it builds the page" trunk --version 0.21.14 --no-default-features
  trunk=.tools/cargo/bin/trunk
fi

ln -sfn "$(realpath "$bindgen")" .tools/bin/wasm-bindgen
trunk=$(realpath "$trunk")

# The target comes by rustup. Where that cannot be had, Debian's own compiler of about the same age
# builds the standard library itself, with the linker of the installed toolchain.
sysroot=$(rustc --print sysroot)
if [ ! -d "$sysroot/lib/rustlib/wasm32-unknown-unknown/lib" ] && [ ! -f .tools/by-debian ]; then
  say "adding the target wasm32-unknown-unknown by rustup: the page runs in the browser"
  if ! rustup target add wasm32-unknown-unknown >.tools/log/wasm-target.log 2>&1; then
    say "  not to be had by rustup here (.tools/log/wasm-target.log): taking Debian's compiler instead"
    packages wasm-compiler "it compiles the page where rustup has no target for it" rustc-web cargo-web rust-web-src
    touch .tools/by-debian
  fi
fi
if [ -d "$sysroot/lib/rustlib/wasm32-unknown-unknown/lib" ]; then
  ln -sfn "$trunk" .tools/bin/trunk
  rm -f .tools/by-debian
  exit 0
fi

linker=$(first "$sysroot"/lib/rustlib/*/bin/rust-lld)
[ -n "$linker" ] || fail "the toolchain in $sysroot has no rust-lld to link the page with" \
  "rustup target add wasm32-unknown-unknown"
rm -f .tools/bin/trunk # it may be a link, and a link would be written through
cat >.tools/bin/trunk <<WRAPPER
#!/bin/sh
# Written by setup/web.sh: trunk with Debian's compiler, which builds the standard library for wasm itself.
# A target folder of its own: the two compilers must not take turns in one.
export RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1 CARGO_UNSTABLE_BUILD_STD=std,panic_abort
export CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER='$linker'
export CARGO_TARGET_DIR='$PWD/target/web'
PATH="/usr/bin:\$PATH" exec '$trunk' "\$@"
WRAPPER
chmod +x .tools/bin/trunk
