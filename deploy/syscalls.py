#!/usr/bin/env python3
"""Make the tables of system calls anew from a Linux source tree.

    deploy/syscalls.py LINUX            print what the tables lack, and what they have that the tree does not
    deploy/syscalls.py LINUX --write    write the tables into services/executor/runtime/kernel/syscalls.py

LINUX is the directory of an unpacked kernel, 6.11 or newer. Run it when a kernel with new calls is released: a filter
that names a call which the tables lack leaves it out, as libseccomp does.

Source: linux, scripts/syscall.tbl and arch/{x86/entry/syscalls,arm/tools}/*.tbl: "number abi name …"; the ABIs of each
architecture from arch/*/kernel/Makefile.syscalls.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from pathlib import Path

MODULE = Path(__file__).parent.parent / "services/executor/runtime/kernel/syscalls.py"
WIDTH = 116

# architecture -> table in the tree, ABIs that are its own
TABLES = {
    "x86_64": ("arch/x86/entry/syscalls/syscall_64.tbl", {"common", "64"}),
    "x86": ("arch/x86/entry/syscalls/syscall_32.tbl", {"i386"}),
    "x32": ("arch/x86/entry/syscalls/syscall_64.tbl", {"common", "x32"}),
    "aarch64": ("scripts/syscall.tbl", {"common", "64", "renameat", "rlimit", "memfd_secret"}),
    "arm": ("arch/arm/tools/syscall.tbl", {"common", "eabi"}),
}
# Calls of one architecture that stand in its headers only. Source: arch/arm/include/uapi/asm/unistd.h.
PRIVATE = {
    "arm": {"breakpoint": 983041, "cacheflush": 983042, "usr26": 983043, "usr32": 983044, "set_tls": 983045,
            "get_tls": 983046},
}  # fmt: skip


def read(text: str, abis: set[str]) -> dict[str, int]:
    """Number by name of a table's calls that are of some ABIs."""
    found = {}
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        if len(words) >= 3 and words[1] in abis:
            found[words[2]] = int(words[0])
    return found


def tables(tree: Path) -> dict[str, dict[str, int]]:
    """Every architecture's calls. Raises OSError when this is no such tree."""
    return {
        architecture: read((tree / path).read_text(), abis) | PRIVATE.get(architecture, {})
        for architecture, (path, abis) in TABLES.items()
    }


def packed(table: dict[str, int]) -> str:
    """Runs of consecutive numbers, as the module keeps them."""
    runs: list[str] = []
    following = -1
    for name, number in sorted(table.items(), key=lambda item: item[1]):
        if number == following:
            runs[-1] += f" {name}"
        else:
            runs.append(f"{number}: {name}")
        following = number + 1
    return "\n".join("\n".join(textwrap.wrap(run, WIDTH, break_on_hyphens=False)) for run in runs)


def replaced(module: str, found: dict[str, dict[str, int]]) -> str:
    """The module's text with other tables. Raises ValueError when it has no place for one."""
    for architecture, table in found.items():
        before = f'    "{architecture}": """\n'
        start = module.index(before) + len(before)
        module = module[:start] + packed(table) + module[module.index('\n""",', start) :]
    return module


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tree", type=Path, metavar="LINUX")
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    found = tables(asked.tree)
    if asked.write:
        MODULE.write_text(replaced(MODULE.read_text(), found))
        return 0
    sys.path.insert(0, str(MODULE.parents[4]))
    from services.executor.runtime.kernel.syscalls import numbers

    differences = 0
    for architecture, table in found.items():
        for name, number in sorted(table.items() ^ numbers(architecture).items()):
            where = "missing" if name in table else "not in the tree"
            sys.stdout.write(f"{architecture}: {name} {number} is {where}\n")
            differences += 1
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
