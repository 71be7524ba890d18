"""Commit: a container's changes as a new image."""

from __future__ import annotations

from contextlib import suppress

from services.executor.control.creation.record import merge_config
from services.executor.control.domain import Record
from services.executor.control.peers import Peers
from services.executor.control.state.records import Records
from shared.contracts import images, node
from shared.contracts.containers import Commit, CommittedImage
from shared.contracts.docker import ContainerConfig
from shared.contracts.images import CommitLayer
from shared.contracts.node import ContainerId
from shared.errors import Conflict, NotFound

# What a container's configuration says about one run of it, and an image does not.
ABOUT_THE_RUN = (
    "hostname", "domainname", "attach_stdin", "attach_stdout", "attach_stderr", "tty", "open_stdin", "stdin_once",
    "image", "network_disabled", "mac_address", "stop_timeout",
)  # fmt: skip


class Committing:
    """Handler of COMMIT."""

    def __init__(self, records: Records, peers: Peers) -> None:
        self._records = records
        self._peers = peers

    async def commit(self, request: Commit) -> CommittedImage:
        """Pack the changes on the node, have the image service store them; paused meanwhile, if asked."""
        record = await self._records.find_settled(request.ref)
        if record.status in ("removing", "dead"):
            raise Conflict(f"You cannot commit container {record.id} which is being removed")
        config = image_config(await self._changed(request, record), record)
        paused = request.pause and record.status == "running" and await self._paused(record)
        try:
            image = await self._store(request, record, config)
        finally:
            if paused:
                await self._unpause(record)
        repo = request.repo.removeprefix("docker.io/").removeprefix("library/")
        reference = f"{repo}:{request.tag or 'latest'}" if repo else ""
        await self._records.note(record.event("commit", comment=request.comment, imageID=image.id, imageRef=reference))
        return image

    async def _changed(self, request: Commit, record: Record) -> ContainerConfig:
        """The request's configuration, or else the container's, after the request's instructions.

        Raises:
            InvalidArgument: An instruction that commit does not take.
        """
        config = request.config or record.container.config
        if not request.changes:
            return config
        asked = images.ChangeConfig(config=config, changes=request.changes)
        return (await self._peers.bus.request(images.CHANGE_CONFIG, asked)).config

    async def _paused(self, record: Record) -> bool:
        """Pause it; False when it has just ended, and nobody writes any more."""
        try:
            await self._peers.pause(record)
        except (Conflict, NotFound):
            return False
        await self._records.note(record.event("pause"))
        return True

    async def _unpause(self, record: Record) -> None:
        with suppress(Conflict, NotFound):  # killed meanwhile
            await self._peers.unpause(record)
            await self._records.note(record.event("unpause"))

    async def _store(self, request: Commit, record: Record, config: ContainerConfig) -> CommittedImage:
        if record.generation == 0:
            await self._peers.prepare(record)
        bus = self._peers.bus
        packed = await bus.request(node.PACK_CHANGES, ContainerId(id=record.id), node=record.node)
        layer = CommitLayer(
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
        )
        return CommittedImage(id=(await bus.request(images.COMMIT, layer)).id)


def image_config(changed: ContainerConfig, record: Record) -> ContainerConfig:
    """The image's configuration: what was asked for, completed from the container's, without what is about one run."""
    config = merge_config(changed, record.container.config)
    empty = ContainerConfig()
    return config.model_copy(update={name: getattr(empty, name) for name in ABOUT_THE_RUN})
