"""Put the shim first for every way into this machine, and take all of it back.

As root: /etc's profiles, /etc/environment (PAM), systemd, and links in a folder that is first on the default PATH of
Docker, systemd, sudo and root itself, for programs that read no profile. For the user who runs it, root too: the
profiles in the home folder, after what uv's own installer and others wrote there.
"""

import os
import pwd
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from uv_mutex.errors import MutexError
from uv_mutex.setup import marked_block
from uv_mutex.setup.marked_block import Block
from uv_mutex.uv import executable

#: What Docker, systemd, sudo and Debian's root have, in this order.
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: The list of what was done, one thing a line: a word, a tab, a path.
_RECORD = "lib/uv-mutex/wired"
_SERVICES = "/etc/systemd/system.conf.d/zz-uv-mutex.conf"
_PROGRAMS = ("uv", "uv-mutex")


class ProfileFile(NamedTuple):
    """A file that is to hold our lines."""

    path: str
    blocks: tuple[Block, ...]


def wire(prefix: Path) -> tuple[list[str], list[str]]:
    """Wire everything that leads to a `uv` on this machine; return what was wired, and what could not be.

    Once more is the same, and moves our lines behind what others wrote since.

    :param prefix: where the shim is installed.
    :raises MutexError: if nothing was done.
    """
    home = _home()
    if os.geteuid() == 0:
        _check_reachable(prefix)
    profiles = [*(_machine(prefix) if os.geteuid() == 0 else ()), *_user(prefix, home)]
    links = [f"/usr/local/sbin/{name}" for name in _PROGRAMS] if os.geteuid() == 0 else []
    record = _Record(prefix)
    record.plan([profile.path for profile in profiles], links)
    done, problems = [], []
    for profile in profiles:
        try:
            os.makedirs(os.path.dirname(profile.path), exist_ok=True)
            marked_block.put(profile.path, str(prefix), profile.blocks)
            done.append(profile.path)
        except OSError as error:
            problems.append(
                f"cannot write {error.filename or profile.path}: {error.strerror}; "
                "run this again once it can be written"
            )
    for link in links:
        try:
            if _link(link, prefix):
                done.append(link)
            else:
                problems.append(
                    f"{link} is not a uv-mutex shim, and is left alone: calls by that folder go past the shim"
                )
        except OSError as error:
            problems.append(f"cannot write {link}: {error.strerror}; run this again once it can be written")
    reload_systemd()
    return done, problems


def unwire(prefix: Path) -> list[str]:
    """Take back what :func:`wire` did for this prefix; return the paths. Nothing wired: nothing to do.

    :raises MutexError: if something could not be taken back. The rest was, and a second try goes on from there.
    """
    record = _Record(prefix)
    problems = []
    for path in record.of("block"):
        try:
            marked_block.remove(path, str(prefix), made=path in record.of("made"))
        except OSError as error:
            problems.append(f"cannot restore {path}: {error.strerror}; make it writable, and uninstall again")
    for link in record.of("link"):
        try:
            if os.path.islink(link) and os.readlink(link) == _target(link, prefix):
                os.unlink(link)
        except OSError as error:
            problems.append(f"cannot restore {link}: {error.strerror}; make it writable, and uninstall again")
    for folder in sorted(record.of("folder"), key=len, reverse=True):
        try:
            os.rmdir(folder)
        except OSError:  # somebody else uses it now
            pass
    if problems:
        raise MutexError("; ".join(problems))
    gone = [*record.of("block"), *record.of("link")]
    record.clear()
    if gone:
        reload_systemd()
    return gone


def _home() -> str:
    """The user's own: under sudo, HOME may be somebody else's."""
    own = pwd.getpwuid(os.geteuid()).pw_dir if os.geteuid() == 0 else ""
    return own or os.path.expanduser("~")


def _check_reachable(prefix: Path) -> None:
    """A shim that others find but can't start would take uv away from them."""
    interpreter = (
        executable.first_bytes(str(prefix / "bin/uv")).decode("utf-8", "replace").partition("\n")[0][2:].split()
    )
    for path in (str(prefix / "bin/uv"), *(word for word in interpreter if word.startswith("/"))):
        for folder in Path(os.path.realpath(path)).parents:
            if not folder.stat().st_mode & 0o001:
                raise MutexError(
                    f"other users cannot reach {path}, since {folder!s} is closed to them; "
                    "choose a --prefix such as /opt/uv-mutex, and a Python outside a home folder"
                )


def _machine(prefix: Path) -> Iterator[ProfileFile]:
    """For every user, where this machine has such a thing."""
    block = _shell(prefix)
    yield ProfileFile("/etc/profile.d/zz-uv-mutex.sh", (block,))
    for path in ("/etc/bash.bashrc", "/etc/bashrc"):  # Debian's, and Fedora's
        if os.path.exists(path):
            yield ProfileFile(path, (block._replace(top=True),))  # they return early
    for folder in ("/etc/zsh", "/etc"):
        if os.path.isdir("/etc/zsh") if folder == "/etc/zsh" else os.path.exists("/etc/zshenv"):
            yield ProfileFile(f"{folder}/zshenv", (block,))
        if os.path.exists(f"{folder}/zprofile"):
            yield ProfileFile(f"{folder}/zprofile", (block,))
    if os.path.isdir("/etc/fish"):
        yield ProfileFile("/etc/fish/conf.d/zz-uv-mutex.fish", (_fish(prefix),))
    if os.path.isdir("/etc/pam.d"):  # ssh's and cron's commands, su
        yield ProfileFile("/etc/environment", (Block(f'PATH="{prefix}/bin:{_pam_path("/etc/environment")}"\n'),))
    if has_systemd():
        percent = str(prefix).replace("%", "%%")
        service = f'[Manager]\nDefaultEnvironment="PATH={percent}/bin:{DEFAULT_PATH}"\n'
        yield ProfileFile(_SERVICES, (Block(service),))
        yield ProfileFile("/etc/environment.d/zz-uv-mutex.conf", (_environment(prefix),))


def _user(prefix: Path, home: str) -> Iterator[ProfileFile]:
    """For this user. Root, whom the machine's files reach, gets no file that wasn't there."""
    block = _shell(prefix)
    config = os.environ.get("XDG_CONFIG_HOME") or f"{home}/.config"

    def wanted(path: str, makes: bool) -> bool:
        return os.path.lexists(path) or (makes and os.geteuid() != 0)

    logins = [f"{home}/{name}" for name in (".bash_profile", ".bash_login") if os.path.lexists(f"{home}/{name}")]
    for path in (*logins, f"{home}/.profile"):
        if wanted(path, makes=not logins):
            yield ProfileFile(path, (block,))
    # At its top since it returns early for `ssh HOST COMMAND`; at its end since others put their folders first there.
    if wanted(f"{home}/.bashrc", makes=True):
        yield ProfileFile(f"{home}/.bashrc", (block._replace(top=True), block))
    zsh = os.environ.get("ZDOTDIR") or home
    for name in (".zshenv", ".zprofile", ".zshrc"):
        if wanted(f"{zsh}/{name}", makes=name == ".zshenv" and bool(shutil.which("zsh"))):
            yield ProfileFile(f"{zsh}/{name}", (block,))
    fish = os.path.isdir(f"{config}/fish") or (bool(shutil.which("fish")) and os.geteuid() != 0)
    if fish:
        yield ProfileFile(f"{config}/fish/conf.d/zz-uv-mutex.fish", (_fish(prefix),))
        if os.path.lexists(f"{config}/fish/config.fish"):  # read after conf.d
            yield ProfileFile(f"{config}/fish/config.fish", (_fish(prefix),))
    if has_systemd() and os.geteuid() != 0:
        yield ProfileFile(f"{home}/.config/environment.d/zz-uv-mutex.conf", (_environment(prefix),))


def _shell(prefix: Path) -> Block:
    script = shlex.quote(f"{prefix}/lib/uv-mutex/path.sh")
    name = shlex.quote(str(prefix))
    return Block(f"if [ -r {script} ]; then uv_mutex={name}; . {script}; unset uv_mutex; fi\n")


def _fish(prefix: Path) -> Block:
    folder = "'" + f"{prefix}/bin".replace("\\", "\\\\").replace("'", "\\'") + "'"
    return Block(
        f"if test -d {folder}\n    set -gx PATH {folder} (string match --invert -- {folder} $PATH)\nend\n",
    )


def _environment(prefix: Path) -> Block:
    quoted = "".join(f"\\{char}" if char in '\\"$' else char for char in f"{prefix}/bin")
    return Block(f'PATH="{quoted}:${{PATH:-{DEFAULT_PATH}}}"\n')


def _pam_path(path: str) -> str:
    """The last PATH that others set in a file of lines `NAME=VALUE`."""
    try:
        content = Path(path).read_bytes()
    except OSError:
        return DEFAULT_PATH
    found = DEFAULT_PATH
    for line in os.fsdecode(marked_block.without(content)).splitlines():
        name, _, value = line.strip().removeprefix("export ").partition("=")
        if name.strip() == "PATH":
            found = value.strip().strip("'\"") or found
    return found


def service_path() -> str:
    """What the drop-in gives the services of a manager that doesn't run yet."""
    try:
        text = Path(_SERVICES).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return DEFAULT_PATH
    return text.partition('="PATH=')[2].partition('"')[0].replace("%%", "%") or DEFAULT_PATH


def has_systemd() -> bool:
    """Whether systemd is installed; it need not run."""
    return any(os.path.isdir(f"{folder}/systemd/system") for folder in ("/usr/lib", "/lib", "/etc"))


def runtime_folder() -> str:
    """Where a user's own manager can be spoken to; `su` sets no variable for it."""
    return os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}"


def reload_systemd() -> None:
    """Tell a manager that runs; those that don't will read it when they start."""
    user = [] if os.geteuid() == 0 else ["--user"]
    if os.path.isdir("/run/systemd/system"):
        environ = {"XDG_RUNTIME_DIR": runtime_folder(), **os.environ}
        reload = ["systemctl", *user, "daemon-reload"]
        try:
            subprocess.run(reload, env=environ, capture_output=True, timeout=60, check=False)
        except (OSError, subprocess.TimeoutExpired):
            pass


def _target(link: str, prefix: Path) -> str:
    return f"{prefix}/bin/{os.path.basename(link)}"


def _link(link: str, prefix: Path) -> bool:
    """Make or renew it; False if the place is somebody else's."""
    target = _target(link, prefix)
    if os.path.islink(link):
        old = os.readlink(link)
        if old == target:
            return True
        if not old.endswith(f"/bin/{os.path.basename(link)}") or not executable.is_shim(f"{os.path.dirname(old)}/uv"):
            return False
    elif os.path.lexists(link):
        return False
    os.makedirs(os.path.dirname(link), exist_ok=True)
    temporary = f"{link}.uv-mutex-{os.getpid()}"
    os.symlink(target, temporary)
    try:
        os.replace(temporary, link)
    except OSError:
        os.unlink(temporary)
        raise
    return True


class _Record:
    """What is wired for a prefix. Written before anything is done, so that whatever breaks off can be taken back."""

    def __init__(self, prefix: Path) -> None:
        self._path = str(prefix / _RECORD)
        try:
            text = os.fsdecode(Path(self._path).read_bytes())
        except OSError:
            text = ""
        self._lines = dict.fromkeys(line for line in text.split("\n") if line)

    def of(self, kind: str) -> list[str]:
        """The paths of a kind: block, made (a file for the blocks alone), folder (made), link."""
        return [path for word, _, path in (line.partition("\t") for line in self._lines) if word == kind]

    def plan(self, files: list[str], links: list[str]) -> None:
        """Note what is going to be done, and what isn't there yet."""
        for path in (*files, *links):
            folder = os.path.dirname(path)
            while not os.path.isdir(folder):
                self._note("folder", folder)
                folder = os.path.dirname(folder)
        for path in files:
            if not os.path.exists(path):
                self._note("made", path)
            self._note("block", path)
        for path in links:
            self._note("link", path)
        try:
            marked_block.write(self._path, os.fsencode("".join(f"{line}\n" for line in self._lines)))
        except OSError as error:
            raise MutexError(f"cannot write {self._path}: {error.strerror}; nothing was wired") from None

    def _note(self, kind: str, path: str) -> None:
        self._lines[f"{kind}\t{path}"] = None

    def clear(self) -> None:
        """Nothing is wired any more."""
        Path(self._path).unlink(missing_ok=True)
