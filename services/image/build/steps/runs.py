"""RUN: the container that a command needs, with its mounts, and what may be told about it.

Source: Dockerfile reference, "RUN", "RUN --mount", "RUN --network", "Here-documents".
"""

from __future__ import annotations

import asyncio
import os
import posixpath
import shlex
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from services.image.build.context.directories import DirectoryTree
from services.image.build.context.materialise import materialise
from services.image.build.context.tree import Entry, Tree, looked_up, resolve
from services.image.build.dockerfile.instructions import Run
from services.image.build.dockerfile.lines import as_heredoc
from services.image.build.ports import BuiltImage, RunOrder
from services.image.build.state import StageState
from services.image.build.steps.copying import checksum, select
from services.image.build.steps.mounts import RunMount, parse_mount
from services.image.build.workshop import Origin, Workshop
from shared.contracts.docker import (
    BindOptions,
    ContainerConfig,
    HealthConfig,
    HostConfig,
    LogConfig,
    Mount,
    TmpfsOptions,
    Ulimit,
)
from shared.contracts.images import BuildSettings
from shared.errors import Forbidden, InvalidArgument, NotFound

SCRIPT_DIRECTORY = "/dev/pipes"
# What the runtime may create in a root file system before the command runs, when the image lacks it.
ENGINE_MADE = frozenset(
    {
        "dev",
        "dev/console",
        "dev/shm",
        "dev/pts",
        "dev/mqueue",
        "proc",
        "sys",
        "etc",
        "etc/hosts",
        "etc/hostname",
        "etc/resolv.conf",
        "etc/mtab",
        ".dockerenv",
        "run",
        "run/secrets",
    }
)


@dataclass(frozen=True, slots=True)
class RunPlace:
    """What preparing a RUN needs.

    Attributes:
        find_origin: From the origin of a mount to its files ("" for the context).
    """

    shop: Workshop
    find_origin: Callable[[str], Awaitable[Origin]]


@dataclass(slots=True)
class PreparedRun:
    """A RUN, ready but for its mounts.

    Attributes:
        command: The words that run.
        recorded: The words that history and the cache key keep, with the build arguments that were visible.
        extra: What else decides the outcome, for the cache key.
        script: A here-document that is a program of its own; its name below `SCRIPT_DIRECTORY`.
    """

    command: tuple[str, ...]
    recorded: tuple[str, ...]
    extra: tuple[str, ...]
    environment: list[str]
    mounts: tuple[RunMount, ...] = ()
    trees: dict[int, tuple[Tree, str]] = field(default_factory=dict)
    script: tuple[str, str] | None = None


async def prepare_run(run: Run, state: StageState, place: RunPlace) -> PreparedRun:
    """Raises DavitError for a mount that cannot be."""
    words, script = _words(run)
    command = (*state.shell, *words) if run.shell and script is None else tuple(words)
    expand = state.expander()
    mounts = tuple(parse_mount(text, state.config.working_dir, expand) for text in run.mounts)
    prepared = PreparedRun(command, (), (), [], mounts, script=script)
    hidden = [item.partition("=")[0] for item in state.config.env]
    arguments = state.arguments.values(hidden)
    prepared.environment = [*state.config.env, *(f"{name}={value}" for name, value in arguments.items())]
    recorded = [f"{name}={value}" for name, value in state.arguments.recorded(hidden).items()]
    shown = (*command, script[1]) if script else command
    prepared.recorded = (f"|{len(recorded)}", *recorded, *shown) if arguments else shown
    facts = [text async for text in _mount_facts(prepared, place)]
    prepared.extra = (run.network, *([f"security={run.security}"] if run.security else ()), *run.mounts, *facts)
    _check_allowed(run, mounts, place.shop)
    return prepared


def _check_allowed(run: Run, mounts: tuple[RunMount, ...], shop: Workshop) -> None:
    """Raises Forbidden for what the client has not allowed, InvalidArgument for what cannot be done."""
    if run.security == "insecure" and not shop.privileged:
        raise Forbidden("security.insecure is not allowed", field="--security")
    if run.network == "host" and not shop.host_network:
        raise Forbidden("network.host is not allowed", field="--network")
    if any(mount.environment for mount in mounts) and (not run.shell or run.heredocs):
        raise InvalidArgument("a secret as a variable needs the shell form of RUN", field="--mount")


def _words(run: Run) -> tuple[tuple[str, ...], tuple[str, str] | None]:
    """The command's words, and the program that a here-document with ``#!`` is."""
    if not run.heredocs:
        return run.words, None
    only = as_heredoc(run.words[0].strip())
    if len(run.heredocs) == 1 and only is not None:
        text = run.heredocs[0].text()
        if text.startswith("#!"):
            return (f"{SCRIPT_DIRECTORY}/{run.heredocs[0].name}",), (run.heredocs[0].name, text)
        return (text,), None
    return (run.words[0] + "".join(f"\n{doc.content}{doc.name}" for doc in run.heredocs),), None


async def _mount_facts(prepared: PreparedRun, place: RunPlace) -> AsyncIterator[str]:
    """What bind mounts hold, for the cache key, and their trees, for later."""
    for index, mount in enumerate(prepared.mounts):
        if mount.kind != "bind" and not (mount.kind == "cache" and mount.origin):
            continue
        origin = await place.find_origin(mount.origin)
        tree = origin.tree
        prepared.trees[index] = (tree, mount.source)
        if mount.kind == "bind" and not origin.image_id:
            selected = await looked_up([tree], partial(select, tree, mount.source or ".", keyword="RUN"))
            yield await looked_up([tree], partial(checksum, selected, ownership=False))
        else:
            yield origin.image_id


def _secret_variable(mount: RunMount) -> str:
    """Shell that reads a secret from its file into a variable, so that no record of the container has the value."""
    path = mount.target or f"/run/secrets/{mount.identifier}"
    return f'{mount.environment}="$(cat {shlex.quote(path)})"; export {mount.environment}; '


async def run_order(
    run: Run, prepared: PreparedRun, image: BuiltImage, state: StageState, place: RunPlace, stack: AsyncExitStack
) -> RunOrder:
    """The container for a command, from the stage's image. What its mounts need is made now and undone by the stack."""
    mounts: list[Mount] = []
    command, environment = list(prepared.command), prepared.environment
    for index, mount in enumerate(prepared.mounts):
        made = await _Mounts(place.shop, stack).make(mount, prepared.trees.get(index))
        if made is None:
            continue
        mounts.append(made)
        if mount.environment:
            command[-1] = _secret_variable(mount) + command[-1]
        elif mount.kind == "ssh":
            environment = [*environment, f"SSH_AUTH_SOCK={made.target}"]
    if prepared.script is not None:
        mounts.append(_script_mount(place.shop, prepared.script))
    config = state.config.model_copy(deep=True)
    # The words go into the entry point, so that one of the image's cannot come in between.
    config.entrypoint, config.cmd = command[:1], command[1:]
    config.env = environment
    config.healthcheck = HealthConfig(test=["NONE"])
    config.on_build = None
    config.attach_stdout = config.attach_stderr = True
    config.image = image.id
    return RunOrder(image, config, _host_config(run, place.shop.request, mounts))


def _host_config(run: Run, request: BuildSettings, mounts: list[Mount]) -> HostConfig:
    network = run.network if run.network in ("none", "host") else request.network_mode
    return HostConfig(
        network_mode=network or "default",
        mounts=mounts,
        log_config=LogConfig(type="none"),
        extra_hosts=request.extra_hosts,
        memory=request.memory_bytes,
        memory_swap=request.memory_swap_bytes,
        cpu_shares=request.cpu_shares,
        cpuset_cpus=request.cpuset_cpus,
        cpuset_mems=request.cpuset_mems,
        cpu_period=request.cpu_period,
        cpu_quota=request.cpu_quota,
        cgroup_parent=request.cgroup_parent,
        shm_size=request.shm_size_bytes,
        security_opt=request.security_opt,
        privileged=run.security == "insecure",
        isolation=request.isolation,
        ulimits=[Ulimit.model_validate(item) for item in request.ulimits],
    )


def mount_points(run_mounts: tuple[RunMount, ...], base: Tree) -> frozenset[str]:
    """Paths that come into being only because something is mounted there: they are no changes of the command."""
    wanted = set(ENGINE_MADE)
    for mount in run_mounts:
        path = (mount.target or f"/run/secrets/{mount.identifier}").strip("/")
        while path:
            wanted.add(path)
            path = posixpath.dirname(path)
    return frozenset(path for path in wanted if _missing(base, path))


def _missing(base: Tree, path: str) -> bool:
    try:
        return resolve(base, path)[1] is None
    except OSError:  # a file or a circle of links in the way: whatever is there is the image's
        return False


class _Mounts:
    """Makes what mounts need on this machine."""

    def __init__(self, shop: Workshop, stack: AsyncExitStack) -> None:
        self._shop = shop
        self._stack = stack

    async def make(self, mount: RunMount, origin: tuple[Tree, str] | None) -> Mount | None:
        if mount.kind == "tmpfs":
            return Mount(type="tmpfs", target=mount.target, tmpfs_options=TmpfsOptions(size_bytes=mount.size_bytes))
        if mount.kind == "secret":
            return await self._secret(mount)
        if mount.kind == "ssh":
            return await self._agent(mount)
        if mount.kind == "cache":
            return _bind(await self._cache(mount, origin), mount.target, read_only=mount.read_only)
        assert origin is not None
        source = await asyncio.to_thread(self._bind_source, mount, *origin)
        return _bind(source, mount.target, read_only=mount.read_only)

    def _bind_source(self, mount: RunMount, tree: Tree, source: str) -> Path:
        path, entry = _found(tree, source)
        if isinstance(tree, DirectoryTree) and mount.read_only:
            direct = tree.single_place(path)
            if direct is not None:
                return direct
        # Changes to a writable bind mount are thrown away, so it gets a copy too.
        target = self._shop.scratch.place("mount")
        materialise(tree, path, entry, target)
        return target

    async def _cache(self, mount: RunMount, origin: tuple[Tree, str] | None) -> Path:
        fill = partial(_fill, tree=origin[0], source=origin[1]) if origin is not None else None
        return await self._stack.enter_async_context(
            self._shop.caches.use(
                mount.identifier, sharing=mount.sharing, mode=mount.mode, uid=mount.uid, gid=mount.gid, fill=fill
            )
        )

    async def _secret(self, mount: RunMount) -> Mount | None:
        value = await self._shop.secrets.find(mount.identifier)
        if value is None:
            if mount.required:
                raise NotFound(
                    f"secret {mount.identifier}: not found: RUN --mount=type=secret,id={mount.identifier} requires it",
                    field="--mount",
                )
            return None
        path = self._shop.secrets_dir.place("secret")
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o400)
        with open(descriptor, "wb") as out:
            out.write(value)
        os.chown(path, mount.uid, mount.gid)
        os.chmod(path, mount.mode)
        self._stack.callback(path.unlink, missing_ok=True)
        return _bind(path, mount.target or f"/run/secrets/{mount.identifier}", read_only=True)

    async def _agent(self, mount: RunMount) -> Mount | None:
        path = self._shop.secrets_dir.place("agent")
        if not await self._shop.agents.listen(mount.identifier, path, self._stack):
            if mount.required:
                raise NotFound(f"unset ssh forward key {mount.identifier}", field="--mount")
            return None
        os.chown(path, mount.uid, mount.gid)
        os.chmod(path, mount.mode)
        return _bind(path, mount.target, read_only=False)


def _found(tree: Tree, source: str) -> tuple[str, Entry]:
    path, entry = resolve(tree, source)
    if entry is None:
        raise NotFound(f"failed to compute cache key: {source}: not found", field="--mount")
    return path, entry


def _fill(target: Path, tree: Tree, source: str) -> None:
    path, entry = _found(tree, source)
    if entry.kind != "dir":
        raise InvalidArgument(f"{source} is no directory to start a cache from", field="--mount")
    for name in tree.names(path):
        child = posixpath.join(path, name)
        found = tree.lookup(child)
        if found is not None:
            materialise(tree, child, found, target / name)


def _script_mount(shop: Workshop, script: tuple[str, str]) -> Mount:
    path = shop.scratch.place("script")
    path.write_text(script[1])
    path.chmod(0o755)
    return _bind(path, f"{SCRIPT_DIRECTORY}/{script[0]}", read_only=True)


def _bind(source: Path, target: str, *, read_only: bool) -> Mount:
    return Mount(type="bind", source=str(source), target=target, read_only=read_only, bind_options=BindOptions())


def error_command(prepared: PreparedRun) -> str:
    """The command as the error about its exit code names it."""
    return " ".join(prepared.recorded[-len(prepared.command) :] if not prepared.script else prepared.command)


def container_config(config: ContainerConfig, command: tuple[str, ...]) -> ContainerConfig:
    """The configuration that an image records of the container that made it."""
    recorded = config.model_copy(deep=True)
    recorded.cmd = list(command)
    return recorded
