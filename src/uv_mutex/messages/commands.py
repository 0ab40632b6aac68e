"""What the commands of `uv-mutex` say."""

from collections.abc import Sequence
from pathlib import Path

WINDOWS = "Windows is not supported: it has no flock, and no exec that keeps the process"


def no_folder(error: OSError) -> str:
    return f"the working directory can't be found: {error.strerror}; go to another folder"


def no_project(folder: str) -> str:
    return f"{folder} is in no project of uv: no pyproject.toml there or above; go to a project, or name its folder"


def no_command() -> str:
    return "exec needs a command; write it after two dashes: uv-mutex exec -- COMMAND"


def not_found(command: str) -> str:
    return f"cannot start {command}: it is not on PATH; install it, or give its path"


def cannot_watch() -> str:
    return "--watch draws on a terminal; leave it out, or leave out --json and the pipe"


def cannot_look(reason: str) -> str:
    return f"can't be looked at: {reason}; `uv-mutex doctor` says what to do"


def not_renewed(seconds: float) -> str:
    return f"not renewed for {seconds:.0f} s by this host's clock: if it is dead, the next call takes it over"


def draws_over(output: Path) -> str:
    return f"{output} is one of the logs, and is left alone; name another file after -o"


def nothing_to_draw(logs: Sequence[Path]) -> str:
    return f"no guarded call in {', '.join(map(str, logs))}; name files that UV_MUTEX_LOG wrote"


def cannot_draw(output: Path, error: OSError) -> str:
    return f"cannot write {output}: {error.strerror}; name another file after -o"


def cannot_read_log(log: Path, error: OSError) -> str:
    return f"cannot read {log}: {error.strerror}; name a file that UV_MUTEX_LOG wrote"


def broken_lines(log: Path, first: int, count: int) -> str:
    also = f", and {count - 1} more" if count > 1 else ""
    return f"{log}: line {first}{also}: not of UV_MUTEX_LOG, passed over"


def demo_fails_alone(reason: str) -> str:
    return f"`uv sync` alone fails here, so there is nothing to show: {reason}; mend that, and run the demo again"


# Installing.


def foreign_program(path: Path) -> str:
    return f"{path} is not a uv-mutex shim, and is left alone; choose another --prefix"


def cannot_install(where: object, error: OSError) -> str:
    return f"cannot install to {where}: {error.strerror}; choose another --prefix"


def not_installed(prefix: Path, manifest: Path, error: OSError) -> str:
    return f"nothing is installed in {prefix}: {manifest}: {error.strerror}; name its --prefix"


def cannot_remove(error: OSError) -> str:
    return f"cannot remove {error.filename}: {error.strerror}; remove it by hand"


def no_home(prefix: Path) -> str:
    return f"there is no home folder for {prefix}; name another --prefix"


def not_for_path(path: str) -> str:
    return f"PATH cannot hold {path}, which has a colon or a line end in it; choose another --prefix"


def library_missing(name: str) -> str:
    return f"{name} cannot be found; install uv-mutex with its dependencies"


def long_interpreter(python: str) -> str:
    return f"the path of {python} does not fit in a script's first line; install with another Python"


def command_fails(command: Path, last_line: str) -> str:
    return f"{command} does not start: {last_line}; install with another Python"
