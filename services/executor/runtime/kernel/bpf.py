"""Assemblers for the two machines the kernel lets us program: classic BPF (seccomp) and eBPF (cgroup v2 devices).

Source: kernel networking/filter.rst, bpf/standardization/instruction-set.rst; seccomp(2), bpf(2).
"""

from __future__ import annotations

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Instruction = tuple[int, int, int, int]
    """Classic: code, jump if true, jump if false (counted from the next instruction), constant."""

LD_ABS, ALU_AND, RET, JA = 0x20, 0x54, 0x06, 0x05
JEQ, JGT, JGE = 0x15, 0x25, 0x35
FAIL = -1
"""Stands for "to the end of the fragment", until `patched`."""
MAX_CLASSIC = 4096

_INSTRUCTION = struct.Struct("=HBBI")


def load(offset: int) -> Instruction:
    """Accumulator = the 32 bits at `offset` of the data."""
    return (LD_ABS, 0, 0, offset)


def jump(code: int, value: int, *, true: int = 0, false: int = 0) -> Instruction:
    """Compare the accumulator with `value`."""
    return (code, true, false, value & 0xFFFFFFFF)


def ret(value: int) -> Instruction:
    """End with `value`."""
    return (RET, 0, 0, value)


def patched(fragment: list[Instruction]) -> list[Instruction]:
    """`fragment` with every `FAIL` made a jump just past its end."""
    end = len(fragment) - 1
    return [
        (code, end - index if true == FAIL else true, end - index if false == FAIL else false, value)
        for index, (code, true, false, value) in enumerate(fragment)
    ]


def assemble(program: list[Instruction]) -> bytes:
    """The `struct sock_filter` array in this machine's byte order.

    Raises:
        ValueError: the program is longer than the kernel takes, or a jump does not fit.
    """
    if len(program) > MAX_CLASSIC:
        raise ValueError(f"the filter has {len(program)} instructions, the kernel takes {MAX_CLASSIC}")
    try:
        return b"".join(_INSTRUCTION.pack(*instruction) for instruction in program)
    except struct.error as error:
        raise ValueError(f"a jump of the filter is too long: {error}") from error


def search_tree(
    starts: list[int], leaf: Callable[[int], list[Instruction]], low: int = 0, high: int | None = None
) -> list[Instruction]:
    """Code that finds the interval of the accumulator by halving, and goes on with that interval's leaf.

    Args:
        starts: the first number of each interval, ascending; the first is 0.
        leaf: code of the interval with that index; it must end in a return on every way through.
    """
    high = len(starts) if high is None else high
    if high - low == 1:
        return leaf(low)
    middle = (low + high) // 2
    below = search_tree(starts, leaf, low, middle)
    above = search_tree(starts, leaf, middle, high)
    if len(below) <= 255:
        return [jump(JGE, starts[middle], true=len(below)), *below, *above]
    # A conditional jump has 8 bits, the unconditional one 32.
    return [jump(JGE, starts[middle], false=1), (JA, 0, 0, len(below)), *below, *above]


# eBPF: code, registers, offset, immediate
_EBPF = struct.Struct("=BBhi")
_R0, _R1 = 0, 1
_LDX_W, _MOV64_IMM, _MOV32_REG, _AND32_IMM, _RSH32_IMM, _JNE_IMM, _EXIT = 0x61, 0xB7, 0xBC, 0x54, 0x74, 0x55, 0x95


def ebpf(code: int, destination: int = 0, source: int = 0, offset: int = 0, immediate: int = 0) -> bytes:
    """One eBPF instruction."""
    return _EBPF.pack(code, source << 4 | destination, offset, immediate)


def device_program(allow_by_default: bool, exceptions: list[tuple[int | None, int | None, int | None, int]]) -> bytes:
    """A program for BPF_PROG_TYPE_CGROUP_DEVICE: 1 lets the access through, 0 gives EPERM.

    An access that an exception covers in full is decided against the default when it is an allowance; a denial already
    counts when it covers part of the access.

    Args:
        exceptions: type (BPF_DEVCG_DEV_BLOCK 1, _CHAR 2), major, minor, each or None for any; then the accesses as
            bits (BPF_DEVCG_ACC_MKNOD 1, _READ 2, _WRITE 4).
    """
    # struct bpf_cgroup_dev_ctx: u32 access_type = access << 16 | type, u32 major, u32 minor
    program = [
        ebpf(_LDX_W, 2, _R1, 0),  # r2 = access_type
        ebpf(_MOV32_REG, 3, 2),
        ebpf(_AND32_IMM, 2, immediate=0xFFFF),  # r2 = type
        ebpf(_RSH32_IMM, 3, immediate=16),  # r3 = access
        ebpf(_LDX_W, 4, _R1, 4),  # r4 = major
        ebpf(_LDX_W, 5, _R1, 8),  # r5 = minor
    ]
    for kind, major, minor, access in exceptions:
        program += _exception(allow_by_default, kind, major, minor, access)
    program += [ebpf(_MOV64_IMM, _R0, immediate=int(allow_by_default)), ebpf(_EXIT)]
    return b"".join(program)


def _exception(
    allow_by_default: bool, kind: int | None, major: int | None, minor: int | None, access: int
) -> list[bytes]:
    tests: list[Callable[[int], bytes]] = []
    for register, value in ((2, kind), (4, major), (5, minor)):
        if value is not None:
            tests.append(
                lambda skip, register=register, value=value: ebpf(  # type: ignore[misc]
                    _JNE_IMM, register, offset=skip, immediate=value
                )
            )
    body = [ebpf(_MOV64_IMM, _R0, immediate=int(not allow_by_default)), ebpf(_EXIT)]
    if allow_by_default:
        # denied: any of these bits asked for; r1 is free once the context has been read
        check = [ebpf(_MOV32_REG, 1, 3), ebpf(_AND32_IMM, 1, immediate=access), ebpf(0x15, 1, offset=len(body))]
    else:
        # allowed: none but these bits asked for
        check = [
            ebpf(_MOV32_REG, 1, 3),
            ebpf(_AND32_IMM, 1, immediate=~access & 0x7),
            ebpf(_JNE_IMM, 1, offset=len(body)),
        ]
    rest = check + body
    return [test(len(tests) - index - 1 + len(rest)) for index, test in enumerate(tests)] + rest
