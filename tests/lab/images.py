"""davit, the reference engine and a registry side by side, for questions about images."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.lab.engine import Engine
from tests.lab.netns import NetworkNamespace
from tests.lab.reference import ReferenceEngine
from tests.lab.registry import DockerRegistry, bcrypt, certificate

OWN_REGISTRY = "127.0.0.1:5600"
USER, PASSWORD = "somebody", "open sesame"


class _Shared(NetworkNamespace):
    """A network namespace that belongs to somebody else."""

    def __init__(self, owner: NetworkNamespace) -> None:
        self.name = owner.name

    def __enter__(self) -> _Shared:
        return self

    def __exit__(self, *_: object) -> None:
        """The owner removes it."""


@dataclass(frozen=True, slots=True)
class ImageLab:
    """Attributes: registry: Debian's. own_registry: davit's store, served with a certificate and tokens to a user."""

    davit: Engine
    reference: ReferenceEngine
    registry: DockerRegistry
    own_registry: str = OWN_REGISTRY


@contextmanager
def image_lab(directory: Path) -> Iterator[ImageLab]:
    """Both engines and the registry in one network namespace, where all reach each other on loopback."""
    with Engine(environment=_own_registry(directory.with_name("own"))) as davit:
        reference = ReferenceEngine()
        reference.netns = _Shared(davit.netns)
        with reference, DockerRegistry(directory, inside=davit.netns.enter) as registry:
            for engine in (davit, reference):
                engine.docker("login", "-u", USER, "--password-stdin", OWN_REGISTRY, stdin=PASSWORD)
            yield ImageLab(davit, reference, registry)


def _own_registry(directory: Path) -> dict[str, str]:
    """Settings of a registry with a certificate and a user, who may not write everywhere."""
    cert, key = certificate(directory)
    users = directory / "users"
    users.write_text(f"{USER}:{bcrypt(PASSWORD)}\n")
    rights = directory / "rights"
    rules = [
        {"users": [USER], "repositories": ["*"], "actions": ["pull"]},
        {"users": [USER], "repositories": ["from/*", "ours"], "actions": ["push"]},
    ]
    rights.write_text(json.dumps(rules))
    return {
        "DAVIT_REGISTRY_AUTH": "token",
        "DAVIT_REGISTRY_RIGHTS": str(rights),
        "DAVIT_REGISTRY_LISTEN": OWN_REGISTRY,
        "DAVIT_REGISTRY_USERS": str(users),
        "DAVIT_REGISTRY_TLS_CERT": str(cert),
        "DAVIT_REGISTRY_TLS_KEY": str(key),
    }
