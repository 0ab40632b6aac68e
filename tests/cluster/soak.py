"""Random guarded calls on two hosts for a long time, with shims killed every few seconds, watched from outside.

    python tests/cluster/soak.py [flock|lease]     UV_MUTEX_SOAK_SECONDS, by default 1200

Ends with a line of figures; exit status 1 if two were ever inside at once, a call hung, or the environment is broken.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from support.gluster import GlusterHost, Volume
from support.host import Host, project_on
from support.index import LocalIndex
from support.journal import Entry, Journal
from support.wheels import make_wheel

PACKAGES = [f"pkg-{number}" for number in range(8)]
CALLERS_EACH = 3
#: A container on the host: the same kernel and host name, other process ids.
IN_CONTAINER = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
#: The project by another path.
LINK = "link"
#: A killed holder of a lease on another host costs the rest 31 s, and several may be killed one after the other.
HANGS_AFTER = 240.0
#: A build looks each 10 ms whether its uv is dead. A busy machine may not run it for seconds.
OUTLIVES_AFTER = 30.0


@dataclass
class Report:
    """What happened."""

    calls: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    kills: int = 0
    builds: int = 0
    orphaned: int = 0
    longest: float = 0.0
    hung: list[str] = field(default_factory=list)
    overlaps: list[str] = field(default_factory=list)
    outlived: list[str] = field(default_factory=list)
    complaints: Counter[str] = field(default_factory=Counter)
    broken: str = ""

    @property
    def violations(self) -> int:
        """How often a promise was broken."""
        return len(self.hung) + len(self.overlaps) + len(self.outlived) + bool(self.broken) + self.complaints.total()

    def __str__(self) -> str:
        calls = ", ".join(f"{times} {name}" for name, times in sorted(self.calls.items()))
        lines = [
            f"{self.calls.total()} calls ({calls}); exit statuses {dict(self.statuses)}; {self.kills} shims killed, "
            f"{self.orphaned} of them inside; {self.builds} builds; longest call {self.longest:.0f} s; "
            f"{self.violations} violations"
        ]
        for name in ("hung", "overlaps", "outlived"):
            lines += [f"{name}: {text}" for text in getattr(self, name)[:5]]
        lines += [f"{times} x {text}" for text, times in self.complaints.most_common(5)]
        return "\n".join([*lines, self.broken]).strip()


@dataclass(frozen=True)
class Build:
    """The time that a build was inside, by the journal: until it ended, or its shim was killed."""

    host: str
    shim: int
    begin: float
    end: float


class Soak:
    """One run."""

    def __init__(self, hosts: Sequence[GlusterHost], index: LocalIndex, folder: Path, *, seed: int) -> None:
        self._hosts = hosts
        self._random = random.Random(seed)
        self._journal = Journal(folder / "journal")
        for name in PACKAGES:
            make_wheel(index.folder, name)
        self._project = project_on(hosts[0], "demo", index_url=index.url, backend_source=self._journal.backend)
        hosts[0].reach(LINK).symlink_to(self._project)
        #: When a process was killed, by its PID namespace and its process id there.
        self._killed: dict[tuple[int, int], list[float]] = {}
        self._report = Report()
        self._guard = threading.Lock()
        self._over = threading.Event()

    def run(self, seconds: float) -> Report:
        """Call and kill for so long; then judge."""
        callers = [
            threading.Thread(target=self._call_again_and_again, args=(host,))
            for host in self._hosts
            for _ in range(CALLERS_EACH)
        ]
        for thread in callers:
            thread.start()
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(self._random.uniform(1, 4))
            self._kill_one()
        self._over.set()
        for thread in callers:
            thread.join()
        self._judge()
        return self._report

    def _call_again_and_again(self, host: GlusterHost) -> None:
        while not self._over.is_set():
            name, words = self._choose(host)
            env = host.env("newest", BUILD_SECONDS=f"{self._random.uniform(0.05, 0.5):.2f}")
            began = time.monotonic()
            call = host.start(words, env, self._project)
            try:
                _, stderr = call.communicate(timeout=HANGS_AFTER)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(call.pid, signal.SIGKILL)
                _, stderr = call.communicate()
                with self._guard:
                    self._report.hung.append(f"{' '.join(words)} on {host.name}: {stderr!r}")
            self._note(name, call.returncode, stderr.decode(errors="replace"), time.monotonic() - began)

    def _choose(self, host: Host) -> tuple[str, list[str]]:
        """A random call: a name for the report, and its words."""
        package, other = self._random.sample(PACKAGES, 2)
        link = ["--project", host.path(LINK)]
        return self._random.choice(
            [
                ("run", ["uv", "run", "true"]),
                ("run --reinstall", ["uv", "run", "--reinstall-package", "demo", "python", "-c", "import demo"]),
                ("run --with", ["uv", "run", "--with", package, "true"]),
                ("sync", ["uv", "sync"]),
                ("sync --reinstall", ["uv", "sync", "--reinstall-package", "demo"]),
                ("add", ["uv", "add", package]),
                ("remove", ["uv", "remove", package]),
                ("version", ["uv", "version", "--bump", "patch"]),
                ("add by a link", ["uv", "add", *link, package]),
                ("sync by a link", ["uv", "sync", *link, "--reinstall-package", "demo"]),
                ("add in a container", [*IN_CONTAINER, "uv", "add", package]),
                ("run in a container", [*IN_CONTAINER, "uv", "run", "--reinstall-package", "demo", "true"]),
                ("exec", ["uv-mutex", "exec", "--", "sh", "-c", _nested(package, other)]),
            ]
        )

    def _note(self, subcommand: str, status: int, stderr: str, took: float) -> None:
        with self._guard:
            self._report.calls[subcommand] += 1
            self._report.statuses[status] += 1
            self._report.longest = max(self._report.longest, took)
            # `uv remove` of a package that isn't there fails, as it should; a shell says 137 of a call that was killed.
            killed = (-signal.SIGKILL, 128 + signal.SIGKILL)
            if status not in (0, *killed) and "could not be found in" not in stderr:
                self._report.complaints[f"{subcommand}: exit {status}: {stderr[-600:]}"] += 1

    def _kill_one(self) -> None:
        shims = [pid for host in self._hosts for pid in host.shims()]
        if not shims:
            return
        # Most only wait; every other time one is killed that has a uv under its lock.
        inside = [pid for pid in shims if _has_child(pid)]
        pid = self._random.choice(inside if inside and self._random.random() < 0.5 else shims)
        with contextlib.suppress(OSError, IndexError):
            status = Path(f"/proc/{pid}/status").read_text()
            number = int(status.partition("NSpid:")[2].split("\n")[0].split()[-1])
            namespace = os.stat(f"/proc/{pid}/ns/pid").st_ino
            when = time.monotonic()
            os.kill(pid, signal.SIGKILL)
            self._killed.setdefault((namespace, number), []).append(when)
            self._report.kills += 1

    def _judge(self) -> None:
        report, builds = self._report, self._builds(self._journal.entries())
        report.builds = len(builds)
        builds.sort(key=lambda build: build.begin)
        longest = builds[0] if builds else None
        for build in builds[1:]:
            assert longest
            if build.begin < longest.end:
                report.overlaps.append(f"{longest} and {build}")
            longest = max(longest, build, key=lambda build: build.end)
        host = self._hosts[0]
        for words in (["sync"], ["lock", "--check"], ["run", "--no-sync", "python", "-c", "import demo"]):
            done = host.run(["uv", *words], host.env("newest"), self._project)
            if done.returncode:
                report.broken += f"uv {' '.join(words)}: {done.stderr.decode(errors='replace')}\n"

    def _builds(self, entries: Sequence[Entry]) -> list[Build]:
        """Each build's time inside. What is killed has left when it is: its uv dies with it."""
        builds = []
        for number, entry in enumerate(entries):
            if entry.what != "enter":
                continue
            same = (
                later for later in entries[number + 1 :] if (later.namespace, later.uv) == (entry.namespace, entry.uv)
            )
            last = next(same, None)
            killed = [when for when in self._killed.get((entry.namespace, entry.shim), []) if when > entry.when - 60]
            end = last.when if last else (killed[0] if killed else time.monotonic())
            if last is None or last.what == "orphan":
                self._report.orphaned += 1
                if not killed:
                    self._report.outlived.append(f"nobody killed the shim of {entry}")
                elif last and last.when - killed[0] > OUTLIVES_AFTER:
                    self._report.outlived.append(f"{entry} was inside {last.when - killed[0]:.1f} s after the kill")
                if killed:
                    end = min(end, killed[0])
            builds.append(Build(entry.host, entry.shim, entry.when, end))
        return builds


def _nested(package: str, other: str) -> str:
    """Two calls beside each other below one holder. The second may fail, since the package need not be there."""
    return f"uv add {package} & added=$!; uv remove {other}; wait $added"


def _has_child(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return bool(Path(f"/proc/{pid}/task/{pid}/children").read_text())
    return False


def soak(volume: Volume, index: LocalIndex, *, flock: bool, seconds: float, seed: int) -> Report:
    """Run on two hosts of a volume."""
    hosts = [volume.host(name, flock=flock) for name in ("host-a", "host-b")]
    return Soak(hosts, index, volume.folder, seed=seed).run(seconds)


def _main() -> int:
    flock = "lease" not in sys.argv[1:]
    seconds = float(os.environ.get("UV_MUTEX_SOAK_SECONDS") or 1200)
    seed = random.randrange(2**32)
    print(f"{seconds:.0f} s by {'flock' if flock else 'lease'}, seed {seed}", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    try:
        with LocalIndex(folder / "index") as index, Volume(folder / "volume") as volume:
            report = soak(volume, index, flock=flock, seconds=seconds, seed=seed)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(report)
    return int(report.violations > 0)


if __name__ == "__main__":
    sys.exit(_main())
