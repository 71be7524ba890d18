"""What holds on every version: the contracts of `Cgroup` and `CgroupBackend`, on the real kernel."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable
from typing import Any

import pytest

from services.executor.runtime.cgroups import files
from services.executor.runtime.errors import KernelFailure, RuntimeFailure
from services.executor.runtime.spec import defaults
from tests.integration.runtime_cgroups.conftest import PARENT, eventually

pytestmark = pytest.mark.root

MEGA = 1024 * 1024


def nested(backend: Any, group: Any, name: str) -> Any:
    """A group inside, as a container makes it: no controllers are switched on, so that both can have processes."""
    for directory in set(group.paths.values()):
        os.mkdir(f"{directory}/{name}")
    return backend.open(f"{group.path}/{name}")


def test_a_group_has_its_processes_and_those_below(backend: Any, create: Any, child: Any) -> None:
    group = create()
    below = nested(backend, group, "below")
    one, two = child(group=group), child(group=below)
    assert group.pids() == sorted([one.pid, two.pid])
    assert group.pids(recursive=False) == [one.pid]
    assert group.exists()


def test_a_missing_process_is_an_error(create: Any) -> None:
    with pytest.raises(KernelFailure):
        create().add(2**22 - 1)


def test_a_group_that_does_not_exist_is_empty_and_removable(backend: Any) -> None:
    group = backend.open(PARENT + "/never")
    assert not group.exists()
    assert group.pids() == []
    group.kill()
    group.remove()


def test_frozen_processes_stand_still_and_go_on(create: Any, child: Any) -> None:
    group = create()
    process = child("import time\nwhile True: print('tick', flush=True); time.sleep(0.01)", group)
    assert process.line() == "tick"
    assert not group.frozen()
    group.freeze()
    assert group.frozen()
    while select.select([process.reader], [], [], 0.2)[0]:
        os.read(process.reader, 4096)
    group.thaw()
    assert not group.frozen()
    assert process.line() == "tick"


def test_kill_reaches_frozen_processes(create: Any, child: Any) -> None:
    group = create()
    process = child(group=group)
    group.freeze()
    group.kill()
    assert process.wait() == -signal.SIGKILL


FORKS = """
import os, sys
os.setsid()
print("go", flush=True)
while True:
    try:
        if os.fork():
            os._exit(0)
        os.setsid()
    except OSError:
        pass
"""


def test_kill_reaches_a_tree_that_runs_away(create: Any, child: Any) -> None:
    group = create({"pids": {"limit": 40}})
    runners = [child(FORKS, group) for _ in range(3)]
    for process in runners:
        assert process.line() == "go"
    group.kill()
    eventually(lambda: not group.pids())


def test_another_signal_goes_to_all(create: Any, child: Any) -> None:
    code = "import signal\nsignal.signal(10, lambda *_: os._exit(7))\nprint('go', flush=True)\nsignal.pause()"
    group = create()
    processes = [child(code, group) for _ in range(2)]
    assert [process.line() for process in processes] == ["go", "go"]
    group.kill(signal.SIGUSR1)
    assert [process.wait() for process in processes] == [7, 7]


def test_remove_waits_for_the_dying(create: Any, child: Any, backend: Any) -> None:
    group = create()
    nested(backend, nested(backend, group, "a"), "b")
    process = child(f"x = bytearray({64 * MEGA}); print('go', flush=True); import time; time.sleep(60)", group)
    assert process.line() == "go"
    group.kill()
    group.remove()
    assert not group.exists()


def test_remove_gives_up_on_the_living(create: Any, child: Any) -> None:
    group = create()
    child(group=group)
    with pytest.raises(KernelFailure):
        group.remove(timeout_s=0.1)


def test_pids_limit_holds(create: Any, child: Any) -> None:
    code = """
import time
made = 0
try:
    while made < 20:
        if os.fork() == 0:
            time.sleep(30); os._exit(0)
        made += 1
except OSError as error:
    print(made, error.errno, flush=True)
"""
    assert child(code, create({"pids": {"limit": 5}})).line() == "4 11"


def test_memory_limit_kills_counts_and_notifies(create: Any, child: Any) -> None:
    group = create({"memory": {"limit": 32 * MEGA, "swap": 32 * MEGA}})
    notice = group.oom_notify_fd()
    try:
        assert group.oom_kill_count() == 0
        process = child(f"x = bytearray({128 * MEGA}); print('survived', flush=True)", group)
        assert process.wait() == -signal.SIGKILL
        assert select.select([notice], [], [], 10)[0]
        os.read(notice, 4096)
        assert eventually(group.oom_kill_count) >= 1
        assert group.stats()["memory"]["usage"]["limit"] == 32 * MEGA
    finally:
        os.close(notice)


def test_limits_are_updated_upwards_and_downwards(create: Any) -> None:
    group = create({"memory": {"limit": 64 * MEGA, "swap": 128 * MEGA}})
    for limit, swap in ((256, 512), (32, 32), (48, 1000), (16, 20)):
        group.apply({"memory": {"limit": limit * MEGA, "swap": swap * MEGA}})
        assert group.stats()["memory"]["usage"]["limit"] == limit * MEGA
    group.apply({"memory": {"limit": -1}})
    assert group.stats()["memory"]["usage"]["limit"] > 2**60


def test_check_before_update(create: Any, child: Any) -> None:
    group = create({"memory": {"limit": 256 * MEGA}})
    process = child(
        f"x = bytearray(os.urandom({32 * MEGA})); print('go', flush=True); import time; time.sleep(60)", group
    )
    assert process.line() == "go"
    with pytest.raises(RuntimeFailure) as caught:
        group.apply({"memory": {"limit": 8 * MEGA, "checkBeforeUpdate": True}})
    assert caught.value.field == "linux.resources.memory.limit"
    assert process.status is None


def test_cpu_quota_throttles(create: Any, child: Any) -> None:
    group = create({"cpu": {"quota": 10000, "period": 100000, "shares": 512}})
    child("print('go', flush=True)\nwhile True: pass", group)
    eventually(lambda: group.stats()["cpu"]["throttling"]["throttledPeriods"] > 2)
    usage = group.stats()["cpu"]["usage"]
    assert 0 < usage["total"] < 10_000_000_000


def test_quota_and_period_change_together_in_either_order(create: Any) -> None:
    group = create({"cpu": {"quota": 500_000, "period": 1_000_000}})
    group.apply({"cpu": {"quota": 1000, "period": 1000}})
    group.apply({"cpu": {"quota": 500_000, "period": 1_000_000}})
    group.apply({"cpu": {"quota": 50_000, "period": 100_000, "burst": 20_000}})
    group.apply({"cpu": {"quota": 10_000, "period": 100_000, "burst": 5_000}})
    group.apply({"cpu": {"quota": -1}})


def test_cpus_are_chosen(create: Any, child: Any) -> None:
    group = create({"cpu": {"cpus": "0", "mems": "0"}})
    assert child("print(sorted(os.sched_getaffinity(0)), flush=True)", group).line() == "[0]"
    assert group.stats()["cpuset"]["cpus"] == [0]


def test_a_processor_that_is_not_there_names_the_field(backend: Any, create: Any) -> None:
    if backend.kind == "v2":
        pytest.skip("version 2 takes processors that may come later")
    with pytest.raises(RuntimeFailure) as caught:
        create({"cpu": {"cpus": "999"}})
    assert caught.value.field == "linux.resources.cpu.cpus"


OPENS = """
import os
def attempt(path, kind, major, minor):
    os.mknod("/dev/davit-test", 0o600 | kind, os.makedev(major, minor))
    try:
        os.close(os.open("/dev/davit-test", os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY))
        return "yes"
    except OSError as error:
        return {1: "no"}.get(error.errno, "yes")
    finally:
        os.unlink("/dev/davit-test")
import stat
print(*[attempt("", stat.S_IFCHR, *numbers) for numbers in ((1, 3), (1, 5), (1, 11), (10, 229))], flush=True)
"""


def test_docker_device_rules(create: Any, child: Any) -> None:
    group = create({"devices": defaults.device_rules()})
    # null and zero; not kmsg, not fuse. Making the nodes is allowed, all the same.
    assert child(OPENS, group).line() == "yes yes no no"


def test_device_rules_are_replaced_while_a_process_runs(create: Any, child: Any) -> None:
    nothing = {"allow": False, "access": "rwm"}
    rules = [nothing, {"allow": True, "type": "c", "major": 1, "minor": 11, "access": "rw"}]
    group = create({"devices": defaults.device_rules()})
    process = child(OPENS, group, go=False)
    group.apply({"devices": rules})
    process.go()
    assert process.line() == "yes yes yes no"
    group.apply({"devices": defaults.device_rules()})
    assert child(OPENS, group).line() == "yes yes no no"
    group.apply({"devices": defaults.device_rules(privileged=True)})
    assert child(OPENS, group).line() == "yes yes yes yes"


def test_a_single_access_can_be_allowed(create: Any, child: Any) -> None:
    group = create(
        {
            "devices": [
                {"allow": False, "access": "rwm"},
                {"allow": True, "type": "c", "major": 1, "minor": 11, "access": "r"},
            ]
        }
    )
    code = """
import os
os.mknod("/dev/davit-test", 0o20600, os.makedev(1, 11))
for flag in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR):
    try:
        os.close(os.open("/dev/davit-test", flag | os.O_NONBLOCK)); print("yes", flush=True)
    except OSError as error:
        print(error.errno, flush=True)
os.unlink("/dev/davit-test")
"""
    process = child(code, group)
    assert [process.line() for _ in range(3)] == ["yes", "1", "1"]


def test_statistics_are_complete(create: Any, child: Any) -> None:
    group = create({"pids": {"limit": 50}})
    process = child(
        f"x = bytearray(os.urandom({8 * MEGA})); print('go', flush=True); import time; time.sleep(60)", group
    )
    assert process.line() == "go"
    stats = group.stats()
    assert set(stats) >= {"cpu", "memory", "pids", "blkio", "hugetlb", "cpuset"}
    assert stats["pids"] == {"current": 1, "limit": 50}
    assert stats["memory"]["usage"]["usage"] > 8 * MEGA
    assert stats["memory"]["raw"]
    assert stats["cpu"]["usage"]["total"] > 0


def test_a_failed_creation_leaves_nothing(backend: Any) -> None:
    path = f"{PARENT}/failed"
    with pytest.raises(RuntimeFailure) as caught:
        backend.create(path, {"cpu": {"quota": 1, "period": 1}})
    assert caught.value.field is not None
    assert not backend.open(path).exists()


def test_an_existing_group_is_taken_over(backend: Any, create: Any) -> None:
    group = create({"pids": {"limit": 7}})
    again = backend.create(group.path, {})
    assert again.stats()["pids"]["limit"] == 7


def test_what_the_machine_cannot_do_names_the_field(backend: Any) -> None:
    for controller, resources, field in (
        ("rdma", {"rdma": {"mlx5": {"hcaHandles": 1}}}, "linux.resources.rdma"),
        ("net_cls", {"network": {"classID": 1}}, "linux.resources.network.classID"),
    ):
        if controller in backend.controllers:
            continue
        with pytest.raises(RuntimeFailure) as caught:
            backend.validate(resources)
        assert caught.value.field == field


def test_a_child_can_be_born_in_the_v2_directory(create: Any, backend: Any) -> None:
    from services.executor.runtime.kernel import calls as kernel

    group = create()
    fd = group.directory_fd()
    if fd is None:
        assert backend.kind == "v1"
        return
    pid = kernel.clone(0, cgroup_fd=fd)
    if pid == 0:
        signal.pause()
        os._exit(0)
    try:
        assert pid in [int(line) for line in files.read(group.paths["unified"], "cgroup.procs").split()]
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(fd)


def test_unified_files(backend: Any, create: Callable[..., Any]) -> None:
    resources = {"unified": {"memory.high": str(64 * MEGA), "pids.max": "9"}}
    if backend.kind != "v2":
        with pytest.raises(RuntimeFailure) as caught:
            backend.validate(resources)
        assert caught.value.field == "linux.resources.unified"
        return
    group = create(resources)
    assert files.read(group.paths["unified"], "memory.high") == str(64 * MEGA)
    assert group.stats()["pids"]["limit"] == 9
