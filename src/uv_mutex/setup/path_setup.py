"""Wire the shim: put it first on PATH for every way to start a program on this machine. Unwire undoes it.

For the user who runs it: the profiles in the home folder, behind the lines of uv's installer and of others. For root
also: the profiles in /etc, /etc/environment (PAM), the configuration of systemd, and symlinks for programs that read
no profile: in /usr/local/sbin, which is first on the default PATH of Docker, systemd, sudo and root, and in the folder
that is first on this container's PATH.
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
from uv_mutex.setup import container, marked_block
from uv_mutex.setup.container import DEFAULT_PATH
from uv_mutex.setup.launcher import interpreter_of
from uv_mutex.setup.marked_block import Block
from uv_mutex.uv import executable

#: The list of what was wired, in the prefix. Each line is a kind, a tab, and a path.
_WIRED = "lib/uv-mutex/wired"
_SERVICES = "/etc/systemd/system.conf.d/zz-uv-mutex.conf"
_PROGRAMS = ("uv", "uv-mutex")


class ProfileFile(NamedTuple):
    """A file that gets marked lines of ours."""

    path: str
    blocks: tuple[Block, ...]


def wire(prefix: Path) -> tuple[list[str], list[str]]:
    """Wire the shim; return the paths that were changed, and a message for each path that could not be.

    If it is wired already, this moves our lines behind those that others wrote since.

    :param prefix: where the shim is installed.
    :raises MutexError: if nothing was changed, since other users could not start the shim or the list of what is wired
        can't be written.
    """
    home = _home()
    if os.geteuid() == 0:
        _check_reachable(prefix)
    profiles = [*(_machine(prefix) if os.geteuid() == 0 else ()), *_user(prefix, home)]
    links = [f"{folder}/{name}" for folder in _link_folders(prefix) for name in _PROGRAMS]
    wired = _WiredList(prefix)
    wired.plan([profile.path for profile in profiles], links)
    done, problems = [], []
    for profile in profiles:
        try:
            os.makedirs(os.path.dirname(profile.path), exist_ok=True)
            marked_block.put(profile.path, str(prefix), profile.blocks)
            done.append(profile.path)
        except OSError as error:
            problems.append(_not_written(error, profile.path))
    for link in links:
        try:
            if _link(link, prefix):
                done.append(link)
            else:
                problems.append(
                    f"{link} is not a uv-mutex shim, and is left alone: calls by that folder go past the shim"
                )
        except OSError as error:
            problems.append(_not_written(error, link))
    reload_systemd()
    return done, problems


def _not_written(error: OSError, path: str) -> str:
    return f"cannot write {error.filename or path}: {error.strerror}; run this again once it can be written"


def unwire(prefix: Path) -> list[str]:
    """Undo what :func:`wire` did for a prefix; return the paths that were restored, none if nothing was wired.

    :param prefix: where the shim is installed.
    :raises MutexError: if a path could not be restored. The others were; call this again for the rest.
    """
    wired = _WiredList(prefix)
    problems = []
    for path in wired.of("block"):
        try:
            marked_block.remove(path, str(prefix), made=path in wired.of("made"))
        except OSError as error:
            problems.append(f"cannot restore {path}: {error.strerror}; make it writable, and uninstall again")
    for link in wired.of("link"):
        try:
            if os.path.islink(link) and os.readlink(link) == _target(link, prefix):
                os.unlink(link)
        except OSError as error:
            problems.append(f"cannot restore {link}: {error.strerror}; make it writable, and uninstall again")
    for folder in sorted(wired.of("folder"), key=len, reverse=True):
        try:
            os.rmdir(folder)
        except OSError:  # it holds files of others now
            pass
    if problems:
        raise MutexError("; ".join(problems))
    gone = [*wired.of("block"), *wired.of("link")]
    wired.clear()
    if gone:
        reload_systemd()
    return gone


def _home() -> str:
    """The home folder of the user. For root not from HOME, which under sudo may be that of another user."""
    own = pwd.getpwuid(os.geteuid()).pw_dir if os.geteuid() == 0 else ""
    return own or os.path.expanduser("~")


def _check_reachable(prefix: Path) -> None:
    """Check that all users can start the shim; who finds it on PATH but can't start it has no uv.

    :raises MutexError: if they can't.
    """
    for path in (str(prefix / "bin/uv"), interpreter_of(prefix)):
        for folder in Path(os.path.realpath(path)).parents:
            if not folder.stat().st_mode & 0o001:
                raise MutexError(
                    f"other users cannot reach {path}, since {folder!s} is closed to them; "
                    "choose a --prefix such as /opt/uv-mutex, and a Python outside a home folder"
                )


def _link_folders(prefix: Path) -> list[str]:
    """The folders in which a symlink to the shim comes before the real uv for programs that read no profile."""
    if os.geteuid() != 0:
        return []
    found = dict.fromkeys(["/usr/local/sbin"])
    for path in container.bare_paths():
        first = path.partition(":")[0]
        program = f"{first}/uv"
        has_real_uv = os.path.exists(program) and not executable.is_shim(program)
        if os.path.isabs(first) and first != f"{prefix}/bin" and not has_real_uv:
            found[first] = None
    return list(found)


def _machine(prefix: Path) -> Iterator[ProfileFile]:
    """The files for all users, as far as this machine has the programs that read them."""
    block = _shell(prefix)
    yield ProfileFile("/etc/profile.d/zz-uv-mutex.sh", (block,))
    for path in ("/etc/bash.bashrc", "/etc/bashrc"):  # Debian's, and Fedora's
        if os.path.exists(path):
            yield ProfileFile(path, (block._replace(top=True),))  # at the top, since they return early for scripts
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
    """The files of this user. For root no file is created, since the files for all users are enough."""
    block = _shell(prefix)
    config = os.environ.get("XDG_CONFIG_HOME") or f"{home}/.config"

    def wanted(path: str, makes: bool) -> bool:
        return os.path.lexists(path) or (makes and os.geteuid() != 0)

    logins = [f"{home}/{name}" for name in (".bash_profile", ".bash_login") if os.path.lexists(f"{home}/{name}")]
    for path in (*logins, f"{home}/.profile"):
        if wanted(path, makes=not logins):
            yield ProfileFile(path, (block,))
    # At the top, since it returns early for `ssh HOST COMMAND`; at the end, since others put their folders first there.
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
    """The lines for sh, bash, zsh and ksh."""
    script = shlex.quote(f"{prefix}/lib/uv-mutex/path.sh")
    name = shlex.quote(str(prefix))
    return Block(f"if [ -r {script} ]; then uv_mutex={name}; . {script}; unset uv_mutex; fi\n")


def _fish(prefix: Path) -> Block:
    """The lines for fish."""
    folder = "'" + f"{prefix}/bin".replace("\\", "\\\\").replace("'", "\\'") + "'"
    return Block(
        f"if test -d {folder}\n    set -gx PATH {folder} (string match --invert -- {folder} $PATH)\nend\n",
    )


def _environment(prefix: Path) -> Block:
    """The line for environment.d, which the user's systemd reads."""
    quoted = "".join(f"\\{char}" if char in '\\"$' else char for char in f"{prefix}/bin")
    return Block(f'PATH="{quoted}:${{PATH:-{DEFAULT_PATH}}}"\n')


def _pam_path(path: str) -> str:
    """The last value of PATH that others set in a file of lines `NAME=VALUE`; the default PATH if there is none."""
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
    """The PATH of services, as our configuration file says; for a systemd that does not run yet."""
    try:
        text = Path(_SERVICES).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return DEFAULT_PATH
    return text.partition('="PATH=')[2].partition('"')[0].replace("%%", "%") or DEFAULT_PATH


def has_systemd() -> bool:
    """Whether systemd is installed. It need not run."""
    return any(os.path.isdir(f"{folder}/systemd/system") for folder in ("/usr/lib", "/lib", "/etc"))


def runtime_folder() -> str:
    """The runtime folder of the user, in which the user's systemd has its socket. `su` does not set the variable."""
    return os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}"


def reload_systemd() -> None:
    """Make a systemd that runs read its configuration again."""
    user = [] if os.geteuid() == 0 else ["--user"]
    if os.path.isdir("/run/systemd/system"):
        environ = {"XDG_RUNTIME_DIR": runtime_folder(), **os.environ}
        reload = ["systemctl", *user, "daemon-reload"]
        try:
            subprocess.run(reload, env=environ, capture_output=True, timeout=60, check=False)
        except (OSError, subprocess.TimeoutExpired):
            pass


def _target(link: str, prefix: Path) -> str:
    """What our symlink points to."""
    return f"{prefix}/bin/{os.path.basename(link)}"


def _link(link: str, prefix: Path) -> bool:
    """Create or replace our symlink; return False if something of others has its path.

    :raises OSError: if it can't be written.
    """
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


class _WiredList:
    """The list of what is wired for a prefix. It is written before anything is changed, so that all can be undone."""

    def __init__(self, prefix: Path) -> None:
        self._path = str(prefix / _WIRED)
        try:
            text = os.fsdecode(Path(self._path).read_bytes())
        except OSError:
            text = ""
        self._lines = dict.fromkeys(line for line in text.split("\n") if line)

    def of(self, kind: str) -> list[str]:
        """The paths of one kind: block (a file with our lines), made (a file that we created), folder, or link."""
        return [path for word, _, path in (line.partition("\t") for line in self._lines) if word == kind]

    def plan(self, files: list[str], links: list[str]) -> None:
        """Add files and links that will be written, and what does not exist yet; write the list.

        :raises MutexError: if it can't be written.
        """
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
        """Remove the list, since nothing is wired any more."""
        Path(self._path).unlink(missing_ok=True)
