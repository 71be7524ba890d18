"""Lists on the terminal, in a pipe, as JSON, or through a template: the same options wherever something is listed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import click

from cli.common import template

Function = TypeVar("Function", bound=Callable[..., Any])
Row = Mapping[str, Any]
JSON_LINES = "json"
TABLE = "table"


def listing_options(function: Function) -> Function:
    """Adds ``--json`` and ``--format``; the command hands both to `show`."""
    function = click.option("--json", "as_json", is_flag=True, help="The list as one JSON array.")(function)
    return click.option(
        "--format",
        "form",
        metavar="FORM",
        help="json (an object a line), table, or a template: '{{.Name}}', 'table {{.ID}}\\t{{.Name}}'.",
    )(function)


def show(rows: Sequence[Row], columns: Mapping[str, str], *, as_json: bool = False, form: str | None = None) -> None:
    """Write a list to the standard output.

    Args:
        rows: What is listed; the keys are the fields that templates and JSON have.
        columns: Heading -> field, for the table.
        as_json: One array of all rows, whole.
        form: ``json``, ``table``, ``table TEMPLATE`` or ``TEMPLATE``; None is the table.

    Raises:
        InvalidArgument: The template is not understood.
    """
    if as_json:
        click.echo(json.dumps(list(rows), indent=2, ensure_ascii=False))
    elif form is None or form.strip() == TABLE:
        table(list(columns), [[template.shown(row[field]) for field in columns.values()] for row in rows])
    elif form.startswith(f"{TABLE} "):
        headings = {field: heading for heading, field in columns.items()}
        text = form.removeprefix(TABLE).strip()
        names = [headings.get(field, field.upper()) for field in template.fields_of(text)]
        table(names, [template.render(text, row).split("\t") for row in rows])
    else:
        for row in rows:
            show_one(row, form)


def show_one(row: Row, form: str) -> None:
    """One row by itself, as it comes: a line of JSON, or the template. Raises as `show` does."""
    if form.strip() == JSON_LINES:
        click.echo(json.dumps(row, ensure_ascii=False))
    else:
        click.echo(template.render(form, row))
    sys.stdout.flush()


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table: fitted to the terminal where there is one, in plain columns that `awk` can take apart elsewhere."""
    lines = [list(row) for row in rows]
    if sys.stdout.isatty():
        _fitted(headings, lines)
        return
    everything = [list(headings), *lines]
    count = max(len(row) for row in everything)
    filled = [row + [""] * (count - len(row)) for row in everything]
    widths = [max(len(row[column]) for row in filled) for column in range(count)]
    for row in filled:
        click.echo("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _fitted(headings: Sequence[str], rows: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for heading in headings:
        shown.add_column(heading, no_wrap=heading in ("ID", "CONTAINER ID", "IMAGE ID", "PID"), overflow="fold")
    for row in rows:
        shown.add_row(*(Text(cell) for cell in row))
    Console(highlight=False).print(shown)
