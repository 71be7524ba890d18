"""davit, the reference engine and a registry side by side, for questions about images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.lab.engine import Engine
from tests.lab.netns import NetworkNamespace
from tests.lab.reference import ReferenceEngine
from tests.lab.registry import DockerRegistry

OWN_REGISTRY = "127.0.0.1:5600"


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
    """Attributes: registry: Debian's docker-registry. own_registry: davit's store, served."""

    davit: Engine
    reference: ReferenceEngine
    registry: DockerRegistry
    own_registry: str = OWN_REGISTRY


@contextmanager
def image_lab(directory: Path) -> Iterator[ImageLab]:
    """Both engines and the registry in one network namespace, where all reach each other on loopback."""
    with Engine(environment={"DAVIT_REGISTRY_LISTEN": OWN_REGISTRY}) as davit:
        reference = ReferenceEngine()
        reference.netns = _Shared(davit.netns)
        with reference, DockerRegistry(directory, inside=davit.netns.enter) as registry:
            yield ImageLab(davit, reference, registry)
