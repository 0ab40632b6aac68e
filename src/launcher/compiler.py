"""Compile the launcher: `python compiler.py OUTPUT`, by this machine's C compiler or by ziglang.

setup/launcher.py runs it in a clone, build_hook.py while a wheel is built, and release for the wheel that people get.
"""

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

_HERE = Path(__file__).resolve().parent
SOURCES = ("launcher.c", "ticket.c", "digest.c")
WARNINGS = ("-std=gnu11", "-Wall", "-Wextra", "-Werror")
#: Without what differs from build to build, and without zig's checks of undefined behaviour, which the tests make.
_FLAGS = (*WARNINGS, "-O2", "-s", "-Wl,--build-id=none")
_ZIG_FLAGS = ("-static", "-fno-sanitize=undefined")


class CompileError(Exception):
    """No compiler could make the launcher; the text says why."""


def compile_here(output: Path) -> None:
    """Compile for this machine: by $CC, or musl-gcc, or cc, static if it can, else by ziglang.

    A static program starts faster, and also where its C library is missing. Of musl, its start costs 0.1 ms, of glibc
    0.4 ms.

    :param output: the file to write.
    :raises CompileError: if there is no compiler, or each one fails.
    """
    problem = "there is no C compiler"
    for compiler in _compilers():
        try:
            _compile(compiler, output)
        except CompileError as error:
            problem = str(error)
        else:
            return
    raise CompileError(problem)


def compile_for(target: str, output: Path) -> None:
    """Compile a static program by ziglang.

    :param target: what zig calls the machine, such as "aarch64-linux-musl".
    :param output: the file to write.
    :raises CompileError: if ziglang is not installed, or fails.
    """
    _compile([*_zig(), "-target", target, *_ZIG_FLAGS], output)


def _compilers() -> Iterator[list[str]]:
    given = shlex.split(os.environ.get("CC", ""))
    if not given and shutil.which("musl-gcc"):
        yield ["musl-gcc", "-static"]
    words = given or ["cc"]
    if shutil.which(words[0]):
        yield [*words, "-static"]
        yield words
    if importlib.util.find_spec("ziglang"):
        yield [*_zig(), "-target", f"{os.uname().machine}-linux-musl", *_ZIG_FLAGS]


def _zig() -> list[str]:
    return [sys.executable, "-m", "ziglang", "cc"]


def _compile(compiler: Sequence[str], output: Path) -> None:
    with tempfile.TemporaryDirectory() as caches:
        # Zig leaves 100 MB in its cache, and takes 40 s to fill it.
        environ = {"ZIG_GLOBAL_CACHE_DIR": caches, "ZIG_LOCAL_CACHE_DIR": caches, **os.environ}
        # In the folder of the sources, whose path would get into the program else.
        words = [*compiler, *_FLAGS, "-o", str(output.absolute()), *SOURCES]
        try:
            done = subprocess.run(
                words, cwd=_HERE, env=environ, stdin=subprocess.DEVNULL, capture_output=True, check=False
            )
        except OSError as error:
            raise CompileError(f"{compiler[0]} can't be started: {error.strerror}") from None
    if done.returncode:
        first = done.stderr.decode("utf-8", "replace").strip().partition("\n")[0]
        raise CompileError(f"{compiler[0]} fails: {first or f'exit status {done.returncode}'}")


if __name__ == "__main__":
    try:
        compile_here(Path(sys.argv[1]))
    except CompileError as error:
        sys.exit(f"uv-mutex: the native launcher is not compiled: {error}")
