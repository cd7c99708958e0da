#!/bin/sh
# Install Tidemill with one extra into an environment, in editable mode: install.sh ENVIRONMENT EXTRA
# uv resolves and installs several times faster than pip, which is the fallback.
set -eu
env=$1
extra=$2
python=$env/bin/python

uv=$(command -v uv || true)
if [ -z "$uv" ]; then
    "$python" -m pip install --quiet --disable-pip-version-check uv >/dev/null 2>&1 || true
    [ -x "$env/bin/uv" ] && uv=$env/bin/uv
fi

echo "Installing Tidemill [$extra] into $env ..."
if [ -n "$uv" ] && "$uv" pip install --quiet --python "$python" -e ".[$extra]"; then
    exit 0
fi
exec "$python" -m pip install --quiet --disable-pip-version-check -e ".[$extra]"
