"""The same question to both engines: status, names and types of the JSON, and the texts that clients read."""

from __future__ import annotations

from typing import Any

import pytest

from .conftest import Asked, Question

# Names that only one of the two has at the common version, with reason.
ONLY_REFERENCE = {
    # Features of graph drivers, runtimes and swarm that this engine has no like of.
    "SystemTime", "HttpProxy", "GenericResources", "Runtimes", "IndexConfigs", "DriverStatus", "Details",
    "AllowNondistributableArtifactsCIDRs", "AllowNondistributableArtifactsHostnames",
    # cgroup version 1 only, by kernel.
    "percpu_usage",
    # The legacy builder leaves its container's configuration in images.
    "ContainerConfig",
}  # fmt: skip
# Details of this implementation.
ONLY_DAVIT = {"PythonVersion", "ID"}
# Optional fields: `failcnt` when it is not zero; later engines show the default bridge's gateway.
ONLY_DAVIT |= {"failcnt", "Gateway"}
# Objects whose keys are data, not names.
MAPS = {"Labels", "Networks", "Ports", "Containers", "Options", "Attributes", "stats", "Data", "Details", "Runtimes",
        "IndexConfigs", "networks", "Annotations", "Plugins", "ExposedPorts", "PortBindings"}  # fmt: skip


def differences(ours: Any, theirs: Any, at: str = "") -> list[str]:
    """Names and types that differ; null matches anything, as Go clients see it."""
    name = at.rpartition(".")[2].removesuffix("[]")
    if ours is None or theirs is None:
        return []
    if isinstance(theirs, dict) and isinstance(ours, dict):
        if name in MAPS:
            return []
        found = [f"missing {at}.{key}" for key in sorted(set(theirs) - set(ours) - ONLY_REFERENCE)]
        found += [f"unknown {at}.{key}" for key in sorted(set(ours) - set(theirs) - ONLY_DAVIT)]
        for key in sorted(set(ours) & set(theirs)):
            found += differences(ours[key], theirs[key], f"{at}.{key}")
        return found
    if isinstance(theirs, list) and isinstance(ours, list):
        return differences(_merged(ours), _merged(theirs), f"{at}[]") if ours and theirs else []
    kinds = {
        type(value) if not isinstance(value, int) or isinstance(value, bool) else float for value in (ours, theirs)
    }
    return [] if len(kinds) == 1 else [f"type of {at}: {type(ours).__name__}, not {type(theirs).__name__}"]


def _merged(items: list[Any]) -> Any:
    """One item with the names of all: which of them are set differs between items, and so may their order."""
    if not all(isinstance(item, dict) for item in items):
        return items[0]
    return {name: value for item in items for name, value in item.items()}


FILTER = "?filters=%7B%22name%22:%5B%22probe%22%5D%7D"
READS = [
    Question("GET", "/version"),
    Question("GET", "/info"),
    Question("GET", f"/containers/json{FILTER}"),
    Question("GET", f"/containers/json{FILTER}&size=1"),
    Question("GET", "/containers/json?all=1"),
    Question("GET", "/containers/probe/json"),
    Question("GET", "/containers/probe/json?size=1"),
    Question("GET", "/containers/netted/json"),
    Question("GET", "/containers/made/json"),
    Question("GET", "/containers/ended/json"),
    Question("GET", "/containers/probe/top"),
    Question("GET", "/containers/probe/top?ps_args=-o%20pid,args"),
    Question("GET", "/containers/probe/changes"),
    Question("GET", "/containers/probe/stats?stream=0"),
    Question("GET", "/containers/probe/stats?stream=0&one-shot=1"),
    Question("POST", "/containers/ended/wait"),
    Question("GET", "/images/json"),
    Question("GET", "/images/busybox/json"),
    Question("GET", "/images/busybox:latest/history"),
    Question("GET", "/volumes"),
    Question("GET", "/volumes/vol"),
    Question("GET", "/networks"),
    Question("GET", "/networks/net"),
    Question("GET", "/networks/bridge"),
    Question("GET", "/networks/none"),
    Question("GET", "/networks/host"),
    Question("GET", "/system/df"),
    Question("GET", "/plugins"),
]


@pytest.mark.parametrize("question", READS, ids=str)
def test_reads_have_the_same_names_and_types(davit: Asked, reference: Asked, question: Question) -> None:
    theirs, ours = reference.ask(question), davit.ask(question)
    assert (ours.status, ours.headers.get("content-type")) == (theirs.status, theirs.headers.get("content-type"))
    assert differences(ours.json, theirs.json) == []


# The reference (20.10) answers some bad requests with 500 where later engines, and we, say 400.
BAD = [
    Question("GET", "/nothing"),
    Question("DELETE", "/info"),
    Question("POST", "/containers/create"),
    Question("POST", "/containers/create", ""),
    Question("POST", "/containers/create", "{}"),
    Question("POST", "/containers/create", "{bad"),
    Question("POST", "/containers/create", "[]"),
    Question("POST", "/containers/create", '{"Image":5}'),
    Question("POST", "/containers/create", '{"Image":"busybox","HostConfig":{"Memory":"5"}}'),
    Question("POST", "/containers/create", '{"Image":"busybox"}', {"Content-Type": "text/plain"}),
    Question("POST", "/containers/create", '{"image":"nonexist"}'),
    Question("POST", "/containers/create?name=%20bad", '{"Image":"busybox"}'),
    Question("POST", "/containers/create?name=probe", '{"Image":"busybox"}'),
    Question("POST", "/containers/create", '{"Image":"BUSYBOX"}'),
    Question("POST", "/containers/create", '{"Image":"busybox","HostConfig":{"Memory":1}}'),
    Question("POST", "/containers/create", '{"Image":"busybox","HostConfig":{"NanoCpus":-1}}'),
    Question("POST", "/containers/create", '{"Image":"busybox","HostConfig":{"NanoCpus":999000000000}}'),
    Question("POST", "/containers/create", '{"Image":"busybox","HostConfig":{"RestartPolicy":{"Name":"x"}}}'),
    Question(
        "POST",
        "/containers/create",
        '{"Image":"busybox","HostConfig":{"Mounts":[{"Type":"bind","Source":"/nonexist","Target":"/b"}]}}',
    ),
    Question("POST", "/containers/nope/start"),
    Question("POST", "/containers/probe/start"),
    Question("POST", "/containers/made/stop"),
    Question("POST", "/containers/ended/stop"),
    Question("POST", "/containers/ended/kill"),
    Question("POST", "/containers/nope/kill"),
    Question("POST", "/containers/probe/kill?signal=foo"),
    Question("POST", "/containers/ended/pause"),
    Question("POST", "/containers/probe/unpause"),
    Question("POST", "/containers/nope/wait"),
    Question("POST", "/containers/nope/attach?stream=1&stdout=1"),
    Question("POST", "/containers/nope/rename?name=other"),
    Question("POST", "/containers/probe/rename?name="),
    Question("POST", "/containers/probe/rename?name=made"),
    Question("POST", "/containers/nope/resize?h=1&w=1"),
    Question("POST", "/containers/probe/resize"),
    Question("POST", "/containers/probe/update", '{"Memory":5}'),
    Question("DELETE", "/containers/probe"),
    Question("DELETE", "/containers/nope"),
    Question("GET", "/containers/nope/json"),
    Question("GET", "/containers/nope/top"),
    Question("GET", "/containers/ended/top"),
    Question("GET", "/containers/nope/stats?stream=0"),
    Question("GET", "/containers/nope/changes"),
    Question("GET", "/containers/nope/logs?stdout=1"),
    Question("GET", "/containers/probe/logs"),
    Question("GET", "/containers/probe/logs?stdout=1&since=abc"),
    Question("GET", "/containers/probe/archive"),
    Question("GET", "/containers/probe/archive?path=/nope"),
    Question("HEAD", "/containers/probe/archive?path=/nope"),
    Question("GET", "/containers/json?limit=abc"),
    Question("GET", "/containers/json?filters=abc"),
    Question("GET", "/containers/json?filters=%7B%22nope%22:%5B%22x%22%5D%7D"),
    Question("GET", "/images/json?filters=%7B%22nope%22:%5B%22x%22%5D%7D"),
    Question("GET", "/volumes?filters=%7B%22nope%22:%5B%22x%22%5D%7D"),
    Question("GET", "/networks?filters=%7B%22nope%22:%5B%22x%22%5D%7D"),
    Question("GET", "/events?since=abc"),
    Question("POST", "/containers/probe/exec"),
    Question("POST", "/containers/probe/exec", "{}"),
    Question("POST", "/containers/nope/exec", '{"Cmd":["true"]}'),
    Question("POST", "/containers/ended/exec", '{"Cmd":["true"]}'),
    Question("POST", "/exec/nope/start"),
    Question("POST", "/exec/nope/start", "{}"),
    Question("POST", "/exec/nope/resize?h=1&w=1"),
    Question("GET", "/exec/nope/json"),
    Question("GET", "/images/nope/json"),
    Question("GET", "/images/nope/history"),
    Question("POST", "/images/nope/tag?repo=x"),
    Question("POST", "/images/busybox/tag"),
    Question("POST", "/images/busybox/tag?repo=BAD"),
    Question("DELETE", "/images/nope"),
    Question("DELETE", "/images/busybox"),
    Question("POST", "/images/create?fromImage=NOPE:x"),
    Question("POST", "/volumes/create"),
    Question("POST", "/volumes/create", '{"Name":5}'),
    Question("POST", "/volumes/create", '{"Name":"a b"}'),
    Question("POST", "/volumes/create", '{"Name":"x","Driver":"nope"}'),
    Question("GET", "/volumes/nope"),
    Question("DELETE", "/volumes/nope"),
    Question("DELETE", "/volumes/vol"),
    Question("POST", "/networks/create"),
    Question("POST", "/networks/create", '{"Name":"net","CheckDuplicate":true}'),
    Question("POST", "/networks/create", '{"Name":"x","Driver":"nope"}'),
    Question("GET", "/networks/nope"),
    Question("DELETE", "/networks/nope"),
    Question("DELETE", "/networks/bridge"),
    Question("DELETE", "/networks/net"),
    Question("POST", "/networks/net/connect", '{"Container":"nope"}'),
    Question("POST", "/networks/net/disconnect", '{"Container":"made"}'),
    Question("POST", "/commit"),
    Question("POST", "/commit?container=nope"),
    Question("GET", "/swarm"),
    Question("GET", "/nodes"),
    Question("GET", "/services"),
    Question("POST", "/session"),
]


@pytest.mark.parametrize("question", BAD, ids=str)
def test_bad_requests_have_the_same_status(davit: Asked, reference: Asked, question: Question) -> None:
    theirs, ours = reference.ask(question), davit.ask(question)
    if theirs.status == 500:
        assert ours.status in (400, 403, 404, 409), ours.body
    else:
        assert ours.status == theirs.status, (ours.body, theirs.body)
    if ours.status != 304 and question.method != "HEAD":
        assert set(ours.json) == {"message"}
        assert ours.message


TEXTS = [
    (Question("GET", "/containers/nope/json"), "No such container: nope"),
    (Question("POST", "/containers/create", '{"Image":"nonexist"}'), "No such image: nonexist:latest"),
    (Question("GET", "/images/nope/json"), "No such image: nope"),
    (Question("GET", "/exec/nope/json"), "No such exec instance"),
    (Question("POST", "/containers/create?name=probe", '{"Image":"busybox"}'), 'Conflict. The container name "/probe"'),
    (Question("DELETE", "/volumes/vol"), "volume is in use"),
    (Question("GET", "/volumes/nope"), "no such volume"),
    (Question("DELETE", "/networks/net"), "has active endpoints"),
    (Question("GET", "/networks/nope"), "network nope not found"),
    (Question("GET", "/swarm"), "This node is not a swarm manager"),
    (Question("POST", "/containers/probe/kill?signal=foo"), "nvalid signal: foo"),
    (Question("POST", "/containers/ended/kill"), "is not running"),
    (Question("POST", "/containers/probe/update", '{"Memory":5}'), "inimum memory limit allowed is 6MB"),
]


@pytest.mark.parametrize(("question", "text"), TEXTS, ids=str)
def test_texts_that_clients_read(davit: Asked, reference: Asked, question: Question, text: str) -> None:
    assert text in reference.ask(question).message
    assert text in davit.ask(question).message
