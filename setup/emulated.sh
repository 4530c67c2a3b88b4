#!/usr/bin/env bash
# The native engine on a host that this one may not be: Debian's own kernel, systemd, cgroup v2 alone, AppArmor and Debian's
# Docker, in an emulated machine. By hand, as root, on Debian, after `cargo test --workspace --no-run` and setup/test-image.sh:
#
#   setup/emulated.sh [FILTER ...]     the server's tests of these names; without any, those of the native engine
#
# Nothing is accelerated, so that it goes everywhere: a quarter of an hour at least. Tests whose limits are seconds may be
# too late there, on either engine; what they say of anything else counts.
. "$(dirname "$0")/lib.sh"

[ "$(id -u)" = 0 ] || fail "this makes a disk with files of root" "run it as root: sudo setup/emulated.sh"
[ $# -gt 0 ] || set -- native::apparmor native::cgroup tests::native on_native
# The binaries of this machine need its libc there.
suite=$(. /etc/os-release && [ "$ID" = debian ] && echo "$VERSION_CODENAME") ||
  fail "this is no Debian, and the binaries built here may not run on one" "try it on a Debian"
tests=$(find target/debug/deps -name 'bettertest-*' -executable -type f -printf '%T@ %p\n' | sort -rn | sed -n '1s/.* //p')
[ -n "$tests" ] || fail "the server's tests are not built" "cargo test --workspace --no-run"
have qemu-system-x86_64 && have mmdebstrap ||
  packages emulator "the emulated machine" qemu-system-x86 seabios mmdebstrap e2fsprogs

here=.tools/emulated
disk=$here/$suite-$(hash_of setup/emulated.sh)
make_disk() {
  rm -rf $here && mkdir -p $here/root
  mmdebstrap --variant=minbase --components=main --skip=output/dev \
    --include=linux-image-amd64,systemd-sysv,udev,dbus,docker.io,apparmor,iptables,iproute2,gcc,libc6-dev,procps,kmod \
    "$suite" $here/root
  cat >$here/root/etc/systemd/system/emulated.service <<'UNIT'
[Unit]
Wants=docker.service apparmor.service
After=docker.service apparmor.service
SuccessAction=poweroff-force
FailureAction=poweroff-force
[Service]
Type=oneshot
ExecStartPre=mkdir -p /project
ExecStartPre=mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000 project /project
ExecStart=bash /project/.tools/emulated/run
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0
[Install]
WantedBy=multi-user.target
UNIT
  printf '[Match]\nName=en*\n[Network]\nDHCP=yes\n' >$here/root/etc/systemd/network/all.network
  echo 'nameserver 10.0.2.3' >$here/root/etc/resolv.conf
  chroot $here/root systemctl enable emulated docker systemd-networkd
  chroot $here/root systemctl mask serial-getty@ttyS0
  echo '/dev/vda / ext4 defaults 0 0' >$here/root/etc/fstab
  echo emulated >$here/root/etc/hostname
  printf '127.0.0.1 localhost emulated\n' >$here/root/etc/hosts
  cp $here/root/boot/vmlinuz-* $here/kernel && cp $here/root/boot/initrd.img-* $here/initrd
  truncate -s 12G $here/disk && mkfs.ext4 -q -F -d $here/root $here/disk
  rm -rf $here/root && mv $here/disk "$disk"
}
if [ ! -f "$disk" ]; then
  say "making a disk with Debian $suite, its kernel and its Docker"
  work emulated "is this machine online? try: apt-get update" make_disk
fi

rm -f $here/exit
docker save bettertest-test:1 >$here/image.tar
cat >$here/run <<RUN
mkdir -p "$PWD" /t/debug/deps && mount --bind /project "$PWD" && cd "$PWD/server" || exit
cp ../target/debug/bettertest /t/debug && cp ../$tests /t/debug/deps/tests
docker load --quiet --input ../$here/image.tar
uname -r && docker version --format 'docker {{.Server.Version}}' && runc --version | head -n 1
stat -fc 'cgroups: %T' /sys/fs/cgroup && grep docker-default /sys/kernel/security/apparmor/profiles
/t/debug/deps/tests --test-threads=1 $*
echo \$? >../$here/exit
RUN
# What it writes to its disk is thrown away: each time begins alike.
nice qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 2 -m 4096 -display none -no-reboot -snapshot -serial stdio \
  -kernel $here/kernel -initrd $here/initrd -append "root=/dev/vda rw console=ttyS0 quiet apparmor=1 security=apparmor" \
  -drive "file=$disk,format=raw,if=virtio" -nic user,model=virtio-net-pci \
  -virtfs local,path=.,mount_tag=project,security_model=none </dev/null
[ "$(cat $here/exit 2>/dev/null)" = 0 ] || fail "not all passed in the emulated machine" "its words are above"
