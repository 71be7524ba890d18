"""Sizes: one grammar, whoever reads it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.executor.runtime.sizes import size_bytes
from shared.docker.logconfig import check_options
from shared.docker.sizes import UNITS, binary_bytes, decimal_bytes
from shared.errors import InvalidArgument

TEXTS = st.from_regex(r"\A[0-9]{0,20}\.?[0-9]{0,3} ?[kKmMgGtTpPbBeE]?[iI]?[bB]?\Z") | st.text(max_size=8)


@pytest.mark.parametrize(
    ("text", "binary", "decimal"),
    [
        ("0", 0, 0), ("10", 10, 10), ("10b", 10, 10), ("10k", 10 << 10, 10_000), ("1.5m", 1536 << 10, 1_500_000),
        ("2GB", 2 << 30, 2 * 10**9), ("10mib", 10 << 20, 10**7), ("1 KiB", 1024, 1000), ("10p", 10 << 50, 10**16),
        (".5k", 512, 500), ("1.k", 1024, 1000), ("1.9", 1, 1),
    ],
)  # fmt: skip
def test_readings(text: str, binary: int, decimal: int) -> None:
    assert (binary_bytes(text), decimal_bytes(text)) == (binary, decimal)


@pytest.mark.parametrize(
    "text",
    ["", " ", "k", "-1", "+1", "1e3", "10x", "10ki", "10bb", "1  k", " 1k", "1k ", "1.2.3", "²", "1k\n", "9999p"],
)
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid size: "):
        binary_bytes(text)
    with pytest.raises(ValueError, match="invalid size: "):
        size_bytes(text, 1024)


@given(st.integers(0, 2**53), st.sampled_from(UNITS), st.sampled_from(("", "b", "ib", "B", "iB")), st.booleans())
def test_letters_multiply(number: int, unit: str, rest: str, space: bool) -> None:
    text = f"{number}{' ' if space else ''}{unit}{rest}"
    for read, base in ((binary_bytes, 1024), (decimal_bytes, 1000)):
        value = number * base ** (UNITS.index(unit) + 1)
        if value < 2**63:
            assert read(text) == value
        else:
            with pytest.raises(InvalidArgument):
                read(text)


@given(TEXTS, st.sampled_from((1000, 1024)))
def test_the_runtime_reads_the_same(text: str, base: int) -> None:
    """A size that a create takes is one that the start takes, and the same."""
    try:
        wanted: int | None = (binary_bytes if base == 1024 else decimal_bytes)(text)
    except InvalidArgument:
        wanted = None
    try:
        found: int | None = size_bytes(text, base)
    except ValueError:
        found = None
    assert found == wanted


def test_options_of_logs_are_read_with_it() -> None:
    for text in ("10mib", "10p", "1.5 gb", "-1"):
        check_options("json-file", {"max-size": text}, "LogConfig.Config")
    with pytest.raises(InvalidArgument, match="invalid size: '10x'"):
        check_options("local", {"max-size": "10x"}, "LogConfig.Config")
