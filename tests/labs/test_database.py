"""Several managers on one Postgres, which the lab starts."""

from __future__ import annotations

import shutil

import pytest

from lab.nodes.postgres import binaries
from tests.conftest import missing
from tests.lab.engine import eventually
from tests.lab.labs import TestLab, require_root

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]


def test_what_one_manager_does_the_other_knows() -> None:
    require_root()
    if binaries() is None or shutil.which("docker") is None:
        missing("Postgres")
    with TestLab("database: postgres\nnodes: {m1: {role: manager}, m2: {role: manager}}\n") as lab:
        lab.import_busybox()
        lab.docker("create", "--name", "seen", "--pull", "never", "busybox", node="m2")
        assert lab.docker("ps", "-a", "--format", "{{.Names}}", node="m1").stdout == "seen\n"
        lab.davit("cut", "m2", "database")
        assert lab.ping_address("m2", "10.213.1.1").answered == 0
        lab.davit("heal")
        lab.davit("kill", "database")
        lab.davit("restart", "database")
        names = ("ps", "-a", "--format", "{{.Names}}")
        eventually(lambda: lab.docker(*names, node="m2", check=False).stdout == "seen\n", 30, "an answer of m2")
