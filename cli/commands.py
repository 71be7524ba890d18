"""A few docker-like commands, enough for a machine without the docker CLI. They ask the engine's API."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote, urlencode

from cli.client import EngineClient
from shared.errors import InvalidArgument, NotFound

_FRAME_HEADER = 8
_STDERR = 2


def add_parsers(subparsers: Any) -> None:
    def add(name: str, text: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = subparsers.add_parser(name, help=text)
        parser.add_argument("--run-dir", metavar="DIR", help="the engine's run directory (default /run/davit)")
        return parser

    ps = add("ps", "list containers")
    ps.add_argument("-a", "--all", action="store_true", help="also those that do not run")
    ps.add_argument("-q", "--quiet", action="store_true", help="only ids")
    images = add("images", "list images")
    images.add_argument("-q", "--quiet", action="store_true", help="only ids")
    images.add_argument("reference", nargs="?")
    logs = add("logs", "a container's output")
    logs.add_argument("-f", "--follow", action="store_true")
    logs.add_argument("-t", "--timestamps", action="store_true")
    logs.add_argument("-n", "--tail", default="all")
    logs.add_argument("container")
    events = add("events", "what happens, as it happens")
    events.add_argument("--since", help="replay from this time on (seconds since the epoch, or RFC 3339)")
    events.add_argument("--until", help="end at this time")
    load = add("import", "make an image of a root file system's tar")
    load.add_argument("-c", "--change", action="append", default=[], metavar="INSTRUCTION")
    load.add_argument("file", help="a tar file, or - for the standard input")
    load.add_argument("reference")
    runner = add("run", "run a command in a new container")
    runner.add_argument("-d", "--detach", action="store_true")
    runner.add_argument("--rm", action="store_true", help="remove the container when it ends")
    runner.add_argument("--name")
    runner.add_argument("image")
    runner.add_argument("arguments", nargs=argparse.REMAINDER, metavar="COMMAND")
    stop = add("stop", "stop containers")
    stop.add_argument("-t", "--timeout", type=int)
    stop.add_argument("containers", nargs="+")
    remove = add("rm", "remove containers")
    remove.add_argument("-f", "--force", action="store_true")
    remove.add_argument("containers", nargs="+")


def run(parsed: argparse.Namespace, run_dir: Path) -> int:
    """Run one of the commands; its exit code."""
    client = EngineClient(str(run_dir / "docker.sock"))
    return _COMMANDS[parsed.command](client, parsed)


def _ps(client: EngineClient, parsed: argparse.Namespace) -> int:
    containers = client.get("/containers/json" + ("?all=1" if parsed.all else ""))
    if parsed.quiet:
        _print_all(container["Id"][:12] for container in containers)
        return 0
    rows = [("CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES")]
    for container in containers:
        names = ",".join(name.lstrip("/") for name in container["Names"])
        command = json.dumps(container["Command"][:20])
        ports = ", ".join(_port(port) for port in container["Ports"])
        identity = (container["Id"][:12], container["Image"], command)
        rows.append((*identity, _ago(container["Created"]), container["Status"], ports, names))
    _print_table(rows)
    return 0


def _port(port: dict[str, Any]) -> str:
    inner = f"{port['PrivatePort']}/{port['Type']}"
    return f"{port.get('IP', '')}:{port['PublicPort']}->{inner}" if port.get("PublicPort") else inner


def _images(client: EngineClient, parsed: argparse.Namespace) -> int:
    query = ""
    if parsed.reference:
        query = "?" + urlencode({"filters": json.dumps({"reference": [parsed.reference]})})
    images = client.get("/images/json" + query)
    if parsed.quiet:
        _print_all(image["Id"].removeprefix("sha256:")[:12] for image in images)
        return 0
    rows = [("REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE")]
    for image in images:
        for tag in image.get("RepoTags") or ["<none>:<none>"]:
            repository, _, version = tag.rpartition(":")
            size = f"{image['Size'] / 1e6:.1f}MB"
            rows.append((repository, version, image["Id"].removeprefix("sha256:")[:12], _ago(image["Created"]), size))
    _print_table(rows)
    return 0


def _logs(client: EngineClient, parsed: argparse.Namespace) -> int:
    container = client.get(f"/containers/{quote(parsed.container)}/json")
    query = urlencode(
        {
            "stdout": 1,
            "stderr": 1,
            "follow": int(parsed.follow),
            "timestamps": int(parsed.timestamps),
            "tail": parsed.tail,
        }
    )
    chunks = client.stream("GET", f"/containers/{container['Id']}/logs?{query}")
    _copy(chunks, multiplexed=not container["Config"]["Tty"])
    return 0


def _copy(chunks: Iterator[bytes], *, multiplexed: bool) -> None:
    """Write a container's output to this process's own; multiplexed: frames of stdout and stderr."""
    buffered = b""
    for chunk in chunks:
        if not multiplexed:
            _write(sys.stdout.buffer, chunk)
            continue
        buffered += chunk
        while len(buffered) >= _FRAME_HEADER:
            length = int.from_bytes(buffered[4:_FRAME_HEADER], "big")
            if len(buffered) < _FRAME_HEADER + length:
                break
            target = sys.stderr.buffer if buffered[0] == _STDERR else sys.stdout.buffer
            _write(target, buffered[_FRAME_HEADER : _FRAME_HEADER + length])
            buffered = buffered[_FRAME_HEADER + length :]


def _write(target: IO[bytes], data: bytes) -> None:
    target.write(data)
    target.flush()


def _events(client: EngineClient, parsed: argparse.Namespace) -> int:
    query = urlencode({key: value for key in ("since", "until") if (value := getattr(parsed, key))})
    for event in client.lines("GET", "/events" + (f"?{query}" if query else "")):
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(event["time"]))
        attributes = ", ".join(f"{key}={value}" for key, value in sorted(event["Actor"]["Attributes"].items()))
        print(f"{at} {event['Type']} {event['Action']} {event['Actor']['ID']} ({attributes})", flush=True)
    return 0


def _import(client: EngineClient, parsed: argparse.Namespace) -> int:
    repository, _, tag = parsed.reference.rpartition(":")
    if not repository or "/" in tag:
        repository, tag = parsed.reference, "latest"
    pairs = [("fromSrc", "-"), ("repo", repository), ("tag", tag), *(("changes", change) for change in parsed.change)]
    target = f"/images/create?{urlencode(pairs)}"
    if parsed.file == "-":
        return _show_progress(client.lines("POST", target, sys.stdin.buffer))
    try:
        file = open(parsed.file, "rb")  # noqa: SIM115  # closed below; the message is for the opening alone
    except OSError as error:
        raise NotFound(f"{parsed.file} cannot be read: {error.strerror}") from error
    with file:
        return _show_progress(client.lines("POST", target, file))


def _show_progress(lines: Iterator[Any]) -> int:
    for line in lines:
        if "error" in line:
            raise InvalidArgument(str(line["error"]))
        print(line.get("status", ""))
    return 0


def _run(client: EngineClient, parsed: argparse.Namespace) -> int:
    body = {
        "Image": parsed.image,
        "Cmd": parsed.arguments or None,
        "AttachStdout": not parsed.detach,
        "AttachStderr": not parsed.detach,
        "HostConfig": {"AutoRemove": parsed.rm and parsed.detach},
    }
    query = f"?name={quote(parsed.name)}" if parsed.name else ""
    container = client.post("/containers/create" + query, body)["Id"]
    client.post(f"/containers/{container}/start")
    if parsed.detach:
        print(container)
        return 0
    try:
        _copy(client.stream("GET", f"/containers/{container}/logs?follow=1&stdout=1&stderr=1"), multiplexed=True)
        return int(client.post(f"/containers/{container}/wait", timeout_s=None)["StatusCode"])
    finally:
        if parsed.rm:
            client.delete(f"/containers/{container}?force=1&v=1")


def _stop(client: EngineClient, parsed: argparse.Namespace) -> int:
    query = "" if parsed.timeout is None else f"?t={parsed.timeout}"
    for container in parsed.containers:
        client.post(f"/containers/{quote(container)}/stop{query}", timeout_s=None)
        print(container)
    return 0


def _rm(client: EngineClient, parsed: argparse.Namespace) -> int:
    for container in parsed.containers:
        client.delete(f"/containers/{quote(container)}?force={int(parsed.force)}")
        print(container)
    return 0


def _ago(created: float) -> str:
    seconds = max(0, int(time.time() - created))
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit} ago"
    return f"{seconds} seconds ago"


def _print_all(lines: Iterator[str]) -> None:
    for line in lines:
        print(line)


def _print_table(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


_COMMANDS: dict[str, Callable[[EngineClient, argparse.Namespace], int]] = {
    "ps": _ps,
    "images": _images,
    "logs": _logs,
    "events": _events,
    "import": _import,
    "run": _run,
    "stop": _stop,
    "rm": _rm,
}
