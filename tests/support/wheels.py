"""Wheels and sdists made by hand: no build tool, the same bytes every time."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import os
import re
import tarfile
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the oldest time that a zip can carry

# What a pyproject.toml needs so that the backend.py beside it builds the project.
BUILD_SYSTEM = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'

_PACKAGE = '''\
"""A package whose files can be counted."""

import os

VERSION = {version!r}
COUNT = {files}
PAYLOAD = {payload}


def check():
    """Raise unless every file that the wheel brought is here, whole."""
    here = os.path.dirname(os.path.abspath(__file__))
    for number in range(COUNT):
        with open(os.path.join(here, f"m{{number:04}}.py")) as module:
            assert module.read() == f"VALUE = {{number}}\\n", module.name
    assert not PAYLOAD or os.path.getsize(os.path.join(here, "payload.bin")) == PAYLOAD


def main():
    check()
    print({name!r}, VERSION, COUNT)
'''

_SLOW_BACKEND = '''\
"""A PEP 517 backend that takes its time."""

import ast, os, re, sys, time, zipfile

SECONDS = {seconds!r}
EXTRA = {extra!r}


def get_requires_for_build_wheel(config_settings=None):
    return []


get_requires_for_build_editable = get_requires_for_build_sdist = get_requires_for_build_wheel


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    with open("pyproject.toml") as file:
        text = file.read()
    name, version = (re.search(rf'^{{key}} = "(.+)"$', text, re.M)[1] for key in ("name", "version"))
    dependencies = ast.literal_eval(re.search(r"^dependencies = (\\[.*?\\])$", text, re.M | re.S)[1])
    exec(compile(EXTRA, "extra", "exec"), dict(globals(), name=name, version=version))
    time.sleep(SECONDS)
    module = re.sub(r"[-_.]+", "_", name).lower()
    info = f"{{module}}-{{version}}.dist-info"
    metadata = f"Metadata-Version: 2.1\\nName: {{name}}\\nVersion: {{version}}\\n"
    files = {{
        f"{{module}}.py": f"VERSION = {{version!r}}\\n",
        f"{{info}}/METADATA": metadata + "".join(f"Requires-Dist: {{item}}\\n" for item in dependencies),
        f"{{info}}/WHEEL": "Wheel-Version: 1.0\\nGenerator: slow\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
    }}
    files[f"{{info}}/RECORD"] = "".join(f"{{path}},,\\n" for path in [*files, f"{{info}}/RECORD"])
    wheel = f"{{module}}-{{version}}-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(wheel_directory, wheel), "w") as archive:
        for path, content in files.items():
            archive.writestr(path, content)
    return wheel


build_editable = build_wheel
'''


def module_name(name: str) -> str:
    """The importable name, which is also the name in file names."""
    return re.sub(r"[-_.]+", "_", name).lower()


def project_table(name: str, version: str, dependencies: Iterable[str] = ()) -> str:
    """The [project] table, one key a line: slow_backend reads it without a TOML parser."""
    lines = [f'name = "{name}"', f'version = "{version}"', 'requires-python = ">=3.10"']
    return "\n".join(["[project]", *lines, f"dependencies = {json.dumps(list(dependencies))}", ""])


def make_wheel(
    folder: Path,
    name: str,
    version: str = "1.0",
    *,
    files: int = 1,
    requires: Iterable[str] = (),
    scripts: Iterable[str] = (),
    payload_bytes: int = 0,
    data_files: int = 0,
) -> Path:
    """Make a pure wheel.

    :param files: how many submodules (m0000, m0001, …); ``check()`` of the package raises unless all are there.
    :param scripts: console scripts to install; each checks the package and prints its name, version and count.
    :param payload_bytes: size of an additional data file, to make the wheel heavy.
    :param data_files: how many files to install to share/NAME. Installers unpack them first and move them then, which
        makes old uvs that install at the same time stumble over each other.
    """
    module = module_name(name)
    info = f"{module}-{version}.dist-info"
    package = _PACKAGE.format(version=version, files=files, payload=payload_bytes, name=name)
    entries = {f"{module}/__init__.py": package.encode()}
    entries |= {f"{module}/m{number:04}.py": b"VALUE = %d\n" % number for number in range(files)}
    if payload_bytes:
        entries[f"{module}/payload.bin"] = bytes(payload_bytes)
    shared = f"{module}-{version}.data/data/share/{name}"
    entries |= {f"{shared}/{number // 20}/{number}.txt": b"" for number in range(data_files)}
    entries[f"{info}/METADATA"] = _metadata("2.1", name, version, requires)
    entries[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    if scripts:
        lines = "".join(f"{script} = {module}:main\n" for script in scripts)
        entries[f"{info}/entry_points.txt"] = f"[console_scripts]\n{lines}".encode()
    entries[f"{info}/RECORD"] = _record(entries, f"{info}/RECORD")
    # Stored, sizes in the local headers: uv unpacks while it downloads. Data descriptors would make it fetch twice.
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for path, data in entries.items():
            entry = zipfile.ZipInfo(path, _EPOCH)
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, data)
    return _write(folder / f"{module}-{version}-py3-none-any.whl", content.getvalue())


def make_sources(root: Path, names: Iterable[str], *, files: int, data_files: int) -> str:
    """Make a wheel of each name in a project's folder; return the table for pyproject.toml that leads there.

    :param files: see make_wheel, and for ``data_files``.
    """
    wheels = {name: make_wheel(root / "wheels", name, files=files, data_files=data_files) for name in names}
    lines = [f'{name} = {{ path = "wheels/{wheel.name}" }}' for name, wheel in wheels.items()]
    return "\n".join(["[tool.uv.sources]", *lines, ""])


def make_sdist(
    folder: Path, name: str, version: str = "1.0", *, backend_source: str, requires: Iterable[str] = ()
) -> Path:
    """Make an sdist that its own backend.py builds; its metadata is static, so that locking builds nothing."""
    requires = list(requires)
    stem = f"{module_name(name)}-{version}"
    entries = {
        "PKG-INFO": _metadata("2.2", name, version, requires),
        "pyproject.toml": (project_table(name, version, requires) + BUILD_SYSTEM).encode(),
        "backend.py": backend_source.encode(),
    }
    content = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=content, mode="wb", filename="", mtime=0) as stream,
        tarfile.open(fileobj=stream, mode="w") as archive,
    ):
        for path, data in entries.items():
            entry = tarfile.TarInfo(f"{stem}/{path}")
            entry.size, entry.mtime = len(data), 315532800
            archive.addfile(entry, io.BytesIO(data))
    return _write(folder / f"{stem}.tar.gz", content.getvalue())


def slow_backend(seconds: float, extra: str = "") -> str:
    """The source of a backend whose build_wheel and build_editable run `extra`, sleep, and write a one-module wheel.

    :param extra: Python code; it sees `name`, `version`, `os`, `sys`, `time`, and the sources as working directory.
    """
    return _SLOW_BACKEND.format(seconds=seconds, extra=extra)


def _metadata(standard: str, name: str, version: str, requires: Iterable[str]) -> bytes:
    lines = [f"Metadata-Version: {standard}", f"Name: {name}", f"Version: {version}", "Requires-Python: >=3.10"]
    return "\n".join([*lines, *(f"Requires-Dist: {item}" for item in requires), ""]).encode()


def _record(entries: Mapping[str, bytes], own_path: str) -> bytes:
    lines = []
    for path, data in entries.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        lines.append(f"{path},sha256={digest},{len(data)}\n")
    return "".join([*lines, f"{own_path},,\n"]).encode()


def _write(path: Path, content: bytes) -> Path:
    """Put the file in place whole: an index may be serving the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(content)
    os.replace(part, path)
    return path
