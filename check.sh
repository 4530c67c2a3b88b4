#!/usr/bin/env bash
# Every check and every test; `make test` and CI run this. The first that does not pass ends it.
# Each phase's minutes are shown as the next begins, and all of them stand in .tools/phases.
. "$(dirname "$0")/setup/lib.sh"

: >.tools/phases
phase() {
  local name=$1 began
  shift
  began=$(date +%s%N)
  tail -n 1 .tools/phases
  printf '\n== %s\n' "$name"
  "$@"
  printf '%6.2f min  %s\n' "$((($(date +%s%N) - began) / 600000000))e-2" "$name" >>.tools/phases
}
# beside NAME COMMAND...: goes on while the phases after it do, until `joined NAME`, which shows what it said.
beside() {
  local name=$1
  shift
  printf '\n== %s: begun, beside what follows\n' "$name"
  "$@" >".tools/log/beside-$name.log" 2>&1 &
  beside_pid=$!
  trap 'kill "$beside_pid" 2>/dev/null; wait "$beside_pid" || true' EXIT
}
joined() {
  local code=0
  wait "$beside_pid" || code=$?
  trap - EXIT
  cat ".tools/log/beside-$1.log"
  return "$code"
}
machine() { for what in web docker browser python axe test-image enrollment; do setup/$what.sh; done; }
build() { make --no-print-directory build; }

# A component that this machine's Rust came without is left to the machines that have it.
format() {
  if cargo fmt --version >/dev/null 2>&1; then cargo fmt --all --check
  else echo "skipped: no rustfmt here (rustup component add rustfmt)"; fi
}
clippy() {
  if cargo clippy --version >/dev/null 2>&1; then cargo clippy --release --workspace --all-targets -- -D warnings
  else echo "skipped: no clippy here (rustup component add clippy)"; fi
}
python() {
  # No caches among the sources: the binary carries the library, and would be built again for each of them.
  .tools/venv/bin/python -m mypy --strict --cache-dir .tools/mypy bettertest demo/*.py bench/bench.py agents/*.py
  .tools/venv/bin/python -m mypy --strict --cache-dir .tools/mypy soak/*.py
  .tools/venv/bin/python -B -m pytest -q -p no:cacheprovider bettertest
}

phase "what the machine needs" machine
beside base-images setup/base-images.sh
phase "format" format
phase "page and binary" build
phase "python: types and tests" python
phase "base images: their end" joined base-images
# Its seed is the day, so that each day tries something else and all of one day the same. Compilers beside it are a
# part of its weather, and it waits more than it works.
beside soak python3 -B soak/soak.py --kept --seconds 300 --seed "$(($(date +%s) / 86400))"
phase "clippy" clippy
phase "rust tests: compile" cargo test --release --workspace --no-run
phase "soak: its end" joined soak
# Nothing is printed after this one: the runner's own words end it all.
phase "rust tests" cargo test --release --workspace
