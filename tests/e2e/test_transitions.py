"""Every verb against a container that is starting, restarting, ending or being removed: failpoints hold the transition.

For each transition as many containers as there are verbs are brought to it; then all verbs are sent at once, each to a
container of its own, and the transition goes on. No answer is an internal error, each is one that Docker gives before
or after the transition, and afterwards the engine's word for each container is the truth.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import require_root
from tests.lab.engine import Engine, eventually

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

POINTS = (
    "control.start.before_order",
    "control.start.before_commit",
    "control.exit.before_commit",
    "control.remove.after_mark",
    "agent.launch.begun",
    "agent.restart.before_launch",
    "agent.exit.before_record",
)
# Long enough for a verb to have arrived; it may also have been answered.
ARRIVED_S = 0.3
LIVES = 'trap "exit 0" TERM; trap "exit 3" USR2; while :; do sleep 1000 & wait $!; done'


@dataclass(frozen=True)
class Verb:
    """A request, and the statuses that answer it, by what the container does."""

    method: str
    path: str
    body: Any
    running: set[int]
    restarting: set[int]
    stopped: set[int]


VERBS = {
    "start": Verb("POST", "/containers/{id}/start", None, {304}, {304}, {204}),
    "stop": Verb("POST", "/containers/{id}/stop?t=5", None, {204}, {204}, {304}),
    "restart": Verb("POST", "/containers/{id}/restart?t=5", None, {204}, {204}, {204}),
    "kill": Verb("POST", "/containers/{id}/kill", None, {204}, {204}, {409}),
    "signal": Verb("POST", "/containers/{id}/kill?signal=WINCH", None, {204}, {204}, {409}),
    "remove": Verb("DELETE", "/containers/{id}", None, {409}, {409}, {204}),
    "force": Verb("DELETE", "/containers/{id}?force=1", None, {204}, {204}, {204}),
    "pause": Verb("POST", "/containers/{id}/pause", None, {204}, {409}, {409}),
    "unpause": Verb("POST", "/containers/{id}/unpause", None, {409}, {409}, {409}),
    "exec": Verb("POST", "/containers/{id}/exec", {"Cmd": ["true"]}, {201}, {409}, {409}),
    "commit": Verb("POST", "/commit?container={id}", {}, {201}, {201}, {201}),
    "top": Verb("GET", "/containers/{id}/top", None, {200}, {409}, {409}),
    "stats": Verb("GET", "/containers/{id}/stats?stream=0&one-shot=1", None, {200}, {200}, {200}),
    "resize": Verb("POST", "/containers/{id}/resize?h=9&w=9", None, {200}, {409}, {409}),
    "update": Verb("POST", "/containers/{id}/update", {"CpuShares": 512}, {200}, {200}, {200}),
    "rename": Verb("POST", "/containers/{id}/rename?name={name}-new", None, {204}, {204}, {204}),
    "connect": Verb("POST", "/networks/aside/connect", {"Container": "{id}"}, {200}, {200}, {200}),
    "disconnect": Verb("POST", "/networks/bridge/disconnect", {"Container": "{id}"}, {200}, {200}, {200}),
    "copy": Verb("GET", "/containers/{id}/archive?path=/etc/passwd", None, {200}, {200}, {200}),
    "changes": Verb("GET", "/containers/{id}/changes", None, {200}, {200}, {200}),
    "logs": Verb("GET", "/containers/{id}/logs?stdout=1", None, {200}, {200}, {200}),
}


class Lab:
    """An engine whose transitions can be held."""

    def __init__(self, engine: Engine, directory: Path) -> None:
        self.engine = engine
        self.directory = directory
        transport = httpx.HTTPTransport(uds=str(engine.socket), limits=httpx.Limits(max_connections=100))
        self.client = httpx.Client(transport=transport, base_url="http://davit", timeout=60)
        self.pool = ThreadPoolExecutor(2 * len(VERBS))

    def ask(self, method: str, path: str, body: Any = None) -> httpx.Response:
        return self.client.request(method, path, json=body)

    def say(self, name: str, container_id: str) -> Future[httpx.Response]:
        verb = VERBS[name]
        body = {"Container": container_id} if verb.body and "Container" in verb.body else verb.body
        return self.pool.submit(self.ask, verb.method, verb.path.format(id=container_id, name=f"t-{name}"), body)

    def create(self, name: str, command: list[str], policy: str = "no") -> str:
        body = {
            "Image": "busybox",
            "Cmd": command,
            "HostConfig": {"RestartPolicy": {"Name": policy}},
        }
        answer = self.ask("POST", f"/containers/create?name=t-{name}", body)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["Id"])

    def state(self, container_id: str) -> dict[str, Any]:
        answer = self.ask("GET", f"/containers/{container_id}/json")
        return dict(answer.json()["State"]) if answer.status_code == 200 else {"Status": "gone"}

    @contextmanager
    def held(self, point: str) -> Iterator[Callable[[], int]]:
        """Hold a transition while inside; what comes in tells how many have reached it."""
        held, reached = self.directory / point, self.directory / f"{point}.reached"
        held.touch()
        try:
            yield lambda: reached.stat().st_size if reached.exists() else 0
        finally:
            held.unlink()
            reached.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    require_root()
    directory = tmp_path_factory.mktemp("points")
    points = ";".join(f"{point}=hold({directory})" for point in POINTS)
    with Engine(environment={"DAVIT_FAILPOINTS": points, "TEST_POINTS": str(directory)}) as one:
        one.import_busybox()
        one.docker("network", "create", "aside")
        yield one


@pytest.fixture
def lab(engine: Engine) -> Iterator[Lab]:
    made = Lab(engine, Path(engine.environment["TEST_POINTS"]))
    yield made
    made.pool.shutdown()
    made.client.close()


def settled(lab: Lab, ids: dict[str, str]) -> None:
    """What the engine says of each is so, and each can be removed."""
    for name, container_id in ids.items():

        def true(container_id: str = container_id) -> bool:
            state = lab.state(container_id)
            status = state["Status"]
            if status in ("running", "paused"):
                return Path(f"/proc/{state['Pid']}").exists()
            return status in ("exited", "gone", "restarting")

        eventually(true, 20, f"the truth about {name}: {lab.state(container_id)}")
    for name, container_id in ids.items():
        answer = lab.ask("DELETE", f"/containers/{container_id}?force=1")
        assert answer.status_code in (204, 404), (name, answer.text)


def answers(said: dict[str, Future[httpx.Response]], allowed: Callable[[Verb], set[int]]) -> None:
    wrong = {}
    for name, future in said.items():
        answer = future.result(60)
        if answer.status_code not in allowed(VERBS[name]):
            wrong[name] = (answer.status_code, answer.text[:300], allowed(VERBS[name]))
    assert not wrong, wrong


def all_at_once(lab: Lab, ids: dict[str, str]) -> dict[str, Future[httpx.Response]]:
    said = {name: lab.say(name, container_id) for name, container_id in ids.items()}
    time.sleep(ARRIVED_S)
    return said


@pytest.mark.parametrize("point", ["control.start.before_order", "agent.launch.begun", "control.start.before_commit"])
def test_starting(lab: Lab, point: str) -> None:
    """As if the start had been answered before."""
    ids = {name: lab.create(name, ["sh", "-c", LIVES]) for name in VERBS}
    with lab.held(point) as reached:
        starts = [lab.pool.submit(lab.ask, "POST", f"/containers/{one}/start") for one in ids.values()]
        eventually(lambda: reached() == len(ids), 30, "all starts held")
        said = all_at_once(lab, ids)
    assert {start.result(60).status_code for start in starts} == {204}
    answers(said, lambda verb: verb.running)
    assert {name: lab.state(ids[name])["Status"] for name in ("stop", "kill", "force", "pause", "exec")} == {
        "stop": "exited",
        "kill": "exited",
        "force": "gone",
        "pause": "paused",
        "exec": "running",
    }
    settled(lab, ids)


def test_restarting(lab: Lab) -> None:
    """Held in the moment in which the node starts it again."""
    ids = {name: lab.create(name, ["false"], "always") for name in VERBS}
    with lab.held("agent.restart.before_launch") as reached:
        for one in ids.values():
            assert lab.ask("POST", f"/containers/{one}/start").status_code == 204
        eventually(lambda: reached() == len(ids), 30, "all restarts held")
        eventually(lambda: {lab.state(one)["Status"] for one in ids.values()} == {"restarting"}, 20)
        said = all_at_once(lab, ids)
    answers(said, lambda verb: verb.restarting)
    assert {name: lab.state(ids[name])["Status"] for name in ("stop", "kill", "force")} == {
        "stop": "exited",
        "kill": "exited",
        "force": "gone",
    }
    settled(lab, ids)


def test_between_two_runs(lab: Lab) -> None:
    """In the pause before the node starts it again."""
    ids = {name: lab.create(name, ["false"], "always") for name in VERBS}
    for one in ids.values():
        lab.ask("POST", f"/containers/{one}/start")

    def paused(container_id: str) -> bool:
        answer = lab.ask("GET", f"/containers/{container_id}/json").json()
        return bool(answer["RestartCount"] >= 4 and answer["State"]["Status"] == "restarting")

    for name, one in ids.items():
        eventually(lambda one=one: paused(one), 30, f"a pause of {name}")  # type: ignore[misc]
    answers(all_at_once(lab, ids), lambda verb: verb.restarting | verb.running)
    for name in ("stop", "kill", "signal"):
        assert lab.state(ids[name])["Status"] == "exited"
    settled(lab, ids)


@pytest.mark.parametrize("point", ["agent.exit.before_record", "control.exit.before_commit"])
@pytest.mark.parametrize("policy", ["no", "always"])
def test_ending(lab: Lab, point: str, policy: str) -> None:
    ids = {name: lab.create(name, ["sh", "-c", LIVES], policy) for name in VERBS}
    for one in ids.values():
        assert lab.ask("POST", f"/containers/{one}/start").status_code == 204
    pids = [lab.state(one)["Pid"] for one in ids.values()]
    with lab.held(point) as reached:
        for pid in pids:
            os.kill(pid, signal.SIGUSR2)
        eventually(lambda: reached() >= len(ids), 30, "all ends held")
        said = all_at_once(lab, ids)
    after = (lambda verb: verb.stopped) if policy == "no" else (lambda verb: verb.restarting)
    answers(said, lambda verb: verb.running | after(verb))
    for name in ("stop", "kill", "force"):
        eventually(lambda name=name: lab.state(ids[name])["Status"] in ("exited", "gone"), 10, name)  # type: ignore[misc]
    settled(lab, ids)


def test_being_removed(lab: Lab) -> None:
    """It is there, or it is gone; nothing begins any more."""
    ids = {name: lab.create(name, ["true"]) for name in VERBS}
    with lab.held("control.remove.after_mark") as reached:
        removals = [lab.pool.submit(lab.ask, "DELETE", f"/containers/{one}") for one in ids.values()]
        eventually(lambda: reached() == len(ids), 30, "all removals held")
        said = all_at_once(lab, ids)
    assert {removal.result(60).status_code for removal in removals} == {204}
    answers(said, lambda verb: (verb.stopped - {201, 204}) | {404, 409} | ({204} if verb.method == "DELETE" else set()))
    assert {lab.state(one)["Status"] for one in ids.values()} == {"gone"}
