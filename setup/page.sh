#!/usr/bin/env bash
# The page, built into frontend/dist, from where the binary takes it. Nothing to do while its sources are the same.
. "$(dirname "$0")/lib.sh"

# By content: a branch that was switched there and back has new times and the same page.
inputs=$(hash_of $(ls -d frontend/* frontend/.cargo | grep -v '/dist$') common/src common/Cargo.toml Cargo.toml Cargo.lock)
page() { sha256sum frontend/dist/index.html 2>/dev/null || true; }
if [ "$(cat .tools/page 2>/dev/null)" = "$inputs $(page)" ]; then exit 0; fi

say "building the page (frontend/dist) with trunk"
build() { cd frontend && RUST_BACKTRACE=0 PATH="$OLDPWD/.tools/bin:$PATH" trunk build; }
work page "the compiler's words are above; by hand: cd frontend && PATH=\$PWD/../.tools/bin:\$PATH trunk build" \
  build
echo "$inputs $(page)" >.tools/page
