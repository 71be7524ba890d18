"""What can be asked about a Dockerfile instead of building it: its checks, its outline, its targets.

Answers are JSON, and the same as text for clients that do not understand it.

Source: moby/buildkit, frontend/subrequests (names of requests and fields); docker build, ``--call``.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Sequence
from typing import Any

import orjson

from services.image.build.dockerfile.instructions import Arg, Run
from services.image.build.dockerfile.stages import Dockerfile, Stage, parse_dockerfile, stage_references
from services.image.build.steps.mounts import DEFAULT_AGENT
from services.image.buildkit.builds import Build
from services.image.buildkit.checks import Finding, findings, parse_policy
from services.image.buildkit.loading import Source
from services.image.buildkit.options import SUBREQUESTS, Options, check_syntax
from services.image.buildkit.targets import read_dockerfile
from shared.docker.words import parse_bool

VERSION = "1.0.0"
DESCRIBE, OUTLINE, TARGETS, LINT = SUBREQUESTS
_COMMENT = re.compile(r"^#\s*(.*)$")


async def answer_of(build: Build, options: Options) -> dict[str, bytes]:
    """The answer's metadata. Raises DavitError for a Dockerfile that is wrong."""
    if options.subrequest == DESCRIBE:
        return _answer([{"name": name, "version": VERSION, "type": "rpc"} for name in SUBREQUESTS], "")
    source = await build.source(options)
    whole = parse_dockerfile(source.text, name=source.name) if options.subrequest != LINT else None
    if options.subrequest == TARGETS:
        assert whole is not None
        return _targets(whole, source)
    dockerfile = read_dockerfile(source, options.settings)
    check_syntax(options.syntax or dockerfile.directives.get("syntax", ""))
    if options.subrequest == OUTLINE:
        return _outline(dockerfile, source, options)
    return _lint(dockerfile, source, options)


def _answer(value: Any, text: str, **more: bytes) -> dict[str, bytes]:
    return {
        "result.json": orjson.dumps(value, option=orjson.OPT_INDENT_2),
        "result.txt": text.encode(),
        "version": VERSION.encode(),
    } | more


def _location(first: int, last: int) -> dict[str, Any]:
    ranges = [{"start": {"line": number}, "end": {"line": number}} for number in range(first, last + 1)]
    return {"ranges": ranges}


# -- checks ---------------------------------------------------------------------------------------------------------


def _lint(dockerfile: Dockerfile, source: Source, options: Options) -> dict[str, bytes]:
    policy = parse_policy(options.check or dockerfile.directives.get("check", ""))
    found = findings(dockerfile, policy)
    warnings = [
        {
            "ruleName": item.rule,
            "description": item.description,
            "url": item.url,
            "detail": item.detail,
            "location": _location(item.first, item.last),
        }
        for item in found
    ]
    told = {"filename": source.name, "data": _encoded(source), "language": "Dockerfile"}
    value: dict[str, Any] = {"warnings": warnings, "sources": [told]}
    if found and policy.error:
        first = found[0]
        value["buildError"] = {
            "message": f"lint violation found for rules: {', '.join(dict.fromkeys(item.rule for item in found))}",
            "location": _location(first.first, first.last),
        }
    status = b"1" if found else b"0"
    return _answer(value, _lint_text(found, source), **{"result.statuscode": status})


def _lint_text(found: Sequence[Finding], source: Source) -> str:
    lines = []
    for item in found:
        lines += ["", f"WARNING: {item.rule} - {item.url}", item.detail, f"{source.name}:{item.first}"]
    return "\n".join(lines) + "\n" if lines else ""


# -- targets --------------------------------------------------------------------------------------------------------


def _targets(dockerfile: Dockerfile, source: Source) -> dict[str, bytes]:
    found = []
    for stage in dockerfile.stages:
        last = stage.index == len(dockerfile.stages) - 1
        item: dict[str, Any] = {"name": stage.name} if stage.name else {}
        description = _comment_above(source, stage.start.line, stage.name)
        item |= {"description": description} if description else {}
        item |= {"default": True} if last else {}
        item |= {"base": stage.start.base, "location": _location(stage.start.line, stage.start.end_line)}
        if stage.start.platform:
            item["platform"] = stage.start.platform
        found.append(item)
    rows = [(_target_name(item), str(item.get("description", ""))) for item in found]
    return _answer({"targets": found, "sources": [_encoded(source)]}, _table(("TARGET", "DESCRIPTION"), rows))


def _target_name(item: dict[str, Any]) -> str:
    name = str(item.get("name", ""))
    return f"{name} (default)".strip() if item.get("default") else name


def _encoded(source: Source) -> str:
    return base64.b64encode(source.text.encode("utf-8", "surrogateescape")).decode()


def _comment_above(source: Source, line: int, name: str) -> str:
    """A comment right above that begins with the name describes it."""
    lines = source.text.splitlines()
    match = _COMMENT.match(lines[line - 2]) if 2 <= line <= len(lines) + 1 else None
    if not match or not name or not match[1].lower().startswith(name.lower() + " "):
        return ""
    return match[1][len(name) + 1 :].strip()


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    widths = [max(len(row[column]) for row in (heads, *rows)) + 3 for column in range(len(heads))]
    lines = ["".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in (heads, *rows)]
    return "\n".join(line.rstrip() for line in lines) + "\n"


# -- outline --------------------------------------------------------------------------------------------------------


def _outline(dockerfile: Dockerfile, source: Source, options: Options) -> dict[str, bytes]:
    stage = dockerfile.stages[-1]
    value: dict[str, Any] = {"name": stage.name} if stage.name else {}
    description = _comment_above(source, stage.start.line, stage.name)
    value |= {"description": description} if description else {}
    needed = _needed(dockerfile)
    arguments = _arguments(dockerfile, needed, source, options)
    secrets = _mounts(needed, "secret", lambda mount: mount.get("id") or mount.get("source") or mount.get("src") or "")
    agents = _mounts(needed, "ssh", lambda mount: mount.get("id") or DEFAULT_AGENT)
    for name, items in (("args", arguments), ("secrets", secrets), ("ssh", agents)):
        if items:
            value[name] = items
    value["sources"] = [_encoded(source)]
    texts = [
        _table(
            ("BUILD ARG", "VALUE", "DESCRIPTION"),
            [(item["name"], item.get("value", ""), item.get("description", "")) for item in arguments],
        ),
        _table(("SECRET", "REQUIRED"), [(item["name"], "true" if item.get("required") else "") for item in secrets]),
        _table(("SSH", "REQUIRED"), [(item["name"], "true" if item.get("required") else "") for item in agents]),
    ]
    return _answer(value, "\n".join(text for text in texts if text))


def _needed(dockerfile: Dockerfile) -> list[Stage]:
    """The stages that lead to the last one."""
    found: set[int] = set()
    waiting = [len(dockerfile.stages) - 1]
    while waiting:
        index = waiting.pop()
        if index in found:
            continue
        found.add(index)
        stage = dockerfile.stages[index]
        waiting += stage_references(stage, dockerfile, given=lambda _: False)
        base = dockerfile.stage_index(stage.start.base, before=index)
        if base is not None and not stage.start.base.isdecimal():
            waiting.append(base)
    return [dockerfile.stages[index] for index in sorted(found)]


def _arguments(
    dockerfile: Dockerfile, needed: Sequence[Stage], source: Source, options: Options
) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    given = options.settings.build_args
    of_stages = (item for stage in needed for item in stage.instructions if isinstance(item, Arg))
    for item in (*dockerfile.arguments, *of_stages):
        for name, default in item.arguments:
            entry: dict[str, Any] = {"name": name, "location": _location(item.line, item.end_line)}
            description = _comment_above(source, item.line, name)
            entry |= {"description": description} if description else {}
            value = given.get(name) or default
            if value is None and name in found:
                continue
            entry |= {"value": value.strip("\"'")} if value else {}
            found[name] = entry
    return list(found.values())


def _mounts(needed: Sequence[Stage], kind: str, name_of: Callable[[dict[str, str]], str]) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for stage in needed:
        for item in stage.instructions:
            for text in item.mounts if isinstance(item, Run) else ():
                mount = dict(part.partition("=")[::2] for part in text.split(","))
                if mount.get("type") != kind:
                    continue
                name = name_of(mount) or mount.get("target", "").rpartition("/")[2]
                required = "required" in mount and parse_bool(mount["required"] or "true") is True
                entry: dict[str, Any] = {"name": name, "location": _location(item.line, item.end_line)}
                found.setdefault(name, entry | ({"required": True} if required else {}))
    return list(found.values())
