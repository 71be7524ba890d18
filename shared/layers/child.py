"""The confined child that reads and writes archives, forked from a warm process (`shared.layers.warm`).

::

    service                               child
      │ order: JSON                         │ opens its input, imports what it needs, then
      │ fd 0: a tar (or nothing)            │ chroot to fd 3, drops capabilities
      ├────────────────────────────────────►│ unpacks fd 0, or packs to fd 1
      │ fd 4: outcome, JSON ◄───────────────┤ {"ok": {...}} or {"error": {"kind", "message"}}

A service that dies closes the pipe, and the child ends with "unexpected EOF" or EPIPE. The standard library and the
decompressors only.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import queue
import shutil  # noqa: F401  # used by extract after the chroot, when nothing can be imported any more
import sys
import threading
from collections.abc import Iterator
from typing import Any

from shared.layers import archive, compression, confine, extract
from shared.layers.tarheader import TarError
from shared.layers.tarstream import TarStream

ROOT_FD = 3
OUTCOME_FD = 4
READ_BYTES = 1 << 20
WRITE_BYTES = 1 << 18
_QUEUED_PIECES = 8
SWITCH_INTERVAL_S = 0.0005


class _Plain:
    """The decompressed input, prepared by a thread while the main thread makes files of what came before."""

    def __init__(self, digest: bool) -> None:
        head = _first(0)
        self.compression = compression.detect(head)
        compression.prepare(self.compression)
        self._head = head
        self._digest = hashlib.sha256() if digest else None
        # With nothing to compute on the way, a second thread would only be waited for.
        self._direct = not digest and not self.compression
        self._pieces: queue.Queue[bytes | Exception] = queue.Queue(_QUEUED_PIECES)
        self._over = False
        self._buffer = bytearray(READ_BYTES)
        self.size_bytes = 0

    def start(self) -> None:
        if self._direct:
            return
        threading.Thread(target=self._run, daemon=True).start()

    def read(self) -> bytes:
        if self._over:
            return b""
        if self._direct:
            data = self._read_raw()
            self.size_bytes += len(data)
            self._over = not data
            return data
        piece = self._pieces.get()
        if isinstance(piece, Exception):
            raise piece
        self._over = not piece
        return piece

    def diff_id(self) -> str:
        return f"sha256:{self._digest.hexdigest()}" if self._digest else ""

    def _run(self) -> None:
        try:
            for piece in compression.decompressed(self._read_raw, self.compression):
                self.size_bytes += len(piece)
                self._pieces.put(piece)
                if self._digest:
                    self._digest.update(piece)
            self._pieces.put(b"")
        except Exception as error:  # handed to the main thread, which reports it
            self._pieces.put(error)

    def _read_raw(self) -> bytes:
        """Pieces as large as can be: each costs this thread a wait for the interpreter's lock."""
        head, self._head = self._head, b""
        if head:
            return head
        filled = 0
        buffer = memoryview(self._buffer)
        while filled < READ_BYTES and (count := os.readv(0, [buffer[filled:]])):
            filled += count
        return bytes(buffer[:filled])


def _first(descriptor: int) -> bytes:
    """Enough bytes to tell the compression."""
    head = b""
    while len(head) < compression.HEAD_BYTES:
        piece = os.read(descriptor, READ_BYTES)
        if not piece:
            break
        head += piece
    return head


def _unpack(order: dict[str, Any]) -> dict[str, Any]:
    plain = _Plain(order["digest"])
    owner = order.get("owner")
    options = extract.Options(
        layer=order["layer"],
        keep_kinds=order["keep_kinds"],
        owner=(owner[0], owner[1]) if owner else None,
        max_entries=order["max_entries"],
        max_bytes=order["max_bytes"],
        room_bytes=order["room_bytes"],
    )
    confine.confine(ROOT_FD)
    os.chdir(order["directory"])
    plain.start()
    tar = TarStream(plain.read)
    extractor = extract.Extractor(tar, options)
    extractor.run()
    tar.drain()
    return {
        "diff_id": plain.diff_id(),
        "compression": plain.compression,
        "tar_bytes": plain.size_bytes,
        "size_bytes": extractor.size_bytes,
        "entries": extractor.entries,
    }


def _pack(order: dict[str, Any]) -> dict[str, Any]:
    options = archive.Options(
        path=order["path"],
        name=order["name"],
        layer=order["layer"],
        exclude=frozenset(order["exclude"]),
        shallow=frozenset(order["shallow"]),
        one_file_system=order["one_file_system"],
    )
    confine.confine(ROOT_FD)
    with open(1, "wb", buffering=WRITE_BYTES, closefd=False) as output:

        def move(descriptor: int, size: int) -> int:
            output.flush()
            try:
                return os.splice(descriptor, 1, min(size, READ_BYTES))
            except OSError as error:
                if error.errno == errno.EINVAL:  # the output is no pipe, or the file system cannot do it
                    return 0
                raise

        archiver = archive.Archiver(output.write, options, move)
        archiver.run()
    return {"size_bytes": archiver.size_bytes, "entries": archiver.entries}


_JOBS = {"unpack": _unpack, "pack": _pack}


def carry_out(order: dict[str, Any]) -> None:
    """Do the job, tell the outcome, and end this process."""
    # The reading thread runs seldom and shortly, and the other one has nothing to do meanwhile.
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    try:
        outcome = {"ok": _JOBS[order["job"]](order)}
    except (TarError, compression.CompressionError) as error:
        outcome = {"error": {"kind": "archive", "message": str(error)}}
    except OSError as error:
        outcome = {"error": {"kind": "system", "message": _told(error), "errno": error.errno}}
    except Exception as error:  # the process's edge: told to the service, which reports it
        outcome = {"error": {"kind": "internal", "message": f"{type(error).__name__}: {error}"}}
    for chunk in _whole(json.dumps(outcome).encode("utf-8", "surrogatepass")):
        os.write(OUTCOME_FD, chunk)
    os._exit(0)


def warm_up() -> None:
    """Do before the fork what each child would otherwise do for itself."""
    confine.renounce()


def _told(error: OSError) -> str:
    """Its text; without the number where there is no path to name."""
    return str(error) if error.filename is not None or not error.strerror else error.strerror.lower()


def _whole(data: bytes) -> Iterator[bytes]:
    """One write: an outcome is far smaller than a pipe's buffer; names in errors are cut elsewhere."""
    yield data[:60000]
