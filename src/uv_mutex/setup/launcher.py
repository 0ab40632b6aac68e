"""Choose the launcher of a prefix, native or Python, and write the file by which the native one finds its Python side.

A native launcher is a program of src/launcher. A wheel may hold one for each kind of machine, in uv_mutex/launchers; in
a clone it is compiled where there is a compiler. Where none runs, the Python launcher (hooks/uv) is installed.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from uv_mutex.errors import MutexError
from uv_mutex.setup.manifest import SHARE

#: Read by src/launcher/launcher.c. Each line ends with a line feed: the interpreter, its options, the script (relative
#: to this file's folder). The fourth is for :func:`describe`. Another format needs another name, since an old launcher
#: may be running while an upgrade writes it.
POINTER = SHARE / "launcher"
#: The script, in the folder of a library.
SCRIPT = "launcher"
OPTIONS = "-ISXutf8"
NATIVE, PYTHON = "native", "python"
_VARIABLE = "UV_MUTEX_LAUNCHER"
_FOLDER = "launchers"


class Choice(NamedTuple):
    """Which launcher to install.

    ``native``: the program; None for the Python launcher. ``name``: its path in the package. ``why``: why this one.
    """

    native: Path | None
    name: str
    why: str


@contextmanager
def chosen(package: Path, prefix: Path) -> Iterator[Choice]:
    """Choose; the program lies in a passing folder and is gone afterwards.

    :param package: the folder of the package uv_mutex.
    :param prefix: where the launcher will be installed; need not be there yet.
    :raises MutexError: if UV_MUTEX_LAUNCHER has an unknown value, or asks for a native launcher and there is none.
    :raises OSError: if the folder can't be written.
    """
    asked = os.environ.get(_VARIABLE) or None
    if asked not in (None, NATIVE, PYTHON):
        raise MutexError(f"{_VARIABLE}={asked} is neither native nor python; set one of them, or unset it")
    name = f"{_FOLDER}/uv-{os.uname().machine}"
    if asked == PYTHON:
        yield Choice(None, name, f"{_VARIABLE}=python at install")
        return
    # On the file system that it will lie on, since another one, such as /tmp, may forbid programs.
    while not os.path.lexists(prefix):
        prefix = prefix.parent
    with tempfile.TemporaryDirectory(prefix=".uv-mutex-", dir=prefix) as folder:
        program = Path(folder, "bin/uv")  # a prefix of its own, without a Python side
        program.parent.mkdir()
        why = _make(package, name, program) or _problem(program)
        if not why:
            yield Choice(program, name, f"it runs on this {os.uname().machine} machine")
        elif asked:
            raise MutexError(f"there is no native launcher, since {why}; unset {_VARIABLE} for the Python launcher")
        else:
            yield Choice(None, name, why)


def _make(package: Path, name: str, program: Path) -> str:
    """Copy the program out of the package, or compile it in a clone; return why that is not possible, or ""."""
    if (package / name).is_file():
        shutil.copyfile(package / name, program)
        program.chmod(0o755)
        return ""
    compiler = package.parent / "launcher/compiler.py"
    if not compiler.is_file():
        return f"this package has none for {os.uname().machine}"
    done = subprocess.run(
        [sys.executable, compiler, program], stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    return done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2].rpartition("compiled: ")[2]


def _problem(program: Path) -> str:
    """Why the program does not run on this machine; "" if it does. A launcher that finds no Python side says so."""
    try:
        done = subprocess.run(
            [program, "--version"], env={"PATH": os.devnull}, stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
    except OSError as error:
        return f"it can't be started here ({error.strerror})"
    runs = done.returncode == 1 and done.stderr.startswith(b"uv-mutex: ")
    return "" if runs else f"it does not run here (status {done.returncode})"


def pointer(interpreter: str, library: str, choice: Choice) -> bytes:
    """The content of :data:`POINTER`.

    :param interpreter: the path of the Python.
    :param library: the name of the library's folder.
    :param choice: which launcher is installed.
    """
    kind = NATIVE if choice.native else PYTHON
    return os.fsencode(f"{interpreter}\n{OPTIONS}\n{library}/{SCRIPT}\n{kind} {choice.why}\n")


def _pointer_lines(prefix: Path) -> list[str]:
    """The lines of the pointer of a prefix; empty strings where there is none, as in one of an older version."""
    try:
        lines = (prefix / POINTER).read_bytes().decode("utf-8", "surrogateescape").split("\n")
    except OSError:
        lines = []
    return [*lines, "", "", "", ""][:4]


def interpreter_of(prefix: Path) -> str:
    """The Python of a prefix; "" if it is not known."""
    return _pointer_lines(prefix)[0]


def library_of(prefix: Path) -> str:
    """The name of the library's folder that calls in a prefix use; "" if it is not known."""
    return _pointer_lines(prefix)[2].partition("/")[0]


def describe(launcher: str) -> tuple[str, str]:
    """The kind of an installed launcher, and why it is this one; empty if it is not known.

    :param launcher: its path.
    """
    kind, _, why = _pointer_lines(Path(os.path.realpath(launcher)).parents[1])[3].partition(" ")
    return kind, why
