#!/usr/bin/env bash
# A Docker daemon that this user may talk to: workers run every step in a container.
. "$(dirname "$0")/lib.sh"

answers() { docker version --format '{{.Server.Version}}' >.tools/log/docker.log 2>&1; }

refused() {
  fail "this user may not use the Docker daemon ($(id -un) is not in the group docker)" \
    "sudo usermod -aG docker $(id -un), log in again (or: newgrp docker), then the same command"
}

if have docker && answers; then exit 0; fi
if grep -qi 'permission denied while trying to connect' .tools/log/docker.log 2>/dev/null; then refused; fi

have dockerd || PATH=$PATH:/usr/sbin have dockerd ||
  packages docker-install "Docker, in which the tests run" docker.io

# Newer Debians keep the client in a package of its own.
have docker || packages docker-client "the docker command" docker-cli

[ "$(id -u)" = 0 ] || have sudo || fail "the Docker daemon does not run, and there is no sudo to start it with" \
  "start it as root (systemctl start docker, or dockerd), then the same command"
ask_for_root
if [ -d /run/systemd/system ]; then
  say "starting the Docker daemon by systemd"
  as_root systemctl enable --now docker >.tools/log/dockerd.log 2>&1 || true
else
  # No systemd (a container, a CI machine): the daemon outlives this script in a session of its own.
  say "starting the Docker daemon (dockerd; its log: .tools/log/dockerd.log)"
  as_root setsid env PATH="$PATH:/usr/sbin:/sbin" dockerd >.tools/log/dockerd.log 2>&1 </dev/null &
fi

deadline=$((SECONDS + 30))
until answers; do
  if grep -qi 'permission denied while trying to connect' .tools/log/docker.log; then refused; fi
  if [ $SECONDS -ge $deadline ]; then
    tail -n 20 .tools/log/dockerd.log >&2
    fail "the Docker daemon did not answer within 30 s" "start it yourself; its log: .tools/log/dockerd.log"
  fi
  sleep 0.2
done
