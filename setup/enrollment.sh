#!/usr/bin/env bash
# What the test of agents/enrollment.md needs: an ssh server, which it starts itself, without a port; `systemd-analyze`,
# which reads the units; and what makes the machines that it plays with.
. "$(dirname "$0")/lib.sh"

if [ ! -x /usr/sbin/sshd ] || ! have ssh; then
  # As installed it would listen for the world.
  if [ -d /run/systemd/system ]; then as_root systemctl mask --quiet ssh.service ssh.socket; fi
  packages ssh-server "the ssh server by which enrollment is tested" openssh-server openssh-client
fi
have systemd-analyze || packages systemd "systemd-analyze, which reads the units in agents/units" systemd
have curl || packages curl "curl, which enrollment uses" curl
PATH=$PATH:/usr/sbin:/sbin have ip || packages iproute2 "ip, which connects the machines of enrollment's test" iproute2
