"""What a client asks of the Dockerfile frontend, understood: a flat map of texts becomes settings of a build.

Source: docker buildx (build/opt.go), moby/buildkit, frontend/dockerui/config.go (names of options).
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import orjson

from services.image.build.steps.platforms import check_platform
from shared.contracts.images import BuildSettings
from shared.docker.references import parse
from shared.errors import DavitError, InvalidArgument, Unsupported

DEFAULT_FILE = "Dockerfile"
CONTEXT, DOCKERFILE = "context", "dockerfile"
SESSION_UPLOAD = "http://buildkit-session/"
SUBREQUESTS = ("frontend.subrequests.describe", "frontend.outline", "frontend.targets", "frontend.lint")
# Arguments that speak to a builder. Source: docker buildx build, "Built-in build args".
_BUILDER_ARGUMENTS = (
    "BUILDKIT_CONTEXT_KEEP_GIT_DIR",
    "BUILDKIT_INLINE_CACHE",
    "BUILDKIT_MULTI_PLATFORM",
    "BUILDKIT_SANDBOX_HOSTNAME",
    "BUILDKIT_DOCKERFILE_CHECK",
)
# What has no meaning for this builder: clients send it along whatever they are told.
_WITHOUT_MEANING = frozenset({"frontend.caps", "cmdline", "source", "multi-platform", "contextsubdir"})
_NETWORKS = {"": "", "default": "", "sandbox": "", "host": "host", "none": "none"}
# Linux distributions of the frontend that this builder's Dockerfile is the language of.
_OWN_SYNTAX = ("docker.io/docker/dockerfile", "docker.io/docker/dockerfile-upstream")


@dataclass(frozen=True, slots=True)
class Options:
    """One build.

    Attributes:
        settings: Of the builder, for the first platform; its Dockerfile's name is a path in the Dockerfile's directory.
        platforms: As asked for; empty for the machine's own.
        contexts: Other contexts by name; the name may end in ``::platform``.
        context: Where the main context is, when the client does not serve it.
        context_key, dockerfile_key: What the client calls its directories.
        local_dockerfile: The Dockerfile is the client's even when the context is not.
        no_cache_stages: Stages that ``--no-cache-filter`` names.
        subrequest: What to tell instead of building.
        syntax: Another frontend that a build argument asks for.
        check: Rules of Dockerfile checks, as ``# check=`` says them.
        hostname: Of containers that run commands.
        sessions: Ids of the sessions that serve directories, where it is another one than the build's.
    """

    settings: BuildSettings
    platforms: tuple[str, ...] = ()
    contexts: Mapping[str, str] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    context: str = ""
    context_key: str = CONTEXT
    dockerfile_key: str = DOCKERFILE
    local_dockerfile: bool = False
    no_cache_stages: tuple[str, ...] = ()
    subrequest: str = ""
    syntax: str = ""
    check: str = ""
    inline_cache: bool = False
    hostname: str = ""
    sessions: Mapping[str, str] = field(default_factory=dict)

    @property
    def file(self) -> str:
        return self.settings.dockerfile


def parse_options(given: Mapping[str, str], cache_from: tuple[Mapping[str, str], ...] = ()) -> Options:
    """Understand a frontend's options.

    Raises:
        InvalidArgument: A value that cannot be.
        Unsupported: An option that this builder does not know; the text names it.
    """
    reader = _Reader(dict(given))
    return reader.options(cache_from)


class _Reader:
    def __init__(self, given: dict[str, str]) -> None:
        self._given = given

    def _take(self, name: str, default: str = "") -> str:
        return self._given.pop(name, default)

    def _take_all(self, prefix: str) -> dict[str, str]:
        names = [name for name in self._given if name.startswith(prefix)]
        return {name[len(prefix) :]: self._given.pop(name) for name in names}

    def options(self, cache_from: tuple[Mapping[str, str], ...]) -> Options:
        for name in _WITHOUT_MEANING:
            self._take(name)
        arguments = self._take_all("build-arg:")
        platforms = tuple(part.strip() for part in self._take("platform").split(",") if part.strip())
        for platform in platforms:
            check_platform(platform)
        attests = self._take_all("attest:")
        check_attests(attests)
        imports = (*cache_from, *_imports(self._take("cache-imports")))
        no_cache = self._given.pop("no-cache", None)
        dockerfile_key = self._given.pop("dockerfilekey", None)
        found = Options(
            settings=self._settings(arguments, platforms, imports, everything=no_cache == ""),
            platforms=platforms,
            contexts=self._take_all("context:"),
            inputs=self._take_all("input-metadata:"),
            context=self._take("context"),
            context_key=self._take("contextkey") or CONTEXT,
            dockerfile_key=dockerfile_key or DOCKERFILE,
            local_dockerfile=dockerfile_key is not None,
            no_cache_stages=tuple(part for part in (no_cache or "").split(",") if part),
            subrequest=self._subrequest(),
            syntax=arguments.get("BUILDKIT_SYNTAX", ""),
            check=arguments.get("BUILDKIT_DOCKERFILE_CHECK", ""),
            inline_cache=arguments.get("BUILDKIT_INLINE_CACHE", "") in ("1", "true"),
            sessions=self._take_all("local-sessionid:"),
            hostname=self._take("hostname") or arguments.get("BUILDKIT_SANDBOX_HOSTNAME", ""),
        )
        self._take_all("vcs:")
        if self._given:
            name = sorted(self._given)[0]
            raise Unsupported(f"the build option {name} is not supported by this engine", field=name)
        return found

    def _subrequest(self) -> str:
        name = self._take("requestid")
        if name and name not in SUBREQUESTS:
            raise Unsupported(f"unsupported request {name}", field="requestid")
        return name

    def _settings(
        self,
        arguments: dict[str, str],
        platforms: tuple[str, ...],
        imports: Sequence[Mapping[str, str]],
        *,
        everything: bool,
    ) -> BuildSettings:
        network = self._take("force-network-mode")
        if network not in _NETWORKS:
            raise InvalidArgument(f"invalid network mode {network}", field="force-network-mode")
        mode = self._take("image-resolve-mode")
        if mode not in ("", "default", "local", "pull"):
            raise InvalidArgument(f"invalid image-resolve-mode: {mode}", field="image-resolve-mode")
        return BuildSettings(
            dockerfile=self._take("filename") or DEFAULT_FILE,
            target=self._take("target"),
            build_args={name: value for name, value in arguments.items() if name != "BUILDKIT_SYNTAX"},
            labels=self._take_all("label:"),
            extra_hosts=[_host(text) for text in _fields(self._take("add-hosts"))],
            network_mode=_NETWORKS[network],
            no_cache=everything,
            pull=mode == "pull",
            cache_from=list(dict.fromkeys(_cache_source(item) for item in imports)),
            platform=platforms[0] if platforms else "",
            rm=True,
            force_rm=True,
            shm_size_bytes=_number("shm-size", self._take("shm-size")),
            cgroup_parent=self._take("cgroup-parent"),
            ulimits=[_ulimit(text) for text in _fields(self._take("ulimit"))],
        )


def check_attests(attests: Mapping[str, str]) -> None:
    """See that no attestation is asked for.

    Clients ask for provenance on their own where it costs nothing (``inline-only``): here it is not had.

    Raises:
        Unsupported: One is asked for.
    """
    for kind, value in attests.items():
        attributes = dict(part.partition("=")[::2] for part in value.split(","))
        if attributes.get("disabled") == "true" or attributes.get("inline-only") == "true":
            continue
        raise Unsupported(f"attestations are not supported by this engine: {kind}", field=f"attest:{kind}")


def _imports(text: str) -> list[Mapping[str, str]]:
    """Caches to take from, as JSON. Raises InvalidArgument."""
    try:
        items = orjson.loads(text) if text else []
        return [{"type": str(item["Type"]), **dict(item.get("Attrs") or {})} for item in items]
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise InvalidArgument(f"invalid value for cache-imports: {error}", field="cache-imports") from error


def _cache_source(item: Mapping[str, str]) -> str:
    """The image that a cache is in. Raises Unsupported for other places."""
    kind, ref = item.get("type", ""), item.get("ref", "")
    if kind not in ("registry", "inline") or not ref:
        raise Unsupported(f"cache-from type={kind} is not supported by this engine: name an image", field="cache-from")
    return ref


def _fields(text: str) -> list[str]:
    return [item for row in csv.reader([text]) for item in row if item] if text else []


def _host(text: str) -> str:
    name, equals, address = text.partition("=")
    if not equals or not name:
        raise InvalidArgument(f"invalid value {text} for add-hosts", field="add-hosts")
    return f"{name}:{address}"


def _number(name: str, text: str) -> int:
    if not text:
        return 0
    if not text.isdecimal():
        raise InvalidArgument(f"invalid value {text} for {name}", field=name)
    return int(text)


def _ulimit(text: str) -> dict[str, int | str]:
    name, equals, limits = text.partition("=")
    soft, _, hard = limits.partition(":")
    try:
        if not equals:
            raise ValueError(text)
        return {"Name": name, "Soft": int(soft), "Hard": int(hard or soft)}
    except ValueError as error:
        raise InvalidArgument(f"invalid value {text} for ulimit", field="ulimit") from error


def check_syntax(reference: str) -> None:
    """See that a ``# syntax=`` is of the language that this builder speaks.

    Raises:
        Unsupported: It is another frontend.
    """
    try:
        name = parse(reference.split(maxsplit=1)[0]) if reference.strip() else None
    except DavitError as error:
        raise InvalidArgument(f"failed to parse syntax {reference}: {error}", field="syntax") from error
    if name is None or f"{name.domain}/{name.path}" in _OWN_SYNTAX:
        return
    raise Unsupported(
        f"the frontend {reference} cannot be run by this engine's builder, which reads docker/dockerfile itself: "
        "remove the line, or build with a builder of `docker buildx create --driver docker-container --use`",
        field="syntax",
    )
