#!/usr/bin/env bash
# Install only the base dependencies in a separate environment and serve a bundle with them.
set -euo pipefail
cd "$(dirname "$0")/.."

env=.venv-slim
[ -x "$env/bin/python" ] || "${PYTHON:-python3}" -m venv "$env"
uv=$(command -v uv || ls .venv/bin/uv 2>/dev/null || true)
if [ -n "$uv" ]; then
    "$uv" pip install --quiet --python "$env/bin/python" --reinstall-package tidemill .
else
    "$env/bin/python" -m pip install --quiet --disable-pip-version-check --force-reinstall --no-deps .
    "$env/bin/python" -m pip install --quiet --disable-pip-version-check .
fi
# Leave the checkout, so that the installed package is tested.
bundle=$PWD/tests/data/iris-bundle
script=$PWD/tests/slim/serve_bundle.py
python=$PWD/$env/bin/python
cd /
exec "$python" "$script" "$bundle"
