"""Builds against the reference engine's classic builder: cold, cached, and after a change of the context.

    sudo .venv/bin/python -m benchmarks.build [--rounds N]

Both engines run at the same time, each in its own network namespace, and take turns. Printed: median seconds of each
and their ratio (reference / davit: above 1 davit wins).
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from tests.lab.engine import Engine
from tests.lab.reference import ReferenceEngine

DOCKERFILE = """\
FROM busybox AS build
ARG VERSION=1
ENV LANG=C.UTF-8 PORT=8080
WORKDIR /src
COPY src .
RUN cat file-1* > /out
RUN echo $VERSION > /version
FROM busybox
LABEL org.opencontainers.image.title=benchmark
WORKDIR /app
COPY --from=build /out /version ./
RUN mkdir -p data && touch data/ready
ENV MODE=production
EXPOSE 8080
USER nobody
HEALTHCHECK CMD true
CMD ["cat", "out"]
"""
FILES = 200
FILE_BYTES = 16 * 1024


def make_context(path: Path) -> None:
    (path / "src").mkdir()
    (path / "Dockerfile").write_text(DOCKERFILE)
    for number in range(FILES):
        (path / "src" / f"file-{number}").write_bytes(os.urandom(FILE_BYTES))


def build(engine: Engine | ReferenceEngine, context: Path, *arguments: str) -> float:
    environment = engine.environment | {"DOCKER_BUILDKIT": "0"}
    begin = time.perf_counter()
    subprocess.run(
        ["docker", "build", "-q", *arguments, str(context)],
        env=environment,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return time.perf_counter() - begin


def measure(engines: dict[str, Engine | ReferenceEngine], context: Path, rounds: int) -> dict[str, dict[str, float]]:
    times: dict[str, dict[str, list[float]]] = {
        row: {name: [] for name in engines} for row in ("cold", "cached", "file changed")
    }
    for number in range(rounds):
        (context / "src" / "file-1").write_bytes(os.urandom(FILE_BYTES))
        for row, arguments in (("cold", ("--no-cache",)), ("cached", ())):
            for name, engine in engines.items():
                times[row][name].append(build(engine, context, *arguments))
        (context / "src" / "file-2").write_bytes(str(number).encode())
        for name, engine in engines.items():
            times["file changed"][name].append(build(engine, context))
    return {row: {name: statistics.median(values) for name, values in by.items()} for row, by in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as directory, Engine() as davit, ReferenceEngine() as reference:
        context = Path(directory)
        make_context(context)
        engines: dict[str, Engine | ReferenceEngine] = {"davit": davit, "reference": reference}
        for engine in engines.values():
            engine.import_busybox()
            build(engine, context)
        print(f"{'build':<16}{'davit s':>10}{'reference s':>14}{'ratio':>8}")
        for row, by in measure(engines, context, rounds).items():
            print(f"{row:<16}{by['davit']:>10.3f}{by['reference']:>14.3f}{by['reference'] / by['davit']:>8.1f}")


if __name__ == "__main__":
    main()
