"""Update, rename, connect, disconnect, commit, prune: changes beside a container's life."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime, timedelta

import orjson

from services.executor.control import sql
from services.executor.control.domain import Record
from services.executor.control.lifecycle import Lifecycle
from services.executor.control.listing import matches_label
from services.executor.control.names import checked_name
from services.executor.control.validate import Subject, check_restart_policy, cpu, memory
from shared.bus import EMPTY, Empty
from shared.contracts import images, networks, node
from shared.contracts.containers import (
    Commit,
    CommittedImage,
    ConnectContainer,
    DisconnectContainer,
    Prune,
    Pruned,
    RenameContainer,
    UpdateContainer,
    Warnings,
)
from shared.contracts.docker import ContainerConfig
from shared.contracts.images import CommitLayer
from shared.contracts.networks import Attachment, ConnectNetwork, RenameEndpoints
from shared.contracts.node import AttachNetwork, ContainerId, DetachNetwork, RenameOrder, SizesOrder, UpdateOrder
from shared.errors import Conflict, DavitError, InvalidArgument, NotFound

DURATION_UNITS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600}


class Changing:
    """Handlers of these contracts."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle
        self._bus = lifecycle.peers.bus

    async def update(self, request: UpdateContainer) -> Warnings:
        record = await self._lifecycle.find(request.ref)
        if record.removing:
            raise Conflict(f"container {record.id} is marked for removal and cannot be updated")
        merged = record.container.host_config.model_copy(deep=True)
        for name in request.set_fields:
            setattr(merged, name, getattr(request.resources, name))
        facts = await self._lifecycle.facts()
        subject = Subject(record.container.config, merged, facts.cpus, frozenset())
        memory(subject)
        cpu(subject)
        if request.restart_policy is not None:
            check_restart_policy(request.restart_policy)
            if merged.auto_remove and request.restart_policy.name not in ("", "no"):
                raise InvalidArgument(
                    "Restart policy cannot be updated because AutoRemove is enabled for the container"
                )
            merged.restart_policy = request.restart_policy
        if record.container.generation > 0:
            order = UpdateOrder(
                id=record.id,
                resources=request.resources,
                set_fields=request.set_fields,
                restart_name=request.restart_policy.name if request.restart_policy else None,
                restart_maximum=request.restart_policy.maximum_retry_count if request.restart_policy else 0,
            )
            await self._bus.request(node.UPDATE, order, node=record.container.node)

        def apply(current: Record) -> None:
            current.container.host_config = merged

        await self._lifecycle.change(record, apply, "update")
        return Warnings()

    async def rename(self, request: RenameContainer) -> Empty:
        record = await self._lifecycle.find(request.ref)
        if not request.name:
            raise InvalidArgument("Neither old nor new names may be empty")
        name = checked_name(request.name)
        old = record.name
        if name == old:
            raise InvalidArgument("Renaming a container with the same name as its current name")
        async with self._lifecycle.database.read() as reader:
            try:
                taken = await sql.find(reader, name)
            except (NotFound, InvalidArgument):
                taken = None
        if taken is not None and taken.name == name:
            raise Conflict(
                f'Error when allocating new name: Conflict. The container name "/{name}" is already in use by container '
                f'"{taken.id}". You have to remove (or rename) that container to be able to reuse that name.'
            )

        def apply(current: Record) -> None:
            current.container.name = name

        record = await self._lifecycle.change(record, apply, "rename", oldName="/" + old)
        if record.container.generation > 0:
            await self._bus.request(node.RENAME, RenameOrder(id=record.id, name=name), node=record.container.node)
        if record.requested_networks:
            await self._bus.request(networks.RENAME, RenameEndpoints(container_id=record.id, container_name=name))
        return EMPTY

    # Networks

    async def connect(self, request: ConnectContainer) -> Empty:
        record = await self._lifecycle.find(request.ref)
        mode = record.container.host_config.network_mode
        if mode == "host" or mode.startswith("container:"):
            raise InvalidArgument(f"{record.id} shares its network with {mode}: it cannot be connected to another")
        network = await self._bus.request(networks.INSPECT, networks.NetworkRef(ref=request.network))
        if network.name in record.requested_networks:
            raise Conflict(f"endpoint with name {record.name} already exists in network {network.name}")
        if not record.alive:

            def remember(current: Record) -> None:
                current.requested_networks[network.name] = request.settings
                current.container.networks.pop("none", None)
                current.container.networks[network.name] = request.settings

            await self._lifecycle.change(record, remember)
            return EMPTY
        joined = await self._bus.request(
            networks.CONNECT,
            ConnectNetwork(
                container_id=record.id,
                container_name=record.name,
                hostname=record.hostname,
                node=record.container.node,
                network=network.name,
                settings=request.settings,
            ),
        )
        try:
            for attachment in joined.attachments:
                await self._bus.request(
                    node.ATTACH_NETWORK, AttachNetwork(id=record.id, attachment=attachment), node=record.container.node
                )
        except DavitError:
            await self._lifecycle.peers.leave(record.id, network.name)
            raise

        def apply(current: Record) -> None:
            current.requested_networks[network.name] = request.settings
            current.container.networks |= joined.settings
            current.attachments += joined.attachments

        await self._lifecycle.change(record, apply)
        return EMPTY

    async def disconnect(self, request: DisconnectContainer) -> Empty:
        try:
            record = await self._lifecycle.find(request.ref)
        except NotFound:
            if not request.force:
                raise
            await self._lifecycle.peers.leave(request.ref, request.network)
            return EMPTY
        network = await self._bus.request(networks.INSPECT, networks.NetworkRef(ref=request.network))
        names = {network.name, network.id}
        if not names & set(record.container.networks):
            raise Conflict(f"container {record.id} is not connected to network {network.name}")
        leaving: list[Attachment] = [one for one in record.attachments if one.network.id == network.id]
        if record.alive:
            for attachment in leaving:
                await self._bus.request(
                    node.DETACH_NETWORK,
                    DetachNetwork(id=record.id, endpoint_id=attachment.endpoint_id),
                    node=record.container.node,
                )
            await self._lifecycle.peers.leave(record.id, network.name)

        def apply(current: Record) -> None:
            for name in names:
                current.requested_networks.pop(name, None)
                current.container.networks.pop(name, None)
            current.attachments = [one for one in current.attachments if one.network.id != network.id]

        await self._lifecycle.change(record, apply)
        return EMPTY

    # Commit

    async def commit(self, request: Commit) -> CommittedImage:
        record = await self._lifecycle.find(request.ref)
        config = (request.config or record.container.config).model_copy(deep=True)
        for change in request.changes:
            apply_change(config, change)
        paused = request.pause and record.status == "running"
        if paused:
            await self._bus.request(node.PAUSE, ContainerId(id=record.id), node=record.container.node)
        try:
            packed = await self._bus.request(node.PACK_CHANGES, ContainerId(id=record.id), node=record.container.node)
            image = await self._bus.request(
                images.COMMIT,
                CommitLayer(
                    stream=packed.stream,
                    parent=record.container.image_id,
                    config=config,
                    container_config=record.container.config,
                    container_id=record.id,
                    repo=request.repo,
                    tag=request.tag,
                    author=request.author,
                    comment=request.comment,
                    created_by=request.created_by or " ".join([record.container.path, *record.container.args]),
                ),
            )
        finally:
            if paused:
                await self._bus.request(node.UNPAUSE, ContainerId(id=record.id), node=record.container.node)
        await self._lifecycle.note(record, "commit", comment=request.comment, imageID=image.id, imageRef=request.repo)
        return CommittedImage(id=image.id)

    # Prune

    async def prune(self, request: Prune) -> Pruned:
        for key in request.filters:
            if key not in ("until", "label", "label!"):
                raise InvalidArgument(f"invalid filter '{key}'", field="filters")
        until = [parse_until(value) for value in request.filters.get("until", [])]
        async with self._lifecycle.database.read() as reader:
            records = await sql.records(reader)
        chosen = [
            record
            for record in records
            if record.status in ("created", "exited", "dead") and not record.starting
            and all(record.created_ns < limit for limit in until)
            and _labels_match(record.container.config.labels, request.filters)
        ]  # fmt: skip
        sizes: dict[str, int] = {}
        for name in {record.container.node for record in chosen}:
            ids = [record.id for record in chosen if record.container.node == name]
            sizes |= (await self._bus.request(node.SIZES, SizesOrder(ids=ids), node=name)).rw
        removed: list[str] = []
        for record in chosen:
            try:
                await self._lifecycle.remove_record(record, volumes=False)
            except (NotFound, Conflict):  # somebody else removed or started it: not ours any more
                continue
            removed.append(record.id)
        return Pruned(ids=removed, space_reclaimed_bytes=sum(sizes.get(one, 0) for one in removed))


def _labels_match(labels: dict[str, str], filters: dict[str, list[str]]) -> bool:
    return all(matches_label(labels, value) for value in filters.get("label", [])) and not any(
        matches_label(labels, value) for value in filters.get("label!", [])
    )


def parse_until(text: str) -> int:
    """A prune limit: a duration before now, seconds since the epoch, or RFC 3339. Nanoseconds since the epoch."""
    now = datetime.now(UTC)
    if text.replace(".", "", 1).isdigit():
        return int(float(text) * 1e9)
    seconds, number = 0.0, ""
    rest = text
    while rest:
        digits = len(rest) - len(rest.lstrip("0123456789."))
        number, rest = rest[:digits], rest[digits:]
        letters = len(rest) - len(rest.lstrip("nmush"))
        unit, rest = rest[:letters], rest[letters:]
        if not number or unit not in DURATION_UNITS:
            break
        seconds += float(number) * DURATION_UNITS[unit]
    else:
        return int((now - timedelta(seconds=seconds)).timestamp() * 1e9)
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError as error:
        raise InvalidArgument(f"invalid value for until: {text}", field="filters") from error
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1e9)


def _words(text: str) -> list[str]:
    """JSON form or shell form of CMD and ENTRYPOINT."""
    if text.startswith("["):
        try:
            words = orjson.loads(text)
        except orjson.JSONDecodeError:
            return ["/bin/sh", "-c", text]
        if isinstance(words, list) and all(isinstance(word, str) for word in words):
            return words
    return ["/bin/sh", "-c", text]


def _pairs(text: str) -> dict[str, str]:
    """``a=b c="d e"``, or the old form ``a b``."""
    first, _, rest = text.partition(" ")
    if "=" not in first:
        return {first: rest.strip()}
    return dict(word.partition("=")[::2] for word in shlex.split(text))


def apply_change(config: ContainerConfig, change: str) -> None:
    """One ``--change`` of commit: a Dockerfile instruction on the configuration.

    Raises:
        InvalidArgument: An instruction that commit does not take.
    """
    keyword, _, text = change.strip().partition(" ")
    text = text.strip()
    match keyword.upper():
        case "CMD":
            config.cmd = _words(text)
        case "ENTRYPOINT":
            config.entrypoint = _words(text)
        case "ENV":
            pairs = _pairs(text)
            kept = [entry for entry in config.env if entry.partition("=")[0] not in pairs]
            config.env = kept + [f"{key}={value}" for key, value in pairs.items()]
        case "LABEL":
            config.labels = config.labels | _pairs(text)
        case "EXPOSE":
            for port in text.split():
                config.exposed_ports[port if "/" in port else f"{port}/tcp"] = {}
        case "USER":
            config.user = text
        case "WORKDIR":
            config.working_dir = text if text.startswith("/") else f"{config.working_dir.rstrip('/')}/{text}"
        case "VOLUME":
            paths = orjson.loads(text) if text.startswith("[") else text.split()
            config.volumes = config.volumes | {path: {} for path in paths}
        case "ONBUILD":
            config.on_build = [*(config.on_build or []), text]
        case "STOPSIGNAL":
            config.stop_signal = text
        case "HEALTHCHECK" | "SHELL" | "ARG" | "FROM" | "RUN" | "COPY" | "ADD" | "MAINTAINER":
            raise InvalidArgument(f"{keyword.upper()} is not a valid change command", field="changes")
        case _:
            raise InvalidArgument(f"unknown instruction: {keyword}", field="changes")
