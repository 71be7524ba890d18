#!/usr/bin/env bash
# Install what the tests need and run them all, the slow ones apart.
#
#   deploy/test.sh            checks, then unit, integration, e2e, conformance and fault tests
#   deploy/test.sh --slow     the slow tests too
#   deploy/test.sh ARGS …     pass ARGS to pytest instead of the default selection
set -euo pipefail
cd "$(dirname "$0")/.."
. deploy/packages.sh
[ "$(id -u)" = 0 ] || { echo "the tests make namespaces and cgroups: run this as root" >&2; exit 1; }

install_packages "${TEST_PACKAGES[@]}"
deploy/install.sh --dev
# Debian starts the servers it installs under systemd; the tests start their own.
export PATH="$PWD/.venv/bin:$PATH"

if [ $# -gt 0 ] && [ "$1" != --slow ]; then
  exec python -m pytest "$@"
fi
ruff check .
ruff format --check .
mypy cli lab services shared supervisor tests benchmarks
lint-imports
exec python -m pytest "$@"
