"""`docker top`: ps(1) as the host runs it, narrowed to a container's processes.

ps is the one program the agent runs, and only here: clients pass its arguments through and expect its columns.
"""

from __future__ import annotations

import asyncio
import re

from shared.contracts.containers import TopResult
from shared.errors import Internal, InvalidArgument

# Docker refuses what would make ps's columns unreadable: pid must stay a column of its own.
CUSTOM_PID_HEADING = re.compile(r"\s+(?:-?-?(?:o|O|format)[\s=]*)?\S*pid=\S*")
TIMEOUT_S = 5


def parse_ps(output: str, pids: set[int]) -> TopResult:
    """The lines of `pids` from ps's output.

    Raises:
        Internal: Without a PID column nothing can be told apart.
    """
    lines = output.splitlines()
    titles = lines[0].split() if lines else []
    if "PID" not in titles:
        raise Internal("Couldn't find PID field in ps output")
    column = titles.index("PID")
    rows: list[list[str]] = []
    for line in lines[1:]:
        fields = line.split(None, len(titles) - 1)
        if len(fields) > column and fields[column].isdigit() and int(fields[column]) in pids:
            rows.append(fields)
    return TopResult(titles=titles, processes=rows)


async def top(pids: set[int], ps_args: str) -> TopResult:
    """Raises InvalidArgument when ps refuses the arguments."""
    arguments = ps_args.split() or ["-ef"]
    if CUSTOM_PID_HEADING.search(" " + ps_args):
        raise InvalidArgument(f'specifying "{ps_args}" is not allowed: the PID column needs its own heading')
    process = await asyncio.create_subprocess_exec(
        "ps",
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        output, errors = await asyncio.wait_for(process.communicate(), TIMEOUT_S)
    except TimeoutError as error:
        process.kill()
        await process.wait()
        raise Internal("ps did not answer") from error
    if process.returncode != 0:
        reason = errors.decode(errors="replace").strip().partition("\n")[0]  # the rest is the program's usage
        raise InvalidArgument(f"ps: {reason}")
    return parse_ps(output.decode(errors="replace"), pids)
