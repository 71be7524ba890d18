"""Lists: the table, JSON, and the templates."""

from __future__ import annotations

import json

import pytest

from cli.common.output import show
from cli.common.template import render
from cli.common.values import size
from shared.errors import InvalidArgument

ROWS = [
    {"ID": "1", "Name": "web", "Labels": {"a": "1"}, "Ports": []},
    {"ID": "22", "Name": "database", "Labels": {}, "Ports": ["80/tcp"]},
]
COLUMNS = {"ID": "ID", "NAME": "Name"}


def test_a_table_in_a_pipe_has_plain_columns(capfd: pytest.CaptureFixture[str]) -> None:
    show(ROWS, COLUMNS)
    assert capfd.readouterr().out == "ID   NAME\n1    web\n22   database\n"


def test_an_empty_list_has_its_headings(capfd: pytest.CaptureFixture[str]) -> None:
    show([], COLUMNS)
    assert capfd.readouterr().out == "ID   NAME\n"


def test_json_is_one_array_or_an_object_a_line(capfd: pytest.CaptureFixture[str]) -> None:
    show(ROWS, COLUMNS, as_json=True)
    assert json.loads(capfd.readouterr().out) == ROWS
    show(ROWS, COLUMNS, form="json")
    assert [json.loads(line) for line in capfd.readouterr().out.splitlines()] == ROWS


def test_templates(capfd: pytest.CaptureFixture[str]) -> None:
    show(ROWS, COLUMNS, form="{{.Name}} is {{ upper .ID }}")
    assert capfd.readouterr().out == "web is 1\ndatabase is 22\n"
    show(ROWS, COLUMNS, form="table {{.Name}}\\t{{.Ports}}")
    assert capfd.readouterr().out == "NAME       PORTS\nweb\ndatabase   80/tcp\n"


@pytest.mark.parametrize(
    ("template", "shown"),
    [
        ("{{.Labels.a}}", "1"),
        ("{{json .Labels}}", '{"a": "1"}'),
        ("{{len .Name}}", "3"),
        ("{{json .}}", json.dumps(ROWS[0])),
        ("nothing", "nothing"),
    ],
)
def test_what_a_template_may_have(template: str, shown: str) -> None:
    assert render(template, ROWS[0]) == shown


@pytest.mark.parametrize(
    ("template", "words"),
    [("{{.Nmae}}", "there is no field .Nmae; there are ID, Name"), ("{{range .}}x{{end}}", "range"), ("{{}}", "{{}}")],
)
def test_what_a_template_may_not_have_is_named(template: str, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        render(template, ROWS[0])


@pytest.mark.parametrize(("count", "text"), [(0, "0B"), (999, "999B"), (4_270_000, "4.27MB"), (123_456_789, "123MB")])
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text
