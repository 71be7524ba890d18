"""The Dockerfile shapes that people use most, and COPY and ADD in detail: the same files and configuration."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.conformance.build.conftest import BuildEngine

SHAPES = {
    "script": 'FROM busybox\nWORKDIR /app\nCOPY . .\nEXPOSE 8080\nCMD ["sh", "run.sh"]\n',
    "dependencies first": (
        "FROM busybox\nWORKDIR /usr/src/app\nCOPY package*.json ./\nRUN mkdir node_modules && cp package.json "
        "node_modules/installed\nCOPY . .\nENV NODE_ENV=production PORT=3000\nEXPOSE $PORT\nCMD node server.js\n"
    ),
    "compiled, from scratch": (
        "FROM busybox AS build\nWORKDIR /src\nCOPY src/ .\nRUN mkdir /out && cp /bin/busybox /out/app && chmod 755 "
        "/out/app\nFROM scratch\nCOPY --from=build /out/app /app\nCOPY --from=build /etc/passwd /etc/passwd\n"
        'USER nobody\nENTRYPOINT ["/app"]\n'
    ),
    "builder and runtime with a user": (
        "FROM busybox AS builder\nCOPY src /src\nRUN cat /src/* > /app.bin\nFROM busybox\n"
        "RUN echo 'web:x:100:101::/home/web:/bin/sh' >> /etc/passwd && echo 'web:x:101:' >> /etc/group && "
        "mkdir -p /home/web && chown web:web /home/web\nUSER web\nWORKDIR /home/web\n"
        "COPY --from=builder --chown=web:web /app.bin bin/\nCOPY --chown=web src data\nRUN id -u > uid\n"
    ),
    "arguments": (
        "ARG BASE=busybox\nARG VERSION=1\nFROM ${BASE}\nARG VERSION\nARG NAME=app OTHER\nENV V=${VERSION:-none} "
        "N=$NAME-${VERSION} M=${MISSING:-default}${NAME:+!}\nLABEL version=$VERSION\n"
        "RUN echo $VERSION $NAME $OTHER > /v\n"
    ),
    "service": (
        "FROM busybox\nCOPY run.sh /usr/local/bin/\nRUN chmod +x /usr/local/bin/run.sh && mkdir -p /data && echo 1 > "
        '/data/seed\nVOLUME ["/data"]\nEXPOSE 80 443/tcp 53/udp\nHEALTHCHECK --interval=30s --timeout=3s --retries=2 '
        'CMD wget -q localhost || exit 1\nENTRYPOINT ["run.sh"]\nCMD ["serve"]\n'
    ),
    "archives": "FROM busybox\nADD t.tgz /opt/\nADD t.tar t.xz /opt2/\nRUN ln -s /opt/top /bin/top2\n",
    "static site": (
        "FROM busybox\nRUN rm -rf /var/www && mkdir -p /var/www/html && echo old > /var/www/html/index.html\n"
        "COPY d /var/www/html\nCOPY run.sh /docker-entrypoint.d/\nSTOPSIGNAL SIGQUIT\n"
        'CMD ["nginx", "-g", "daemon off;"]\n'
    ),
    "packages and cleaning": (
        "FROM busybox\nRUN mkdir -p /var/lib/pkg/lists /var/cache/pkg && touch /var/lib/pkg/lists/x && "
        "chmod 700 /var/lib\n"
        "RUN rm -rf /var/lib/pkg/lists/* /var/cache && rm /bin/vi && mkdir /bin/vi && touch /bin/vi/file && "
        "rm -r /home && "
        "ln -s /root /home && chmod 1777 /var && mv /etc/group /etc/group- && "
        "touch -d '2001-01-01 00:00:00' /etc/passwd\n"
    ),
    "metadata": (
        'FROM busybox\nMAINTAINER some one <a@b.c>\nLABEL a=1 "b c"=\'d e\' \\\n  f="g\\"h"\nENV A 1  2\n'
        'ENV B="x y" C=$A\\ z\n'
        'SHELL ["/bin/sh", "-ec"]\nUSER 1000:1000\nWORKDIR rel\nWORKDIR $C\nONBUILD RUN echo child\n'
        "ENTRYPOINT echo hi\n"
        "HEALTHCHECK NONE\nSTOPSIGNAL 9\n"
    ),
    "stage as base": (
        "FROM busybox AS base\nENV K=1\nRUN echo base > /f\nFROM base AS test\nRUN echo test > /f\nFROM base\n"
        'COPY --from=test /f /g\nCOPY --from=0 /f /h\nCMD ["cat"]\n'
    ),
}

COPIES = [
    "COPY a.txt /",
    "COPY a.txt /new",
    "COPY a.txt /new/",
    "COPY a.txt b.txt /n/m/",
    "COPY d /o",
    "COPY d/ /o/",
    "COPY d /etc",
    "COPY linkd /o",
    "COPY linkf /o2/",
    "COPY *.txt /o/",
    "COPY d e /o/",
    "COPY . /all/",
    "COPY --chown=12:34 d /o",
    "COPY --chown=12 a.txt /p/q/",
    "COPY --chown=nobody a.txt /p/q",
    "ADD t.tar /o",
    "ADD t.tgz /",
    "ADD t.bz2 /o/",
    "ADD t.xz /o",
    "ADD plain.gz /o/",
    "COPY t.tar /o/",
    "WORKDIR /w/x\nCOPY a.txt .",
    "WORKDIR /w\nCOPY a.txt sub/",
    'COPY ["sp ace", "/q/"]',
    "COPY d /bin",
    "COPY sh /bin/",
    "COPY deep /",
    "COPY sticky /sticky",
    "COPY d /o\nCOPY e /o",
    "COPY d /o\nCOPY a.txt /o/sub",
    "COPY d /o\nCOPY a.txt /o/lnk",
    "COPY d /o\nCOPY b.txt /o/abs/zz",
    "COPY e /",
    "COPY a.txt /d2/../d3/f",
    "COPY d*/s* /o/",
    "COPY ?.txt [b].txt /o/",
    "ADD a.txt d /o/",
    "WORKDIR /etc/new",
    "WORKDIR /etc",
    "USER 5\nWORKDIR /u\nCOPY a.txt .",
    "COPY d /o\nFROM busybox\nCOPY --from=0 /o/lnk /k",
    "COPY --chown=3:4 d /o\nFROM busybox\nCOPY --from=0 /o /p\nCOPY --from=0 /o/x /q/\nCOPY --from=0 --chown=9 /o /r",
]

ERRORS = [
    "COPY nope /",
    "COPY no*pe /",
    "COPY ../x /",
    "COPY a.txt b.txt /nodir",
    "ADD d/* /nodir",
    "COPY --from=9 a /",
    "COPY --chown=nouser a.txt /",
    "COPY --from=busybox /nope /",
    "COPY http://x/y /",
    "STOPSIGNAL BOGUS",
    "EXPOSE 99999",
    'ENV a="x',
    "ENV a=${}",
    "BOGUS x",
    "RUN exit 7",
    "FROM busybox AS 1x",
    "HEALTHCHECK --interval=1us CMD x",
    "ONBUILD ONBUILD RUN x",
    "USER nosuch\nRUN id",
    "FROM scratch",
]


@dataclass(frozen=True)
class File:
    content: bytes = b""
    mode: int = 0o644
    owner: int = 0
    kind: bytes = tarfile.REGTYPE
    link: str = ""


def directory(mode: int = 0o755, owner: int = 0) -> File:
    return File(b"", mode, owner, tarfile.DIRTYPE)


def link(target: str) -> File:
    return File(b"", 0o777, 0, tarfile.SYMTYPE, target)


def tar(files: dict[str, File]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as out:
        for name, file in files.items():
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.linkname = file.kind, file.mode, file.link
            info.uid = info.gid = file.owner
            info.size, info.mtime = len(file.content), 1_600_000_000
            out.addfile(info, io.BytesIO(file.content))
    return buffer.getvalue()


def archive(compress: Callable[[bytes], bytes]) -> File:
    return File(
        compress(
            tar(
                {
                    "ad": directory(0o750, 3),
                    "ad/f": File(b"in archive", 0o640, 3),
                    "ad/l": link("f"),
                    "bin/new": File(b"x", 0o755, 5),
                    "top": File(b"top", 0o4755, 6),
                }
            )
        )
    )


FILES = {
    "a.txt": File(b"A"),
    "b.txt": File(b"B", 0o755, 7),
    "d": directory(0o700, 5),
    "d/x": File(b"X", 0o600, 5),
    "d/sub": directory(0o770, 6),
    "d/sub/y": File(b"Y"),
    "d/lnk": link("x"),
    "d/abs": link("/etc"),
    "linkd": link("d"),
    "linkf": link("d/sub/y"),
    "e": directory(),
    "sh": File(b"not a shell"),
    "deep": directory(),
    "deep/etc": directory(0o711, 9),
    "deep/etc/extra": File(b"h"),
    "sticky": directory(0o1777),
    "sp ace": File(b"sp"),
    "t.tar": archive(bytes),
    "t.tgz": archive(gzip.compress),
    "t.bz2": archive(bz2.compress),
    "t.xz": archive(lzma.compress),
    "plain.gz": File(gzip.compress(b"hello")),
    "package.json": File(b"{}"),
    "package-lock.json": File(b"{ }"),
    "server.js": File(b"//"),
    "run.sh": File(b"#!/bin/sh\n"),
    "src": directory(),
    "src/main.c": File(b"int main;"),
    ".dockerignore": File(b"Dockerfile\n"),
}


def context(dockerfile: str) -> bytes:
    return tar({"Dockerfile": File(dockerfile.encode()), **FILES})


@pytest.mark.parametrize("shape", SHAPES)
def test_shape(davit: BuildEngine, reference: BuildEngine, shape: str) -> None:
    data = context(SHAPES[shape])
    ours, theirs = davit.build(data, "--label", "of=test"), reference.build(data, "--label", "of=test")
    assert not theirs.error
    assert not ours.error
    assert ours.files == theirs.files
    assert ours.config == theirs.config


@pytest.mark.parametrize("lines", COPIES)
def test_copy(davit: BuildEngine, reference: BuildEngine, lines: str) -> None:
    data = context(f"FROM busybox\n{lines}\n")
    # The reference takes a file for another of the same content and destination from its cache.
    ours, theirs = davit.build(data, "--no-cache"), reference.build(data, "--no-cache")
    assert not theirs.error
    assert not ours.error
    assert ours.files == theirs.files


@pytest.mark.parametrize("lines", ERRORS)
def test_error(davit: BuildEngine, reference: BuildEngine, lines: str) -> None:
    data = context(f"FROM busybox\n{lines}\n")
    ours, theirs = davit.build(data), reference.build(data)
    assert theirs.error
    assert ours.error == theirs.error
