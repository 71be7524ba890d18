"""A named network namespace for one engine, with loopback up and nothing else in it."""

from __future__ import annotations

import os
import secrets
import subprocess
from types import TracebackType


def run(*command: str, check: bool = True, **options: object) -> subprocess.CompletedProcess[str]:
    """Run a program; its output as text. Raises AssertionError with that output when it fails."""
    result: subprocess.CompletedProcess[str] = subprocess.run(  # type: ignore[call-overload]
        command, capture_output=True, text=True, check=False, **options
    )
    if check and result.returncode != 0:
        raise AssertionError(f"{' '.join(command)} exited {result.returncode}:\n{result.stdout}{result.stderr}")
    return result


class NetworkNamespace:
    """Context manager; `enter` is the prefix of a command that runs inside.

    nsenter(1) rather than `ip netns exec`, which would hide /sys/fs/cgroup behind a new sysfs.
    """

    def __init__(self, prefix: str = "dvt") -> None:
        self.name = f"{prefix}-{os.getpid()}-{secrets.token_hex(3)}"

    def __enter__(self) -> NetworkNamespace:
        run("ip", "netns", "add", self.name)
        run("ip", "-n", self.name, "link", "set", "lo", "up")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        run("ip", "netns", "delete", self.name)

    @property
    def enter(self) -> list[str]:
        return ["nsenter", f"--net=/run/netns/{self.name}", "--"]
