"""Space within an SQLite database for what is to be written when its disk is full.

Two files grow with a commit. The write-ahead log is written from its beginning again once a checkpoint has moved its
content; so it is grown ahead, and a checkpoint before each transaction on a full disk frees it. The database takes
free pages from its own list before it grows; so it is grown ahead, and the pages are given to that list. Blocks that a
file has are overwritten without new ones, except on file systems that copy on write.

Source: SQLite, "Write-Ahead Logging" and "Database File Format", sections 1.5 (the freelist) and 4.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from shared.state.reserve import free_bytes

# Some hundred containers can be stopped and removed with it.
RESERVE_BYTES = 2 << 20
# Where there is less room than this, the reserve is not what matters.
ROOM_NEEDED_BYTES = 16 * RESERVE_BYTES
BUSY_MS = 5000
# Pages; the rest is written at once, so that growing the file takes no memory of its size.
CACHE_PAGES = 32


def keep(path: Path) -> None:
    """Make the reserve of a database file in WAL mode, or make it whole again when half of it is used.

    Raises:
        sqlite3.Error: As every write does.
    """
    with closing(sqlite3.connect(path, timeout=BUSY_MS / 1000, isolation_level=None)) as raw:
        if _reserved_bytes(raw) >= RESERVE_BYTES // 2 or free_bytes(path.parent) < ROOM_NEEDED_BYTES:
            return
        raw.execute("PRAGMA journal_mode = WAL")
        raw.execute("PRAGMA synchronous = NORMAL")  # none of these commits has to last
        raw.execute(f"PRAGMA cache_size = {CACHE_PAGES}")
        raw.execute("DROP TABLE IF EXISTS reserve")  # left by a crash
        raw.execute("CREATE TABLE reserve (pages BLOB)")
        raw.execute("INSERT INTO reserve VALUES (zeroblob(?))", (RESERVE_BYTES,))
        # Pages that are freed before they have been written are never written: then the file would not have them.
        raw.execute("PRAGMA wal_checkpoint(FULL)")
        raw.execute("DROP TABLE reserve")


def _reserved_bytes(raw: sqlite3.Connection) -> int:
    pages = int(raw.execute("PRAGMA freelist_count").fetchone()[0])
    return pages * int(raw.execute("PRAGMA page_size").fetchone()[0])
