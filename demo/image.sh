#!/usr/bin/env bash
# The image bettertest-demo:click: a real project that is not ours, with its own tests, fetched by name.
. "$(dirname "$0")/../setup/lib.sh"

project=click==8.5.1
image=bettertest-demo:click
base=bettertest-demo-base:bookworm

inputs=$(hash_of demo/image.sh demo/Dockerfile)
made=$(docker image inspect --format '{{index .Config.Labels "inputs"}}' $image 2>/dev/null || true)
if [ "$made" = "$inputs" ]; then exit 0; fi

setup/python.sh
context=.tools/demo-image
fetch() {
  rm -rf $context && mkdir -p $context/wheels $context/source &&
    .tools/venv/bin/pip download --disable-pip-version-check --dest $context/wheels pytest==8.4.2 flit_core==3.12.0 &&
    .tools/venv/bin/pip download --disable-pip-version-check --dest $context/source --no-deps --ignore-requires-python \
      --no-binary :all: $project &&
    mkdir $context/click && tar -xzf $context/source/*.tar.gz --strip-components 1 --directory $context/click &&
    tar -czf $context/click.tar.gz --owner 0 --group 0 --directory $context click &&
    cp demo/Dockerfile $context/
}
say "fetching the source package of $project: the demo runs its tests"
work demo-source "is this machine online? try: .tools/venv/bin/pip download --no-deps --no-binary :all: $project" fetch

# A public base where a registry answers; else a small Debian with the same python, made here once.
if timeout 15 docker manifest inspect python:3.11-slim >.tools/log/registry.log 2>&1; then
  say "taking the public image python:3.11-slim as the demo's base"
  work demo-pull "try it by hand: docker pull python:3.11-slim" docker pull python:3.11-slim
  base=python:3.11-slim
elif ! docker image inspect $base >/dev/null 2>&1; then
  say "no container registry answers here: making a small Debian with python as the demo's base, once"
  have mmdebstrap || packages mmdebstrap "it makes a Debian from packages" mmdebstrap
  make_base() {
    as_root mmdebstrap --variant=minbase --include=python3,python3-pip,less bookworm - |
      docker import - $base
  }
  work demo-base "try it by hand: mmdebstrap --variant=minbase bookworm base.tar" make_base
fi

say "making the image $image"
older=$(docker image inspect --format '{{.Id}}' $image 2>/dev/null || true)
work demo-image "try it by hand: docker build --build-arg BASE=$base $context" \
  docker build --build-arg BASE=$base --label "inputs=$inputs" --tag $image $context
# Nobody else would miss it: an older one has lost its name by now. It stays while something runs in it.
if [ -n "$older" ] && [ "$older" != "$(docker image inspect --format '{{.Id}}' $image)" ]; then
  docker image rm "$older" >/dev/null 2>&1 || true
fi
