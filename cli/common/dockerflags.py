"""dockerd's flags: those that give a setting of the engine, and those that are refused by name.

Source: dockerd reference, "Usage".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import click

from cli.common.settings import IMAGES, LISTENING, LOGGING, RUNNING, Flag
from shared.errors import InvalidArgument, Unsupported

_NO = ("", "false", "0", "f", "no", "none", "0s")


def _pairs(flag: str) -> Callable[[Sequence[str]], dict[str, str]]:
    """Reads ``name=value`` texts."""

    def read(texts: Sequence[str]) -> dict[str, str]:
        found = {}
        for text in texts:
            name, separator, value = text.partition("=")
            if not separator or not name:
                raise InvalidArgument(f"{flag}: {text!r} is not of the form name=value")
            found[name] = value
        return found

    return read


def ulimits(texts: Sequence[str]) -> dict[str, Any]:
    """``nofile=1024:2048`` texts; one number is both limits."""
    found = {}
    for name, value in _pairs("--default-ulimit")(texts).items():
        match = re.fullmatch(r"(-?\d+)(?::(-?\d+))?", value)
        if match is None:
            raise InvalidArgument(f"--default-ulimit: {name}={value} is not of the form name=soft[:hard]")
        found[name] = {"Name": name, "Soft": int(match[1]), "Hard": int(match[2] or match[1])}
    return found


def pools(texts: Sequence[str]) -> list[dict[str, Any]]:
    """``base=10.10.0.0/16,size=24`` texts."""
    found = []
    for text in texts:
        parts = dict(part.strip().partition("=")[::2] for part in text.split(","))
        if set(parts) != {"base", "size"} or not parts["size"].isdigit():
            raise InvalidArgument(f"--default-address-pool: {text!r} is not of the form base=NETWORK,size=PREFIX")
        found.append({"base": parts["base"], "size": int(parts["size"])})
    return found


FLAGS = [
    Flag(("--data-root",), "data_root", "Where images, containers and databases are kept.", "DIR"),
    Flag(("--exec-root",), "run_dir", "Sockets and process state.  [default: /run/davit]", "DIR"),
    Flag(("-p", "--pidfile"), "pidfile", "Where the pid is written.", "FILE"),
    *LISTENING,
    *LOGGING,
    *IMAGES,
    *RUNNING,
    Flag(("--max-concurrent-downloads",), "max_concurrent_downloads", "Of each pull.", "NUMBER"),
    Flag(("--max-concurrent-uploads",), "max_concurrent_uploads", "Of each push.", "NUMBER"),
    Flag(("-s", "--storage-driver"), "storage_driver", "overlay2, which is what there is.", "NAME"),
    Flag(("-b", "--bridge"), "bridge", "An existing bridge for the default network; none for no such.", "NAME"),
    Flag(("--bip",), "bip", "Address of the default network's bridge.", "CIDR"),
    Flag(("--fixed-cidr",), "fixed_cidr", "Where containers get their addresses.", "CIDR"),
    Flag(("--default-address-pool",), "default_address_pools", "Where networks get subnets.", "POOL", True, (), pools),
    Flag(("--mtu",), "mtu", "Of the networks' links.", "BYTES"),
    Flag(("--ip",), "ip", "Where ports are published.", "ADDRESS"),
    Flag(("--icc",), "icc", "Whether containers of the default network reach each other."),
    Flag(("--iptables",), "iptables", "Whether the engine has a firewall table (of nftables)."),
    Flag(("--ip6tables",), "ip6tables", "Whether that is about IPv6 too."),
    Flag(("--ip-forward",), "ip_forward", "Whether the engine turns forwarding on."),
    Flag(("--ip-masq",), "ip_masq", "Whether the default network's traffic leaves with the host's address."),
    Flag(("--userland-proxy",), "userland_proxy", "Whether the agent carries what the kernel cannot translate."),
    Flag(("--dns",), "dns", "DNS servers of containers.", "ADDRESS", True),
    Flag(("--dns-opt",), "dns_opts", "DNS options of containers.", "OPTION", True),
    Flag(("--dns-search",), "dns_search", "DNS search domains of containers.", "DOMAIN", True),
    Flag(("--live-restore",), "live_restore", "Whether containers go on when the engine is stopped."),
    Flag(("--shutdown-timeout",), "shutdown_timeout", "How long they may take to end with it.", "SECONDS"),
    Flag(("--init",), "init", "Whether containers run below an init."),
    Flag(("--cgroup-parent",), "cgroup_parent", "The control group that containers are below.", "PATH"),
    Flag(("--default-cgroupns-mode",), "default_cgroupns_mode", "", choices=("host", "private")),
    Flag(("--default-ipc-mode",), "default_ipc_mode", "", choices=("shareable", "private")),
    Flag(("--default-ulimit",), "default_ulimits", "Of containers.", "NAME=SOFT:HARD", True, (), ulimits),
    Flag(("--default-shm-size",), "default_shm_size", "Of containers.", "BYTES"),
    Flag(("--log-driver",), "log_driver", "Of containers.", "NAME"),
    Flag(("--log-opt",), "log_opts", "Of containers.", "KEY=VALUE", True, (), _pairs("--log-opt")),
    Flag(("--containerd",), "containerd", "Accepted; nothing changes.", "ADDRESS"),
    Flag(("--containerd-namespace",), "containerd_namespace", "Accepted; nothing changes.", "NAME"),
    Flag(("--containerd-plugins-namespace",), "containerd_plugins_namespace", "Accepted; nothing changes.", "NAME"),
    Flag(("--experimental",), "experimental", "Accepted; nothing changes."),
    Flag(("--swarm-default-advertise-addr",), "swarm_default_advertise_addr", "Accepted; nothing changes.", "ADDRESS"),
]
# What would change something here if it were taken. Their neutral values are taken.
REFUSED = """
    add-cdi-spec-dir allow-direct-routing allow-nondistributable-artifacts api-cors-header authorization-plugin
    bridge-accept-fwmark cdi-spec-dir cpu-rt-period cpu-rt-runtime default-gateway default-gateway-v6
    default-network-opt feature firewall-backend fixed-cidr-v6 host-gateway-ip http-proxy https-proxy init-path
    ip-forward-no-drop ipv6 max-download-attempts metrics-addr network-control-plane-mtu network-diagnostic-port
    no-new-privileges no-proxy node-generic-resource oom-score-adjust raw-logs rootless seccomp-profile
    selinux-enabled storage-opt userland-proxy-path userns-remap
"""


def refused(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds dockerd's other flags, to be refused by name instead of as unknown."""
    for name in REFUSED.split():
        function = click.option(
            f"--{name}", expose_value=False, hidden=True, is_flag=False, flag_value="true", multiple=True,
            callback=_refuse,
        )(function)  # fmt: skip
    return click.option(
        "--exec-opt", expose_value=False, hidden=True, multiple=True, callback=_refuse_exec_options
    )(function)  # fmt: skip


def _refuse(_: click.Context, parameter: click.Parameter, values: Sequence[str]) -> None:
    if any(value.lower() not in _NO for value in values):
        raise Unsupported(f"the flag {parameter.opts[0]} is not supported by this engine", field=parameter.opts[0])


def _refuse_exec_options(_: click.Context, __: click.Parameter, values: Sequence[str]) -> None:
    for value in values:
        if value != "native.cgroupdriver=cgroupfs":  # which is what there is
            raise Unsupported(f"the flag --exec-opt {value} is not supported by this engine", field="--exec-opt")
