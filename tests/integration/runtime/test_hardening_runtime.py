"""Attacks on the runtime itself: its binary, its descriptors, its processes on their way into a container."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.runtime.conftest import Bundle, Runtime, eventually
from tests.integration.runtime.hardening import as_docker, build, ours

pytestmark = pytest.mark.root


@pytest.fixture
def oci(tmp_path: Path) -> Iterator[Runtime]:
    runtime = ours(tmp_path)
    yield runtime
    runtime.clean()


@pytest.fixture
def bundle(oci: Runtime) -> Bundle:
    return oci.bundle()


# Looks at every process that appears, and says what it could do to one that is not (yet) the container's own.
WATCHER = r"""
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

static int foreign(int pid, char *exe, size_t size) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/exe", pid);
    ssize_t length = readlink(path, exe, size - 1);
    if (length < 0) return 0;
    exe[length] = 0;
    return strncmp(exe, "/bin/", 5) != 0;
}

static int writable(int pid) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/exe", pid);
    int handle = open(path, O_PATH);
    if (handle < 0) return 0;
    snprintf(path, sizeof path, "/proc/self/fd/%d", handle);
    for (int attempt = 0; attempt < 200; attempt++) {
        int fd = open(path, O_WRONLY);
        if (fd >= 0) return 1;
        if (errno != ETXTBSY) break;
        usleep(1000);
    }
    close(handle);
    return 0;
}

int main(void) {
    char exe[4096], path[64];
    int me = getpid(), newest = me;
    puts("watching");
    fflush(stdout);
    for (;;) {
        DIR *proc = opendir("/proc");
        struct dirent *entry;
        while ((entry = readdir(proc))) {
            int pid = atoi(entry->d_name);
            if (pid <= 0 || pid == me) continue;
            if (pid > newest) printf("NEW %d\n", newest = pid);
            if (foreign(pid, exe, sizeof exe)) {
                printf("SAW %s\n", exe);
                if (writable(pid)) printf("WRITABLE %s\n", exe);
            }
            snprintf(path, sizeof path, "/proc/%d/fd", pid);
            if (ptrace(PTRACE_SEIZE, pid, 0, 0) == 0) {
                ptrace(PTRACE_INTERRUPT, pid, 0, 0);
                waitpid(pid, 0, __WALL);
                if (foreign(pid, exe, sizeof exe)) printf("TRACED %s\n", exe);
                ptrace(PTRACE_DETACH, pid, 0, 0);
            }
            fflush(stdout);
        }
        closedir(proc);
    }
}
"""


def test_a_process_on_its_way_in_can_be_neither_traced_nor_written_to(oci: Runtime, bundle: Bundle) -> None:
    """CVE-2019-5736 and CVE-2016-9962: the container watches for `exec`, whose first stage is the runtime's code."""
    build(WATCHER, bundle.rootfs / "bin" / "spy-on-proc")
    as_docker(bundle, seccomp=False)
    bundle.shell("spy-on-proc > /log 2>&1")
    before = hashlib.sha256(Path(os.path.realpath(sys.executable)).read_bytes()).digest()
    container = oci.create(bundle)
    oci.call("start", container)
    log = bundle.rootfs / "log"
    eventually(lambda: log.exists() and "watching" in log.read_text())
    for _ in range(12):
        assert oci.call("exec", container, "true").code == 0
    oci.stop(container)
    assert hashlib.sha256(Path(os.path.realpath(sys.executable)).read_bytes()).digest() == before
    said = log.read_text()
    assert said.count("NEW") >= 6, "the watcher was too slow to see anything"
    assert "TRACED" not in said
    assert "WRITABLE" not in said


def test_a_program_that_is_the_runtimes_own_file_cannot_write_it(oci: Runtime, bundle: Bundle) -> None:
    """CVE-2019-5736, the other way round: the container's program is a script whose interpreter is /proc/self/exe."""
    script = bundle.rootfs / "bin" / "attack"
    script.write_text("#!/proc/self/exe\nimport os\nprint(os.open('/proc/self/exe', os.O_WRONLY))\n")
    script.chmod(0o755)
    bundle.process["args"] = ["/bin/attack"]
    result = oci.run(bundle)
    assert result.code != 0
    assert result.out == ""


@pytest.mark.parametrize("number", range(3, 12))
def test_the_working_directory_cannot_be_a_leaked_descriptor(oci: Runtime, bundle: Bundle, number: int) -> None:
    """CVE-2024-21626: a cwd of /proc/self/fd/N is the host's, if N is a directory that the runtime left open."""
    as_docker(bundle)
    bundle.process["cwd"] = f"/proc/self/fd/{number}"
    bundle.shell("pwd; ls -a . ..; cat ../../../../etc/hostname")
    result = oci.run(bundle)
    assert result.code != 0, result
    assert result.out == "", result


def test_the_working_directory_of_exec_cannot_be_either(oci: Runtime, bundle: Bundle) -> None:
    (bundle.rootfs / "leak").symlink_to("/proc/self/fd/7")
    container = oci.running(bundle)
    for number in range(3, 14):
        result = oci.call("exec", "--cwd", f"/proc/self/fd/{number}", container, "pwd")
        assert result.code != 0, result
    assert oci.call("exec", "--cwd", "/leak", container, "pwd").code != 0


def test_nothing_of_the_runtime_is_open_in_the_program(oci: Runtime, bundle: Bundle) -> None:
    container = oci.running(bundle)
    pid = oci.state(container)["pid"]
    eventually(lambda: Path(f"/proc/{pid}/comm").read_text().strip() == "sleep")
    assert sorted(os.listdir(f"/proc/{pid}/fd")) == ["0", "1", "2"]
    result = oci.call("exec", container, "sh", "-c", "ls /proc/self/fd; ls -l /proc/self/cwd")
    lines = result.out.split("\n")
    assert lines[:4] == ["0", "1", "2", "3"]
    assert lines[4].endswith("-> /")


KEYS = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>
int main(int count, char **words) {
    if (count > 1) {
        long key = syscall(SYS_add_key, "user", words[1], "secret", 6, -3);
        printf("%ld\n", key);
        if (count > 2) { fflush(stdout); execvp(words[2], words + 2); }
        return key < 0;
    }
    printf("%ld\n", syscall(SYS_keyctl, 10, -3, "user", "davit-host-key", 0));
    printf("%d\n", errno);
    return 0;
}
"""


def test_the_hosts_keys_are_out_of_reach(oci: Runtime, bundle: Bundle, tmp_path: Path) -> None:
    """Keys have no namespace: without a session keyring of its own, a container would search the runtime's."""
    program = build(KEYS, bundle.rootfs / "bin" / "keys")
    bundle.process["args"] = ["keys"]
    bundle.write()
    container = oci.new_id()
    # The host has the key in the very session that the runtime is started in.
    command = [*oci.command, "run", "-b", str(bundle.directory), container]
    done = subprocess.run(
        [str(program), "davit-host-key", *command],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    added, found, number = done.stdout.split()
    assert int(added) > 0
    assert int(found) == -1
    assert int(number) in {126, 13, 128, 127}  # ENOKEY, EACCES, EKEYREVOKED, EKEYEXPIRED
