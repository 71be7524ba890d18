#!/usr/bin/env bash
# From a fresh Debian or Ubuntu machine to a running container. Runs again without harm.
#
#   sudo ./deploy/quickstart.sh [--data-root D] [--run-dir R] [--bin DIR | --no-bin] [--docker-socket]
#
#   --data-root D     images, containers, databases [/var/lib/davit]
#   --run-dir R       sockets and process state [/run/davit]
#   --bin, --no-bin   see deploy/install.sh
#   --docker-socket   also a link at /var/run/docker.sock, if nothing is there: programs that look there find the engine
set -euo pipefail
cd "$(dirname "$0")/.."
. deploy/packages.sh

data=/var/lib/davit run=/run/davit socket= install=()
while [ $# -gt 0 ]; do
  case $1 in
    --data-root) data=${2:?}; shift 2 ;;
    --run-dir) run=${2:?}; shift 2 ;;
    --bin) install+=(--bin "${2:?}"); shift 2 ;;
    --no-bin) install+=(--no-bin); shift ;;
    --docker-socket) socket=${DOCKER_SOCKET:-/var/run/docker.sock}; shift ;;
    *) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 2 ;;
  esac
done
[ "$(id -u)" = 0 ] || { echo "davit makes namespaces, mounts and cgroups: run this as root (sudo $0)" >&2; exit 1; }

deploy/install.sh "${install[@]}"
install_packages "${QUICKSTART_PACKAGES[@]}"

davit=$PWD/.venv/bin/davit
if "$davit" status --run-dir "$run" >/dev/null 2>&1; then
  echo "the engine runs already"
else
  "$davit" up --detach --data-root "$data" --run-dir "$run"
fi
export DOCKER_HOST=unix://$run/docker.sock

if [ -n "$socket" ]; then
  if [ -e "$socket" ]; then
    [ "$(realpath "$socket")" = "$(realpath "$run/docker.sock")" ] || echo "$socket is another engine's: left as it is"
  else
    ln -sfn "$run/docker.sock" "$socket"
    echo "link: $socket"
  fi
fi

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
  echo "image busybox:latest, from the system's busybox:"
  tar -C "$root" -c . | "$davit" import --run-dir "$run" --change 'CMD ["sh"]' - busybox:latest
fi

echo
echo "a first container says:"
"$davit" run --run-dir "$run" --rm busybox:latest echo "  hello from a container of davit"

at_hand=$davit
[ "$(realpath "$(command -v davit || true)" 2>/dev/null)" != "$(realpath "$davit")" ] || at_hand=davit
cat <<TEXT

The engine runs. What to type next:

  export DOCKER_HOST=$DOCKER_HOST
  docker run --rm -it busybox          # any docker client, Compose, any SDK
  $at_hand ps
  $at_hand status
  $at_hand down                        # stops the engine; containers go on

or, instead of the variable, once and for all:

  docker context create davit --docker host=$DOCKER_HOST && docker context use davit

Root may use the socket, and the members of a group: $at_hand up --detach --group docker. Whoever may, owns the machine.
TEXT
if docker buildx version >/dev/null 2>&1; then
  echo "buildx is installed here: DOCKER_BUILDKIT=0 docker build takes the classic builder, which needs nothing else."
fi
