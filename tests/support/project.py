"""Projects for uv to sync, and the clean environment to do it in."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.shim import Shim
from support.uvs import uv
from support.wheels import BUILD_SYSTEM, project_table


@dataclass(frozen=True)
class Project:
    """A project folder. Its home and cache lie beside it, on the same filesystem, and siblings share them."""

    root: Path
    name: str
    python: str
    shim: Callable[[], Shim] | None = None

    @classmethod
    def make(
        cls,
        root: Path,
        *,
        name: str = "demo",
        dependencies: Iterable[str] = (),
        index_url: str,
        python: str | None = None,
        extra_toml: str = "",
        backend_source: str | None = None,
        shim: Callable[[], Shim] | None = None,
    ) -> Project:
        """Write a project that resolves from one index alone.

        :param python: the interpreter for its environment, by default the one under the running one.
        :param backend_source: builds the project with this backend (see slow_backend); without one it is virtual.
        :param shim: gives the shim for `env`; the fixture project_factory does.
        """
        root.mkdir(parents=True)
        parts = [project_table(name, "0.1.0", dependencies)]
        if backend_source is not None:
            (root / "backend.py").write_text(backend_source)
            parts.append(BUILD_SYSTEM)
        parts.append(f'[[tool.uv.index]]\nurl = "{index_url}"\ndefault = true\n')
        (root / "pyproject.toml").write_text("\n".join([*parts, extra_toml]))
        return cls(root, name, python or os.path.realpath(sys.executable), shim)

    @property
    def pyproject(self) -> Path:
        """Its pyproject.toml."""
        return self.root / "pyproject.toml"

    @property
    def venv(self) -> Path:
        """Its environment, unless a variable says otherwise."""
        return self.root / ".venv"

    def env(self, uv_version: str, shimmed: bool = True, **extra: str) -> dict[str, str]:
        """A whole environment block that owes nothing to the one of the tests.

        :param extra: more variables, or other values for these.
        """
        folders = [str(uv(uv_version).parent), "/usr/bin", "/bin"]
        if shimmed:
            assert self.shim is not None, "this project was made without a shim"
            folders.insert(0, str(self.shim().bin))
        home = self.root.parent / "home"
        home.mkdir(exist_ok=True)
        arguments = {"UV_MUTEX_LOG_ARGS": "1"} if "UV_MUTEX_LOG" in extra else {}  # so that tests know whose line it is
        return {
            "PATH": ":".join(folders),
            "HOME": str(home),
            "UV_CACHE_DIR": str(self.root.parent / "cache"),
            "UV_PYTHON": self.python,
            "UV_PYTHON_DOWNLOADS": "never",
            **arguments,
            **extra,
        }


def run(
    project: Project, words: Sequence[str], env: Mapping[str, str], *, timeout: float = 300, **options: Any
) -> subprocess.CompletedProcess[bytes]:
    """Run one command in the project's root, its output captured.

    :param words: the whole command, "uv" included.
    :param options: for subprocess.run, over the defaults.
    """
    defaults = {"cwd": project.root, "stdin": subprocess.DEVNULL, "capture_output": True}
    return subprocess.run(list(words), env=env, timeout=timeout, check=False, **{**defaults, **options})
