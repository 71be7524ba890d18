"""Query strings, bodies and headers, read as Docker reads them."""

from __future__ import annotations

import base64

import pytest

from services.api import body, credentials, versions
from services.api.query import Query, parse_time_ns
from services.api.routes.containers import CreateBody, UpdateBody
from shared.errors import InvalidArgument


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
    assert Query(f"a={text}".encode()).flag("a") is value


def test_defaults_hold_only_for_absent_names():
    query = Query(b"a=&b=7&c=1&c=2&d=%20x")
    assert query.flag("a", True) is False
    assert query.flag("z", True) is True
    assert (query.integer("a", 4), query.integer("b"), query.integer("z", 9)) == (4, 7, 9)
    assert (query.all("c"), query.text("c"), query.text("d")) == (["1", "2"], "1", " x")
    assert "a" in query
    assert "z" not in query


@pytest.mark.parametrize("text", ["abc", "1.5", "1e3", "9223372036854775808"])
def test_numbers_that_are_none(text):
    with pytest.raises(InvalidArgument, match="invalid value for n"):
        Query(f"n={text}".encode()).integer("n")


def test_required_numbers():
    with pytest.raises(InvalidArgument, match="invalid syntax"):
        Query(b"").required_integer("h")


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
    assert Query(b"filters=" + text.encode()).filters() == filters


@pytest.mark.parametrize("text", ["abc", "[]", '{"a":"b"}', '{"a":[1]}'])
def test_filters_that_are_none(text):
    with pytest.raises(InvalidArgument):
        Query(b"filters=" + text.encode()).filters()


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
    update = body.decode(b'{"Memory":0,"PidsLimit":null,"RestartPolicy":{"Name":"always"}}', UpdateBody)
    assert update.model_fields_set == {"memory", "pids_limit", "restart_policy"}


@pytest.mark.parametrize(
    "data", [b'{"Env":"A=b"}', b'{"Tty":"yes"}', b'{"StopTimeout":"5"}', b'{"HostConfig":[]}', b'{"Labels":{"a":1}}']
)
def test_types_are_not_converted(data):
    with pytest.raises(InvalidArgument, match="invalid JSON"):
        body.decode(data, CreateBody)


def test_a_command_may_be_one_text():
    assert body.decode(b'{"Cmd":"true","Entrypoint":["a"]}', CreateBody).cmd == ["true"]


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
    assert versions.split("/info") == ("1.50", "/info")
    assert versions.split("/version") == ("1.50", "/version")
    assert versions.accept("1.24") == (1, 24)
    for text in ("1.23", "1.51", "2.0", "0.9"):
        with pytest.raises(InvalidArgument):
            versions.accept(text)
