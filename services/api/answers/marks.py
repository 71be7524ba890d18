"""Answers that have the shape of a model which is also read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from shared.contracts.docker import ContainerConfig, HealthConfig, HostConfig

if TYPE_CHECKING:
    from pydantic import BaseModel, GetCoreSchemaHandler
    from pydantic_core import CoreSchema


@dataclass(frozen=True, slots=True)
class Like:
    """Describes an object as a model's JSON; a view makes it of such a model."""

    model: type[BaseModel]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return handler.generate_schema(self.model)


ShownConfig = Annotated[dict[str, Any], Like(ContainerConfig)]
ShownHealthConfig = Annotated[dict[str, Any], Like(HealthConfig)]
ShownHostConfig = Annotated[dict[str, Any], Like(HostConfig)]
