"""One lab: everything that commands do to it. Each method leaves the record and the kernel saying the same."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from lab.links.fabric import OWN, Fabric
from lab.links.forwarding import forward
from lab.links.relaying import Relay
from lab.links.shape import shape
from lab.links.wires import Wires
from lab.nodes.cgroups import Cgroup, Hierarchies
from lab.nodes.images import preload, start_container
from lab.nodes.join import Cluster
from lab.nodes.kinds import DATA_DIR, HOST, begin_machine, down_command, environment, up_command, write_files
from lab.nodes.namespaces import Namespaces
from lab.nodes.start import Entrance, run_in
from lab.places import Places
from lab.record import OFF, ON, PAUSED, Record
from lab.topology.model import DATABASE_NODE, Topology
from lab.topology.wiring import Net, Port, wire
from services.executor.runtime.kernel import calls
from shared.docker.client import EngineClient
from shared.errors import Conflict, Forbidden, NotFound, Unavailable

READY_WITHIN_S = 60.0


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

    def is_image(self, node: str) -> bool:
        """Whether the node is a plain container."""
        return node in self.topology.nodes and self.topology.nodes[node].role == "image"

    @property
    def machines(self) -> list[str]:
        """All nodes that commands may name."""
        return [*self.topology.nodes, *([DATABASE_NODE] if self.topology.database == "postgres" else [])]

    def cgroup(self, node: str) -> Cgroup:
        where = f"{HOST}/nodes/{node}" if self.is_image(node) else node
        return Cgroup(self.hierarchies, f"{self.places.cgroup}/{where}")

    def node(self, name: str) -> str:
        """The name, if there is such a node. Raises NotFound."""
        if name not in self.machines:
            raise NotFound(f"lab {self.places.lab} has no node {name}; there are {', '.join(self.machines)}")
        return name

    def client(self, node: str) -> EngineClient:
        """The API of a manager. Raises Conflict when the node has none."""
        if self.node(node) not in self.topology.managers():
            raise Conflict(f"{node} has no API of its own: ask a manager ({', '.join(self.topology.managers())})")
        return EngineClient(f"unix://{self.places.socket(node)}")

    def running(self) -> set[str]:
        """The nodes whose namespaces and processes are there."""
        return {name for name in self._all if self.namespaces.bound(name) and self.cgroup(name).pids()}

    @property
    def _all(self) -> list[str]:
        """The machines in the order in which they are started: first what others need."""
        host = [HOST] if any(map(self.is_image, self.topology.nodes)) else []
        return [*host, *sorted(self.machines, key=lambda name: (name != DATABASE_NODE, self.is_image(name)))]

    # -- up and down ----------------------------------------------------------------------------------------------

    def up(self) -> None:
        """Start what of the lab does not run: all of it, or what a reboot or a kill has taken."""
        if os.geteuid() != 0:
            raise Forbidden("davit lab must run as root: it makes namespaces, devices and control groups (try sudo)")
        self.places.check(list(self.topology.nodes))
        self._prepare()
        running = self.running()
        self.start([name for name in self._all if self.record.nodes.get(name, ON) == ON and name not in running])

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
        running = self.running()
        needed = [name for name in self._all if name in (HOST, DATABASE_NODE)]
        first = [name for name in needed if name in nodes or (name == HOST and name not in running)]
        self._start_machines(first)
        self._start_machines([name for name in nodes if name not in first and not self.is_image(name)])
        images = [name for name in nodes if self.is_image(name)]
        for name in images:
            self._clear(name)
            start_container(self, name)
            self.record.nodes[name] = ON
        if images:
            self.wire_up()
        self.record.write(self.places)
        own = [name for name in nodes if name in self.topology.nodes]
        self.await_members(own)
        preload(self, own)
        forward(self)
        for name in own:
            for command in self.topology.nodes[name].exec:
                self.run_in(name, command)

    def _start_machines(self, names: list[str]) -> None:
        starting = []
        engines = [name for name in names if name in self.topology.nodes]
        if engines:
            from lab.nodes.warm import warm_up

            warm_up([self.cluster.start_of(name, self.places.node(name) / "etc", DATA_DIR) for name in engines])
        try:
            for name in names:
                self._clear(name)
                starting.append(begin_machine(self, name))
            self.wire_up()
            for one in starting:
                one.let_go()
        finally:
            self.record.write(self.places)
        for one in starting:
            one.wait()
            if one.node != HOST:
                self.record.nodes[one.node] = ON
        self.record.write(self.places)

    def run_in(self, name: str, command: list[str]) -> str:
        """Run a command in a node; its output. Raises Internal with what it said when it fails."""
        return run_in(self.entrance(name), name, command)

    def entrance(self, name: str) -> Entrance:
        """The way into a node for a process. Raises Conflict when it is off."""
        if self.node(name) not in self.running():
            raise Conflict(f"{name} is off: davit lab restart {name}")
        if self.is_image(name):
            return Entrance.of_container(self.cgroup(name))
        return Entrance.of_machine(self.namespaces, self.cgroup(name), name, environment())

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
        if self.places.node(name).exists():
            shutil.rmtree(self.places.node(name) / "run", ignore_errors=True)

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

    # -- wires ----------------------------------------------------------------------------------------------------

    def wire_up(self) -> None:
        """Have all devices, queues and rules as they are to be."""
        alive = {name for name in self._all if self.namespaces.bound(name)}
        dark = {name for name, state in self.record.nodes.items() if state != ON}
        with Fabric(self.namespaces) as fabric:
            made = fabric.connect(self.nets, alive)
            for name in alive:
                fabric.loopback(name)
                if name in self.topology.nodes:
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
        start = write_files(self, name)
        if self.record.nodes.get(name, ON) != ON:
            return  # it has it when it starts
        for command in (down_command(), up_command(self, name, start)):
            self.run_in(name, command)
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
