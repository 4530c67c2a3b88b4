#!/usr/bin/env bash
# The engine that judges the page's accessibility, in .tools/axe. It is one file of JavaScript; a Python package
# carries it, so that no node is needed, and nothing of that package itself is used.
. "$(dirname "$0")/lib.sh"

wanted=axe-playwright-python==0.1.8
if [ "$(cat .tools/axe/wanted 2>/dev/null)" = "$wanted" ]; then exit 0; fi

setup/python.sh
say "fetching axe, which judges whether everybody can use the page"
rm -rf .tools/axe
mkdir -p .tools/axe
work axe "is this machine online? try: .tools/venv/bin/pip download --no-deps $wanted" \
  .tools/venv/bin/pip download --disable-pip-version-check --no-deps --dest .tools/axe "$wanted"
.tools/venv/bin/python -m zipfile -e .tools/axe/*.whl .tools/axe
rm .tools/axe/*.whl
echo "$wanted" >.tools/axe/wanted
