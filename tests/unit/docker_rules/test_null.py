"""null is taken as left out, wherever it stands."""

from __future__ import annotations

import types
from typing import Any, Union, get_args, get_origin

import pytest
from pydantic import BaseModel

from shared.contracts import docker
from shared.contracts.docker import ContainerConfig, DockerModel, HostConfig, NetworkingConfig

MODELS = [
    one
    for one in vars(docker).values()
    if isinstance(one, type) and issubclass(one, DockerModel) and one is not DockerModel
]
FIELDS = [(model, name) for model in MODELS for name in model.model_fields]


def bare(annotation: Any) -> Any:
    """A field's type without None and without what is annotated to it."""
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return bare(next(one for one in get_args(annotation) if one is not type(None)))
    return bare(get_args(annotation)[0]) if hasattr(annotation, "__metadata__") else annotation


@pytest.mark.parametrize(("model", "name"), FIELDS)
def test_every_field_takes_it(model: type[DockerModel], name: str) -> None:
    field = model.model_fields[name]
    found = getattr(model.model_validate({field.alias: None}), name)
    assert found == field.get_default(call_default_factory=True), "what it is when left out"


@pytest.mark.parametrize(("model", "name"), FIELDS)
def test_elements_and_values_take_it(model: type[DockerModel], name: str) -> None:
    field = model.model_fields[name]
    kind = bare(field.annotation)
    if kind is not list and get_origin(kind) not in (list, dict):
        return
    within = [None] if get_origin(kind) is list else {"k": None}
    if get_args(kind) == (int,):
        return  # of the console: two numbers
    found = getattr(model.model_validate({field.alias: within}), name)
    element = found[0] if isinstance(found, list) else found["k"]
    assert element in ("", {}, []) or element == type(element)()


def test_what_clients_send() -> None:
    host = HostConfig.model_validate_json(
        '{"LogConfig":null,"RestartPolicy":null,"Sysctls":{"a":null},"Tmpfs":{"/x":null},"Dns":[null]}'
    )
    assert (host.log_config.type, host.restart_policy.name) == ("", "")
    assert (host.sysctls, host.tmpfs, host.dns) == ({"a": ""}, {"/x": ""}, [""])
    assert ContainerConfig.model_validate({"Labels": {"a": None}, "Cmd": [None, "x"]}).cmd == ["", "x"]
    endpoints = NetworkingConfig.model_validate({"EndpointsConfig": {"web": None}}).endpoints_config
    assert isinstance(endpoints["web"], BaseModel)
