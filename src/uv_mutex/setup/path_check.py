"""Which `uv` each way into this machine finds, by going there."""

import os
import pwd
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from uv_mutex.setup import path_setup
from uv_mutex.uv import executable

_MARK = "@uv-mutex@"
_SAY = f"printf '\\n{_MARK}%s\\n' \"$PATH\""
_SHELLS = (
    ("login shell (sh -l)", ["sh", "-lc", _SAY]),
    ("login shell (bash -l)", ["bash", "-lc", _SAY]),
    ("terminal (bash -i)", ["bash", "-ic", _SAY]),
    ("script (zsh)", ["zsh", "-c", _SAY]),
    ("terminal (zsh -i)", ["zsh", "-ic", _SAY]),
    ("login shell (zsh -l)", ["zsh", "-lc", _SAY]),
    ("any fish", ["fish", "-c", f"printf '\\n{_MARK}%s\\n' (string join : $PATH)"]),
)
_GENERATOR = "systemd/user-environment-generators/30-systemd-environment-d-generator"
_DOCKER = "docker exec"
_SECONDS = 20


class WayIn(NamedTuple):
    """What a way leads to: its PATH (None if there is no telling), the first uv there, and the real one behind it."""

    way: str
    path: str | None
    first: str
    real: str

    @property
    def shimmed(self) -> bool:
        """Whether the shim comes first."""
        return bool(self.first) and executable.is_shim(self.first)


def report(prefix: str) -> tuple[list[str], bool]:
    """The ways in, a line each, and whether the shim comes first in all that can be told and wired."""
    lines, good = [], True
    for found in look():
        needs_root = found.way.startswith(_DOCKER) and os.geteuid() != 0
        if found.path is None:
            lines.append(f"  ?     {found.way}: its profile did not end; try it by hand")
        elif needs_root and not found.shimmed:
            lines.append(f"  --    {found.way}: not reached without root; run this as root, or set PATH in the image")
        else:
            lines.append(_line(found, prefix))
            good &= found.shimmed
    if os.geteuid() == 0:
        for user, path in users_with_their_own():
            lines.append(f"  PAST  {user}'s shells: a profile there may put {path} first; run this as {user} too")
    lines.append(
        "  --    an absolute path to uv, $UV, `python -m uv`, a program started with a PATH of its own\n"
        f"        (for Python programs: PYTHONPATH={prefix}/lib/uv-mutex/python)"
    )
    return lines, good


def _line(found: WayIn, prefix: str) -> str:
    """What one way in leads to."""
    if not found.first:
        return f"  ?     {found.way}: no uv on its PATH"
    if not found.shimmed:
        return f"  PAST  {found.way}: {found.first} comes first; put {prefix}/bin before its folder there"
    if not found.real:
        return f"  ok    {found.way}: the shim, but no real uv is on that PATH"
    return f"  ok    {found.way}: the shim, then {found.real}"


def look() -> Iterator[WayIn]:
    """Go every way that this machine has."""
    user = pwd.getpwuid(os.geteuid())
    root = os.geteuid() == 0
    start = path_setup.DEFAULT_PATH if root else "/usr/local/bin:/usr/bin:/bin"
    home = user.pw_dir if root else os.path.expanduser("~")
    env = {"HOME": home, "USER": user.pw_name, "LOGNAME": user.pw_name, "PATH": start, "TERM": "dumb"}
    for way, argv in _SHELLS:
        if not shutil.which(argv[0]):
            continue
        with _settings(argv[0], home) as more:
            yield _found(way, _ask(argv, env | more))
    if path_setup.has_systemd():
        way = "systemd service" if root else "systemd user service"
        yield _found(way, _systemd(env))
    yield _found(f"{_DOCKER} (no profile)", path_setup.DEFAULT_PATH)
    inherited = _first_process_path()
    if inherited not in (None, path_setup.DEFAULT_PATH) and os.path.exists("/.dockerenv"):
        yield _found(f"{_DOCKER} (this image's PATH)", inherited)


def users_with_their_own() -> Iterator[tuple[str, str]]:
    """Name and uv of other users whose own profile puts it before the machine's."""
    for user in pwd.getpwall():
        if user.pw_uid < 1000 or user.pw_uid == os.geteuid():
            continue
        for folder in (".local/bin", ".cargo/bin"):
            path = f"{user.pw_dir}/{folder}/uv"
            if os.access(path, os.X_OK) and not executable.is_shim(path):
                yield user.pw_name, path


@contextmanager
def _settings(shell: str, home: str) -> Iterator[dict[str, str]]:
    """More variables for a shell: the user's own fish, but without the files that it writes wherever it starts."""
    if shell != "fish":
        yield {}
        return
    real = f"{os.environ.get('XDG_CONFIG_HOME') or f'{home}/.config'}/fish"
    with tempfile.TemporaryDirectory(prefix="uv-mutex-") as folder:
        os.mkdir(f"{folder}/fish")
        for name in os.listdir(real) if os.path.isdir(real) else ():
            if not name.startswith("fish_"):
                os.symlink(f"{real}/{name}", f"{folder}/fish/{name}")
        yield dict.fromkeys(("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"), folder)


def _found(way: str, path: str | None) -> WayIn:
    programs = [] if path is None else list(executable.programs_on_path(path))
    real = next((program for program in programs if not executable.is_shim(program)), "")
    return WayIn(way, path, programs[0] if programs else "", real)


def _ask(argv: list[str], env: dict[str, str]) -> str | None:
    """The PATH of a shell that read its profiles; they may be of any kind, so without a terminal and not for ever."""
    try:
        done = subprocess.run(
            argv,
            env=env,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.findall(rf"^{_MARK}(.*)$", os.fsdecode(done.stdout), re.MULTILINE)
    return found[-1] if found else None


def _systemd(env: dict[str, str]) -> str | None:
    """A running manager's own word; else what it will read."""
    if os.geteuid() == 0:
        if os.path.isdir("/run/systemd/system"):
            return _variable(["systemctl", "show-environment"], env)
        return path_setup.service_path()
    runtime = path_setup.runtime_folder()
    if os.path.isdir(f"{runtime}/systemd"):
        return _variable(["systemctl", "--user", "show-environment"], {**env, "XDG_RUNTIME_DIR": runtime})
    for folder in ("/usr/lib", "/lib"):
        if os.path.exists(f"{folder}/{_GENERATOR}"):
            return _variable([f"{folder}/{_GENERATOR}"], env)
    return None


def _variable(argv: list[str], env: dict[str, str]) -> str | None:
    try:
        done = subprocess.run(argv, env=env, capture_output=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = os.fsdecode(done.stdout).splitlines()
    return next((line.removeprefix("PATH=").strip("\"'$") for line in lines if line.startswith("PATH=")), None)


def _first_process_path() -> str | None:
    try:
        with open("/proc/1/environ", "rb") as file:
            block = os.fsdecode(file.read())
    except OSError:
        return None
    return next((item[5:] for item in block.split("\0") if item.startswith("PATH=")), None)
