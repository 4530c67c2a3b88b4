#!/usr/bin/env bash
# A browser and its driver: the page's tests watch the real thing.
. "$(dirname "$0")/lib.sh"

if have chromium && have chromedriver; then exit 0; fi
packages browser "the browser in which the page is tested" chromium chromium-driver
