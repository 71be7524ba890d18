#!/usr/bin/env bash
# From a fresh Debian or Ubuntu machine to a running container. Runs again without harm.
#
#   sudo ./deploy/quickstart.sh [--data-root D] [--run-dir R]     defaults: /var/lib/davit, /run/davit
set -euo pipefail
cd "$(dirname "$0")/.."
. deploy/packages.sh

data=/var/lib/davit run=/run/davit
while [ $# -gt 0 ]; do
  case $1 in
    --data-root) data=${2:?}; shift 2 ;;
    --run-dir) run=${2:?}; shift 2 ;;
    *) sed -n '2,5s/^# \{0,1\}//p' "$0"; exit 2 ;;
  esac
done
[ "$(id -u)" = 0 ] || { echo "davit makes namespaces, mounts and cgroups: run this as root (sudo $0)" >&2; exit 1; }

deploy/install.sh
install_packages "${QUICKSTART_PACKAGES[@]}"

davit=$PWD/.venv/bin/davit
if "$davit" status --run-dir "$run" >/dev/null 2>&1; then
  echo "the engine runs already"
else
  "$davit" up --detach --data-root "$data" --run-dir "$run"
fi
export DOCKER_HOST=unix://$run/docker.sock

if ! "$davit" images --run-dir "$run" -q busybox:latest 2>/dev/null | grep -q .; then
  root=$(mktemp -d)
  trap 'rm -rf "$root"' EXIT
  mkdir -p "$root"/{bin,etc,root,tmp,var,proc,sys,dev,home}
  chmod 1777 "$root/tmp"
  cp "$(command -v busybox)" "$root/bin/busybox"
  "$root/bin/busybox" --list | while read -r applet; do
    [ "$applet" = busybox ] || ln -s busybox "$root/bin/$applet"
  done
  printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n' >"$root/etc/passwd"
  printf 'root:x:0:\nnobody:x:65534:\n' >"$root/etc/group"
  tar -C "$root" -c . | "$davit" import --run-dir "$run" --change 'CMD ["sh"]' - busybox:latest
fi

echo
echo "a first container says:"
"$davit" run --run-dir "$run" --rm busybox:latest echo "  hello from a container of davit"

cat <<TEXT

The engine runs. What to type next:

  export DOCKER_HOST=$DOCKER_HOST
  docker run --rm -it busybox          # any docker client, Compose, any SDK
  $davit ps
  $davit status
  $davit down                          # stops the engine; containers go on
TEXT
