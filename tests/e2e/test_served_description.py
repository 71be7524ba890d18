"""What the engine says of its own API, taken at its word: by a generator of clients, a fuzzer, and its own answers."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import jsonschema_rs
import pytest

from tests.e2e.conftest import require_root
from tests.lab.engine import Engine

pytestmark = pytest.mark.root

NEWEST = "v1.56"
HERE = Path(sys.executable).parent
# The generator knows one kind of bytes.
GENERATOR = """
content_type_overrides:
  application/x-tar: application/octet-stream
  application/vnd.docker.raw-stream: application/octet-stream
  application/vnd.docker.multiplexed-stream: application/octet-stream
"""
# Streams without an end are asked for one that has passed; what is refused by name is no defect. Half of the objects
# are there.
FUZZER = """
[checks]
not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", 501, 503]
positive_data_acceptance.enabled = false
negative_data_rejection.enabled = false

[[operations]]
include-path-regex = "^/containers/[{]ref[}]"
parameters = { "path.ref" = ["victim-0", "victim-1", "victim-2", "victim-3", "victim-4", "victim-5", "missing"] }

[[operations]]
include-path-regex = "^/networks/[{]ref[}]"
parameters = { "path.ref" = ["net-0", "net-1", "bridge", "missing"] }

[[operations]]
include-path-regex = "^/volumes/[{]name[}]"
parameters = { "path.name" = ["vol-0", "vol-1", "missing"] }

[[operations]]
include-path-regex = "^/images/[{]name[}]"
parameters = { "path.name" = ["tag:0", "tag:1", "tag:2", "missing"] }

[[operations]]
include-path = "/audit"
parameters = { wait = "0" }

[[operations]]
include-operation-id = "SystemEvents"
parameters = { until = "1", since = "0" }

[[operations]]
include-operation-id = "ContainerStats"
parameters = { "path.ref" = "victim-0", stream = "false", one-shot = "true" }

[[operations]]
include-operation-id = "ContainerLogs"
parameters = { "path.ref" = "victim-1", follow = "false" }
"""
# What they ask is no part of the engine: a registry that cannot be reached is told with 500, as Docker tells it.
OF_REGISTRIES = "SystemAuth|ImageSearch|DistributionInspect|ImageCreate|ImagePush"
PORT = 2399


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    require_root()
    one = Engine("--no-tlsverify", "--host", f"tcp://127.0.0.1:{PORT}")
    one.arguments = (*one.arguments, "--host", one.url)
    with one:
        one.import_busybox()
        yield one


@pytest.fixture(autouse=True)
def no_containers() -> None:
    """In the place of the one for the shared engine."""


@pytest.fixture(scope="module")
def http(engine: Engine) -> Iterator[httpx.Client]:
    transport = httpx.HTTPTransport(uds=str(engine.socket))
    with httpx.Client(base_url="http://engine", transport=transport, timeout=30) as client:
        yield client


@pytest.fixture(scope="module")
def client(engine: Engine, http: httpx.Client, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """A package that a public generator made of the served description."""
    home = tmp_path_factory.mktemp("generated")
    (home / "openapi.json").write_bytes(http.get(f"/{NEWEST}/openapi.json").content)
    (home / "config.yml").write_text(GENERATOR)
    done = subprocess.run(
        [HERE / "openapi-python-client", "generate", "--path", home / "openapi.json", "--config", home / "config.yml",
         "--output-path", home / "engine_client", "--meta", "none", "--fail-on-warning"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    sys.path.insert(0, str(home))
    try:
        yield importlib.import_module("engine_client")
    finally:
        sys.path.remove(str(home))
        for name in [name for name in sys.modules if name.split(".")[0] == "engine_client"]:
            del sys.modules[name]


def test_a_generated_client_runs_a_container(engine: Engine, client: ModuleType) -> None:
    def operation(tag: str, name: str) -> Any:
        return importlib.import_module(f"engine_client.api.{tag}.{name}")

    models = importlib.import_module("engine_client.models")
    options = {"transport": httpx.HTTPTransport(uds=str(engine.socket))}
    with client.Client(base_url=f"http://engine/{NEWEST}", httpx_args=options) as caller:
        host = models.HostConfig(memory=64 << 20, binds=["/tmp:/host:ro"])
        body = models.ContainerBody(
            image="busybox",
            cmd=["sh", "-c", "echo $GREETING; test -d /host; exit $((3 + $?))"],
            env=["GREETING=hello"],
            host_config=host,
        )
        made = operation("container", "container_create").sync(client=caller, body=body, name="generated")
        assert isinstance(made, models.Created)
        assert operation("container", "container_start").sync_detailed(made.id, client=caller).status_code == 204
        assert operation("container", "container_wait").sync(made.id, client=caller).status_code == 3
        logs = operation("container", "container_logs").sync_detailed("generated", client=caller, stdout=True)
        assert logs.content.endswith(b"hello\n")
        shown = operation("container", "container_inspect").sync("generated", client=caller)
        assert (shown.name, shown.host_config.memory, shown.state.exit_code) == ("/generated", 64 << 20, 3)
        listed = operation("container", "container_list").sync(client=caller, all_=True)
        assert [one.id for one in listed] == [made.id]
        assert operation("container", "container_delete").sync_detailed("generated", client=caller).status_code == 204
        missing = operation("container", "container_inspect").sync("generated", client=caller)
        assert missing.message == "No such container: generated"


@pytest.fixture(scope="module")
def furnished(engine: Engine) -> Iterator[dict[str, str]]:
    """Path parameters that name something which is there."""
    engine.docker("volume", "create", "--label", "a=b", "furniture")
    engine.docker("network", "create", "--label", "a=b", "--subnet", "10.77.0.0/24", "surroundings")
    engine.docker(
        "run", "-d", "--name", "furnished", "-v", "furniture:/v", "-p", "127.0.0.1::80", "--network", "surroundings",
        "--health-cmd", "true", "--health-interval", "1s", "--ulimit", "nofile=100", "--tmpfs", "/t", "--memory", "64m",
        "--init", "--annotation", "x=y", "busybox", "sleep", "1000",
    )  # fmt: skip
    with httpx.Client(base_url="http://engine", transport=httpx.HTTPTransport(uds=str(engine.socket))) as http:
        body = {"Cmd": ["true"], "User": "1"}
        made = http.post("/containers/furnished/exec", json=body).json()
    yield {"ref": "furnished", "name": "busybox", "exec_id": made["Id"]}
    engine.docker("rm", "-f", "furnished")
    engine.docker("network", "rm", "surroundings", check=False)  # a prune may have taken it
    engine.docker("volume", "rm", "furniture")


QUERIES = {
    "ContainerList": {"all": "1", "size": "1"},
    "ContainerInspect": {"size": "1"},
    "ContainerStats": {"stream": "0"},
    "ImageList": {"manifests": "1", "shared-size": "1"},
    "SystemDataUsage": {"verbose": "1"},
    "ImageInspect": {"manifests": "1"},
}
# They answer with bytes, want a registry or a peer, or have no end.
OTHER = {
    "ImageAttestations",
    "ContainerArchive",
    "ContainerAttachWebsocket",
    "DistributionInspect",
    "ImageSearch",
    "SystemEvents",
}
NAMES = {"NetworkInspect": "surroundings", "VolumeInspect": "furniture"}


@pytest.mark.parametrize(
    "version", ["v1.24", "v1.40", "v1.41", "v1.43", "v1.44", "v1.47", "v1.50", "v1.52", "v1.53", NEWEST]
)
def test_answers_are_as_they_are_described(http: httpx.Client, furnished: dict[str, str], version: str) -> None:
    document = http.get(f"/{version}/openapi.json").json()
    asked = 0
    for path, operations in document["paths"].items():
        operation = operations.get("get")
        if operation is None or operation["operationId"] in OTHER:
            continue
        content = operation["responses"].get("200", {}).get("content", {}).get("application/json", {})
        schema = content.get("schema") or content.get("itemSchema")
        if not schema:
            continue
        name = operation["operationId"]
        if name.startswith(("Volume", "Network")):
            url = path.format(ref=NAMES.get(name), name=NAMES.get(name))
        else:
            url = path.format(**furnished, id="x")
        answer = http.get(f"/{version}{url}", params=QUERIES.get(name, {}))
        if answer.status_code == 503 and "swarm" in answer.text:
            continue
        assert answer.status_code == 200, (name, answer.text)
        asked += 1
        check(document, schema, answer.json(), name)
    assert asked >= 15


def check(document: dict[str, Any], schema: dict[str, Any], answer: Any, name: str) -> None:
    """Nothing is missing, nothing has another type, and nothing is there that is not described."""
    closed = json.loads(json.dumps(document["components"]))
    for model in closed["schemas"].values():
        if model.get("type") == "object" and "properties" in model:
            model.setdefault("additionalProperties", False)
    errors = list(jsonschema_rs.validator_for({**schema, "components": closed}).iter_errors(answer))
    assert not errors, (name, [(error.instance_path, error.message[:300]) for error in errors])


@pytest.fixture
def victims(engine: Engine) -> Iterator[None]:
    """What the fuzzer may do anything to; then all is tidied up."""
    for number in range(6):
        engine.docker(
            "run", "-d", "-t", "--name", f"victim-{number}", "--stop-timeout", "1", "busybox", "sleep", "1000"
        )
    for number in range(3):
        engine.docker("network", "create", f"net-{number}")
        engine.docker("volume", "create", f"vol-{number}")
        engine.docker("tag", "busybox", f"tag:{number}")
    yield
    engine.docker("rm", "-f", *engine.docker("ps", "-aq").stdout.split(), check=False)
    engine.docker("system", "prune", "-f", "--volumes", check=False)  # a container may just be on its way out


def fuzz(engine: Engine, home: Path, *arguments: str) -> None:
    (home / "schemathesis.toml").write_text(FUZZER)
    done = engine.inside(
        str(HERE / "schemathesis"), "--config-file", str(home / "schemathesis.toml"),
        "run", f"http://127.0.0.1:{PORT}/{NEWEST}/openapi.json",
        "--checks", "not_a_server_error", "--request-timeout", "20", "--suppress-health-check", "all",
        "--exclude-operation-id-regex", OF_REGISTRIES, "--continue-on-failure", "--no-color", *arguments,
        check=False, cwd=home,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-16000:] + done.stderr[-2000:]


def test_a_fuzzer_finds_no_server_error(engine: Engine, victims: None, tmp_path: Path) -> None:
    fuzz(engine, tmp_path, "--phases", "fuzzing", "--max-examples", "3", "--seed", "7")


@pytest.mark.slow
def test_a_fuzzer_finds_no_server_error_for_long(engine: Engine, victims: None, tmp_path: Path) -> None:
    fuzz(engine, tmp_path, "--phases", "coverage,fuzzing,stateful", "--max-examples", "40")


# No integer of the API is this wide; 2^63 is one of those without a sign.
BEYOND = (-(2**63) - 1, 2**64, -(10**30), 10**400)
SIGNED = {"int64": (2**63,)}
EXTREMES = (2**63 - 1, -(2**63), 2**32, -1, 0)
PREPARED = {
    "ContainerCreate": {"Image": "busybox", "Cmd": ["true"]},
    "ContainerExec": {"Cmd": ["true"]},
    "NetworkCreate": {"Name": "numbers"},
    "NetworkConnect": {"Container": "victim-0"},
}
# Neither has an end of its own, or has to do with this engine's objects.
LEFT_ALONE = {"SystemAuth", "ExecStart", "SystemEvents", "ContainerAttach", "ContainerAttachWebsocket", "ImageSearch"}
WHERE = {"containers": "victim-0", "networks": "net-0", "images": "busybox", "volumes": "vol-0"}


def integers(document: dict[str, Any], schema: dict[str, Any], depth: int = 0) -> Iterator[tuple[tuple[str, ...], str]]:
    """Paths and formats of the integer fields of a body; ``[]`` is an element of a list, ``*`` a value of a map."""
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
    if schema.get("type") == "integer":
        yield (), schema.get("format", "")
    if depth > 6:
        return
    for part in schema.get("anyOf", ()):
        yield from integers(document, part, depth)
    for name, field in schema.get("properties", {}).items():
        yield from (((name, *rest), form) for rest, form in integers(document, field, depth + 1))
    for name, key in (("[]", "items"), ("*", "additionalProperties")):
        if isinstance(schema.get(key), dict):
            yield from (((name, *rest), form) for rest, form in integers(document, schema[key], depth + 1))


def nested(path: tuple[str, ...], number: int) -> Any:
    """The smallest value that has a number at a path."""
    if not path:
        return number
    inner = nested(path[1:], number)
    return [inner] if path[0] == "[]" else {"bridge" if path[0] == "*" else path[0]: inner}


def address(path: str) -> str:
    kind = path.split("/")[1]
    return re.sub(r"\{\w+\}", WHERE.get(kind, "none"), path)


def operations_of(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if operation["operationId"] not in LEFT_ALONE:
                yield method.upper(), path, operation


@pytest.mark.timeout(300)
def test_no_number_breaks_anything(http: httpx.Client, victims: None) -> None:
    """Every integer of every body: what is too wide is refused by name, and all can be read after what is not."""
    document = http.get(f"/{NEWEST}/openapi.json").json()
    sent = 0
    for method, path, operation in operations_of(document):
        content = operation.get("requestBody", {}).get("content", {}).get("application/json")
        if content is None:
            continue
        for field, form in sorted(set(integers(document, content["schema"]))):
            beyond = (*BEYOND, *SIGNED.get(form, ()))
            name = next(part for part in reversed(field) if part not in ("[]", "*"))
            for number in (*beyond, *EXTREMES):
                body = PREPARED.get(operation["operationId"], {}) | nested(field, number)
                answer = http.request(method, f"/{NEWEST}{address(path)}", json=body)
                sent += 1
                what = (operation["operationId"], field, number, answer.text)
                assert answer.status_code < 500 or answer.status_code == 501, what
                assert number not in beyond or (answer.status_code == 400 and name in answer.text), what
    assert sent > 400
    read_everything(http)


def test_no_number_in_a_query_breaks_anything(http: httpx.Client, victims: None) -> None:
    document = http.get(f"/{NEWEST}/openapi.json").json()
    sent = 0
    for method, path, operation in operations_of(document):
        for parameter in operation.get("parameters", ()):
            kinds = [parameter["schema"], *parameter["schema"].get("anyOf", ())]
            if parameter["in"] != "query" or not any(kind.get("type") == "integer" for kind in kinds):
                continue
            for number in (str(2**63), str(-(2**63) - 1), str(10**30), "9" * 5000, "x", "1e3"):
                answer = http.request(
                    method, f"/{NEWEST}{address(path)}", params={"h": "1", "w": "1", parameter["name"]: number}
                )
                sent += 1
                assert answer.status_code == 400, (operation["operationId"], parameter["name"], number, answer.text)
                assert parameter["name"] in answer.text
    assert sent > 50
    read_everything(http)


def read_everything(http: httpx.Client) -> None:
    everything = (
        "containers/json?all=1&size=1",
        "images/json?all=1",
        "networks",
        "volumes",
        "system/df?verbose=1",
        "info",
    )
    for path in everything:
        answer = http.get(f"/{NEWEST}/{path}")
        assert answer.status_code == 200, (path, answer.text)
    for one in http.get(f"/{NEWEST}/containers/json?all=1").json():
        answer = http.get(f"/{NEWEST}/containers/{one['Id']}/json?size=1")
        assert answer.status_code == 200, answer.text
    for one in http.get(f"/{NEWEST}/networks").json():
        assert http.get(f"/{NEWEST}/networks/{one['Id']}").status_code == 200
