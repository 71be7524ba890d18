"""The engine as Docker shows it: version and info.

Source: Docker Engine API 1.50, SystemVersion, SystemInfo.
"""

from __future__ import annotations

import platform

from services.api import versions
from services.api.answers import system as answers
from services.api.call import EngineFacts
from services.api.versions import Version
from services.api.views.swarm import info as swarm_info
from shared.contracts.cluster import ClusterState
from shared.contracts.containers import NodeFacts, SystemInfo
from shared.docker.moments import rfc3339_now
from shared.docker.platforms import Platform

WITHOUT_BRIDGE_FILTERS = (1, 50)
WITHOUT_EXPECTED_COMMITS = WITH_FIREWALL = (1, 49)


def facts_of(info: SystemInfo, facts: EngineFacts) -> NodeFacts:
    """The node this endpoint is on, or the first; what it says of itself alone when none has reported yet."""
    for node in info.nodes:
        if node.node == facts.node:
            return node
    if info.nodes:
        return info.nodes[0]
    return NodeFacts(
        node=facts.node,
        hostname=facts.node,
        kernel_version=platform.release(),
        architecture=platform.machine(),
        ready=False,
        warnings=["WARNING: no node has reported to the engine yet"],
    )


def version(info: SystemInfo, facts: EngineFacts) -> answers.SystemVersion:
    node = facts_of(info, facts)
    architecture = Platform("linux", node.architecture).normalised().architecture
    details = {
        "ApiVersion": versions.NEWEST,
        "Arch": architecture,
        "BuildTime": "",
        "Experimental": "false",
        "GitCommit": "",
        "GoVersion": "",
        "KernelVersion": node.kernel_version,
        "MinAPIVersion": versions.OLDEST,
        "Os": "linux",
        "PythonVersion": platform.python_version(),
    }
    return {
        "Platform": {"Name": "davit"},
        "Components": [{"Name": "Engine", "Version": facts.version, "Details": details}],
        "Version": facts.version,
        "ApiVersion": versions.NEWEST,
        "MinAPIVersion": versions.OLDEST,
        "GitCommit": "",
        "GoVersion": "",
        "Os": "linux",
        "Arch": architecture,
        "KernelVersion": node.kernel_version,
        "BuildTime": "",
    }


def info(
    system: SystemInfo, cluster: ClusterState, images: int, facts: EngineFacts, version: Version
) -> answers.SystemInfo:
    node = facts_of(system, facts)
    features = node.features
    warnings = [*node.warnings, *(f"WARNING: node {item.node} is away" for item in system.nodes if not item.ready)]
    result: answers.SystemInfo = {
        "ID": facts.engine_id,
        "Containers": system.containers,
        "ContainersRunning": system.running,
        "ContainersPaused": system.paused,
        "ContainersStopped": system.stopped,
        "Images": images,
        "Driver": node.storage_driver,
        "DriverStatus": [["Supports d_type", "true"], ["Native Overlay Diff", "true"], ["userxattr", "false"]],
        "Plugins": {
            "Volume": ["local"],
            "Network": ["bridge", "host", "macvlan", "null"],
            "Authorization": None,
            "Log": ["json-file", "local", "none"],
        },
        "MemoryLimit": features.get("memory_limit", True),
        "SwapLimit": features.get("swap_limit", True),
        "CpuCfsPeriod": features.get("cpu_cfs_period", True),
        "CpuCfsQuota": features.get("cpu_cfs_quota", True),
        "CPUShares": features.get("cpu_shares", True),
        "CPUSet": features.get("cpuset", True),
        "PidsLimit": features.get("pids_limit", True),
        "OomKillDisable": features.get("oom_kill_disable", node.cgroup_version == "1"),
        "IPv4Forwarding": features.get("ipv4_forwarding", True),
        "Debug": facts.debug,
        "NFd": 0,
        "NGoroutines": 0,
        "SystemTime": rfc3339_now(),
        "LoggingDriver": facts.log_driver,
        "CgroupDriver": node.cgroup_driver,
        "CgroupVersion": node.cgroup_version,
        "NEventsListener": 0,
        "KernelVersion": node.kernel_version,
        "OperatingSystem": node.operating_system,
        "OSVersion": node.os_version,
        "OSType": "linux",
        "Architecture": node.architecture,
        "IndexServerAddress": "https://index.docker.io/v1/",
        "RegistryConfig": registry_config(facts),
        "NCPU": node.cpus,
        "MemTotal": node.memory_bytes,
        "GenericResources": None,
        "DockerRootDir": facts.data_root,
        "HttpProxy": facts.http_proxy,
        "HttpsProxy": facts.https_proxy,
        "NoProxy": facts.no_proxy,
        "Name": node.hostname or node.node,
        "Labels": list(facts.labels),
        "ExperimentalBuild": facts.experimental,
        "ServerVersion": facts.version,
        "Runtimes": _runtimes(node),
        "DefaultRuntime": node.default_runtime,
        "Swarm": swarm_info(cluster),
        "LiveRestoreEnabled": facts.live_restore,
        "Isolation": "",
        "InitBinary": node.init_path,
        "ContainerdCommit": _commit(version),
        "RuncCommit": _commit(version),
        "InitCommit": _commit(version),
        "SecurityOptions": node.security_options,
        "Warnings": warnings or None,
    }
    if version >= WITH_FIREWALL:
        result["FirewallBackend"] = {"Driver": "nftables"}
    if version < WITHOUT_BRIDGE_FILTERS:
        result["BridgeNfIptables"] = result["BridgeNfIp6tables"] = False
    if version >= (1, 42):
        result["CDISpecDirs"] = []
    else:
        result["KernelMemory"] = False
        result["KernelMemoryTCP"] = False
    if facts.address_pools:
        result["DefaultAddressPools"] = [{"Base": item["base"], "Size": item["size"]} for item in facts.address_pools]
    return result


def _commit(version: Version) -> answers.Commit:
    return {"ID": ""} if version >= WITHOUT_EXPECTED_COMMITS else {"ID": "", "Expected": ""}


def _runtimes(node: NodeFacts) -> dict[str, answers.RuntimeShown]:
    shown: dict[str, answers.RuntimeShown] = {
        name: {"path": path or "davit-runc"} for name, path in node.runtimes.items()
    }
    for name, arguments in node.runtime_args.items():
        shown[name]["runtimeArgs"] = arguments
    return shown


def registry_config(facts: EngineFacts) -> answers.RegistryConfig:
    indexes: dict[str, answers.IndexConfig] = {
        "docker.io": {"Name": "docker.io", "Mirrors": list(facts.registry_mirrors), "Secure": True, "Official": True}
    }
    networks = ["127.0.0.0/8", "::1/128"]
    for name in facts.insecure_registries:
        if "/" in name:
            networks.append(name)
        else:
            indexes[name] = {"Name": name, "Mirrors": [], "Secure": False, "Official": False}
    return {
        "InsecureRegistryCIDRs": networks,
        "IndexConfigs": indexes,
        "Mirrors": list(facts.registry_mirrors),
    }
