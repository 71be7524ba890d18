#!/usr/bin/env bash
# Install what the engine needs: system packages by name, a virtual environment from the lock file, and the commands.
#
#   deploy/install.sh [--dev] [--bin DIR | --no-bin] [--dockerd]
#
#   --dev       also what the tests need, from the development lock file; implies --no-bin
#   --bin DIR   where a link to the command is made [/usr/local/bin, when that is on the PATH and can be written to]
#   --no-bin    no link
#   --dockerd   also a link named dockerd, which takes dockerd's flags
set -euo pipefail
cd "$(dirname "$0")/.."
. deploy/packages.sh
. deploy/links.sh

lock=requirements.lock bin=/usr/local/bin links=(davit)
while [ $# -gt 0 ]; do
  case $1 in
    --dev) lock=requirements-dev.lock bin= ;;
    --bin) bin=$(realpath -m "${2:?}"); shift ;;
    --no-bin) bin= ;;
    --dockerd) links+=(dockerd) ;;
    *) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 2 ;;
  esac
  shift
done

step() { printf '[%3ds] %s\n' "$SECONDS" "$*"; }

step "system packages: ${ENGINE_PACKAGES[*]}"
install_packages "${ENGINE_PACKAGES[@]}"

python=$(command -v python3)
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "davit needs Python 3.11 or newer; $python is $("$python" --version)" >&2
  exit 1
}
stamp=.venv/.installed-$lock
want=$(sha256sum "$lock" pyproject.toml deploy/install.sh | sha256sum)
if [ "$(cat "$stamp" 2>/dev/null)" != "$want" ]; then
  pip=(.venv/bin/python -m pip install --disable-pip-version-check)
  # On a terminal pip shows its progress; elsewhere the names of the steps are enough.
  [ -t 1 ] || pip+=(--quiet)
  step "virtual environment: $PWD/.venv"
  [ -x .venv/bin/python ] || "$python" -m venv .venv
  step "Python libraries: $(grep -c '==' "$lock"), at the versions and digests of $lock (a minute or two)"
  "${pip[@]}" --require-hashes -r "$lock"
  step "davit itself"
  "${pip[@]}" --no-deps --no-build-isolation --config-settings editable_mode=compat -e .
  step "compiling, so that the first start does not have to (half a minute)"
  # The engine runs with -OO.
  .venv/bin/python -m compileall -q -j 0 -o 0 -o 2 cli supervisor services shared migrations
  .venv/bin/python -m compileall -q -j 0 -o 2 .venv/lib/python3*/site-packages >/dev/null
  echo "$want" >"$stamp.new" && mv -f "$stamp.new" "$stamp"
else
  step "virtual environment: $PWD/.venv is up to date"
fi

[ -n "$bin" ] || exit 0
if [ -d "$bin" ] && [ -w "$bin" ]; then
  for name in "${links[@]}"; do link_command "$PWD/.venv/bin/davit" "$bin/$name"; done
fi
command -v davit >/dev/null || echo "to have the command at hand:  export PATH=$PWD/.venv/bin:\$PATH"
