"""Debian's docker-registry on loopback, with or without users and TLS, for tests."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bcrypt import gensalt, hashpw

BINARY = shutil.which("docker-registry")
START_WITHIN_S = 10.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def bcrypt(password: str) -> str:
    """A quick hash of it, as ``htpasswd -B`` writes it."""
    return hashpw(password.encode()[:72], gensalt(4)).decode().replace("$2b$", "$2y$", 1)


def certificate(directory: Path) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1 and its key."""
    directory.mkdir(parents=True, exist_ok=True)
    cert, key = directory / "cert.pem", directory / "key.pem"
    subprocess.run(
        f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=registry "
        f"-addext subjectAltName=IP:127.0.0.1,DNS:localhost -keyout {key} -out {cert}".split(),
        check=True,
        capture_output=True,
    )
    return cert, key


class DockerRegistry:
    """A running registry; use as a context manager.

    Args:
        inside: The prefix of a command that runs where the registry shall listen: a network namespace.
    """

    def __init__(
        self,
        directory: Path,
        *,
        users: dict[str, str] | None = None,
        tls: bool = False,
        inside: Sequence[str] = (),
    ) -> None:
        self._inside = list(inside)
        self.port = free_port()
        self.domain = f"127.0.0.1:{self.port}"
        directory.mkdir(parents=True, exist_ok=True)
        self._log = (directory / "log").open("wb")
        http: dict[str, Any] = {"addr": self.domain}
        if tls:
            cert, key = certificate(directory)
            self.authority = cert
            http["tls"] = {"certificate": str(cert), "key": str(key)}
        config: dict[str, Any] = {
            "version": "0.1",
            "storage": {"filesystem": {"rootdirectory": str(directory / "data")}, "delete": {"enabled": True}},
            "http": http,
            "log": {"level": "error"},
        }
        if users:
            htpasswd = directory / "htpasswd"
            htpasswd.write_text("".join(f"{user}:{bcrypt(password)}\n" for user, password in users.items()))
            config["auth"] = {"htpasswd": {"realm": "test", "path": str(htpasswd)}}
        self._file = directory / "config.yml"
        self._file.write_text(json.dumps(config))  # JSON is YAML

    def __enter__(self) -> Self:
        assert BINARY is not None
        self._process = subprocess.Popen(
            [*self._inside, BINARY, "serve", str(self._file)], stdout=self._log, stderr=self._log
        )
        deadline = time.monotonic() + START_WITHIN_S
        while True:
            try:
                self._connect()
                return self
            except (OSError, subprocess.CalledProcessError):
                if time.monotonic() > deadline or self._process.poll() is not None:
                    self.__exit__(None, None, None)
                    raise
                time.sleep(0.05)

    def _connect(self) -> None:
        program = f"import socket; socket.create_connection(('127.0.0.1', {self.port}), 1).close()"
        subprocess.run([*self._inside, sys.executable, "-c", program], check=True, capture_output=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        self._log.close()
