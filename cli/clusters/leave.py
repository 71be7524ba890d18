"""`davit cluster leave`."""

from __future__ import annotations

from pathlib import Path

import click

from cli.common import exits
from cli.common.engine import Engine, engine_options
from cli.down import down
from shared.cluster.membership import ClusterDirectory
from shared.errors import Conflict
from supervisor.state import EngineState


@click.command()
@engine_options
@click.option("--force", is_flag=True, help="Also when this is the last manager: the cluster ends with it.")
def command(engine: Engine, *, force: bool) -> int:
    """Leave the cluster.

    A node stops, with its containers, and is no node any more; the manager shows it as down until it is removed there
    (davit node rm). A manager goes on as an engine of its own.

    \b
    Examples:
      davit cluster leave
      davit cluster leave --force
    """
    state = EngineState.read(engine.run_dir)
    if state is None:
        raise Conflict(f"davit is not running in {engine.run_dir}")
    directory = ClusterDirectory(Path(state.data_root))
    membership = directory.membership()
    if membership is None:
        raise Conflict("this machine is in no cluster")
    if membership.role == "manager":
        engine.client().post(f"/swarm/leave?force={int(force)}")
        click.echo("this engine is in no cluster any more")
        return exits.OK
    code = down(engine.run_dir, containers=True, timeout_s=None)
    if code == exits.OK:
        directory.leave()
        click.echo("this machine is in no cluster any more")
    return code
