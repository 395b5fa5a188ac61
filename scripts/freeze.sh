#!/usr/bin/env bash
# Write the versions installed in .venv to constraints.txt, keeping its heading.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
new="$(mktemp)"
trap 'rm -f "$new"' EXIT
grep '^#' constraints.txt >"$new"
# A local build tag (2.13.0+cpu) would pin one index; the plain version fits all.
.venv/bin/python -m pip --disable-pip-version-check list --format=freeze --exclude-editable --exclude pip --exclude setuptools |
    sed -E 's/\+[a-z0-9.]+$//' | LC_ALL=C sort -f >>"$new"
cat "$new" >constraints.txt
