#!/usr/bin/env bash
# Test with the lowest versions that pyproject.toml allows: test-lowest.sh [base|standard|dev ...]
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
uv=$(command -v uv || ls .venv/bin/uv 2>/dev/null) || { echo "This script needs uv: pip install uv"; exit 1; }

[ $# -gt 0 ] || set -- base standard dev
for extra in "$@"; do
    env=$root/.venv-lowest-$extra
    [ -x "$env/bin/python" ] || "${PYTHON:-python3}" -m venv "$env"
    wanted=.
    [ "$extra" = base ] || wanted=".[$extra]"
    echo "== $extra"
    "$uv" pip install --quiet --python "$env/bin/python" --resolution lowest-direct \
        --reinstall-package tidemill "$wanted"
    case $extra in
        base) (cd / && "$env/bin/python" "$root/tests/slim/serve_bundle.py" "$root/tests/data/iris-bundle") ;;
        standard) "$env/bin/tidemill" demo ;;
        dev) "$env/bin/python" -m pytest -q -o filterwarnings=default -m "not slow and not chaos" \
            tests/unit tests/contract/serving ;;
    esac
done
