"""A small Debian of its own folder, to install things on as a user would on a machine."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from support import need
from support.download import download
from support.uvs import cache

#: Beyond a minimal system: what the tests of ways in need to be there.
_PACKAGES = "python3 python3-venv ca-certificates systemd dbus dbus-user-session libpam-systemd zsh fish".split()
_CODENAME = "bookworm"
#: The PATH that Docker gives a container, and the one of `ssh HOST COMMAND` without PAM.
DOCKER_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SSH_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/games"


def debian() -> Path:
    """The root folder of a fresh Debian, made once (it takes a minute). Not to be changed: see :func:`machine`."""
    need.root()
    debootstrap = need.executable("debootstrap")
    place = cache() / f"debian-{_CODENAME}"
    with FileLock(place.with_suffix(".lock")):
        if not place.exists():
            building = place.with_suffix(".new")
            afresh = ["sh", "-c", 'rm -rf "$0" && exec "$@"', str(building)]
            command = [debootstrap, "--variant=minbase", f"--include={','.join(_PACKAGES)}", _CODENAME, str(building)]
            done = download([*afresh, *command, _mirror()])
            need.that(done.returncode == 0, f"debootstrap failed: {done.stdout[-2000:]}{done.stderr[-2000:]}")
            for archive in building.glob("var/cache/apt/archives/*.deb"):
                archive.unlink()
            building.rename(place)
    return place


def _mirror() -> str:
    """Whatever this machine's own packages come from."""
    apt = [need.executable("apt-get"), "indextargets", "--format", "$(ORIGIN) $(CODENAME) $(REPO_URI)"]
    lines = subprocess.run(apt, capture_output=True, text=True, check=False).stdout.splitlines()
    mirrors = [words[2] for words in map(str.split, lines) if words[:2] == ["Debian", _CODENAME]]
    need.that(bool(mirrors), f"needs Debian {_CODENAME} among the sources of apt-get, updated")
    return mirrors[0]


class Machine:
    """A Debian to work on. `root` is its root folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def run(
        self,
        words: Sequence[str],
        *,
        user: str = "root",
        env: Mapping[str, str] | None = None,
        timeout: float = 300,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on it as a user, in an environment of HOME, USER and Docker's PATH, or the one given."""
        home = "/root" if user == "root" else f"/home/{user}"
        block = env if env is not None else {"HOME": home, "USER": user, "PATH": DOCKER_PATH}
        isolated = ["unshare", "--mount", "--pid", "--fork", f"--mount-proc={self.root}/proc"]
        entered = ["chroot", f"--userspec={user}:{user}", "--groups=", str(self.root)]
        assigned = ["/usr/bin/env", "-i", *(f"{name}={value}" for name, value in block.items())]
        return subprocess.run(
            [*isolated, *entered, *assigned, *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            timeout=timeout,
            check=False,
        )

    def path(self, name: str) -> Path:
        """Where a file of the machine lies."""
        return self.root / name.lstrip("/")

    def copy(self, source: Path, name: str, *, user: str = "root") -> None:
        """Put a file or folder there, owned by a user."""
        place = self.path(name)
        subprocess.run(["mkdir", "-p", place.parent], check=True)
        subprocess.run(["cp", "-r", "--reflink=auto", source, place], check=True)
        self.own(name, user)

    def write(self, name: str, text: str, *, user: str = "root", mode: int = 0o644) -> None:
        """Write a file, owned by a user; its folders too, where they are missing."""
        place = self.path(name)
        made = [folder for folder in place.parents if not folder.exists()]
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        place.chmod(mode)
        for path in (place, *made):
            self.own("/" + str(path.relative_to(self.root)), user)

    def own(self, name: str, user: str) -> None:
        """Give a file or folder to a user."""
        subprocess.run(["chroot", self.root, "chown", "-R", f"{user}:{user}", name], check=True)


@contextmanager
def machine(folder: Path) -> Iterator[Machine]:
    """A fresh Debian with a user `joe`, gone afterwards.

    :param folder: for what is written to it; must not be there yet.
    """
    fresh = debian()
    root, upper, work = folder / "root", folder / "upper", folder / "work"
    for path in (root, upper, work):
        path.mkdir(parents=True)
    layers = f"lowerdir={fresh},upperdir={upper},workdir={work}"
    mounted = subprocess.run(["mount", "-t", "overlay", "none", "-o", layers, root], capture_output=True, check=False)
    if mounted.returncode:  # on top of another overlay
        subprocess.run(["cp", "-a", "--reflink=auto", f"{fresh}/.", root], check=True)
    try:
        subprocess.run(["chroot", root, "useradd", "--create-home", "--shell", "/bin/bash", "joe"], check=True)
        yield Machine(root)
    finally:
        if not mounted.returncode:
            subprocess.run(["umount", "--lazy", root], check=True)
        shutil.rmtree(folder, ignore_errors=True)


#: Makes a root folder the whole system of new namespaces, and becomes its systemd.
_BOOT = """\
mount --make-rprivate / && mount --rbind {root} {root} && cd {root}
mount -t proc proc proc && mount -t sysfs none sys && mount -t cgroup2 none sys/fs/cgroup
for folder in run tmp dev; do mount -t tmpfs none $folder; done
mkdir dev/pts dev/shm && mount -t devpts -o newinstance,ptmxmode=666 none dev/pts && ln -s pts/ptmx dev/ptmx
for name in null zero random urandom tty full; do touch dev/$name && mount --bind /dev/$name dev/$name; done
exec chroot . /usr/bin/env -i container=lxc PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --system
"""


class Booted:
    """A machine whose own systemd runs."""

    def __init__(self, init: int) -> None:
        self._init = init

    def run(self, words: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run a command there, as root with PATH alone."""
        entered = ["nsenter", f"--target={self._init}", "--all", "--root", "--wd", "--", "/usr/bin/env", "-i"]
        return subprocess.run(
            [*entered, f"PATH={DOCKER_PATH}", "HOME=/root", *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )


def _has_root(pid: str, folder: Path) -> bool:
    """Whether this is the root folder of a process."""
    with contextlib.suppress(OSError):
        return os.path.samefile(f"/proc/{pid}/root", folder)
    return False


@contextmanager
def booted(system: Machine) -> Iterator[Booted]:
    """Start a machine, in namespaces of its own and without a network. At the end all its processes are killed."""
    script = _BOOT.format(root=system.root)
    isolated = ["unshare", "--mount", "--pid", "--fork", "--uts", "--ipc", "--cgroup", "--net", "--kill-child"]
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            [*isolated, "sh", "-euc", script], stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
        try:
            running = None
            deadline = time.monotonic() + 300
            while time.monotonic() < deadline and process.poll() is None:
                children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
                # Until the root folder is its own, what is asked there could be asked of this machine's systemd.
                if children and _has_root(children[0], system.root):
                    running = Booted(int(children[0]))
                    if running.run(["systemctl", "is-system-running"]).stdout.strip() in ("running", "degraded"):
                        break
                time.sleep(0.1)
            else:
                output.seek(0)
                need.that(False, f"systemd does not start in a namespace here: {output.read()[-2000:]}")
            assert running is not None
            yield running
        finally:
            process.kill()
            process.wait(60)
