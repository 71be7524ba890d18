"""Query strings, bodies and headers, read as Docker reads them."""

from __future__ import annotations

import base64
import re
from typing import Annotated

import pytest
from pydantic import Field

from services.api import body, credentials, parameters, versions
from services.api.parameters import Flag, Integer, QueryModel, Text, Texts
from services.api.query import Query, parse_integer, parse_time_ns
from services.api.requests.containers import ContainerBody, ResizeQuery, UpdateBody
from services.api.requests.networks import NetworkBody
from services.api.versions import Since, Until
from shared.contracts.docker import DockerModel
from shared.docker.filters import parse_filters
from shared.docker.words import query_flag
from shared.errors import InvalidArgument

NEWEST = (1, 56)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", False),
        ("0", False),
        ("no", False),
        ("False", False),
        ("none", False),
        ("1", True),
        ("yes", True),
        ("x", True),
    ],
)
def test_flags(text, value):
    assert query_flag(text) is value


class Declared(QueryModel):
    a: Flag = True
    b: Integer = 4
    c: Texts = Field(default_factory=list)
    d: Text = ""
    e: Annotated[Text, Since(1, 44)] = ""
    f: Annotated[Text, Until(1, 44)] = ""


def test_defaults_hold_only_for_absent_names():
    query = parameters.read(Declared, Query(b"a=&b=7&c=1&c=2&d=%20x"), NEWEST)
    assert (query.a, query.b, query.c, query.d) == (False, 7, ["1", "2"], " x")
    query = parameters.read(Declared, Query(b"b=&c="), NEWEST)
    assert (query.a, query.b, query.c, query.d) == (True, 4, [""], "")


@pytest.mark.parametrize(("version", "said"), [((1, 43), ("", "y")), ((1, 44), ("x", ""))])
def test_parameters_belong_to_versions(version, said):
    query = parameters.read(Declared, Query(b"e=x&f=y"), version)
    assert (query.e, query.f) == said


def test_an_integer_that_is_required_is_missed():
    with pytest.raises(InvalidArgument, match="invalid value for h"):
        parameters.read(ResizeQuery, Query(b"w=3"), NEWEST)


@pytest.mark.parametrize("text", ["-1", "65536", "70000", "4294967296", "9" * 5000])
def test_terminals_have_sizes_of_16_bits(text):
    with pytest.raises(InvalidArgument, match="value out of range"):
        parameters.read(ResizeQuery, Query(f"h={text}&w=3".encode()), NEWEST)


@pytest.mark.parametrize("text", ["abc", "1.5", "1e3", "9223372036854775808"])
def test_numbers_that_are_none(text):
    with pytest.raises(InvalidArgument, match="invalid value for n"):
        parse_integer("n", text)


@pytest.mark.parametrize(
    ("text", "filters"),
    [
        ('{"label":["a=b","c"]}', {"label": ["a=b", "c"]}),
        ('{"label":{"a=b":true,"c":false}}', {"label": ["a=b", "c"]}),
        ("null", {}),
        ("{}", {}),
    ],
)
def test_filters_in_both_forms(text, filters):
    assert parse_filters(text) == filters


@pytest.mark.parametrize("text", ["abc", "[]", '{"a":"b"}', '{"a":[1]}'])
def test_filters_that_are_none(text):
    with pytest.raises(InvalidArgument):
        parse_filters(text)


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("1700000000", 1_700_000_000_000_000_000),
        ("1700000000.123456789", 1_700_000_000_123_456_789),
        ("0", 0),
        ("1m30s", 1_000_000_000_000 - 90_000_000_000),
        ("2h", 1_000_000_000_000 - 7_200_000_000_000),
        ("1970-01-01T00:00:02Z", 2_000_000_000),
        ("1970-01-01T00:00:02.5+00:00", 2_500_000_000),
    ],
)
def test_moments(text, nanoseconds):
    assert parse_time_ns("since", text, 1_000_000_000_000) == nanoseconds


@pytest.mark.parametrize("text", ["abc", "1x", "", "nan", "2026-99-01"])
def test_moments_that_are_none(text):
    with pytest.raises(InvalidArgument):
        parse_time_ns("since", text, 0)


def test_what_was_sent_is_told_from_what_was_not():
    update = body.decode(b'{"Memory":0,"PidsLimit":null,"RestartPolicy":{"Name":"always"}}', UpdateBody, NEWEST)
    assert update.model_fields_set == {"memory", "restart_policy"}  # null is left out


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b'{"HostConfig":{"LogConfig":null,"RestartPolicy":null,"Memory":null}}', {"HostConfig": {}}),
        (b'{"Labels":{"a":null,"b":"c"}}', {"Labels": {"a": "", "b": "c"}}),
        (b'{"Env":["A=b",null],"Cmd":[null]}', {"Env": ["A=b", ""], "Cmd": [""]}),
        (b'{"HostConfig":{"Tmpfs":{"/x":null},"Sysctls":null}}', {"HostConfig": {"Tmpfs": {"/x": ""}}}),
        (b'{"HostConfig":{"PortBindings":{"80/tcp":null}}}', {"HostConfig": {"PortBindings": {"80/tcp": []}}}),
        (b'{"HostConfig":{"Mounts":[null]}}', {"HostConfig": {"Mounts": [{}]}}),
        (b'{"NetworkingConfig":{"EndpointsConfig":{"n":null}}}', {"NetworkingConfig": {"EndpointsConfig": {"n": {}}}}),
        (
            b'{"Volumes":{"/v":null},"ExposedPorts":{"80/tcp":null}}',
            {"Volumes": {"/v": {}}, "ExposedPorts": {"80/tcp": {}}},
        ),
    ],
)
def test_null_is_left_out(data, expected):
    decoded = body.decode(data, ContainerBody, NEWEST)
    assert decoded.model_dump(by_alias=True, exclude_unset=True) == expected


def test_fields_belong_to_versions():
    data = b'{"Name":"n","enableipv4":false}'
    assert body.decode(data, NetworkBody, (1, 48)).enable_ipv4 is False
    assert body.decode(data, NetworkBody, (1, 47)).enable_ipv4 is None


@pytest.mark.parametrize(
    "data", [b'{"Env":"A=b"}', b'{"Tty":"yes"}', b'{"StopTimeout":"5"}', b'{"HostConfig":[]}', b'{"Labels":{"a":1}}']
)
def test_types_are_not_converted(data):
    with pytest.raises(InvalidArgument, match="invalid JSON"):
        body.decode(data, ContainerBody, NEWEST)


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (b'{"HostConfig":{"Memory":9223372036854775808}}', "HostConfig.Memory"),
        (b'{"HostConfig":{"MEMORY":18446744073709551616}}', "HostConfig.Memory"),
        (b'{"HostConfig":{"BlkioWeight":65536}}', "HostConfig.BlkioWeight"),
        (b'{"HostConfig":{"ConsoleSize":[5,9223372036854775808]}}', "HostConfig.ConsoleSize.1"),
        (b'{"HostConfig":{"Mounts":[{"TmpfsOptions":{"Mode":4294967296}}]}}', "HostConfig.Mounts.0.TmpfsOptions.Mode"),
        (b'{"NetworkingConfig":{"EndpointsConfig":{"n":{"GwPriority":1e400}}}}', "GwPriority"),
        (b'{"StopTimeout":1.5}', "StopTimeout"),
        (b'{"Healthcheck":{"Retries":' + b"9" * 400 + b"}}", "Healthcheck.Retries"),
    ],
)
def test_integers_have_the_width_of_the_api(data, field):
    with pytest.raises(InvalidArgument, match=re.escape(field)):
        body.decode(data, ContainerBody, NEWEST)


class Demanding(DockerModel):
    role: str


@pytest.mark.parametrize("data", [b"null", b"{}", b'{"Role":null}'])
def test_a_field_that_is_required_is_missed_also_in_null(data):
    with pytest.raises(InvalidArgument, match="Role"):
        body.decode(data, Demanding, NEWEST)


def test_a_command_may_be_one_text():
    assert body.decode(b'{"Cmd":"true","Entrypoint":["a"]}', ContainerBody, NEWEST).cmd == ["true"]


def test_content_types():
    body.check_content_type("application/json; charset=utf-8", True)
    body.check_content_type(None, False)
    for content_type in ("text/plain", "application/jsonx", ""):
        with pytest.raises(InvalidArgument):
            body.check_content_type(content_type, True)


def encoded(text):
    return base64.urlsafe_b64encode(text).decode()


def test_credentials():
    auth = credentials.from_header(encoded(b'{"Username":"u","identitytoken":"t","extra":1}'))
    assert auth is not None
    assert (auth.username, auth.identity_token) == ("u", "t")
    assert credentials.from_header(None) is None
    assert credentials.from_header(encoded(b"{}")) is None
    config = credentials.from_config_header(encoded(b'{"reg:5000":{"username":"u"}}'))
    assert config["reg:5000"].username == "u"
    for header in ("!!!", encoded(b"[]"), encoded(b"{")):
        with pytest.raises(InvalidArgument, match="X-Registry-Auth"):
            credentials.from_header(header)


def test_build_secrets():
    header = encoded(b'{"token":"aHVudGVyMg==","empty":""}')
    assert credentials.build_secrets(header) == {"token": "aHVudGVyMg==", "empty": ""}
    assert credentials.build_secrets(None) == {}
    for text in (b'{"a":1}', b'{"":"aA=="}', b"[]", b'{"a":"' + b"A" * 700_000 + b'"}', b'{"secret'):
        with pytest.raises(InvalidArgument, match="X-Davit-Build-Secrets") as caught:
            credentials.build_secrets(encoded(text))
        assert "secret'" not in str(caught.value) + repr(caught.value.detail)


def test_versions():
    assert versions.split("/v1.41/info") == ("1.41", "/info")
    assert versions.split("/info") == ("1.56", "/info")
    assert versions.split("/version") == ("1.56", "/version")
    assert versions.accept("1.24") == (1, 24)
    for text in ("1.23", "1.57", "2.0", "0.9"):
        with pytest.raises(InvalidArgument):
            versions.accept(text)
