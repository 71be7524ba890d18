"""Queries and bodies of the system's routes and of volumes. Source: Docker Engine API 1.50, System, Volume."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from services.api.parameters import FilterMap, Flag, QueryModel, Text, Texts
from services.api.versions import Since
from shared.auditing.secret import WHOLE
from shared.contracts.docker import DockerModel, SecretMap
from shared.docker.null import Str, StrMap


class AuthBody(DockerModel):
    """Credentials for a registry."""

    username: Str = Field("", alias="username")
    password: Annotated[Str, WHOLE] = Field("", alias="password")
    auth: Annotated[Str, WHOLE] = Field("", alias="auth")
    email: Str = Field("", alias="email")
    serveraddress: Str = Field("", alias="serveraddress")
    identitytoken: Annotated[Str, WHOLE] = Field("", alias="identitytoken")
    registrytoken: Annotated[Str, WHOLE] = Field("", alias="registrytoken")


class DiskUsageQuery(QueryModel):
    type: Annotated[Texts, Since(1, 42)] = Field(
        default_factory=list, description="What to count: container, image, volume, build-cache. All when it is absent."
    )
    verbose: Annotated[Flag, Since(1, 52)] = Field(False, description="With the objects themselves.")


class EventsQuery(QueryModel):
    since: Text = Field("", description="From that moment on, also what has happened: a moment as for logs.")
    until: Text = Field("", description="Until that moment: a moment as for logs.")
    place: Text = Field(
        "", alias="from", description="Behind the event that named this place as its cursor; 0 for all. Not Docker's."
    )
    filters: FilterMap = Field(default_factory=dict)


class VolumeBody(DockerModel):
    """A volume to be made."""

    name: Str = ""
    driver: Str = ""
    driver_opts: SecretMap = Field(default_factory=dict)
    labels: StrMap = Field(default_factory=dict)
    cluster_volume_spec: dict[str, object] | None = None


class VolumesQuery(QueryModel):
    filters: FilterMap = Field(default_factory=dict)


class VolumeRemoveQuery(QueryModel):
    force: Flag = Field(False, description="It is no error if there is none.")
