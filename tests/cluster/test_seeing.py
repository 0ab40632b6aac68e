"""What one host sees of another: status, and two doctors that meet."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cluster.conftest import GLUSTERFS, over
from support import need
from support.gluster import GlusterHost, Volume
from support.host import Host, project_on
from support.terminal import wait_until

NOWHERE = "http://127.0.0.1:9/simple"
#: A file system on which a file can be created twice.
NOT_EXCLUSIVE = """\
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <string.h>
int open64(const char *path, int flags, ...) {
    int (*real)(const char *, int, ...) = dlsym(RTLD_NEXT, "open64");
    __builtin_va_list rest; __builtin_va_start(rest, flags);
    int mode = __builtin_va_arg(rest, int); __builtin_va_end(rest);
    return real(path, strstr(path, "/probe.") ? flags & ~O_EXCL : flags, mode);
}
"""
#: How often to look whether two wait; each look takes a tenth of a second and more.
LOOKS = 300
PRETENDING = "int flock(int fd, int operation) { return 0; }\n"


def see(host: Host, project: str) -> dict[str, Any]:
    """What `uv-mutex status --json` says on a host."""
    done = host.run(["uv-mutex", "status", "--json"], host.env("newest"), project)
    assert done.returncode == 0, done.stderr.decode()
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_status_sees_the_other_host(pair: Sequence[Host], backend: str) -> None:
    project = project_on(pair[0], "demo", index_url=NOWHERE)
    holding = pair[0].start(["uv-mutex", "exec", "--", "sleep", "1000"], pair[0].env("newest"), project)
    wait_until(lambda: all(see(host, project)["locks"][0]["holder"] for host in pair))
    waiting = [host.start(["uv", "sync"], host.env("newest"), project) for host in pair]
    for host in pair:
        # The look that finds both: a waiter renews its file after ten seconds, and empties it for a moment then.
        seen = [see(host, project)]
        while len(seen[-1]["locks"][0]["waiting"]) < 2:
            assert len(seen) < LOOKS
            time.sleep(0.1)
            seen.append(see(host, project))
        (lock,) = seen[-1]["locks"]
        assert (lock["state"], lock["backend"]) == ("held", backend)
        assert (lock["holder"]["host"], lock["holder"]["command"]) == ("host-a", "uv-mutex exec sleep")
        assert {waiter["host"] for waiter in lock["waiting"]} == {"host-a", "host-b"}
    pair[0].kill("sleep")
    for call in (holding, *waiting):
        call.wait(60)
    wait_until(lambda: all(see(host, project)["locks"][0]["state"] == "free" for host in pair))
    wait_until(lambda: all(not see(host, project)["locks"][0]["waiting"] for host in pair))
    for host in pair:
        wait_until(lambda host=host: len(see(host, project)["calls"]) == 3)  # type: ignore[misc]
        calls = see(host, project)["calls"]
        assert (calls[0]["command"], calls[0]["host"], calls[0]["exit"]) == ("uv-mutex exec sleep", "host-a", 137)
        assert {(call["command"], call["host"]) for call in calls[1:]} == {("uv sync", "host-a"), ("uv sync", "host-b")}


def meet(hosts: Sequence[Host], project: str, *, seconds: str = "60", **env: Any) -> list[tuple[int, str]]:
    """Run a doctor on each host at once: exit statuses, and what each says last."""
    words = ["uv-mutex", "doctor", "-v", "--peer", "--seconds", seconds]
    doctors: list[subprocess.Popen[bytes]] = [host.start(words, host.env("newest", **env), project) for host in hosts]
    outputs = [doctor.communicate(timeout=120)[0].decode() for doctor in doctors]
    print(*outputs, sep="\n")
    return [(doctor.returncode, text.splitlines()[-1]) for doctor, text in zip(doctors, outputs, strict=True)]


def test_doctors_meet(pair: Sequence[Host], backend: str) -> None:
    project = project_on(pair[0], "demo", index_url=NOWHERE)
    for _ in range(2):
        for number, (status, line) in enumerate(meet(pair, project)):
            other = pair[1 - number].name
            assert status == 0
            assert line.startswith(f"ok             saw {other} (pid ")
            how = (
                "and flock excluded between" if backend == "flock" else "neither host has a flock there, and both take"
            )
            assert how in line
    assert set(pair[0].listing(f"{project}/.uv-mutex")) <= {"lock", ".gitignore", "backend"}
    for status, line in meet(pair, project, UV_MUTEX_BACKEND="lease"):
        assert status == 0
        assert line.endswith("and lease excluded between the two hosts; nothing to do")


def preloaded(host: Host, tmp_path: Path, source: str) -> str:
    """A library to load first, where every host sees it."""
    compiler = need.executable("gcc")
    (tmp_path / "preload.c").write_text(source)
    library = Path(host.mount).parent / "preload.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, tmp_path / "preload.c"], check=True)
    return str(library)


@over(GLUSTERFS)
def test_locks_that_stay_on_their_host(pair: Sequence[Host], tmp_path: Path) -> None:
    project = project_on(pair[0], "demo", index_url=NOWHERE)
    for status, line in meet(pair, project, LD_PRELOAD=preloaded(pair[0], tmp_path, PRETENDING)):
        assert status == 2
        assert line.startswith("NOT PROTECTED  saw host-")
        assert "and flock did not exclude between the two hosts; set UV_MUTEX_BACKEND=lease on every host" in line
    library = preloaded(pair[0], tmp_path, NOT_EXCLUSIVE)
    for status, line in meet(pair, project, LD_PRELOAD=library, UV_MUTEX_BACKEND="lease"):
        assert status == 2
        assert line.endswith("and lease did not exclude between the two hosts; move the project to another file system")


def test_one_has_a_flock_and_one_has_not(serve: Callable[..., Volume]) -> None:
    volume = serve()
    hosts = [volume.host("host-a"), volume.host("host-b", flock=False)]
    for status, line in meet(hosts, project_on(hosts[0], "demo", index_url=NOWHERE)):
        assert status == 2
        assert line.endswith(
            "one of the two hosts has a flock there and the other has none; set UV_MUTEX_BACKEND=lease on every host"
        )


@over(GLUSTERFS)
def test_nobody_there_and_somebody_who_dies(pair: Sequence[GlusterHost]) -> None:
    project = project_on(pair[0], "demo", index_url=NOWHERE)
    ((status, line),) = meet(pair[:1], project, seconds="1")
    assert status == 1
    assert "no other doctor showed up in" in line
    # One that said hello, saw the first, and is gone.
    words = ["uv-mutex", "doctor", "-v", "--peer"]
    doctor = pair[0].start(words, pair[0].env("newest"), project)
    folder = pair[1].reach(f"{project}/.uv-mutex")
    wait_until(lambda: list(folder.glob("peer.host-a.*")))
    (hello,) = folder.glob("peer.host-a.*")
    nonce = hello.name.rpartition(".")[2]
    (folder / "peer.host-b.77.ffffffffffffffff").touch()
    (folder / f"peer.ffffffffffffffff.{nonce}.met").touch()
    out, _ = doctor.communicate(timeout=60)
    assert doctor.returncode == 1
    expected = "saw host-b (pid 77), which then fell silent; run `uv-mutex doctor --peer` again, on both hosts at once"
    assert out.decode().splitlines()[-1] == f"warning        {expected}"
