"""`davit cluster join`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli.common import exits
from cli.common.settings import LOGGING, RUNNING, Flag, setting_options, settings_of
from shared.cluster.membership import ClusterDirectory
from shared.cluster.tokens import parse
from shared.config import EngineConfig
from shared.errors import Conflict, InvalidArgument, Unsupported
from supervisor.start import StartRefused, as_member, prepare, start_detached

FLAGS = [
    Flag(("--data-root",), "data_root", "Where layers and containers are kept.", "DIR"),
    Flag(("--run-dir",), "run_dir", "Sockets and process state.  [default: /run/davit]", "DIR"),
    Flag(("--node",), "node", "This machine's name in the cluster.  [default: its host name]", "NAME"),
    *LOGGING,
    *RUNNING,
]


@click.command()
@click.argument("address")
@click.option("--token", required=True, help="What `davit cluster init` or `davit cluster token` printed.")
@click.option("--advertise", default="", metavar="ADDR", help="Where the others reach this machine.")
@click.option("--config-file", metavar="FILE", help="[default: /etc/davit/daemon.json]")
@setting_options(FLAGS)
def command(address: str, *, token: str, advertise: str, config_file: str | None, **given: Any) -> int:
    """Start this machine as a node of the cluster whose manager is at ADDRESS.

    The node runs what the manager gives it; containers are asked for at the manager. From now on `davit up` with the
    same --data-root starts it again.

    \b
    Examples:
      davit cluster join --token SWMTKN-1-… 10.0.0.1:2377
    """
    try:
        flags = settings_of(FLAGS, given)
        file = Path(config_file).absolute() if config_file else None
        config = EngineConfig.load(file=file, flags=flags)
        secret = parse(token)
        directory = ClusterDirectory(config.data_root)
        if (member := directory.membership()) is not None:
            raise Conflict(f"{config.data_root} belongs to node {member.node} of a cluster already: davit up starts it")
        if (config.data_root / "db").exists():
            raise Conflict(
                f"{config.data_root} is that of an engine of its own, whose containers no manager would know of: "
                "give another --data-root"
            )
    except (InvalidArgument, Unsupported) as error:
        raise exits.CommandFailed(str(error), exits.CONFIGURATION) from error
    from shared.cluster.joining import join

    joined = join(directory, address, secret, node=config.node, advertise=advertise)
    try:
        config, services, flags = as_member(joined, config, None, flags)
        prepare(config, services, flags, file)
        start_detached(config, services)
    except StartRefused as error:
        raise exits.CommandFailed(str(error), error.code) from error
    click.echo(f"this machine is node {joined.node} of the cluster now, managed at {', '.join(joined.managers)}")
    return exits.OK
