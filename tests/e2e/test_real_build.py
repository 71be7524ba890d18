"""A build as people do them: packages installed with apt on Debian, a C program compiled, and shipped alone."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import require_root
from tests.lab.debian import debian_image
from tests.lab.engine import Engine
from tests.lab.proxy import web_proxy

pytestmark = pytest.mark.slow
DOCKERFILE = """\
FROM debian-lab AS build
ARG DEBIAN_FRONTEND=noninteractive
RUN --mount=type=cache,target=/var/cache/apt,sharing=locked --network=host \\
    apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY hello.c .
RUN --network=none gcc -O2 -Wall -Werror -static -o /hello hello.c && strip /hello

FROM scratch
COPY --from=build --chmod=755 /hello /bin/hello
USER 1000:1000
ENTRYPOINT ["/bin/hello"]
CMD ["world"]
"""
PROGRAM = """\
#include <stdio.h>
#include <unistd.h>

int main(int argc, char **argv) {
    printf("GREETING, %s, from user %d\\n", argc > 1 ? argv[1] : "nobody", (int) getuid());
    return 0;
}
"""


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    require_root()
    with Engine() as one:
        debian_image(one)
        yield one


def build(engine: Engine, context: Path, *arguments: str) -> str:
    result = subprocess.run(
        ["docker", "build", "-t", "hello", *arguments, str(context)],
        env=engine.environment | {"DOCKER_BUILDKIT": "0"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr
    return result.stdout


@pytest.mark.timeout(1200)
def test_a_c_program_compiled_on_debian_and_shipped_from_scratch(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(DOCKERFILE)
    (tmp_path / "hello.c").write_text(PROGRAM.replace("GREETING", "hello"))
    with web_proxy(engine.netns) as proxy:
        told = build(engine, tmp_path, "--build-arg", f"http_proxy={proxy}")
    assert "Setting up gcc" in told
    assert engine.docker("run", "--rm", "hello").stdout == "hello, world, from user 1000\n"
    assert engine.docker("run", "--rm", "hello", "you").stdout == "hello, you, from user 1000\n"
    image = json.loads(engine.docker("image", "inspect", "hello").stdout)[0]
    assert len(image["RootFS"]["Layers"]) == 1
    assert image["Size"] < 2_000_000
    assert proxy not in engine.docker("history", "--no-trunc", "hello").stdout
    # A change of the program compiles anew, and installs nothing: there is no proxy any more.
    (tmp_path / "hello.c").write_text(PROGRAM.replace("GREETING", "good day"))
    again = build(engine, tmp_path)
    assert "Setting up gcc" not in again
    assert engine.docker("run", "--rm", "hello").stdout == "good day, world, from user 1000\n"
    assert engine.docker("ps", "-aq").stdout == ""
