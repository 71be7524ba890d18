"""Attacks on the runtime itself: its binary, its descriptors, its processes on their way into a container."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.runtime.conftest import ROOT, Bundle, Runtime, eventually
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


# A library of the container's, which the interpreter loads when the container has it executed: it keeps a descriptor of
# the interpreter's file, and has that opened for writing by a program, when nobody executes it any more.
LIBRARY = r"""
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

__attribute__((constructor)) static void loaded(void) {
    char path[64], *words[] = {"writer", path, 0}, *environment[] = {0};
    snprintf(path, sizeof path, "/proc/self/fd/%d", open("/proc/self/exe", O_RDONLY));
    execve("/bin/writer", words, environment);
}
"""
WRITER = r"""
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int main(int count, char **words) {
    for (int attempt = 0; attempt < 5000; attempt++) {
        if (open(words[1], O_WRONLY) >= 0) { errno = 0; break; }
        if (errno != ETXTBSY) break;
        usleep(1000);
    }
    FILE *result = fopen("/result.new", "w");
    fputs(errno ? strerror(errno) : "written to", result);
    fclose(result);
    rename("/result.new", "/result");
    return 0;
}
"""
INTERPRETED = "int main(void) { return 0; }"


@pytest.fixture(scope="module")
def interpreter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that nobody else executes: a file that is being executed cannot be written to."""
    directory = tmp_path_factory.mktemp("interpreter")
    subprocess.run([sys.executable, "-m", "venv", "--copies", "--without-pip", str(directory)], check=True)
    return directory / "bin" / "python3"


def arm(bundle: Bundle, way: str, interpreter: Path) -> None:
    """Make the container's program one that executes /proc/self/exe."""
    build(WRITER, bundle.rootfs / "bin" / "writer")
    compile_c(LIBRARY, bundle.rootfs / "library.so", "-shared", "-fPIC")
    listed = subprocess.run(["ldd", str(interpreter)], capture_output=True, text=True, check=True).stdout
    for path in (Path(word) for word in listed.split() if word.startswith("/")):
        target = bundle.rootfs / str(path.parent).lstrip("/")
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    bundle.process["env"] = ["PATH=/bin", "LD_PRELOAD=/library.so"]
    attack = bundle.rootfs / "bin" / "attack"
    if way == "script":
        attack.write_text("#!/proc/self/exe\n")
        attack.chmod(0o755)
    elif way == "link":
        attack.symlink_to("/proc/self/exe")
    else:
        compile_c(INTERPRETED, attack, "-Wl,--dynamic-linker=/proc/self/exe")
    bundle.process["args"] = ["/bin/attack"]


def compile_c(source: str, target: Path, *options: str) -> None:
    subprocess.run(["gcc", "-x", "c", "-o", str(target), *options, "-"], input=source, text=True, check=True)


def davit_runc(interpreter: Path, oci: Runtime, unguarded: bool = False) -> Runtime:
    """The same runtime by another interpreter, with or without what guards that."""
    lines = ["import sys", f"sys.path.insert(0, {str(ROOT)!r})", "from services.executor.runtime.steps import selfexe"]
    lines += ["selfexe.needed = lambda: False"] if unguarded else []
    oci.command[:-2] = [str(interpreter), "-ISE", "-c", "\n".join([*lines, "selfexe.start(sys.argv[1:])"])]
    return oci


def attempted(bundle: Bundle) -> str:
    """How it went."""
    result = bundle.rootfs / "result"
    eventually(result.exists)
    return result.read_text()


class TestOwnBinary:
    """CVE-2019-5736, the other way round: the container has the runtime execute /proc/self/exe."""

    def test_the_attack_works_without_the_guard(self, oci: Runtime, bundle: Bundle, interpreter: Path) -> None:
        arm(bundle, "script", interpreter)
        davit_runc(interpreter, oci, unguarded=True).run(bundle, "--detach")
        assert attempted(bundle) == "written to"

    @pytest.mark.parametrize("way", ["script", "link", "loader"])
    def test_run_executes_something_else(self, oci: Runtime, bundle: Bundle, interpreter: Path, way: str) -> None:
        arm(bundle, way, interpreter)
        assert davit_runc(interpreter, oci).run(bundle).code != 0
        assert not (bundle.rootfs / "result").exists()

    def test_with_a_filter_it_cannot_be_written(self, oci: Runtime, bundle: Bundle, interpreter: Path) -> None:
        arm(bundle, "script", interpreter)
        bundle.linux["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW"}
        davit_runc(interpreter, oci).run(bundle, "--detach")
        assert attempted(bundle) == "Read-only file system"

    def test_in_two_steps_and_in_exec_neither(self, oci: Runtime, bundle: Bundle, interpreter: Path) -> None:
        davit_runc(interpreter, oci)
        arm(bundle, "script", interpreter)
        container = oci.create(bundle)
        oci.call("start", container)
        assert attempted(bundle) == "Read-only file system"
        (bundle.rootfs / "result").unlink()
        container = oci.running(bundle)
        oci.call("exec", "--detach", container, "/bin/attack")
        assert attempted(bundle) == "Read-only file system"


class TestStub:
    """What executes the program of `run` in the interpreter's place."""

    def test_arguments_and_variables_arrive(self, oci: Runtime, bundle: Bundle) -> None:
        bundle.process["args"] = ["sh", "-c", 'printf "%s|" "$0" "$@"; env | sort', "", "a b", "ü", "x" * 100_000]
        bundle.process["env"] = ["PATH=/bin", "EMPTY=", "A=1", "A=2=3", "U=ü"]
        said = oci.run(bundle).out
        assert said.startswith("|a b|ü|" + "x" * 100_000 + "|")
        assert said.partition("xx|")[2].split("\n")[:4] == ["A=2=3", "EMPTY=", "HOME=/root", "PATH=/bin"]

    def test_it_leaves_no_descriptor_and_no_privilege(self, oci: Runtime, bundle: Bundle) -> None:
        bundle.process["user"] = {"uid": 1000, "gid": 1000}
        sets = ("inheritable", "permitted", "effective", "ambient")
        bundle.process["capabilities"].update({name: ["CAP_KILL"] for name in sets})
        bundle.shell("ls /proc/self/fd; grep -E 'Cap(Prm|Eff|Amb)' /proc/$$/status; readlink /proc/$$/exe")
        words = oci.output(bundle).split()
        kill = f"{1 << 5:016x}"
        expected = ["0", "1", "2", "3", "CapPrm:", kill, "CapEff:", kill, "CapAmb:", kill, "/bin/busybox"]
        assert words == expected

    @pytest.mark.parametrize(
        ("content", "text"),
        [
            (b"#!/nowhere\n", "no such file or directory"),
            (b"no program", "exec format error"),
            (b"", "exec format error"),
        ],
    )
    def test_a_program_that_cannot_be_executed(self, oci: Runtime, bundle: Bundle, content: bytes, text: str) -> None:
        program = bundle.rootfs / "bin" / "program"
        program.write_bytes(content)
        program.chmod(0o755)
        bundle.process["args"] = ["program"]
        result = oci.run(bundle)
        assert (result.code, f"exec /bin/program: {text}" in result.err) == (1, True), result
        assert oci.call("state", oci.ids[-1]).code == 1

    def test_a_program_may_be_open_to_its_user_alone(self, oci: Runtime, bundle: Bundle) -> None:
        bundle.process["user"] = {"uid": 1000, "gid": 1000}
        (bundle.rootfs / "bin" / "busybox").chmod(0o711)
        assert oci.output(bundle, "id -u") == "1000"


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
