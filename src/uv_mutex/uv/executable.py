"""Find the real uv, which is the first `uv` on PATH that is not a uv-mutex launcher, and ask it what it supports."""

import os

from uv_mutex import files
from uv_mutex.errors import CANNOT_EXEC, NoUvError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

#: Every launcher has one of these in its first bytes. An older prefix on PATH may still hold the second.
LAUNCHER_MARKERS = (b"uv-mutex launcher", b"uv-mutex front door")
#: The variable that tells a shim which programs an earlier shim has started, see :mod:`uv_mutex.shim.loop_guard`.
PASSED = "UV_MUTEX_PASSED"
#: In that variable, stands for the process of a program that is only asked something, and starts no user's command.
ANYWHERE = "-"
_passed: list[str] = []
_ELF = b"\x7fELF"
#: How a launcher begins: a script, or a native one.
_MAGIC = (b"#!", _ELF)
_HEAD_BYTES = 2048


def find(environ: "Mapping[str, str]", passed: "Sequence[str]" = ()) -> str:
    """The path of the real uv.

    A launcher is recognised by its content, so that copies, symlinks and other prefixes are skipped too.

    :param environ: the environment variables, for UV_MUTEX_UV and PATH.
    :param passed: programs to skip: they were started as the real uv, and started the shim again.
    :raises NoUvError: if there is no real uv, or if UV_MUTEX_UV does not name one.
    """
    _passed[:] = passed
    named = environ.get("UV_MUTEX_UV")
    if named and not _is_one_of(named, passed):
        _check_named(named)
        return named
    first_shim = None
    for program in programs_on_path(environ.get("PATH")):
        if is_shim(program):
            first_shim = first_shim or program
        elif not _is_one_of(program, passed):
            return program
    if passed:
        raise NoUvError(
            f"no uv on PATH besides {passed[-1]}, which starts uv-mutex again; install uv, or name it in UV_MUTEX_UV"
        )
    besides = f" besides the shim {first_shim}" if first_shim else ""
    raise NoUvError(f"no uv on PATH{besides}; install uv, or name it in UV_MUTEX_UV")


def _is_one_of(path: str, programs: "Sequence[str]") -> bool:
    try:
        return any(path == program or os.path.samefile(path, program) for program in programs)
    except OSError:
        return False


def may_start_shim(program: str) -> bool:
    """Whether a program named uv may be another that looks for the real uv: a script, or a link to a version manager.

    The real uv is an ELF program, and it starts no other uv.
    """
    name = os.path.basename(os.path.realpath(program))
    return not (name.startswith("uv") and first_bytes(program).startswith(_ELF))


def _check_named(path: str) -> None:
    if not os.path.exists(path):
        problem = "does not exist"
    elif not _is_executable(path):
        problem = "is not an executable file"
    elif is_shim(path):
        problem = "is a uv-mutex shim itself"
    else:
        return
    raise NoUvError(f"UV_MUTEX_UV={path} {problem}; set it to the real uv, or unset it")


def programs_on_path(path: str | None, name: str = "uv") -> "Iterator[str]":
    """The executable regular files of this name on PATH, in order.

    PATH is read as execvp(3) reads it: an empty entry is the working directory.

    :param path: the value of PATH; None if it is not set, which means the system's default.
    :param name: the name of the program.
    """
    for folder in (os.defpath if path is None else path).split(":"):
        program = f"{folder or '.'}/{name}"
        if _is_executable(program):
            yield program


def _is_executable(path: str) -> bool:
    return os.access(path, os.X_OK) and os.path.isfile(path)


def is_shim(path: str) -> bool:
    """Whether this executable file is a launcher of uv-mutex, of any version and prefix."""
    head = first_bytes(path)
    return head.startswith(_MAGIC) and any(marker in head for marker in LAUNCHER_MARKERS)


def first_bytes(path: str) -> bytes:
    """The first 2048 bytes of a program; empty if they can't be read (then no script could run either)."""
    return files.read_or_empty(path, _HEAD_BYTES)


def help_text(uv: str, words: "Sequence[str]") -> str:
    """What the real uv prints for ``--help``.

    :param uv: the path of the real uv.
    :param words: the subcommand; empty for uv itself.
    :returns: the text; empty if there is no such subcommand, or if uv fails (the call itself will show how).
    """
    return _output(uv, [*words, "--help"])


def option_takes_value(uv: str, subcommand: str, name: str) -> bool | None:
    """Whether an option takes a value, as the real uv's parser says; None if uv doesn't know the option.

    :param uv: the path of the real uv.
    :param subcommand: the subcommand; "" for uv itself.
    :param name: the option, which the help may hide.
    """
    status, _, errors = _ask(uv, [*([subcommand] if subcommand else []), name, "--help"])
    if status == 0:
        return False
    return True if "a value is required" in errors else None


def workspace_root(uv: str, start: str) -> str | None:
    """The root of the workspace around a folder, as the real uv finds it.

    :param uv: the path of the real uv.
    :param start: the folder.
    :returns: the root; None if uv finds none, or is too old to say.
    """
    return _output(uv, ["workspace", "dir", f"--project={start}"]).strip() or None


def version_at_least(uv: str, wanted: str) -> bool:
    """Whether the real uv has this version or a newer one; false if it does not say its version.

    :param uv: the path of the real uv.
    :param wanted: a version, such as "0.12.0".
    """
    from packaging.version import InvalidVersion, Version

    words = _output(uv, ["--version"]).split()
    try:
        return Version(words[1]) >= Version(wanted)
    except (IndexError, InvalidVersion):
        return False


def _output(uv: str, words: "Sequence[str]") -> str:
    """What uv prints on stdout."""
    return _ask(uv, words)[1]


def _ask(uv: str, words: "Sequence[str]") -> tuple[int, str, str]:
    """The exit status of a uv, and what it prints on stdout and stderr.

    It runs without UV_ variables (the help shows their values) and without colour.
    """
    import subprocess

    environ = {name: value for name, value in os.environ.items() if not name.startswith("UV_")} | {"NO_COLOR": "1"}
    if may_start_shim(uv):
        environ[PASSED] = "\n".join(f"{ANYWHERE} - {program}" for program in (*_passed, uv))
    try:
        done = subprocess.run([uv, *words], stdin=subprocess.DEVNULL, capture_output=True, check=False, env=environ)
    except OSError:
        return CANNOT_EXEC, "", ""
    return done.returncode, done.stdout.decode("utf-8", "surrogateescape"), done.stderr.decode("utf-8", "replace")
