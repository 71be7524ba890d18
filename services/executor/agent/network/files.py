"""What a container finds in /etc/hosts, /etc/hostname and /etc/resolv.conf.

Source: Docker's own generated files, as the reference engine writes them.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence

from shared.contracts.networks import Attachment

EMBEDDED_DNS = "127.0.0.11"
# For a host whose resolvers are all loopback ones, which a container cannot reach.
FALLBACK_SERVERS = ("8.8.8.8", "8.8.4.4")
HOSTS, RESOLV_CONF = "/etc/hosts", "/etc/resolv.conf"
HOST_GATEWAY = "host-gateway"

STANDARD_HOSTS = (
    "127.0.0.1\tlocalhost",
    "::1\tlocalhost ip6-localhost ip6-loopback",
    "fe00::\tip6-localnet",
    "ff00::\tip6-mcastprefix",
    "ff02::1\tip6-allnodes",
    "ff02::2\tip6-allrouters",
)


def hosts_file(
    hostname: str,
    domainname: str,
    attachments: Sequence[Attachment],
    extra_hosts: Iterable[str] = (),
    *,
    host_network: bool = False,
    host: str | None = None,
) -> str:
    """The content of /etc/hosts.

    Args:
        extra_hosts: ``name:address`` as ``--add-host`` gives them; the address may be ``host-gateway``.
        host_network: The container shares the host's namespace, so it starts from the host's own file.
        host: The host's own file; None reads it when it is needed.
    """
    lines = list(STANDARD_HOSTS)
    if host_network:
        lines = (_read(HOSTS) if host is None else host).rstrip("\n").split("\n")
    for extra in extra_hosts:
        name, _, address = extra.replace("=", ":", 1).partition(":")
        address = address.strip("[]")
        if address == HOST_GATEWAY:
            found = ["127.0.0.1"] if host_network else host_gateways(attachments)
            lines += [f"{gateway}\t{name}" for gateway in found]
        else:
            lines.append(f"{address}\t{name}")
    full = f"{hostname}.{domainname}" if domainname else hostname
    own = " ".join(filter(None, dict.fromkeys((full, full.partition(".")[0]))))
    for attachment in attachments:
        if not attachment.network.dns:
            lines += [f"{address}\t{names}" for names, address in attachment.links.items()]
        for cidr in (attachment.address, attachment.address6):
            if cidr and own:
                lines.append(f"{cidr.partition('/')[0]}\t{own}")
    return "\n".join(lines) + "\n"


def host_gateways(attachments: Sequence[Attachment]) -> list[str]:
    """The host's addresses as a container on these networks sees them; the default gateway's network first."""
    ordered = sorted(attachments, key=lambda attachment: not attachment.default_gateway)
    for attachment in ordered:
        network = attachment.network
        found = [cidr.partition("/")[0] for cidr in (network.gateway, network.gateway6) if cidr]
        if found:
            return found
    return []


def resolv_conf(
    attachments: Sequence[Attachment],
    servers: Sequence[str] = (),
    search: Sequence[str] = (),
    options: Sequence[str] = (),
    *,
    host_network: bool = False,
    host: str | None = None,
) -> str:
    """The content of /etc/resolv.conf.

    Args:
        servers, search, options: ``--dns``, ``--dns-search``, ``--dns-option``; each replaces the host's when given.
            A search of ``.`` means none. On user-defined networks 127.0.0.11 stands for the servers.
        host_network: With the host's own namespace its loopback resolvers work, so they stay.
        host: The host's own resolv.conf; None reads it.
    """
    embedded = any(attachment.network.dns for attachment in attachments)
    found = parse_resolv_conf(_read(RESOLV_CONF) if host is None else host)
    lines: list[str] = []
    if embedded:
        lines.append(f"nameserver {EMBEDDED_DNS}")
    else:
        chosen = list(servers) or found["nameserver"]
        if not servers and not host_network:
            chosen = reachable_servers(chosen)
        lines += [f"nameserver {server}" for server in chosen]
    domains = list(search) or found["search"]
    if domains and domains != ["."]:
        lines.append(f"search {' '.join(domains)}")
    wanted = list(options) or found["options"]
    if embedded and not any(option.startswith("ndots:") for option in wanted):
        wanted = [*wanted, "ndots:0"]
    if wanted:
        lines.append(f"options {' '.join(wanted)}")
    return "\n".join(lines) + "\n"


def host_servers() -> list[str]:
    """The servers of the host's resolv.conf, loopback ones too: the agent asks them from the host's own namespace."""
    return parse_resolv_conf(_read(RESOLV_CONF))["nameserver"] or list(FALLBACK_SERVERS)


def reachable_servers(servers: Sequence[str]) -> list[str]:
    """Servers that a container can reach: none on loopback; public ones when nothing is left."""
    reachable = [server for server in servers if not _is_loopback(server)]
    return reachable or list(FALLBACK_SERVERS)


def parse_resolv_conf(content: str) -> dict[str, list[str]]:
    """``nameserver``, ``search`` and ``options`` words. The last search or domain line wins. Source: resolv.conf(5)."""
    found: dict[str, list[str]] = {"nameserver": [], "search": [], "options": []}
    for line in content.splitlines():
        words = line.split("#")[0].split(";")[0].split()
        if len(words) < 2:
            continue
        if words[0] == "nameserver":
            found["nameserver"].append(words[1])
        elif words[0] in ("search", "domain"):
            found["search"] = words[1:]
        elif words[0] == "options":
            found["options"] += words[1:]
    return found


def _read(path: str) -> str:
    """A file of the host's, empty when it has none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except FileNotFoundError:
        return ""


def _is_loopback(server: str) -> bool:
    try:
        return ipaddress.ip_address(server.partition("%")[0]).is_loopback
    except ValueError:
        return False
