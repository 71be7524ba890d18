"""Queries and bodies of the routes of the cluster and its nodes. Source: Docker Engine API 1.50, Swarm, Node."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from services.api.parameters import FilterMap, Flag, QueryModel, Text
from shared.auditing.secret import WHOLE
from shared.contracts.docker import DockerModel
from shared.docker.null import Str, StrMap

Port = Annotated[int, Field(ge=0, le=65535)]


class SwarmInitBody(DockerModel):
    """A new cluster."""

    listen_addr: Str = "0.0.0.0:2377"
    advertise_addr: Str = ""
    data_path_addr: Str = ""
    data_path_port: Port = 0
    default_addr_pool: list[str] | None = None
    subnet_size: Annotated[int, Field(ge=0, le=32)] = 0
    force_new_cluster: bool = False
    auto_lock_managers: bool = False
    availability: Literal["", "active", "pause", "drain"] = "active"
    spec: Annotated[dict[str, Any] | None, WHOLE] = None


class SwarmSpecBody(BaseModel):
    """What is wished of a cluster."""

    model_config = ConfigDict(extra="allow")


class NodeSpecBody(DockerModel):
    """What is wished of a node."""

    name: Str = ""
    labels: StrMap = Field(default_factory=dict)
    role: Literal["manager", "worker"]
    availability: Literal["active", "pause", "drain"]


class SwarmUpdateQuery(QueryModel):
    version: Text = Field("", description="The version that the change is based on.")
    rotate_worker_token: Flag = Field(False, alias="rotateWorkerToken", description="Make a new token for workers.")
    rotate_manager_token: Flag = Field(False, alias="rotateManagerToken", description="Make a new token for managers.")
    rotate_manager_unlock_key: Flag = Field(False, alias="rotateManagerUnlockKey", description="Not supported.")


class SwarmLeaveQuery(QueryModel):
    force: Flag = Field(False, description="Also as the last manager: the cluster ends with it.")


class NodesQuery(QueryModel):
    filters: FilterMap = Field(default_factory=dict)


class NodeUpdateQuery(QueryModel):
    version: Text = Field("", description="The version that the change is based on.")


class NodeRemoveQuery(QueryModel):
    force: Flag = Field(False, description="Also a node that lives.")
