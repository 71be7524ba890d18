#!/usr/bin/env bash
# Install what the engine needs: system packages by name, and a virtual environment from the lock file.
#
#   deploy/install.sh [--dev]     --dev adds what the tests need from the development lock file
set -euo pipefail
cd "$(dirname "$0")/.."
. deploy/packages.sh

lock=requirements.lock
[ "${1:-}" = --dev ] && lock=requirements-dev.lock
install_packages "${ENGINE_PACKAGES[@]}"

python=$(command -v python3)
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "davit needs Python 3.11 or newer; $python is $("$python" --version)" >&2
  exit 1
}
stamp=.venv/.installed-$lock
want=$(sha256sum "$lock" pyproject.toml deploy/install.sh | sha256sum)
if [ "$(cat "$stamp" 2>/dev/null)" != "$want" ]; then
  [ -x .venv/bin/python ] || "$python" -m venv .venv
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r "$lock"
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation \
    --config-settings editable_mode=compat -e .
  # The engine runs with -OO: compiled now, not at its first start.
  .venv/bin/python -m compileall -q -j 0 -o 0 -o 2 cli supervisor services shared migrations
  .venv/bin/python -m compileall -q -j 0 -o 2 .venv/lib/python3*/site-packages >/dev/null
  echo "$want" >"$stamp"
fi
