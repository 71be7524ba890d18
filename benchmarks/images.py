"""Images against the reference engine: import, save, load, push, pull of one image with many files.

    sudo .venv/bin/python -m benchmarks.images [--rounds N] [--megabytes N] [--files N]

Both engines run at the same time in one network namespace and take turns; the registry is Debian's docker-registry on
loopback. Printed: median seconds of each and their ratio (reference / davit: above 1 davit wins).
"""

from __future__ import annotations

import argparse
import io
import random
import statistics
import tarfile
import tempfile
import time
from pathlib import Path

from tests.lab.engine import Engine
from tests.lab.images import ImageLab, image_lab
from tests.lab.reference import ReferenceEngine

ROWS = ("import", "save", "load", "push", "pull")
DIRECTORIES = 350
# Part text, part noise: compresses to about half, as programs do.
TEXT = b"The quick brown fox jumps over the lazy dog. " * 1000


def make_tar(path: Path, megabytes: int, files: int) -> None:
    """A root file system of so many files."""
    size = megabytes * 1024 * 1024 // files
    noise = random.Random(1)
    with tarfile.open(path.with_suffix(".raw"), "w") as tar, tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "file"
        for number in range(files):
            file.write_bytes((TEXT * (size // len(TEXT) + 1))[: size // 2] + noise.randbytes(size - size // 2))
            tar.add(file, f"d{number % DIRECTORIES}/f{number}")
    path.with_suffix(".raw").rename(path)


def timed(engine: Engine | ReferenceEngine, *command: str) -> float:
    started = time.perf_counter()
    engine.docker(*command)
    return time.perf_counter() - started


def one_round(engine: Engine | ReferenceEngine, name: str, tar: Path, work: Path) -> dict[str, float]:
    """Seconds by row. The image is removed in between, so that nothing is there already."""
    saved = work / "saved.tar"
    seconds = {"import": timed(engine, "import", str(tar), name)}
    seconds["save"] = timed(engine, "save", "-o", str(saved), name)
    engine.docker("rmi", name)
    seconds["load"] = timed(engine, "load", "-i", str(saved))
    seconds["push"] = timed(engine, "push", name)
    engine.docker("rmi", name)
    seconds["pull"] = timed(engine, "pull", name)
    engine.docker("rmi", name)
    saved.unlink()
    return seconds


def _mark(tar: Path, number: int) -> None:
    """Make the layer another one in each round: registries mount what an engine has pushed elsewhere before."""
    with tarfile.open(tar, "a") as archive:
        data = str(number).encode()
        entry = tarfile.TarInfo(f"round{number}")
        entry.size = len(data)
        archive.addfile(entry, io.BytesIO(data))


def measure(lab: ImageLab, tar: Path, work: Path, rounds: int) -> dict[str, dict[str, list[float]]]:
    found: dict[str, dict[str, list[float]]] = {"davit": {}, "reference": {}}
    for number in range(rounds):
        _mark(tar, number)
        for label, engine in (("davit", lab.davit), ("reference", lab.reference)):
            # A repository of its own each time, so that the registry has nothing of it yet either.
            name = f"{lab.registry.domain}/{label}{number}:1"
            for row, seconds in one_round(engine, name, tar, work).items():
                found[label].setdefault(row, []).append(seconds)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--megabytes", type=int, default=128)
    parser.add_argument("--files", type=int, default=5000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        work = Path(directory)
        make_tar(work / "tree.tar", options.megabytes, options.files)
        with image_lab(work / "registry") as lab:
            found = measure(lab, work / "tree.tar", work, options.rounds)
    print(f"{options.megabytes} MB, {options.files} files, median of {options.rounds}")
    print(f"{'':10}{'davit s':>10}{'reference s':>14}{'ratio':>8}")
    for row in ROWS:
        ours, theirs = (statistics.median(found[label][row]) for label in ("davit", "reference"))
        print(f"{row:10}{ours:>10.2f}{theirs:>14.2f}{theirs / ours:>8.2f}")


if __name__ == "__main__":
    main()
