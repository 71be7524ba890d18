"""Links: their texts, and the variables that tell of them."""

from __future__ import annotations

import pytest

from services.executor.control.domain import Record
from services.executor.control.life import links
from shared.contracts.containers import Container
from shared.contracts.docker import ContainerConfig, EndpointSettings, HostConfig
from shared.errors import InvalidArgument


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("db", ("db", "db")),
        ("db:alias", ("db", "alias")),
        ("/db:/web/alias", ("db", "alias")),
    ],
)
def test_texts(text: str, expected: tuple[str, str]) -> None:
    assert links.parse_link(text) == expected


@pytest.mark.parametrize("text", ["", ":x", "db:", "db:a:b"])
def test_no_texts(text: str) -> None:
    with pytest.raises(InvalidArgument, match="bad format for links"):
        links.parse_link(text)


def record(*exposed: str, env: tuple[str, ...] = ()) -> Record:
    config = ContainerConfig.model_validate({"ExposedPorts": {port: {} for port in exposed}, "Env": list(env)})
    container = Container(id="d" * 64, name="db", created_at="", config=config, host_config=HostConfig())
    container.networks = {"bridge": EndpointSettings(ip_address="172.17.0.2")}
    return Record(container=container, created_ns=0)


def test_a_container_without_ports_has_a_name_and_an_environment() -> None:
    env = ("A=1", "PATH=/bin", "HOME=/", "B=x=y", "EMPTY")
    assert links.environment("web", "my-db", record(env=env)) == [
        "MY_DB_NAME=/web/my-db",
        "MY_DB_ENV_A=1",
        "MY_DB_ENV_B=x=y",
    ]


def test_the_first_port_is_the_default_one_and_three_in_a_row_are_a_range() -> None:
    found = links.environment("web", "db", record("82/tcp", "80/tcp", "81/tcp", "53/udp", "53/tcp", "90/tcp", "91/tcp"))
    assert found[0] == "DB_PORT=tcp://172.17.0.2:53"
    assert [one for one in found if "_START" in one or "_END" in one] == [
        "DB_PORT_80_TCP_START=tcp://172.17.0.2:80",
        "DB_PORT_80_TCP_PORT_START=80",
        "DB_PORT_80_TCP_END=tcp://172.17.0.2:82",
        "DB_PORT_80_TCP_PORT_END=82",
    ]
    assert "DB_PORT_53_UDP_PROTO=udp" in found
