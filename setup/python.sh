#!/usr/bin/env bash
# .tools/venv with pytest, mypy, schemathesis and mcp, at the versions of requirements.txt.
# The library itself needs none of it, and works with Python 3.9: only tests need these.
. "$(dirname "$0")/lib.sh"

wanted=$(hash_of setup/requirements.txt)
if [ "$(cat .tools/venv/wanted 2>/dev/null)" = "$wanted" ] && [ -x .tools/venv/bin/python ]; then exit 0; fi

have python3 || packages python "Python, in which pipedefs are written" python3
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  fail "python3 is $(python3 --version 2>&1), and schemathesis needs 3.11" "put a newer python3 first on the PATH"

# Debian's python3 comes without the part that makes an environment able to install things.
python3 -c 'import ensurepip, venv' 2>/dev/null ||
  packages python-venv "what python3 needs to make a virtual environment" python3-venv

say "making .tools/venv with pytest and mypy, which check the Python library, schemathesis, which checks the API, and mcp, an agent's client"
rm -rf .tools/venv
work venv "try it by hand: python3 -m venv .tools/venv" python3 -m venv .tools/venv
work venv-packages "is this machine online? try: .tools/venv/bin/pip install -r setup/requirements.txt" \
  .tools/venv/bin/pip install --disable-pip-version-check --requirement setup/requirements.txt
echo "$wanted" >.tools/venv/wanted
