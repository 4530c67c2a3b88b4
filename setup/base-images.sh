#!/usr/bin/env bash
# Images under the names that `bettertest init` writes behind FROM, for a machine that reaches no image registry:
# made from Debian's packages, with this machine's certificates, proxies and package indexes in them, so that the
# same Dockerfile builds here as elsewhere. An image of such a name that is not of our making is left as it is.
. "$(dirname "$0")/lib.sh"

base=debian:stable-slim
derived="python:3-slim node:lts-slim rust:slim golang:1"
label=bettertest.base-image
context=.tools/base-images

# What the images take over from this machine.
certificates=/dev/null
for file in /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt; do
  if [ -r $file ]; then certificates=$file; fi
done
cargo_settings=${CARGO_HOME:-$HOME/.cargo}/config.toml
proxies() { env | grep -iE '^(https?|ftp|all|no)_proxy=.' || true; }
settings() {
  proxies
  env | grep -E '^(PIP|GO|GONO|npm_config_)[A-Z_]*=' || true
  cat setup/base-images.sh $certificates /etc/pip.conf ~/.config/pip/pip.conf ~/.pip/pip.conf ~/.npmrc \
    "$cargo_settings" ~/.config/go/env 2>/dev/null || true
}
inputs=$(settings | sha256sum | cut -c1-32)

# ours NAME: the inputs that it was made from; `foreign` where somebody else made it, nothing where it is not there.
ours() {
  docker image inspect --format "{{with index .Config.Labels \"$label\"}}{{.}}{{else}}foreign{{end}}" "$1" 2>/dev/null || true
}
is_wanted() {
  local made
  made=$(ours "$1")
  [ "$made" != "$inputs" ] && [ "$made" != foreign ]
}
wanted=$(for name in $base $derived; do if is_wanted $name; then echo $name; fi; done)
if [ -z "$wanted" ]; then exit 0; fi

if timeout 15 docker manifest inspect $base >.tools/log/registry.log 2>&1; then
  say "an image registry answers here: docker takes from it what a Dockerfile asks for"
  exit 0
fi
say "no image registry answers here: making" $wanted "from Debian's packages, once"
have apt-get || fail "there is no apt-get to make images from Debian's packages with" \
  "bring these images here by docker save and docker load: $base $derived"
have mmdebstrap || packages mmdebstrap "it makes a Debian from packages" mmdebstrap
rm -rf $context && mkdir -p $context/host

# Where packages come from, in files that the images take. Everything else that is set here stays here.
gather() {
  cp $certificates $context/host/certificates.pem
  if have pip; then
    { echo '[global]'; pip config list | sed -nE "s/^[^=]*\.((extra-)?index-url|trusted-host|proxy)='(.*)'$/\1 = \3/p"; } >$context/host/pip.conf
  fi
  if have npm; then npm config get registry | sed -nE 's/^http/registry=&/p' >$context/host/npmrc; fi
  if [ -r "$cargo_settings" ]; then
    awk '/^\[/ { taken = /^\[(source|registries|registry)[].]/ } taken' "$cargo_settings" >$context/host/cargo.toml
  fi
  if have go; then go env GOPROXY GONOPROXY GOSUMDB GONOSUMDB | paste - - - - | awk -F'\t' '{
    split("GOPROXY GONOPROXY GOSUMDB GONOSUMDB", name, " ")
    for (i = 1; i <= 4; i++) if ($i != "") print name[i] "=" $i
  }' >$context/host/go.env; fi
}

# The Debian of this machine's mirror where it has one, else of the usual one.
mirror=$(apt-get indextargets --format '$(LABEL) $(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
  sed -n 's/^Debian //p' | head -n 1)
debian() {
  as_root mmdebstrap --variant=minbase --include=ca-certificates \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt=force-unsafe-io \
    stable - ${mirror:+"deb $mirror stable main"} >$context/debian.tar
}

# Debian's Rust is years behind what crates ask for, and bettertest is built with one that is not: that one, if it is of
# rustup, as only then it runs wherever it lies.
rust=
if have rustup && have rustc; then
  rust=$(rustc --print sysroot)
  rust_for=$(rustc -vV | sed -n 's/^host: //p')
fi
# Debian's npm is four hundred packages; this machine's is one folder.
npm=
if have npm && [ -e "$(npm root -g)/npm/bin/npm-cli.js" ]; then npm=$(npm root -g)/npm; fi
mkdir -p $context/{none,node,rust/bin,rust/lib/rustlib}
toolchain() {
  cp -a "$rust"/bin/{cargo,rustc,rustdoc} $context/rust/bin/ &&
    cp -a "$rust"/lib/*.so* $context/rust/lib/ &&
    cp -a "$rust/lib/rustlib/$rust_for" $context/rust/lib/rustlib/
}

# dockerfile NAME: what makes it. Each is one layer upon the same Debian.
dockerfile() {
  local install='RUN apt-get update && apt-get install -y --no-install-recommends'
  local clean='rm -rf /var/lib/apt/lists/*'
  case $1 in
    "$base")
      printf 'FROM scratch\nADD debian.tar /\nCOPY host /host\n'
      # Its own certificates are not there twice.
      cat <<'STEPS'
RUN awk '/BEGIN CERT/ { one = "" } { one = one $0 "\n" } \
      /END CERT/ { if (NR == FNR) seen[one]; else if (!(one in seen)) \
        { file = "/usr/local/share/ca-certificates/host-" ++n ".crt"; printf "%s", one > file; close(file) } }' \
      /etc/ssl/certs/ca-certificates.crt /host/certificates.pem && update-ca-certificates && \
    cd /host && for to in pip.conf:/etc/pip.conf npmrc:/etc/npmrc cargo.toml:/usr/local/cargo/config.toml \
      go.env:/etc/go.env; do if [ -s ${to%:*} ]; then install -Dm644 ${to%:*} ${to#*:}; fi; done && rm -r /host && \
    echo 'APT::Keep-Downloaded-Packages "false"; Dir::Cache::pkgcache ""; Dir::Cache::srcpkgcache "";' >/etc/apt/apt.conf.d/lean
STEPS
      proxies | sed -E 's/^([^=]*)=(.*)$/ENV \1="\2"/'
      echo 'CMD ["bash"]'
      ;;
    # As in the image of that name python's own place is /usr/local, and pip may write there.
    python:*)
      echo "FROM $base"
      echo "$install python3 python3-venv && $clean && python3 -m venv /usr/local"
      echo 'CMD ["python3"]'
      ;;
    node:*)
      echo "FROM $base"
      echo 'ENV NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt'
      if [ -n "$npm" ]; then
        echo 'ENV NPM_CONFIG_PREFIX=/usr/local'
        echo 'COPY --chown=0:0 npm /usr/local/lib/node_modules/npm'
        echo "$install nodejs && $clean && mkdir -p /usr/local/etc && ln -s /etc/npmrc /usr/local/etc/npmrc && \\"
        echo '  for name in npm npx; do ln -s ../lib/node_modules/npm/bin/$name-cli.js /usr/local/bin/$name; done && npm --version'
      else
        echo "$install nodejs npm && $clean"
      fi
      echo 'CMD ["node"]'
      ;;
    rust:*)
      echo "FROM $base"
      echo 'ENV CARGO_HOME=/usr/local/cargo PATH=/usr/local/cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'
      if [ -n "$rust" ]; then
        echo "$install gcc libc6-dev && $clean"
        echo 'COPY --chown=0:0 . /usr/local/'
      else
        echo "$install cargo rustc gcc libc6-dev && $clean"
      fi
      ;;
    golang:*)
      echo "FROM $base"
      echo 'ENV GOPATH=/go GOTOOLCHAIN=local PATH=/go/bin:/usr/local/go/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'
      echo "$install golang-go gcc libc6-dev git make && $clean && mkdir -p /go/bin && \\"
      echo '  if [ -s /etc/go.env ]; then xargs go env -w </etc/go.env; fi'
      echo 'WORKDIR /go'
      ;;
  esac
}

make_image() {
  local name=$1 older
  older=$(docker image inspect --format '{{.Id}}' "$name" 2>/dev/null || true)
  dockerfile "$name" >"$context/${name%:*}.Dockerfile"
  # Each is sent only what it takes.
  local sent=$context/none
  case $name in "$base") sent=$context ;; node:*) sent=$context/node ;; rust:*) sent=$context/rust ;; esac
  docker build --label "$label=$inputs" --tag "$name" --file "$context/${name%:*}.Dockerfile" "$sent" || return 1
  # It has lost its name, and stays only while something runs in it.
  if [ -n "$older" ]; then docker image rm "$older" >/dev/null 2>&1 || true; fi
}

make_all() {
  if is_wanted $base; then
    gather && debian && make_image $base || return 1
    rm -f $context/debian.tar
  fi
  if is_wanted rust:slim && [ -n "$rust" ]; then toolchain || return 1; fi
  if is_wanted node:lts-slim && [ -n "$npm" ]; then cp -aL "$npm" $context/node/npm || return 1; fi
  # At once: one waits for the network while another unpacks.
  local name pid pids=()
  for name in $derived; do
    if is_wanted $name; then
      make_image $name &
      pids+=($!)
    fi
  done
  for pid in "${pids[@]}"; do wait "$pid" || return 1; done
}
trap 'rm -rf $context/rust $context/node' EXIT
work base-images "is this machine online? try: apt-get update" make_all
