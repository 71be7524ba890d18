"""What the documents name is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from services.api.app import all_routes

ROOT = Path(__file__).parents[3]
COMPATIBILITY = (ROOT / "docs" / "compatibility.md").read_text()
DOCUMENTS = [*sorted(ROOT.glob("*.md")), ROOT / "tests" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def named_tests() -> set[str]:
    return {name.removeprefix("tests/") for name in re.findall(r"`([\w/]+\.py::[\w:]+)`", COMPATIBILITY)}


@pytest.mark.parametrize("name", sorted(named_tests()))
def test_a_test_that_is_named_exists(name: str) -> None:
    file, *parts = name.split("::")
    text = (ROOT / "tests" / file).read_text()
    assert re.search(rf"def {parts[-1]}\(", text)
    assert all(re.search(rf"^class {part}\b", text, re.M) for part in parts[:-1])


def served_paths() -> set[str]:
    return {route.path for route in all_routes() if route.include_in_schema}


def test_every_endpoint_is_listed() -> None:
    listed = re.sub(r"\{\w+\}", "{}", COMPATIBILITY)
    for path in served_paths():
        plain = re.sub(r"\{[\w:]+\}", "{}", path)
        first, last = "/" + plain.split("/")[1], "/" + plain.rsplit("/", 1)[1]
        assert plain in listed or (first in listed and (last in listed or last == "/{}")), path


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text()):
        assert (document.parent / target).exists(), target


def test_the_changelog_is_sorted_and_whole() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    assert not re.findall(r"^(?:<<<<<<<|=======|>>>>>>>).*", text, re.M), "a merge that was not finished"
    sections = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (.*)", text, re.M)) <= sections
    entries = [line for line in text.splitlines() if line.startswith("- ")]
    assert len(entries) == len(set(entries)), "an entry that is there twice"


ADRS = sorted((ROOT / "docs" / "adr").glob("[0-9]*.md"))


def test_each_decision_has_a_number_of_its_own() -> None:
    numbers = [path.name[:3] for path in ADRS]
    assert len(numbers) == len(set(numbers)), numbers


@pytest.mark.parametrize("path", ADRS, ids=lambda path: path.stem)
def test_each_decision_is_in_the_index(path: Path) -> None:
    title = path.read_text().split("\n", 1)[0].removeprefix("# ")
    assert title.startswith(f"{int(path.name[:3])}. "), "its title begins with its number"
    assert f"- [{title}]({path.name})" in (ROOT / "docs" / "adr" / "README.md").read_text(), (
        "a line for docs/adr/README.md"
    )


def test_make_checks_every_package() -> None:
    """What is checked by hand is what continuous integration checks, and no package is left out."""
    made = re.search(r"^CODE := (.*)", (ROOT / "Makefile").read_text(), re.M)
    tested = re.search(r"^mypy (.*)", (ROOT / "deploy" / "test.sh").read_text(), re.M)
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} | {"services", "shared", "benchmarks"}
    assert made is not None
    assert tested is not None
    assert set(made[1].split()) == set(tested[1].split()) >= packages - {"migrations"}
