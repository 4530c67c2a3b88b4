# What the set-up scripts share: words, long work, and packages. Sourced, never run.
#
# Each script in this folder looks first and does nothing, silently, when there is nothing to do.
# What it does set up it says in one line; the details go to .tools/log/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
mkdir -p .tools/log .tools/bin
export DEBIAN_FRONTEND=noninteractive

say() { printf 'setup: %s\n' "$*"; }

# fail WHAT HINT: what happened to what, and the next thing to do.
fail() {
  printf 'error: %s\nhint: %s\n' "$1" "$2" >&2
  exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# hash_of PATH...: one hash of the names and contents of all files there.
hash_of() { find "$@" -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum | cut -c1-32; }

# as_root COMMAND...
as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"
  elif have sudo; then sudo "$@"
  else fail "this needs root, and there is no sudo: $*" "run this as root: $*"
  fi
}

# A password is asked for here, before a moving line would write over the question.
ask_for_root() {
  [ "$(id -u)" = 0 ] || ! have sudo || sudo -v || fail "sudo refused $(id -un)" "run this as root, or as one who may sudo"
}

# work NAME HINT COMMAND...: runs something long; its output goes to .tools/log/NAME.log.
# A terminal sees the last line move; a log sees a line every half minute.
work() {
  local name=$1 hint=$2 log=.tools/log/$1.log began=$SECONDS
  shift 2
  if "$@" 2>&1 </dev/null | tee "$log" | progress; then
    [ $((SECONDS - began)) -lt 5 ] || say "  done in $((SECONDS - began)) s"
  else
    tail -n 20 "$log" >&2
    fail "setting up '$name' failed (the whole log: $log)" "$hint"
  fi
}

progress() {
  local line='' next began=$SECONDS told=$SECONDS
  while true; do
    # Five silent seconds are no end: only the time moves on.
    if IFS= read -r -t 5 next; then line=${next##*$'\r'}
    elif [ $? -le 128 ]; then break; fi
    if [ -t 1 ]; then printf '\r\033[K  %3d s  %.70s' $((SECONDS - began)) "$line"
    elif [ $((SECONDS - told)) -ge 30 ]; then
      told=$SECONDS
      printf '  %3d s  %.90s\n' $((SECONDS - began)) "$line"
    fi
  done
  if [ -t 1 ]; then printf '\r\033[K'; fi
}

# packages NAME WHY PACKAGE...: Debian packages, by name.
packages() {
  local name=$1 why=$2
  shift 2
  have apt-get || fail "$why is missing, and there is no apt-get to install it with" \
    "install these yourself, then run make again: $*"
  ask_for_root
  package_lists
  say "installing $* by apt-get: $why"
  work "$name" "try it by hand: apt-get install $*" \
    as_root apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "$@"
}

# A fresh machine has no package lists, an old one has stale ones.
package_lists() {
  [ -z "$(find .tools/package-lists -mmin -60 2>/dev/null)" ] || return 0
  ask_for_root
  work package-lists "is this machine online? try: apt-get update" \
    as_root apt-get -o DPkg::Lock::Timeout=300 update
  touch .tools/package-lists
}
