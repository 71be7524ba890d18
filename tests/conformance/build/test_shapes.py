"""The Dockerfile shapes that people use most, and COPY and ADD in detail: the same files and configuration."""

from __future__ import annotations

import bz2
import gzip
import io
import json
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
    "python application": (
        "FROM busybox AS base\nENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1\nWORKDIR /app\n"
        "COPY requirements.txt ./\n"
        "RUN while read -r line; do mkdir -p /usr/lib/python/${line%%==*} && echo ${line#*==} > "
        "/usr/lib/python/${line%%==*}/VERSION; done < requirements.txt\nCOPY . .\n"
        "RUN echo 'app:x:5678:5678::/app:/bin/sh' >> /etc/passwd && chown -R 5678:5678 /app && chmod 750 /app\n"
        'USER app\nEXPOSE 8000\nCMD ["python", "-m", "app", "--bind", "0.0.0.0:8000"]\n'
    ),
    "node in stages": (
        "FROM busybox AS deps\nWORKDIR /app\nCOPY package.json package-lock.json* ./\n"
        "RUN mkdir -p node_modules/.bin node_modules/left-pad && echo x > node_modules/left-pad/index.js && "
        "ln -s ../left-pad/index.js node_modules/.bin/pad\n"
        "FROM busybox AS build\nWORKDIR /app\nCOPY --from=deps /app/node_modules ./node_modules\nCOPY . .\n"
        "RUN mkdir dist && cat server.js src/* > dist/server.js && rm -rf src\n"
        "FROM busybox AS run\nWORKDIR /app\nENV NODE_ENV=production\n"
        "RUN echo 'node:x:1000:1000::/home/node:/bin/sh' >> /etc/passwd && echo 'node:x:1000:' >> /etc/group\n"
        "COPY --from=build --chown=node:node /app/dist ./dist\nCOPY --from=deps /app/node_modules ./node_modules\n"
        'USER node\nEXPOSE 3000\nENV PORT 3000\nCMD ["node", "dist/server.js"]\n'
    ),
    "start script": (
        "FROM busybox\nCOPY --chown=0:0 run.sh /usr/local/bin/docker-entrypoint.sh\n"
        "RUN chmod 0755 /usr/local/bin/docker-entrypoint.sh && "
        "ln -s usr/local/bin/docker-entrypoint.sh /entrypoint.sh\nWORKDIR /data\nRUN chown 999:999 /data\n"
        'VOLUME /data\nENTRYPOINT ["docker-entrypoint.sh"]\nEXPOSE 6379\nCMD ["server", "--port", "6379"]\n'
    ),
    "archive and all settings": (
        "FROM busybox\nADD t.tgz /opt/app\nADD --chown=4:5 d.tar.gz plain.gz /opt/more/\n"
        "VOLUME /var/lib/app /var/log/app\n"
        'SHELL ["/bin/sh", "-exc"]\nRUN test -f /opt/app/top; mkdir -p /var/lib/app; echo kept > /var/lib/app/x\n'
        'HEALTHCHECK --interval=1m30s --timeout=10s --start-period=5s --retries=5 CMD ["/opt/app/top", "check"]\n'
        "STOPSIGNAL SIGINT\nENTRYPOINT exec /opt/app/top\nCMD serve\n"
    ),
    "matrix of arguments": (
        "ARG TAG=latest\nARG BASE=busybox:${TAG}\nFROM ${BASE} AS base\nARG FLAVOUR=plain\nARG HTTP_PROXY\n"
        'ENV FLAVOUR=${FLAVOUR} PATH=/opt/$FLAVOUR/bin:$PATH\nRUN echo "$FLAVOUR $TAG $HTTP_PROXY" > /made\n'
        'FROM base AS debug\nARG LEVEL=1\nENV LEVEL=$LEVEL\nLABEL level=${LEVEL} flavour="$FLAVOUR"\n'
        "RUN echo $LEVEL > /level\nFROM ${FINAL:-base}\nARG TAG\nARG LEVEL\nENV TAG=$TAG LEVEL=${LEVEL:-none}\n"
        "RUN env | grep -v -e HOSTNAME -e HOME | sort > /env\n"
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

ARGUMENTS = {
    "matrix of arguments": (
        "--build-arg", "FLAVOUR=spicy", "--build-arg", "LEVEL=7", "--build-arg", "HTTP_PROXY=http://proxy:1",
    ),
    "node in stages": ("--target", "run"),
}  # fmt: skip
PARENT = (
    "FROM busybox\nWORKDIR /onbuild\nRUN echo parent > made\nONBUILD ARG WHO=child\nONBUILD COPY . /onbuild/app\n"
    "ONBUILD RUN echo $WHO > /onbuild/who && cat made >> /onbuild/who\nONBUILD USER 12\nENV FROM_PARENT=1\n"
)
CHILD = 'FROM conformance:parent\nRUN id -u > /tmp/uid\nCMD ["app"]\n'
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
    "requirements.txt": File(b"flask==2.0\ngunicorn==20.1\n"),
    "d.tar.gz": archive(gzip.compress),
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
    arguments = ("--label", "of=test", *ARGUMENTS.get(shape, ()))
    ours, theirs = davit.build(data, *arguments), reference.build(data, *arguments)
    assert not theirs.error
    assert not ours.error
    assert ours.files == theirs.files
    assert ours.config == theirs.config


def test_child_of_an_image_with_triggers(davit: BuildEngine, reference: BuildEngine) -> None:
    outcomes = []
    for engine in (davit, reference):
        engine.run("build", "-t", "conformance:parent", "-", data=context(PARENT))
        outcomes.append(engine.build(context(CHILD), "--build-arg", "WHO=me"))
        triggers = engine.run("image", "inspect", "-f", "{{json .Config.OnBuild}}", "conformance:parent").stdout
        assert len(json.loads(triggers)) == 4
        engine.run("rmi", "conformance:parent")
    ours, theirs = outcomes
    assert not theirs.error
    assert ours == theirs


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
