"""Images and containers by buildah. There is no registry here, so base images are made of local folders."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from support import need

#: What the tests have no use for, and the storage would copy many times.
_HEAVY = (
    "usr/share/doc usr/share/man usr/share/locale usr/share/fish usr/share/zoneinfo usr/share/info usr/share/zsh "
    "usr/share/perl5 usr/lib/systemd usr/lib/x86_64-linux-gnu/gconv usr/lib/x86_64-linux-gnu/perl-base usr/bin/perl "
    "usr/bin/fish var/cache var/lib/apt/lists"
).split()


def slim(root: Path) -> None:
    """Take out of a Debian what the tests have no use for."""
    for name in _HEAVY:
        subprocess.run(["rm", "-rf", root / name], check=True)


@dataclass(frozen=True)
class Storage:
    """buildah with images of its own."""

    folder: Path

    def run(self, *words: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        """One command of buildah."""
        options: list[str | Path] = [
            "--root",
            self.folder / "images",
            "--runroot",
            self.folder / "run",
            "--storage-driver",
            "vfs",
        ]
        done = subprocess.run(
            [need.executable("buildah"), *options, *words], capture_output=True, text=True, check=False
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def build(self, file: Path, context: Path, name: str, **arguments: str) -> subprocess.CompletedProcess[str]:
        """Build a Dockerfile, on local images alone.

        :param arguments: build arguments.
        """
        assigned = [f"--build-arg={key}={value}" for key, value in arguments.items()]
        options = ["--isolation", "chroot", "--ulimit", "nofile=4096:4096", "--pull=never", *assigned]
        return self.run("bud", *options, "--tag", f"localhost/{name}", "--file", file, context, check=False)

    def image(self, name: str, folder: Path, **env: str) -> None:
        """Make an image of a folder."""
        container = self.run("from", "scratch").stdout.strip()
        self.run("copy", "--quiet", container, folder, "/")
        self.run("config", *(f"--env={key}={value}" for key, value in env.items()), container)
        self.run("commit", "--quiet", "--rm", container, f"localhost/{name}")

    @contextlib.contextmanager
    def container(self, image: str) -> Iterator[str]:
        """A container of an image."""
        container = self.run("from", f"localhost/{image}").stdout.strip()
        yield container
        self.run("rm", container)

    def root(self, container: str) -> Path:
        """Where its files lie."""
        return Path(self.run("mount", container).stdout.strip())

    def size(self, container: str, below: str = "") -> int:
        """The bytes of its files, each inode once."""
        command = ["du", "--summarize", "--apparent-size", "--block-size=1", f"{self.root(container)}/{below}"]
        return int(subprocess.check_output(command, text=True).split()[0])

    def exec(self, container: str, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a command in it with the image's own user and PATH, as `docker exec` does.

        :param env: more variables, or other values for them.
        """
        assigned = [f"--env={name}={value}" for name, value in env.items()]
        return self.run("run", "--isolation", "chroot", *assigned, container, "--", *words, check=False)

    def remove(self) -> None:
        """Remove all containers, images and the storage's folder."""
        self.run("rm", "--all", check=False)
        subprocess.run(["rm", "-rf", self.folder], check=False)
