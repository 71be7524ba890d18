# System packages, by name. Sourced by install.sh and test.sh.
# shellcheck shell=bash disable=SC2034

# What the engine needs at run time.
ENGINE_PACKAGES=(python3 python3-venv libnftables1 procps iproute2 tini ca-certificates)
# What the quick start makes its first image from, and the client it drives the engine with.
QUICKSTART_PACKAGES=(busybox-static)
# What the tests talk to and compare with: the reference engine, its runtime, registries, real servers.
TEST_PACKAGES=(
  busybox-static debootstrap nftables iptables
  docker.io containerd runc docker-registry skopeo podman conmon
  postgresql redis-server redis-tools nginx-light
  gcc libc6-dev util-linux curl systemd uidmap
)

missing_packages() {
  local name
  for name in "$@"; do
    dpkg-query -W -f '${db:Status-Abbrev}' "$name" 2>/dev/null | grep -q '^ii' || echo "$name"
  done
}

install_packages() {
  local missing
  mapfile -t missing < <(missing_packages "$@")
  [ "${#missing[@]}" -eq 0 ] && return 0
  [ "$(id -u)" = 0 ] || { echo "installing ${missing[*]} needs root" >&2; return 1; }
  echo "installing: ${missing[*]}"
  # Services that packages bring must not start by themselves on this machine.
  local policy=/usr/sbin/policy-rc.d made=
  [ -e "$policy" ] || { printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod 755 "$policy" && made=1; }
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
  [ -z "$made" ] || rm -f "$policy"
}
