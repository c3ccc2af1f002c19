#!/usr/bin/env bash
# Gradescope runs this once, as root, when it makes the image.
set -euo pipefail
root="${AUTOGRADER_ROOT:-/autograder}"
python=""
for name in python3.13 python3.12 python3.11 python3; do
    if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        python="$name"
        break
    fi
done
if [ -z "$python" ]; then
    apt-get update && apt-get install -y --no-install-recommends python3.11
    python=python3.11
fi
"$python" -m venv "$root/venv" || {
    apt-get update && apt-get install -y --no-install-recommends "$python-venv"
    "$python" -m venv "$root/venv"
}
"$root/venv/bin/python" -m pip install --no-cache-dir -r "$root/source/requirements.txt"
