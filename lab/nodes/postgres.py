"""The lab's database: a Postgres of this machine's package, in a node of its own.

``python -m lab.nodes.postgres DATA PASSWORD_FILE`` makes the database when there is none, starts the server and
returns once it answers.

Source: PostgreSQL documentation, "initdb", "pg_ctl", "The pg_hba.conf File".
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path

USER = "davit"
_PACKAGED = Path("/usr/lib/postgresql")
_SETTINGS = {
    "listen_addresses": "'*'",
    "shared_buffers": "32MB",
    "max_connections": "200",
    "unix_socket_directories": "''",
}
_START_WITHIN_S = "30"


def binaries() -> Path | None:
    """The directory of the newest server's programs; None when there is no server."""
    found = sorted(_PACKAGED.glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]), reverse=True)
    if found:
        return found[0].parent
    elsewhere = shutil.which("initdb")
    return Path(elsewhere).resolve().parent if elsewhere else None


def main(data: Path, password: Path) -> int:
    programs = binaries()
    if programs is None:
        print("postgres is not installed: apt install postgresql", file=sys.stderr)  # noqa: T201  # to start.log
        return 1
    cluster = data / "cluster"
    if not (cluster / "PG_VERSION").exists():
        shutil.rmtree(cluster, ignore_errors=True)  # half made by an earlier life
        cluster.mkdir()
        _own(cluster)
        _own(password)
        _run(
            programs,
            "initdb",
            "-U",
            USER,
            "-A",
            "scram-sha-256",
            f"--pwfile={password}",
            "-E",
            "UTF8",
            "-D",
            str(cluster),
        )
        with (cluster / "pg_hba.conf").open("a") as rules:
            rules.write("host all all 0.0.0.0/0 scram-sha-256\n")
    (cluster / "postmaster.pid").unlink(missing_ok=True)  # of a server that lost its power
    with (cluster / "postgresql.auto.conf").open("w") as settings:
        settings.writelines(f"{name} = {value}\n" for name, value in _SETTINGS.items())
    _own(cluster / "postgresql.auto.conf")
    log = cluster / "server.log"
    _run(programs, "pg_ctl", "start", "-w", "-t", _START_WITHIN_S, "-D", str(cluster), "-l", str(log))
    _make_database(programs, password)
    return 0


def _make_database(programs: Path, password: Path) -> None:
    environment = {**os.environ, "PGPASSWORD": password.read_text()}
    where = ["-h", "127.0.0.1", "-U", USER]
    listed = subprocess.run([programs / "psql", *where, "-Atc", f"select 1 from pg_database where datname = '{USER}'",
                             "postgres"], env=environment, check=True, capture_output=True, text=True)  # fmt: skip
    if not listed.stdout.strip():
        subprocess.run([programs / "createdb", *where, USER], env=environment, check=True)


def _account() -> pwd.struct_passwd:
    """Postgres refuses to run as root."""
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    return pwd.getpwuid(65534)


def _own(path: Path) -> None:
    account = _account()
    os.chown(path, account.pw_uid, account.pw_gid)


def _run(programs: Path, name: str, *arguments: str) -> None:
    account = _account()
    subprocess.run(
        [programs / name, *arguments], check=True, cwd="/", stdin=subprocess.DEVNULL,
        user=account.pw_uid, group=account.pw_gid, extra_groups=[],
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
