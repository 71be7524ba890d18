"""The guardian: a process that only waits, and starts the supervisor again when it dies.

Guardian and supervisor watch each other: either may be killed, and the other puts it back. Killed together, they
leave nothing but containers and files, and the next `davit up` begins anew.

Once the directories are gone or another engine's, there is nothing to guard: it starts no supervisor again, and goes.

::

    davit up ── exec ─► guardian ── spawn ─► supervisor ── fork ─► services, nats-server
                           ▲                    │ the guardian died: the supervisor spawns another one,
                           └────────────────────┘ which waits for its pidfd (it is not its parent)

This file is run as a script by an interpreter without site packages, and imports little: it is to cost no memory.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
STEADY_AFTER_S = 10.0
EXIT_LOST = 75  # as in `supervisor.ownership`, which would cost memory here


class Guardian:
    """Keeps one supervisor running.

    Args:
        run_dir: Where the supervisor's state file is; one that ends in order takes it away.
        command: The supervisor's program and arguments; the guardian's pid, and for the first the descriptor to
            announce the outcome on, are added.
        locks: Descriptors of the lock files that make the directories the engine's own.
    """

    def __init__(self, run_dir: str, command: list[str], locks: list[int], announce: int | None = None) -> None:
        self._state_file = os.path.join(run_dir, "engine.json")  # pathlib would double the imports
        self._command = command
        self._locks = [(descriptor, os.readlink(f"/proc/self/fd/{descriptor}")) for descriptor in locks]
        self._announce = announce
        self._supervisor = 0
        self._stopping = False

    def run(self, watched: int | None) -> int:
        """Guard until the engine has ended in order; its exit code.

        Args:
            watched: The supervisor that runs already, when it spawned this guardian.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._told_to_stop)
        signal.signal(signal.SIGHUP, lambda *_: self._forward(signal.SIGHUP))
        code = self._watch(watched) if watched else self._spawn_and_wait(first=True)
        pause_s = FIRST_PAUSE_S
        while code is None and not self._stopping:
            time.sleep(pause_s)
            if self._stopping:
                break
            if not self._owns_directories():
                self._say("the engine's directories are gone or another engine's: it is not started again")
                return EXIT_LOST
            started = time.monotonic()
            code = self._spawn_and_wait(first=False)
            steady = time.monotonic() - started > STEADY_AFTER_S
            pause_s = FIRST_PAUSE_S if steady else min(pause_s * 2, LONGEST_PAUSE_S)
        return code or 0

    def _watch(self, supervisor: int) -> int | None:
        """Wait for a supervisor that is not a child: 0 when it ended in order, None when it did not."""
        self._supervisor = supervisor
        try:
            descriptor = os.pidfd_open(supervisor)
        except ProcessLookupError:
            return self._ended_in_order()
        select.select([descriptor], [], [])
        os.close(descriptor)
        return self._ended_in_order()

    def _ended_in_order(self) -> int | None:
        return None if os.path.exists(self._state_file) else 0

    def _spawn_and_wait(self, *, first: bool) -> int | None:
        """Start a supervisor and wait for it: the engine's exit code, or None when it is to be started again."""
        command = [*self._command, "--guardian", str(os.getpid())]
        if first:
            command.append("--first")
        heard = None
        if first and self._announce is None and os.environ.get("NOTIFY_SOCKET"):
            heard, self._announce = os.pipe()
            os.set_inheritable(self._announce, True)
        if self._announce is not None:
            command += ["--announce", str(self._announce)]
        # A session of its own: Ctrl-C at the terminal is for the guardian, which ends the engine in order.
        self._supervisor = os.posix_spawn(command[0], command, os.environ, setsid=True)
        if self._announce is not None:
            os.close(self._announce)
            self._announce = None
        if heard is not None:
            self._tell_systemd(heard)
        if self._stopping:
            self._forward(signal.SIGTERM)
        _, status = os.waitpid(self._supervisor, 0)
        if os.WIFSIGNALED(status):
            return None
        code = os.waitstatus_to_exitcode(status)
        # One that once ran well and now cannot start (its port was taken meanwhile, say) is worth another try.
        return code if first or code in (0, EXIT_LOST) or self._stopping else None

    def _tell_systemd(self, heard: int) -> None:
        """Pass on that the engine is ready: systemd listens to the process that it started. Source: sd_notify(3)."""
        with os.fdopen(heard) as pipe:
            said = pipe.readline().strip()
        if said != "ready":
            self._say(said.partition(" ")[2].partition(" ")[2] or "the engine ended while it was starting")
            return
        import socket

        path = os.environ["NOTIFY_SOCKET"]
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.sendto(b"READY=1", "\0" + path[1:] if path.startswith("@") else path)

    def _owns_directories(self) -> bool:
        """Whether each lock is still where it was taken."""
        for descriptor, path in self._locks:
            try:
                if not os.path.samestat(os.fstat(descriptor), os.stat(path)):
                    return False
            except OSError:
                return False
        return True

    def _say(self, text: str) -> None:
        os.write(2, f"davit: guardian: {text}\n".encode())

    def _told_to_stop(self, *_: object) -> None:
        self._stopping = True
        self._forward(signal.SIGTERM)

    def _forward(self, number: int) -> None:
        if self._supervisor:
            try:
                os.kill(self._supervisor, number)
            except ProcessLookupError:
                return


def main(arguments: list[str]) -> int:
    """``guardian.py RUN_DIR ANNOUNCE WATCHED LOCKS COMMAND…``

    ``-`` for no descriptor to announce on, and none to watch; LOCKS are descriptors, as ``3,4``.
    """
    run_dir, announce, watched, locks, *command = arguments
    with open("/proc/self/comm", "w") as comm:
        comm.write("davit: guardian")
    held = [int(number) for number in locks.split(",") if number]
    guardian = Guardian(run_dir, command, held, None if announce == "-" else int(announce))
    return guardian.run(None if watched == "-" else int(watched))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
