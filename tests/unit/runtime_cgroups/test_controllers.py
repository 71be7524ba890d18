"""Controllers that this machine may not have, on directories that look like theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from services.executor.runtime.cgroups import rdma
from services.executor.runtime.cgroups.v1 import blkio, net_cls, net_prio
from services.executor.runtime.cgroups.v1 import hugetlb as hugetlb_v1
from services.executor.runtime.cgroups.v1 import memory as memory_v1
from services.executor.runtime.cgroups.v2 import cpu, io, unified
from services.executor.runtime.cgroups.v2 import hugetlb as hugetlb_v2
from services.executor.runtime.cgroups.v2 import memory as memory_v2
from services.executor.runtime.errors import InvalidSpec, NotSupported


@pytest.fixture
def group(tmp_path: Path) -> Any:
    """Makes a directory with the files named, and answers it."""

    def make(**files: str) -> str:
        directory = tmp_path / "group"
        directory.mkdir()
        for name, content in files.items():
            (directory / name.replace("__", ".")).write_text(content)
        return str(directory)

    return make


def content(directory: str, name: str) -> str:
    return (Path(directory) / name).read_text()


def test_network_class_and_priorities(group: Any) -> None:
    directory = group(net_cls__classid="0", net_prio__ifpriomap="")
    resources = {"network": {"classID": 0x100001, "priorities": [{"name": "eth0", "priority": 5}]}}
    assert net_cls.wanted(resources) == "linux.resources.network.classID"
    net_cls.apply(directory, resources)
    net_prio.apply(directory, resources)
    assert content(directory, "net_cls.classid") == str(0x100001)
    assert content(directory, "net_prio.ifpriomap") == "eth0 5"


def test_rdma(group: Any) -> None:
    directory = group(rdma__max="", rdma__current="mlx5_1 hca_handle=2 hca_object=7\n")
    rdma.apply(directory, {"rdma": {"mlx5_1": {"hcaHandles": 3}}})
    assert content(directory, "rdma.max") == "mlx5_1 hca_handle=3"
    into: dict[str, Any] = {}
    rdma.stats(directory, into)
    assert into["rdma"]["current"] == [{"device": "mlx5_1", "hcaHandles": 2, "hcaObjects": 7}]
    assert into["rdma"]["limit"] == [{"device": "mlx5_1", "hcaHandles": 3, "hcaObjects": 2**32 - 1}]


def test_huge_pages_are_limited_with_their_reservation(group: Any) -> None:
    resources = {"hugepageLimits": [{"pageSize": "2MB", "limit": 4194304}]}
    names = {"hugetlb.2MB.limit_in_bytes": "0", "hugetlb.2MB.rsvd.limit_in_bytes": "0"}
    names |= {"hugetlb.2MB.max": "0", "hugetlb.2MB.rsvd.max": "0"}
    directory = group(**names)
    hugetlb_v1.apply(directory, resources)
    hugetlb_v2.apply(directory, resources)
    assert {content(directory, name) for name in names} == {"4194304"}


def test_huge_pages_of_an_unknown_size_are_refused(group: Any) -> None:
    with pytest.raises(NotSupported) as caught:
        hugetlb_v1.apply(group(), {"hugepageLimits": [{"pageSize": "3MB", "limit": 1}]})
    assert caught.value.field == "linux.resources.hugepageLimits[0]"


def test_block_io_weights_go_where_there_is_a_scheduler(group: Any) -> None:
    directory = group(blkio__bfq__weight="", blkio__bfq__weight_device="")
    hierarchy = str(Path(directory).parent)
    resources = {"blockIO": {"weight": 300, "weightDevice": [{"major": 8, "minor": 0, "weight": 500}]}}
    blkio.validate(hierarchy, resources)
    blkio.apply(directory, resources)
    assert content(directory, "blkio.bfq.weight") == "300"
    assert content(directory, "blkio.bfq.weight_device") == "8:0 500"
    with pytest.raises(NotSupported) as caught:
        blkio.validate(hierarchy, {"blockIO": {"leafWeight": 300}})
    assert caught.value.field == "linux.resources.blockIO.leafWeight"


def test_block_io_statistics(group: Any) -> None:
    directory = group(blkio__throttle__io_serviced_recursive="8:0 Read 5\n8:0 Write 2\n8:0 Total 7\nTotal 7\n")
    into: dict[str, Any] = {}
    blkio.stats(directory, into)
    assert into["blkio"]["ioServicedRecursive"] == [
        {"major": 8, "minor": 0, "op": "Read", "value": 5},
        {"major": 8, "minor": 0, "op": "Write", "value": 2},
        {"major": 8, "minor": 0, "op": "Total", "value": 7},
    ]


def test_io_of_version_2(group: Any) -> None:
    directory = group(io__max="", io__weight="", io__stat="8:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n")
    io.apply(directory, {"blockIO": {"weight": 500, "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 9}]}})
    assert content(directory, "io.weight") == "default 4950"
    assert content(directory, "io.max") == "8:0 rbps=9"
    into: dict[str, Any] = {}
    io.stats(directory, into)
    assert {"major": 8, "minor": 0, "op": "Write", "value": 20} in into["blkio"]["ioServiceBytesRecursive"]


def test_cpu_of_version_2(group: Any) -> None:
    directory = group(
        cpu__max="70000 100000", cpu__weight="", cpu__stat="usage_usec 5\nuser_usec 3\nsystem_usec 2\nnr_throttled 1\n"
    )
    cpu.apply(directory, {"cpu": {"shares": 1024, "period": 500000}})
    assert (content(directory, "cpu.weight"), content(directory, "cpu.max")) == ("39", "70000 500000")
    (Path(directory) / "cpu.max").write_text("")
    cpu.apply(directory, {"cpu": {"quota": -1}})
    assert content(directory, "cpu.max") == "max 100000"
    into: dict[str, Any] = {}
    cpu.stats(directory, into)
    assert into["cpu"]["usage"] == {"total": 5000, "kernel": 2000, "user": 3000}
    assert into["cpu"]["throttling"]["throttledPeriods"] == 1


def test_real_time_is_refused_on_version_2(group: Any) -> None:
    with pytest.raises(NotSupported) as caught:
        cpu.validate(group(), {"cpu": {"realtimeRuntime": 1}})
    assert caught.value.field == "linux.resources.cpu.realtimeRuntime"


def test_memory_of_version_2(group: Any) -> None:
    directory = group(memory__max="max", memory__swap__max="max", memory__low="0", memory__current="50")
    memory_v2.apply(directory, {"memory": {"limit": 100, "swap": 300, "reservation": 60}})
    assert [content(directory, f"memory.{name}") for name in ("max", "swap.max", "low")] == ["100", "200", "60"]
    memory_v2.apply(directory, {"memory": {"swap": 450}})
    assert content(directory, "memory.swap.max") == "350"
    with pytest.raises(InvalidSpec):
        memory_v2.apply(directory, {"memory": {"limit": 40, "checkBeforeUpdate": True}})
    assert content(directory, "memory.max") == "100"


@pytest.mark.parametrize("field", ["swappiness", "disableOOMKiller", "kernel", "kernelTCP"])
def test_what_version_2_has_not_is_refused(group: Any, field: str) -> None:
    with pytest.raises(NotSupported) as caught:
        memory_v2.validate(group(), {"memory": {field: 1}})
    assert caught.value.field == f"linux.resources.memory.{field}"


def test_memory_goes_before_swap_downwards_and_after_it_upwards(group: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = group(memory__limit_in_bytes="500", memory__memsw__limit_in_bytes="500")
    order: list[str] = []

    def record(directory: str, name: str, value: int, field: str) -> None:
        order.append(name)

    monkeypatch.setattr(memory_v1, "_write_limit", record)
    memory_v1.apply(directory, {"memory": {"limit": 100, "swap": 200}})
    assert order == ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"]
    order.clear()
    memory_v1.apply(directory, {"memory": {"limit": 800, "swap": 900}})
    assert order == ["memory.memsw.limit_in_bytes", "memory.limit_in_bytes"]
    order.clear()
    memory_v1.apply(directory, {"memory": {"limit": -1}})
    assert order == ["memory.memsw.limit_in_bytes", "memory.limit_in_bytes"]


def test_unified_files_are_written_by_name(group: Any) -> None:
    directory = group(memory__high="max")
    assert unified.controllers({"unified": {"memory.high": "1", "cgroup.max.depth": "2"}}) == {
        "memory": "linux.resources.unified[memory.high]"
    }
    unified.apply(directory, {"unified": {"memory.high": "1000"}})
    assert content(directory, "memory.high") == "1000"
    with pytest.raises(NotSupported) as caught:
        unified.apply(directory, {"unified": {"memory.nonsense": "1"}})
    assert caught.value.field == "linux.resources.unified[memory.nonsense]"
