#!/usr/bin/env bash
# The image bettertest-test:1 for the tests of the engine: one static busybox and the names it answers to.
# Made here in a second, so that the tests need no registry.
. "$(dirname "$0")/lib.sh"

# Unpacked, not installed: the machine may have another busybox that its boot needs. The benchmark runs it bare, so it
# is wanted here also where the image is there already.
busybox=.tools/busybox/bin/busybox
if [ ! -x $busybox ]; then
  have dpkg-deb || fail "there is no dpkg-deb to unpack busybox with" \
    "put a static busybox at $busybox, then run make again"
  package_lists
  mkdir -p .tools/busybox
  work busybox "is this machine online? try: apt-get download busybox-static" \
    bash -c 'cd .tools/busybox && apt-get download busybox-static && dpkg-deb -x busybox-static_*.deb .'
fi

image=bettertest-test:1
inputs=$(hash_of setup/test-image.sh)
made=$(docker image inspect --format '{{index .Config.Labels "inputs"}}' $image 2>/dev/null || true)
if [ "$made" = "$inputs" ]; then exit 0; fi

say "making the image $image (busybox), in which the engine is tested"
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir -p "$root"/{bin,etc,root,home,proc,sys,dev,var/tmp}
mkdir -m 1777 "$root/tmp"
for applet in $($busybox --list); do ln -s busybox "$root/bin/$applet"; done
cp --remove-destination $busybox "$root/bin/busybox" # last: it lists itself among its names
cat >"$root/etc/passwd" <<'USERS'
root:x:0:0:root:/root:/bin/sh
nobody:x:65534:65534:nobody:/tmp:/bin/sh
USERS
printf 'root:x:0:\nnogroup:x:65534:\n' >"$root/etc/group"

make_image() {
  docker image rm --force $image >/dev/null 2>&1 # an older one, which would stay without a name
  tar --create --numeric-owner --owner=0 --group=0 --directory "$root" . |
    docker import --change 'ENV PATH=/bin' --change 'CMD ["sh"]' --change "LABEL inputs=$inputs" - $image &&
    docker run --rm --network none $image true
}
work test-image "does docker answer? try: docker version" make_image
