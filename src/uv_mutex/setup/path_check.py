"""Check which `uv` each way to start a program on this machine finds, by trying it."""

import os
import pwd
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from uv_mutex.setup import container, path_setup
from uv_mutex.uv import executable

#: What marks the PATH in the output of a shell, since profiles may print something too.
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
_DOCKER, _SYSTEMD = "docker exec", "systemd"
#: How long a profile, or a program of systemd, may take.
_SECONDS = 20


class WayIn(NamedTuple):
    """One way to start a program.

    ``name``: what it is. ``path``: its PATH; None if that can't be found out. ``first``: the first uv on that PATH;
    empty if there is none. ``real``: the first real uv on it; empty if there is none.
    """

    name: str
    path: str | None
    first: str
    real: str

    @property
    def shimmed(self) -> bool:
        """Whether the first uv is the shim."""
        return bool(self.first) and executable.is_shim(self.first)


def report(prefix: str) -> tuple[list[str], bool]:
    """Try each way; return a line for each, and whether the shim comes first wherever this user can put it.

    :param prefix: where the shim is installed.
    """
    lines, good = [], True
    for way in ways_in():
        needs_root = way.name.startswith(_DOCKER) and os.geteuid() != 0
        if way.path is None:
            why = "its manager can't be asked" if way.name.startswith(_SYSTEMD) else "its profile did not end"
            lines.append(f"  ?     {way.name}: {why}; try it by hand")
        elif needs_root and not way.shimmed:
            lines.append(f"  --    {way.name}: not reached without root; run this as root, or set PATH in the image")
        else:
            lines.append(_line(way, prefix))
            good &= way.shimmed
    if os.geteuid() == 0:
        for user, path in users_with_their_own():
            lines.append(f"  PAST  {user}'s shells: a profile there may put {path} first; run this as {user} too")
    lines.append(
        "  --    an absolute path to uv, $UV, `python -m uv`, a program started with a PATH of its own\n"
        f"        (for Python programs: PYTHONPATH={prefix}/lib/uv-mutex/python)"
    )
    return lines, good


def _line(way: WayIn, prefix: str) -> str:
    """The line about a way whose PATH is known."""
    if not way.first:
        return f"  ?     {way.name}: no uv on its PATH"
    if not way.shimmed:
        how = f" (ENV PATH={prefix}/bin:$PATH in the image)" if way.name.startswith(_DOCKER) else ""
        return f"  PAST  {way.name}: {way.first} comes first; put {prefix}/bin before its folder there{how}"
    if not way.real:
        return f"  ok    {way.name}: the shim, but no real uv is on that PATH"
    return f"  ok    {way.name}: the shim, then {way.real}"


def ways_in() -> Iterator[WayIn]:
    """Try each way that this machine has."""
    user = pwd.getpwuid(os.geteuid())
    root = os.geteuid() == 0
    start = container.DEFAULT_PATH if root else "/usr/local/bin:/usr/bin:/bin"
    home = user.pw_dir if root else os.path.expanduser("~")
    env = {"HOME": home, "USER": user.pw_name, "LOGNAME": user.pw_name, "PATH": start, "TERM": "dumb"}
    for name, argv in _SHELLS:
        if not shutil.which(argv[0]):
            continue
        with _settings(argv[0], home) as more:
            yield _way(name, _path_of_shell(argv, env | more))
    if path_setup.has_systemd():
        yield _way(f"{_SYSTEMD} service" if root else f"{_SYSTEMD} user service", _path_of_systemd(env))
    for path in container.bare_paths():
        image = "" if path == container.DEFAULT_PATH else f", PATH={path}"
        yield _way(f"{_DOCKER} (no profile{image})", path)


def users_with_their_own() -> Iterator[tuple[str, str]]:
    """The other users that have a uv of their own, which their profiles may put first: their names, and its path."""
    for user in pwd.getpwall():
        if user.pw_uid < 1000 or user.pw_uid == os.geteuid():
            continue
        for folder in (".local/bin", ".cargo/bin"):
            path = f"{user.pw_dir}/{folder}/uv"
            if os.access(path, os.X_OK) and not executable.is_shim(path):
                yield user.pw_name, path


@contextmanager
def _settings(shell: str, home: str) -> Iterator[dict[str, str]]:
    """More variables for a shell. fish reads the user's settings by symlinks, since it writes files beside them."""
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


def _way(name: str, path: str | None) -> WayIn:
    """Search a PATH for the first uv and the first real uv."""
    programs = [] if path is None else list(executable.programs_on_path(path))
    real = next((program for program in programs if not executable.is_shim(program)), "")
    return WayIn(name, path, programs[0] if programs else "", real)


def _path_of_shell(argv: list[str], env: dict[str, str]) -> str | None:
    """The PATH of a shell that has read its profiles; None if it fails or takes too long.

    It has no terminal, so that no profile can ask something.
    """
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


def _path_of_systemd(env: dict[str, str]) -> str | None:
    """The PATH of services: as a running systemd says, else as its configuration says; None if neither is known."""
    if os.geteuid() == 0:
        if os.path.isdir("/run/systemd/system"):
            return _path_in_output(["systemctl", "show-environment"], env)
        return path_setup.service_path()
    runtime = path_setup.runtime_folder()
    if os.path.isdir(f"{runtime}/systemd"):
        return _path_in_output(["systemctl", "--user", "show-environment"], {**env, "XDG_RUNTIME_DIR": runtime})
    for folder in ("/usr/lib", "/lib"):
        if os.path.exists(f"{folder}/{_GENERATOR}"):
            return _path_in_output([f"{folder}/{_GENERATOR}"], env)
    return None


def _path_in_output(argv: list[str], env: dict[str, str]) -> str | None:
    """The value of PATH in the output of a program that prints variables; None if it fails or prints none."""
    try:
        done = subprocess.run(argv, env=env, capture_output=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = os.fsdecode(done.stdout).splitlines()
    return next((line.removeprefix("PATH=").strip("\"'$") for line in lines if line.startswith("PATH=")), None)
