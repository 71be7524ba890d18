"""Plain containers as nodes, run by an engine of the lab; and images that nodes have before the lab is ready.

Source: Docker Engine API 1.50, ContainerCreate, ImageLoad, ImageGet.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from lab.nodes.kinds import HOST
from shared.docker.client import EngineClient
from shared.errors import DavitError, InvalidArgument, NotFound

if TYPE_CHECKING:
    from lab.lab import Lab

_ENGINES = ("/run/davit/docker.sock", "/var/run/docker.sock")
_LABEL = "davit.lab.node"


def start_container(lab: Lab, name: str) -> None:
    """Start a node's container, made anew or as it was before it was off, and bind its network namespace."""
    client, node = EngineClient(f"unix://{lab.places.socket(HOST)}"), lab.topology.nodes[name]
    try:
        client.get(f"/containers/{name}/json")
    except NotFound:
        names = ensure_image(lab, client, node.image)
        client.post(f"/containers/create?name={name}", _body(lab, name, names[0]))
    client.post(f"/containers/{name}/start")
    pid = int(client.get(f"/containers/{name}/json")["State"]["Pid"])
    if not pid:
        raise InvalidArgument(f"nodes.{name}: its container ended at once: {_last_words(client, name)}")
    lab.namespaces.bind(name, pid, ("net",))


def remove_container(lab: Lab, name: str) -> None:
    """Forget a node's container and its disk."""
    EngineClient(f"unix://{lab.places.socket(HOST)}").delete(f"/containers/{name}?force=1&v=1")


def _body(lab: Lab, name: str, image: str) -> dict[str, Any]:
    node = lab.topology.nodes[name]
    limits: dict[str, Any] = {}
    if node.memory:
        limits["Memory"] = node.memory
    if node.cpus:
        limits["NanoCpus"] = int(node.cpus * 1e9)
    body: dict[str, Any] = {
        "Image": image,
        "Hostname": name,
        "Env": [f"{key}={value}" for key, value in node.environment.items()],
        "Labels": node.labels | {_LABEL: name},
        # As a machine of its own: it may set its addresses, routes and forwarding.
        "HostConfig": {"NetworkMode": "none", "Privileged": True, "CgroupParent": f"/nodes/{name}", **limits,
                       "Binds": node.binds, "ExtraHosts": lab.cluster.others(name)},
    }  # fmt: skip
    return body | ({"Cmd": node.command} if node.command else {})


def _last_words(client: EngineClient, name: str) -> str:
    said = b"".join(client.stream("GET", f"/containers/{name}/logs?stdout=1&stderr=1&tail=5"))
    return said.decode(errors="replace").strip() or "it said nothing"


def preload(lab: Lab, nodes: Iterable[str]) -> None:
    """Have these nodes' images on them. A worker gets an image's layers by way of a manager."""
    managers = lab.topology.managers()
    for name in nodes:
        node = lab.topology.nodes[name]
        for image in node.images:
            if node.role == "manager":
                ensure_image(lab, lab.client(name), image)
                continue
            client = lab.client(managers[0])
            for tag in ensure_image(lab, client, image):
                made = client.post("/containers/create", {"Image": tag, "Labels": {"davit.node": name}})
                client.delete(f"/containers/{made['Id']}")


def ensure_image(lab: Lab, client: EngineClient, image: str) -> list[str]:
    """Have an image on an engine: of an archive's path, or of this machine's engine; its names.

    Raises:
        InvalidArgument: Neither has it.
    """
    if image.startswith("/"):
        with Path(image).open("rb") as archive:
            said = list(client.lines("POST", "/images/load?quiet=1", archive))
        return _loaded(image, said)
    try:
        client.get(f"/images/{quote(image)}/json")
        return [image]
    except NotFound:
        pass
    archive_of_it = _from_this_machine(lab, image)
    with archive_of_it.open("rb") as archive:
        _loaded(image, list(client.lines("POST", "/images/load?quiet=1", archive)))
    return [image]


def _loaded(image: str, said: list[Any]) -> list[str]:
    for line in said:
        if "error" in line:
            raise InvalidArgument(f"image {image} cannot be loaded: {line['error']}")
    text = "".join(str(line.get("stream", "")) for line in said)
    return [line.partition(": ")[2] for line in text.splitlines() if line.startswith("Loaded image")]


def _from_this_machine(lab: Lab, image: str) -> Path:
    """An archive of an image that an engine of this machine has; made once for a lab."""
    archive = lab.places.keep / (quote(image, safe="") + ".tar")
    if archive.exists():
        return archive
    hosts = [os.environ["DOCKER_HOST"]] if os.environ.get("DOCKER_HOST") else [f"unix://{path}" for path in _ENGINES]
    problems = []
    for host in hosts:
        try:
            with archive.with_suffix(".part").open("wb") as file:
                file.writelines(EngineClient(host).stream("GET", f"/images/{quote(image)}/get"))
            archive.with_suffix(".part").rename(archive)
            return archive
        except DavitError as error:
            archive.with_suffix(".part").unlink(missing_ok=True)
            problems.append(str(error))
    raise InvalidArgument(f"image {image} is neither a file nor on this machine's engine: {'; '.join(problems)}")
