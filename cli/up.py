"""`davit up`: start an engine, here or in the background."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli.common import exits
from cli.common.settings import IMAGES, LISTENING, LOGGING, RUNNING, Flag, setting_options, settings_of
from shared.bus.health import SERVICES
from shared.cluster.membership import ClusterDirectory
from shared.config import EngineConfig, unknown_variables
from shared.errors import InvalidArgument, Unsupported
from supervisor.checks import check_root
from supervisor.start import StartRefused, as_member, become_guardian, chosen_services, prepare, start_detached

FLAGS = [
    Flag(("--data-root",), "data_root", "Where images, containers and databases are kept.", "DIR"),
    Flag(("--run-dir",), "run_dir", "Sockets and process state.  [default: /run/davit]", "DIR"),
    Flag(("--node",), "node", "This machine's name.  [default: its host name]", "NAME"),
    Flag(("--nats",), "nats_url", "An existing message bus instead of the embedded one.", "URL"),
    Flag(("--database",), "database_url", "postgresql://… instead of SQLite files.", "URL"),
    *LISTENING,
    *LOGGING,
    *IMAGES,
    *RUNNING,
]


@click.command()
@click.option("-d", "--detach", is_flag=True, help="Return when the engine answers.")
@click.option("--services", metavar="A,B", help=f"Only these of {','.join(SERVICES)}.")
@click.option("--config-file", metavar="FILE", help="[default: /etc/davit/daemon.json]")
@click.option("--no-tls", is_flag=True, help="TCP without TLS, knowingly.")
@click.option("--no-tlsverify", is_flag=True, help="TCP without looking at clients' certificates, knowingly.")
@setting_options(FLAGS)
@click.pass_context
def command(
    context: click.Context,
    /,
    *,
    detach: bool,
    services: str | None,
    config_file: str | None,
    no_tls: bool,
    no_tlsverify: bool,
    **given: Any,
) -> int:
    """Start the engine: in the foreground until it is told to stop, or with --detach in the background.

    Ends with 78 when the configuration is wrong, with 1 when the engine cannot start.

    \b
    Examples:
      davit up --detach
      davit up --detach --data-root /srv/davit --run-dir /run/second
      davit up -H unix:///run/davit/docker.sock -H tcp://127.0.0.1:2375 --no-tlsverify
    """
    try:
        flags = settings_of(FLAGS, given)
        flags |= {name: False for name, refused in (("tls", no_tls), ("tlsverify", no_tlsverify)) if refused}
        if "run_dir" not in flags and (before := context.find_root().params.get("run_dir")):
            flags["run_dir"] = Path(before).absolute()
        for variable in unknown_variables():
            click.echo(f"davit: {variable} in the environment is no setting of the engine: ignored", err=True)
        file = Path(config_file).absolute() if config_file else None
        config = EngineConfig.load(file=file, flags=flags)
        check_root()  # before anything that only root may read
        membership = ClusterDirectory(config.data_root).membership()
        if membership is not None and membership.role == "worker":
            config, chosen, flags = as_member(membership, config, services, flags)
        else:
            chosen = chosen_services(services)
        for sentence in config.without_effect:
            click.echo(f"davit: without effect: {sentence}", err=True)
        prepare(config, chosen, flags, file)
    except (InvalidArgument, Unsupported) as error:
        raise exits.CommandFailed(str(error), exits.CONFIGURATION) from error
    if not detach:
        become_guardian(config)
    try:
        click.echo(f"davit is ready: {start_detached(config, chosen)}")
    except StartRefused as error:
        raise exits.CommandFailed(str(error), error.code) from error
    return exits.OK
