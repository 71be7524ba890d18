"""The OCI configuration for runtimes that are not davit's own."""

from __future__ import annotations

from typing import Any

from services.executor.agent.configuration.confinement import seccomp_rules, security_options
from services.executor.runtime.spec import capabilities
from shared.contracts.node import ContainerOrder

# Has all that is asked of other runtimes, some of which refuse what is newer.
COMMON_OCI_VERSION = "1.0.2"


def foreign_spec(order: ContainerOrder, spec: dict[str, Any]) -> dict[str, Any]:
    """The same configuration for another runtime: in words that old ones know too."""
    host = order.host_config
    caps = capabilities.docker_capabilities(host.cap_add, host.cap_drop, host.privileged)
    linux = dict(spec["linux"])
    rules = seccomp_rules(security_options(host.security_opt), host.privileged, caps)
    if rules is not None:
        linux["seccomp"] = rules
    adapted = {**spec, "ociVersion": COMMON_OCI_VERSION, "linux": linux}
    if domainname := adapted.pop("domainname", ""):
        linux["sysctl"] = {**linux["sysctl"], "kernel.domainname": domainname}
    return adapted
