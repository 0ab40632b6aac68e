"""uv-mutex as a package index has it: its own archives, and wheels of what an installation of it needs."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from support.uvs import numeric_version, uv

_ROOT = Path(__file__).parents[2]
_LIBRARIES = ("filelock", "packaging")
_WHEEL = "Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def copy_sources(clone: Path) -> Path:
    """Copy what the package is built from into a new folder; return it."""
    for name in ("src", "hooks"):
        ignored = shutil.ignore_patterns("__pycache__", "launchers")
        shutil.copytree(_ROOT / name, clone / name, ignore=ignored, symlinks=True)
    for name in ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"):
        shutil.copy(_ROOT / name, clone)
    return clone


def build(sources: Path, output: Path, target: str = "wheel", **env: str) -> tuple[Path, str]:
    """Build with the installed hatchling into a folder of its own; return the archive and what hatchling said.

    :param target: wheel or sdist.
    :param env: more variables for it.
    """
    words = [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(output)]
    done = subprocess.run(words, cwd=sources, env={**os.environ, **env}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (archive,) = output.iterdir()
    return archive, done.stdout + done.stderr


def publish(folder: Path) -> None:
    """Put wheels into the folder of an index: uv-mutex of this source tree, its libraries, and the newest uv."""
    wheel, _ = build(_ROOT, folder / "new")
    wheel.rename(folder / wheel.name)
    wheel.parent.rmdir()
    for name in _LIBRARIES:
        _repack(name, folder)
    _pack_uv("newest", folder)


def _repack(name: str, folder: Path) -> None:
    """Make a wheel of an installed library."""
    distribution = importlib.metadata.distribution(name)
    left_out = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json")
    files = [file for file in distribution.files or () if "__pycache__" not in file.parts and ".." not in file.parts]
    kept = {str(file): Path(str(file.locate())).read_bytes() for file in files if file.name not in left_out}
    info = next(file.parts[0] for file in files if file.name == "METADATA")
    _write(folder / f"{name}-{distribution.version}-py3-none-any.whl", kept, info)


def _pack_uv(version: str, folder: Path) -> None:
    """Make a wheel of the program alone, as uv's own has it."""
    number = numeric_version(version)
    info = f"uv-{number}.dist-info"
    files = {
        f"uv-{number}.data/scripts/uv": uv(version).read_bytes(),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: uv\nVersion: {number}\n".encode(),
        f"{info}/WHEEL": _WHEEL.encode(),
    }
    _write(folder / f"uv-{number}-py3-none-any.whl", files, info)


def _write(path: Path, files: dict[str, bytes], info: str) -> None:
    record = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {**files, f"{info}/RECORD": record.encode()}.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = (0o100755 if "/scripts/" in name else 0o100644) << 16
            archive.writestr(entry, content)


def set_version(sources: Path, version: str) -> None:
    """Make a copy of the sources another version, one that writes its notes and tickets in another format."""
    newer = r'"uv-mutex \1 99"'
    changes = {
        "src/uv_mutex/__init__.py": (r'^VERSION = ".*"$', f'VERSION = "{version}"'),
        "src/uv_mutex/environment/note_file.py": (r'"uv-mutex (note) \d+"', newer),
        "src/uv_mutex/environment/call_form.py": (r'"uv-mutex (ticket) \d+"', newer),
        "src/launcher/ticket.c": (r'"uv-mutex (ticket) \d+"', newer),
    }
    for name, (pattern, text) in changes.items():
        content, count = re.subn(pattern, text, (sources / name).read_text(), flags=re.MULTILINE)
        assert count, f"{name} has no {pattern}"
        (sources / name).write_text(content)


def launchers(wheel: Path) -> dict[str, bytes]:
    """The native launchers in a wheel, by their names."""
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.startswith("uv_mutex/launchers/")]
        return {name.rpartition("/")[2]: archive.read(name) for name in names}
