"""What a stage knows while it is being built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from services.image.build.dockerfile.expand import expand_word, expand_words
from services.image.build.ports import BuiltImage
from services.image.build.steps.arguments import StageArguments
from services.image.build.steps.platforms import machine_platform
from shared.contracts.docker import ContainerConfig

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_SHELL = ("/bin/sh", "-c")


@dataclass(slots=True)
class StageState:
    """What instructions see and change.

    Attributes:
        image_id: What the last step led to.
        image: The same, once it is known; a step that is in the cache is known by its id first.
        config: What the next image will be; owned by the stage.
        command_set: This stage has a CMD.
    """

    image_id: str
    image: BuiltImage | None
    config: ContainerConfig
    arguments: StageArguments
    escape: str = "\\"
    author: str = ""
    command_set: bool = False
    stage_layers: set[str] = field(default_factory=set)

    @classmethod
    def from_base(cls, base: BuiltImage, arguments: StageArguments, escape: str) -> StageState:
        config = base.config.model_copy(deep=True)
        config.on_build = None
        config.open_stdin = config.stdin_once = False
        config.image = base.id
        if "PATH" not in env_of(config):
            config.env = [f"PATH={DEFAULT_PATH}", *config.env]
        return cls(base.id, base, config, arguments, escape, base.author)

    def platform_facts(self) -> tuple[str, ...]:
        """What the platform adds to the key of a step from scratch; steps on images have it from those."""
        if self.image_id or self.image is None:
            return ()
        platform = (self.image.os, self.image.architecture, self.image.variant)
        return () if platform == machine_platform() else platform

    @property
    def shell(self) -> tuple[str, ...]:
        return tuple(self.config.shell or DEFAULT_SHELL)

    def variables(self) -> dict[str, str]:
        """What ``$name`` in an instruction can stand for."""
        env = env_of(self.config)
        return self.arguments.values(env) | env

    def word(self, text: str) -> str:
        """Raises SyntaxProblem."""
        return expand_word(text, self.variables(), escape=self.escape)

    def expander(self) -> Callable[[str], str]:
        """`word` for many texts of one instruction, which all see the variables from before it."""
        variables = self.variables()
        return lambda text: expand_word(text, variables, escape=self.escape)

    def words(self, text: str) -> list[str]:
        return expand_words(text, self.variables(), escape=self.escape)

    def advance(self, image_id: str, image: BuiltImage | None = None) -> None:
        """Go on from a step's result."""
        self.image_id, self.image = image_id, image
        self.config.image = image_id


def env_of(config: ContainerConfig) -> dict[str, str]:
    return dict(item.partition("=")[::2] for item in config.env)
