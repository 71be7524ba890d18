"""What people run as a container's first process, from Debian's packages, to the end of a clean stop."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.e2e.conftest import require_root
from tests.lab.debian import inits_image
from tests.lab.engine import Engine, eventually

# A root file system with all of them is made once for a machine, which takes minutes.
pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(600)]

STOPS_WITHIN_S = 30
# A service that says when it begins, and that it has ended cleanly.
SERVICE = "trap 'echo service-ended; exit 0' TERM; echo service-begun; while :; do sleep 1 & wait $!; done"
UNIT = f"""\
[Unit]
Description=service of the test
[Service]
ExecStart=/bin/bash -c "{SERVICE.replace("$", "$$")}"
StandardOutput=file:/said
[Install]
WantedBy=multi-user.target
"""


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    require_root()
    with Engine() as one:
        inits_image(one)
        yield one


def stopped(engine: Engine, name: str) -> int:
    """Stop it, within the time that none of them needs; its exit code."""
    began = time.monotonic()
    engine.docker("stop", "-t", str(2 * STOPS_WITHIN_S), name, timeout_s=3 * STOPS_WITHIN_S)
    assert time.monotonic() - began < STOPS_WITHIN_S, engine.docker("logs", name).stdout
    return int(engine.docker("inspect", "-f", "{{.State.ExitCode}}", name).stdout)


def logged(engine: Engine, name: str, text: str) -> None:
    eventually(lambda: text in engine.docker("logs", name).stdout, 60, f"{text} in the log of {name}")


@pytest.mark.parametrize("more", [["-t", "--privileged"], ["--privileged"]])
def test_systemd(engine: Engine, more: list[str]) -> None:
    prepare = f"cat > /etc/systemd/system/test.service <<'E'\n{UNIT}E\n"
    prepare += "systemctl enable test.service; systemctl mask systemd-resolved systemd-networkd; "
    tmpfs = ("--tmpfs", "/run", "--tmpfs", "/run/lock", "--tmpfs", "/tmp")
    options = ("--name", "box", "--stop-signal", "SIGRTMIN+3", "-e", "container=docker", "--cgroupns", "private")
    engine.docker("run", "-d", *options, *tmpfs, *more, "inits-lab", "bash", "-c", f"{prepare} exec /sbin/init")
    eventually(lambda: "service-begun" in engine.docker("exec", "box", "cat", "/said", check=False).stdout, 60)
    if "-t" in more:
        logged(engine, "box", "Multi-User System")
    assert stopped(engine, "box") in (0, 130)
    if "-t" in more:
        logged(engine, "box", "Reached target")
    engine.docker("cp", "box:/said", str(engine.base / "said"))
    assert (engine.base / "said").read_text() == "service-begun\nservice-ended\n"


@pytest.mark.parametrize("tty", [[], ["-t"]])
def test_tini(engine: Engine, tty: list[str]) -> None:
    engine.docker("run", "-d", "--name", "box", *tty, "inits-lab", "tini", "--", "bash", "-c", SERVICE)
    logged(engine, "box", "service-begun")
    assert stopped(engine, "box") == 0
    logged(engine, "box", "service-ended")


@pytest.mark.parametrize("tty", [[], ["-t"]])
def test_s6(engine: Engine, tty: list[str]) -> None:
    prepare = f"mkdir -p /s/one; printf '#!/bin/bash\\n%s\\n' \"{SERVICE.replace('$', chr(92) + '$')}\" > /s/one/run; "
    prepare += "chmod +x /s/one/run; exec s6-svscan /s"
    engine.docker("run", "-d", "--name", "box", *tty, "inits-lab", "bash", "-c", prepare)
    logged(engine, "box", "service-begun")
    assert stopped(engine, "box") in (0, 100, 111)
    logged(engine, "box", "service-ended")


@pytest.mark.parametrize("tty", [[], ["-t"]])
def test_runit(engine: Engine, tty: list[str]) -> None:
    prepare = f"mkdir -p /s/one; printf '#!/bin/bash\\n%s\\n' \"{SERVICE.replace('$', chr(92) + '$')}\" > /s/one/run; "
    # runsvdir(8) itself waits for nobody, so it is not the first process
    prepare += "chmod +x /s/one/run; trap 'sv -w 20 stop /s/one; kill -HUP $!; exit 0' TERM; runsvdir -P /s & wait"
    engine.docker("run", "-d", "--name", "box", *tty, "inits-lab", "bash", "-c", prepare)
    logged(engine, "box", "service-begun")
    assert stopped(engine, "box") == 0
    logged(engine, "box", "service-ended")
