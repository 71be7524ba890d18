"""What is secret by its type never is in a record, wherever it stands in a request."""

import string
from typing import Annotated, Any

import orjson
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from services.api import parameters
from services.api.query import Query
from services.api.requests import containers, images, networks, system
from shared.auditing.secret import ADDRESS, ENTRIES, HIDDEN, VALUES, WHOLE, Masking, Secret, _fields
from shared.contracts.docker import DockerModel

BODIES: list[type[BaseModel]] = [
    containers.ContainerBody,
    containers.ExecBody,
    networks.NetworkBody,
    system.VolumeBody,
    system.AuthBody,
    images.CreateQuery,
    images.CommitQuery,
    images.BuildQuery,
]
secrets = st.text(alphabet=string.ascii_letters + string.digits, min_size=12, max_size=30).map("s3cr3t".__add__)


class Inner(DockerModel):
    token: Annotated[str, WHOLE] = ""
    plain: str = ""


class Outer(DockerModel):
    env: Annotated[list[str], ENTRIES] = Field(default_factory=list)
    options: Annotated[dict[str, str], VALUES] = Field(default_factory=dict)
    url: Annotated[str, ADDRESS] = ""
    inner: Inner | None = None
    many: list[Inner] = Field(default_factory=list)
    by_name: dict[str, Inner] = Field(default_factory=dict)
    note: str = ""


@given(secret=secrets)
def test_a_planted_secret_is_nowhere(secret):
    inner = Inner(token=secret, plain="shown")
    outer = Outer(
        env=[f"A={secret}", f"B={secret}={secret}"],
        options={"o": f"password={secret}", "p": secret},
        url=f"https://user:{secret}@host/path?token={secret}",
        inner=inner,
        many=[inner, inner],
        by_name={"x": inner},
        note="a note",
    )
    masking = Masking()
    shown = masking.model(outer)
    text = orjson.dumps(shown).decode()
    assert secret not in text
    assert shown["Env"] == [f"A={HIDDEN}", f"B={HIDDEN}"]
    assert shown["Options"] == {"o": HIDDEN, "p": HIDDEN}
    assert shown["Url"] == f"https://{HIDDEN}@host/path?{HIDDEN}"
    assert shown["Many"] == [{"Token": HIDDEN, "Plain": "shown"}] * 2
    assert shown["Note"] == "a note"
    assert secret not in masking.text(f"invalid value '{secret}' in Env: also {secret}")


def marked(model: type[BaseModel], path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Secret]]:
    """Every field with a mark, with its path, in a model and those within."""
    found = []
    for name, _, secret, _ in _fields(model):
        if secret is not None:
            found.append(((*path, name), secret))
        for inner in models_in(model.model_fields[name].annotation):
            if inner is not model:
                found += marked(inner, (*path, name))
    return found


def models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in getattr(annotation, "__args__", ()) for model in models_in(part)]


def test_the_fields_that_hold_secrets_are_marked():
    found = {f"{body.__name__}.{'.'.join(path)}" for body in BODIES for path, _ in marked(body)}
    assert {
        "ContainerBody.env",
        "ContainerBody.host_config.log_config.config",
        "ContainerBody.host_config.mounts.volume_options.driver_config.options",
        "ContainerBody.host_config.device_requests.options",
        "ExecBody.env",
        "VolumeBody.driver_opts",
        "AuthBody.password",
        "AuthBody.auth",
        "AuthBody.identitytoken",
        "AuthBody.registrytoken",
        "CreateQuery.from_src",
        "CreateQuery.changes",
        "CommitQuery.changes",
        "BuildQuery.build_args",
        "BuildQuery.remote",
    } <= found


@given(secret=secrets)
def test_a_create_with_secrets_wherever_the_api_takes_them_shows_none(secret):
    body = containers.ContainerBody.model_validate(
        {
            "Image": "busybox",
            "Env": [f"PASSWORD={secret}"],
            "Unknown": secret,
            "HostConfig": {
                "LogConfig": {"Type": "json-file", "Config": {"splunk-token": secret}},
                "Mounts": [
                    {
                        "Type": "volume",
                        "Target": "/x",
                        "VolumeOptions": {"DriverConfig": {"Options": {"o": f"username=a,password={secret}"}}},
                    }
                ],
                "NotThere": {"Password": secret},
            },
        }
    )
    shown = Masking().model(body)
    assert secret not in orjson.dumps(shown).decode()
    assert shown["Image"] == "busybox"
    assert shown["HostConfig"]["Mounts"][0]["Target"] == "/x"


@given(secret=secrets)
def test_secrets_in_query_parameters_are_nowhere(secret):
    arguments = orjson.dumps({"TOKEN": secret}).decode()
    text = f"buildargs={arguments}&remote=https://me:{secret}@host/x&unknown={secret}&t=name:tag"
    query = parameters.read(images.BuildQuery, Query(text.encode()), (1, 50))
    shown = Masking().model(query)
    assert secret not in orjson.dumps(shown).decode()
    assert shown == {"buildargs": {"TOKEN": HIDDEN}, "remote": f"https://{HIDDEN}@host/x", "t": ["name:tag"]}
    text = f"fromSrc=http://a:{secret}@b/c?key={secret}&changes=ENV%20A={secret}"
    masking = Masking()
    shown = masking.model(parameters.read(images.CreateQuery, Query(text.encode()), (1, 50)))
    assert secret not in orjson.dumps(shown).decode()
    assert secret not in masking.text(f"dockerfile parse error: ENV A={secret}")


def test_what_was_not_given_or_says_nothing_is_not_shown():
    assert Masking().model(Outer(note="", env=[])) == {}


def test_long_texts_are_cut_and_large_numbers_are_texts():
    masking = Masking()
    assert len(masking.plain("x" * 10_000)) < 5000
    assert masking.plain(2**70) == str(2**70)
