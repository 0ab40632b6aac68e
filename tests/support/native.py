"""The native launcher between two stubs: which of them it starts, and with which words."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from launcher import compiler
from support import need
from support.shim import Shim

_ROOT = Path(__file__).parents[2]
LAUNCHER_SOURCES = _ROOT / "src/launcher"
#: What finds reads and writes out of bounds, and undefined behaviour, and ends the program then.
SANITIZERS = ("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
#: Both say their names and words, each ended by a zero byte. The real uv is a program, for which a script would not do.
_PYTHON = "#!/bin/sh\nprintf '%s\\0' guarded \"$@\"\n"
_UV = """
#include <stdio.h>
int main(int argc, char **argv)
{
    for (int i = 0; i < argc; i++)
        printf("%s%c", i ? argv[i] : "passed", 0);
    return argc && argv[0][0] == 'u' ? 0 : 1;
}
"""

Words = Sequence[str | bytes]


def compile_launcher(output: Path, *options: str, sources: Path = LAUNCHER_SOURCES) -> None:
    """Compile the sources with the warnings of a release, and more options."""
    words = [need.executable("cc"), *compiler.WARNINGS, *options, "-o", str(output), *compiler.SOURCES]
    done = subprocess.run(words, cwd=sources, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


class PythonlessShim:
    """A copy of an installed native shim. In place of its Python side is a program that does nothing but fail."""

    _LEFT = 77

    def __init__(self, shim: Shim, folder: Path) -> None:
        self.shim = Shim(folder / "pythonless")
        shutil.copytree(shim.prefix, self.shim.prefix, symlinks=True)
        interpreter = folder / "no-python"
        interpreter.write_text(f"#!/bin/sh\nexit {self._LEFT}\n")
        interpreter.chmod(0o755)
        pointer = self.shim.prefix / "lib/uv-mutex/launcher"
        _, *rest = pointer.read_bytes().split(b"\n")
        pointer.write_bytes(b"\n".join([os.fsencode(interpreter), *rest]))

    def answers(self, words: Sequence[str], env: Mapping[str, str], folder: Path) -> bool:
        """Whether the native launcher answers a call by itself. If not, nothing is done."""
        command = [str(self.shim.uv), *words]
        done = subprocess.run(
            command, env=env, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False
        )
        assert done.returncode in (0, self._LEFT), done
        return done.returncode == 0


class StubPrefix:
    """A prefix whose Python side is a stub, and a folder with a stub in place of the real uv."""

    def __init__(self, folder: Path, program: Path) -> None:
        self.uv = folder / "prefix/bin/uv"
        self.pointer = folder / "prefix/lib/uv-mutex/launcher"
        self.interpreter = folder / "interpreter"
        self.real = folder / "real/uv"
        self.script = self.pointer.parent / "tag/launcher"
        for path in (self.uv, self.script, self.real):
            path.parent.mkdir(parents=True)
        self.script.touch()
        os.link(program, self.uv)
        self.interpreter.write_text(_PYTHON)
        self.interpreter.chmod(0o755)
        source = folder / "real.c"
        source.write_text(_UV)
        subprocess.run([need.executable("cc"), "-o", self.real, source], check=True)
        self.pointer.write_text(f"{self.interpreter}\n-ISXutf8\ntag/launcher\nnative\n")

    @property
    def path(self) -> str:
        """The PATH that leads by the launcher to the stub of uv."""
        return f"{self.uv.parent}:{self.real.parent}"

    def call(
        self, words: Words, environ: Mapping[str, str | bytes] | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """Call the launcher with this environment; by default with a PATH alone."""
        env = {"PATH": self.path} if environ is None else environ
        return subprocess.run(
            [self.uv, *words], env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False
        )

    def decide(self, words: Words, **environ: str) -> bool:
        """Whether the launcher leaves a call to Python. The words must arrive as they are."""
        done = self.call(words, {"PATH": self.path, **environ})
        assert (done.returncode, done.stderr) == (0, b""), done
        name, *arrived = done.stdout.split(b"\0")[:-1]
        if name == b"guarded":
            options = [b"-ISXutf8", b"-X", b"uv_mutex_ignored=", b"-X", b"uv_mutex_gate="]
            assert arrived[:6] == [*options, os.fsencode(self.script)]
            del arrived[:6]
        assert arrived == [os.fsencode(word) for word in words]
        return name == b"guarded"


def call_python(words: Words, environ: Mapping[str, str | bytes]) -> subprocess.CompletedProcess[bytes]:
    """What the Python launcher does with a call."""
    begin = f"import sys; sys.path.insert(0, {str(_ROOT / 'src')!r})"
    code = f"{begin}; from uv_mutex.shim import main; main.main(sys.argv[1:])"
    command = [sys.executable, "-ISXutf8", "-c", code, *words]
    return subprocess.run(command, env=environ, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)
