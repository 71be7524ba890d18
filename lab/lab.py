"""One lab: everything that commands do to it. Each method leaves the record and the kernel saying the same."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from lab.links.fabric import OWN, Fabric
from lab.links.relaying import Relay
from lab.links.shape import shape
from lab.links.wires import Wires
from lab.nodes.cgroups import ENGINE, Cgroup, Hierarchies, Limits
from lab.nodes.join import Cluster, EngineStart
from lab.nodes.machine import Machine
from lab.nodes.namespaces import Namespaces
from lab.nodes.start import Starting, begin, bind, environment_of, run_in
from lab.places import Places
from lab.record import OFF, ON, PAUSED, Record
from lab.topology.model import Topology
from lab.topology.wiring import Net, Port, wire
from services.executor.runtime.errors import KernelFailure
from services.executor.runtime.kernel import calls
from shared.docker.client import EngineClient
from shared.errors import Conflict, Forbidden, NotFound, Unavailable

READY_WITHIN_S = 60.0
RUN_DIR = "/run/davit"


class Lab:
    """The lab at some place, with its record in memory.

    Args:
        record: None reads what is on file.
    """

    def __init__(self, places: Places, record: Record | None = None) -> None:
        self.places = places
        self.record = record or Record.read(places)
        self.namespaces = Namespaces(places.namespaces)
        self.hierarchies = Hierarchies()

    # -- what there is --------------------------------------------------------------------------------------------

    @cached_property
    def topology(self) -> Topology:
        return self.record.topology

    @cached_property
    def nets(self) -> list[Net]:
        return wire(self.topology, self.record.choices)

    @property
    def wires(self) -> Wires:
        return Wires(self.topology, self.nets, self.record.changes)

    @property
    def relay(self) -> Relay:
        return Relay(self.places.keep, self.cgroup(".keep").child("relay"), self.namespaces)

    @property
    def cluster(self) -> Cluster:
        return Cluster(self.topology, self.nets, self.record.secret)

    def ports_of(self, node: str) -> list[Port]:
        return [port for net in self.nets for port in net.ports if port.node == node]

    def cgroup(self, node: str) -> Cgroup:
        return Cgroup(self.hierarchies, f"{self.places.cgroup}/{node}")

    def node(self, name: str) -> str:
        """The name, if there is such a node. Raises NotFound."""
        if name not in self.topology.nodes:
            raise NotFound(f"lab {self.places.lab} has no node {name}; there are {', '.join(self.topology.nodes)}")
        return name

    def client(self, node: str) -> EngineClient:
        """The API of a manager. Raises Conflict when the node has none."""
        if self.topology.nodes[self.node(node)].role != "manager":
            raise Conflict(f"{node} has no API of its own: ask a manager ({', '.join(self.topology.managers())})")
        return EngineClient(f"unix://{self.places.socket(node)}")

    def running(self) -> set[str]:
        """The nodes whose namespaces and processes are there."""
        return {name for name in self.topology.nodes if self.namespaces.bound(name) and self.cgroup(name).pids()}

    # -- up and down ----------------------------------------------------------------------------------------------

    def up(self) -> None:
        """Start what of the lab does not run: all of it, or what a reboot or a kill has taken."""
        if os.geteuid() != 0:
            raise Forbidden("davit lab must run as root: it makes namespaces, devices and control groups (try sudo)")
        self.places.check(list(self.topology.nodes))
        self._prepare()
        missing = [name for name in self.topology.nodes
                   if self.record.nodes.get(name, ON) == ON and name not in self.running()]  # fmt: skip
        self.start(missing)

    def _prepare(self) -> None:
        """The lab's own namespace and directories; everything written down before anything is made."""
        self.places.keep.mkdir(parents=True, exist_ok=True)
        self.record.write(self.places)
        self.namespaces.prepare()
        if not self.namespaces.bound(OWN):
            self.record.queues.clear()
            self._make_fabric()

    def _make_fabric(self) -> None:
        """A network namespace without a process, and without addresses of its own."""
        ready, say = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                calls.unshare(calls.CLONE_NEWNET)
                for kind in ("all", "default"):
                    with suppress(OSError):  # a kernel without IPv6
                        Path(f"/proc/sys/net/ipv6/conf/{kind}/disable_ipv6").write_text("1")
                os.write(say, b"r")
                signal.pause()
            finally:
                os._exit(1)
        os.close(say)
        try:
            if os.read(ready, 1) != b"r":
                raise Conflict("the lab's network namespace cannot be made")
            self.namespaces.bind(OWN, pid, ("net",))
        finally:
            os.close(ready)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)

    def start(self, nodes: list[str]) -> None:
        """Start nodes, side by side, and return when they are ready for work."""
        starting = []
        try:
            for name in nodes:
                self._clear(name)
                starting.append(self._begin(name))
            self.wire_up()
            for one in starting:
                one.let_go()
        finally:
            self.record.write(self.places)
        for one in starting:
            one.wait()
            self.record.nodes[one.node] = ON
        self.record.write(self.places)
        self.await_members(nodes)

    def _clear(self, name: str) -> None:
        """Nothing of an earlier life of the node is left but its data, as after a machine's reboot."""
        self.cgroup(name).kill()
        with Fabric(self.namespaces) as fabric:
            fabric.park(name, self.ports_of(name))
        self.namespaces.release(name)
        self.cgroup(name).remove()
        self.record.single_segments = [key for key in self.record.single_segments if key.partition("|")[0] != name]
        for key in [key for key in self.record.queues if key.startswith(f"{name}|")]:
            del self.record.queues[key]
        shutil.rmtree(self.places.node(name) / "run", ignore_errors=True)

    def _begin(self, name: str) -> Starting:
        node, directory = self.topology.nodes[name], self.places.node(name)
        for part in ("run", "data", "etc"):
            (directory / part).mkdir(parents=True, exist_ok=True, mode=0o711)
        start = self._write_files(name)
        cgroup = self.cgroup(name)
        cgroup.create()
        cgroup.child(ENGINE).create()
        cgroup.limit(Limits(node.memory, node.cpus))
        machine = Machine(name, cgroup, self._directories(name), directory / "etc" / "hosts")
        command, log = self._up_command(name, start), directory / "start.log"
        starting = begin(name, machine, self.hierarchies, command, self._environment, start.beside, log)
        bind(self.namespaces, starting)
        return starting

    @property
    def _environment(self) -> dict[str, str]:
        return environment_of(f"unix://{RUN_DIR}/docker.sock")

    def _write_files(self, name: str) -> EngineStart:
        etc = self.places.node(name) / "etc"
        start = self.cluster.start_of(name, etc)
        for file, text in (start.files | {"daemon.json": json.dumps(start.daemon_json)}).items():
            (etc / file).write_text(text)
        self.write_hosts(name)
        return start

    def write_hosts(self, name: str) -> None:
        """In place, since the node has the file mounted."""
        etc = self.places.node(name) / "etc"
        if etc.exists():
            (etc / "hosts").write_text(self.cluster.hosts(name))

    def _up_command(self, name: str, start: EngineStart) -> list[str]:
        directory = self.places.node(name)
        where = ["--data-root", str(directory / "data"), "--run-dir", RUN_DIR]
        where += ["--config-file", str(directory / "etc" / "daemon.json")]
        return [sys.executable, "-P", "-m", "cli", "up", "--detach", *where, *start.arguments]

    def _directories(self, name: str) -> dict[str, Path]:
        """What has a place of its own in the node; /run is new there, and hides a lab that is below it."""
        shown = {RUN_DIR: self.places.node(name) / "run"}
        return ({str(self.places.base): self.places.base} if self.places.base.is_relative_to("/run") else {}) | shown

    def await_members(self, nodes: Iterable[str], within_s: float = READY_WITHIN_S) -> None:
        """Wait until a manager gives work to each of these. Raises Unavailable."""
        managers = [name for name in self.topology.managers() if self.record.nodes.get(name) == ON]
        if not managers:
            return
        client, cluster = self.client(managers[0]), self.cluster
        give_up_at = time.monotonic() + within_s
        for name in nodes:
            while self.topology.nodes[name].role == "worker" and not cluster.knows(client, name):
                if time.monotonic() > give_up_at:
                    raise Unavailable(f"{managers[0]} does not hear of {name}: davit lab logs {name}")
                time.sleep(0.02)

    def down(self) -> None:
        """End the lab, and leave nothing of it; works from what is there, whatever the record says."""
        tear_down(self.places)

    # -- wires ----------------------------------------------------------------------------------------------------

    def wire_up(self) -> None:
        """Have all devices, queues and rules as they are to be."""
        alive = {name for name in self.topology.nodes if self.namespaces.bound(name)}
        dark = {name for name, state in self.record.nodes.items() if state != ON}
        with Fabric(self.namespaces) as fabric:
            made = fabric.connect(self.nets, alive)
            for name in alive:
                fabric.loopback(name)
                fabric.route(name, self.topology.nodes[name].routes)
            for device in made:
                self.record.queues.pop(device, None)
            shape(self, fabric, alive, dark)

    # -- nodes ----------------------------------------------------------------------------------------------------

    def kill(self, name: str) -> None:
        """As if somebody pulled the plug: no process says goodbye, and nothing of its memory is left."""
        self.switch_off(self.node(name))

    def switch_off(self, name: str) -> None:
        self.record.nodes[name] = OFF
        self.record.write(self.places)
        self.wire_up()  # silence first: the kernel would close connections in the name of the dead
        self._clear(name)
        self.record.write(self.places)

    def restart_engine(self, name: str) -> None:
        """Start a node's engine again with the configuration that it is to have; containers go on."""
        start = self._write_files(name)
        if self.record.nodes.get(name, ON) != ON:
            return  # it has it when it starts
        down = [sys.executable, "-P", "-m", "cli", "down", "--run-dir", RUN_DIR]
        for command in (down, self._up_command(name, start)):
            run_in(self.namespaces, self.cgroup(name), name, command, self._environment)
        self.await_members([name])

    def take_over(self, topology: Topology, choices: dict[str, str]) -> None:
        """The lab is to be another from now on; `wire_up` and `start` make it so."""
        self.record.source = topology.model_dump(mode="json", exclude_unset=True)
        self.record.choices = choices
        self.__dict__.pop("topology", None)
        self.__dict__.pop("nets", None)
        self.record.write(self.places)

    def pause(self, name: str) -> None:
        """Stop the node's processors: it neither answers nor hears, and knows nothing of it."""
        if self.record.nodes.get(self.node(name), ON) != ON:
            raise Conflict(f"{name} is {self.record.nodes[name]}")
        self.record.nodes[name] = PAUSED
        self.record.write(self.places)
        self.wire_up()
        self.cgroup(name).freeze(True)

    def resume(self, name: str) -> None:
        """Let a paused node go on."""
        if self.record.nodes.get(self.node(name)) != PAUSED:
            raise Conflict(f"{name} is not paused")
        self.cgroup(name).freeze(False)
        self.record.nodes[name] = ON
        self.record.write(self.places)
        self.wire_up()

    def restart(self, name: str) -> None:
        """Start a node that is off, or switch it off and on again."""
        if self.record.nodes.get(self.node(name), ON) != OFF:
            self.kill(name)
        self.record.nodes[name] = ON
        self.start([name])


def tear_down(places: Places) -> None:
    """Remove all that a lab has made: processes, mounts, devices, control groups, files."""
    root = Cgroup(Hierarchies(), places.cgroup)
    root.kill()
    Namespaces(places.namespaces).close()
    _unmount_below(places.base)
    root.remove()
    parent = Cgroup(Hierarchies(), places.cgroup.split("/", maxsplit=1)[0])
    for directory in parent.directories:
        with suppress(OSError):  # another lab's groups are in it
            directory.rmdir()
    shutil.rmtree(places.base, ignore_errors=False)
    with suppress(OSError):
        places.root.rmdir()


def _unmount_below(base: Path) -> None:
    from services.executor.runtime.kernel.mountcalls import umount

    for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
        target = line.split()[4].encode().decode("unicode_escape")
        if Path(target).is_relative_to(base):
            with suppress(KernelFailure):
                umount(target)
