"""Dockerfile instructions applied to a configuration outside of a build: ``docker import --change``.

Source: docker import, docker commit, "--change".
"""

from __future__ import annotations

from collections.abc import Sequence

from services.image.build.dockerfile.errors import SyntaxProblem
from services.image.build.dockerfile.stages import parse_trigger
from services.image.build.ports import BuiltImage
from services.image.build.state import StageState
from services.image.build.steps import metadata
from services.image.build.steps.arguments import GlobalArguments, StageArguments
from shared.contracts.docker import ContainerConfig
from shared.errors import InvalidArgument

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
    """The configuration after each line of the changes.

    Raises:
        InvalidArgument: An instruction is invalid, or not one that only changes the configuration.
    """
    state = StageState(
        "", BuiltImage("", config), config.model_copy(deep=True), StageArguments(GlobalArguments({}, {}))
    )
    for line in (line for change in changes for line in change.splitlines() if line.strip()):
        keyword = line.split(maxsplit=1)[0]
        if keyword.upper() not in VALID:
            raise InvalidArgument(f"{keyword.lower()} is not a valid change command", field="changes")
        instruction = parse_trigger(line)
        try:
            if instruction.keyword == "WORKDIR":
                state.config.working_dir = metadata.workdir_of(instruction, state)
            else:
                metadata.apply(instruction, state)
        except SyntaxProblem as error:
            raise InvalidArgument(str(error), field="changes") from error
    return state.config
