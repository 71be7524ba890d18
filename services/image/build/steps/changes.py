"""Dockerfile instructions applied outside of a build: ``--change`` of ``docker import`` and ``docker commit``.

All values together are one Dockerfile, read by the builder's own grammar: a line may go on in the next value, variables
stand for what the configuration's environment says, and instructions see what those before them did.

Source: docker import, docker commit, "--change".
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from services.image.build.dockerfile.errors import SyntaxProblem
from services.image.build.dockerfile.instructions import parse_instruction
from services.image.build.dockerfile.lines import read_lines
from services.image.build.ports import BuiltImage
from services.image.build.state import StageState
from services.image.build.steps import metadata
from services.image.build.steps.arguments import GlobalArguments, StageArguments
from shared.contracts.docker import ContainerConfig
from shared.contracts.images import ChangeConfig, ChangedConfig
from shared.errors import InvalidArgument

# What only says where in a file something is wrong.
WHERE = re.compile(r"^(?:failed to parse Dockerfile: |dockerfile parse error line \d+: )")
VALID = frozenset(
    {
        "CMD",
        "ENTRYPOINT",
        "ENV",
        "EXPOSE",
        "HEALTHCHECK",
        "LABEL",
        "ONBUILD",
        "STOPSIGNAL",
        "USER",
        "VOLUME",
        "WORKDIR",
    }
)


def changed_config(config: ContainerConfig, changes: Sequence[str]) -> ContainerConfig:
    """The configuration after the changes.

    Raises:
        InvalidArgument: An instruction is invalid, or not one that only changes the configuration.
    """
    if not changes:
        return config
    try:
        return _changed(config, "\n".join(changes))
    except (SyntaxProblem, InvalidArgument) as error:
        raise InvalidArgument(WHERE.sub("", str(error)), field="changes") from error


def _changed(config: ContainerConfig, text: str) -> ContainerConfig:
    lines = read_lines(text)
    for node in lines.nodes:
        if node.keyword.upper() not in VALID:
            raise InvalidArgument(f"{node.keyword.lower()} is not a valid change command")
    arguments = StageArguments(GlobalArguments({}, {}))
    state = StageState("", BuiltImage("", config), config.model_copy(deep=True), arguments, lines.escape)
    for node in lines.nodes:
        instruction = parse_instruction(node, escape=lines.escape)
        if instruction.keyword == "WORKDIR":
            state.config.working_dir = metadata.workdir_of(instruction, state)
        else:
            metadata.apply(instruction, state)
    return state.config


async def change(request: ChangeConfig) -> ChangedConfig:
    """Handler of CHANGE_CONFIG."""
    return ChangedConfig(config=changed_config(request.config, request.changes))
