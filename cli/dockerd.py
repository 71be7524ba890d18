"""`davit dockerd`: the engine in the foreground by dockerd's command line, for those who start an engine by that."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from cli.common import exits
from cli.common.dockerflags import FLAGS, refused
from cli.common.settings import setting_options, settings_of
from shared.config import EngineConfig, unknown_variables
from shared.errors import DavitError, InvalidArgument
from shared.version import VERSION
from supervisor.start import become_guardian, chosen_services, prepare

DOCKERS_FILE = Path("/etc/docker/daemon.json")
SOCKET, PIDFILE = "unix:///var/run/docker.sock", "/var/run/docker.pid"
FIRST_ACTIVATED = 3  # SD_LISTEN_FDS_START, sd_listen_fds(3)


@click.command()
@click.option("--config-file", metavar="FILE", help=f"[default: {DOCKERS_FILE} if it is there]")
@click.option("--validate", is_flag=True, help="Check the configuration, and end.")
@click.version_option(VERSION, "-v", "--version", message="Docker version %(version)s, build davit")
@setting_options(FLAGS)
@refused
def command(*, config_file: str | None, validate: bool, **given: Any) -> None:
    """Run the engine in the foreground, with dockerd's flags.

    Defaults are dockerd's: it listens on /var/run/docker.sock, and its containers end with it unless --live-restore is
    given. SIGTERM and SIGINT end it, SIGHUP reads the configuration file again; when it is killed all of it ends but
    the containers, which the next one with the same --data-root and --exec-root takes over.

    \b
    Examples:
      davit dockerd
      davit dockerd --data-root /srv/d --exec-root /run/d -H unix:///run/d/docker.sock --live-restore
      davit dockerd --config-file ./daemon.json --validate
    """
    try:
        for variable in unknown_variables():
            click.echo(f"dockerd: {variable} in the environment is no setting of the engine: ignored", err=True)
        file = Path(config_file).absolute() if config_file else DOCKERS_FILE if DOCKERS_FILE.exists() else None
        flags = settings_of(FLAGS, given)
        in_file = _keys_of(file)
        _check_twice(flags, in_file, file)
        config = EngineConfig.load(file=file, flags=with_defaults(flags, in_file))
        if validate:
            click.echo("configuration OK", err=True)
            return
        prepare(config, chosen_services(None), with_defaults(flags, in_file), file, tied=True)
    except DavitError as error:
        raise exits.CommandFailed(f"failed to start daemon: {error}") from error
    become_guardian(config)


def _keys_of(file: Path | None) -> dict[str, Any]:
    """The keys of a configuration file that can be read; what is wrong with another is told when it is loaded."""
    if file is None:
        return {}
    try:
        values = json.loads(file.read_bytes() or b"{}")
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _check_twice(flags: Mapping[str, Any], in_file: Mapping[str, Any], file: Path | None) -> None:
    """dockerd refuses what is said in both places. Raises InvalidArgument, in its words."""
    names = {"exec-root" if name == "run_dir" else name.replace("_", "-"): value for name, value in flags.items()}
    twice = [
        f"{name}: (from flag: {value}, from file: {in_file[name]})"
        for name, value in names.items()
        if name in in_file and name != "runtimes"
    ]
    if twice:
        raise InvalidArgument(
            f"unable to configure the Docker daemon with file {file}: the following directives are specified both as "
            f"a flag and in the configuration file: {', '.join(twice)}"
        )


def with_defaults(flags: Mapping[str, Any], in_file: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the flags, and dockerd's defaults for what neither flag, file nor environment says."""
    settings = dict(flags)

    def default(name: str, value: Any) -> None:
        said = name.replace("_", "-") in in_file or os.environ.get(f"DAVIT_{name.upper()}")
        if name not in settings and not said:
            settings[name] = value

    default("live_restore", False)
    default("hosts", [SOCKET])
    run_dir = settings.get("run_dir") or in_file.get("exec-root") or in_file.get("run-dir")
    default("pidfile", f"{run_dir}/docker.pid" if run_dir else PIDFILE)
    if settings.get("tls") or settings.get("tlsverify") or in_file.get("tls") or in_file.get("tlsverify"):
        directory = os.environ.get("DOCKER_CERT_PATH") or os.path.expanduser("~/.docker")
        for name, file in (("tlscacert", "ca.pem"), ("tlscert", "cert.pem"), ("tlskey", "key.pem")):
            if name != "tlscacert" or settings.get("tlsverify") or in_file.get("tlsverify"):
                default(name, f"{directory}/{file}")
    if "hosts" in settings:
        settings["hosts"] = [address for host in settings["hosts"] for address in addresses(host)]
    return settings


def addresses(host: str) -> list[str]:
    """What a ``--host`` of dockerd's means: a scheme may be missing, and so may the rest.

    Raises:
        InvalidArgument: ``fd://`` without sockets of systemd's.
    """
    scheme, separator, rest = host.partition("://")
    if not separator:
        return [f"tcp://{host}"]
    if scheme == "unix" and not rest:
        return [SOCKET]
    if scheme == "tcp" and (not rest or rest.startswith(":")):
        return [f"tcp://{'127.0.0.1:2375' if not rest else '0.0.0.0' + rest}"]
    if scheme != "fd":
        return [host]
    count = int(os.environ.get("LISTEN_FDS") or 0)
    if not count or os.environ.get("LISTEN_PID") != str(os.getpid()):
        raise InvalidArgument("fd://: no sockets were handed over (LISTEN_FDS): give -H unix:///PATH", field="hosts")
    return [f"fd://{FIRST_ACTIVATED + number}" for number in range(count)]
