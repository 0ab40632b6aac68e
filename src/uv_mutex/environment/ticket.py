"""Leave a ticket, by which the native launcher answers the same form of call without Python: src/launcher/ticket.c.

The launcher knows neither TOML nor the options of uv. A ticket tells it which locks such a call takes, and what must
be as it is for the environment to be fresh. Where anything differs, Python decides.

A form of call is described by these items, each ended by a zero byte:

- ``NAME=VALUE`` of each variable that counts, sorted;
- the first words of tickets, the boot id of the kernel, the real uv, the working directory, the environment (without
  symlinks), HOME;
- the words before the command of a `run`, or all words of a `sync`, without the options that decide nothing about the
  project's environment;
- ``command`` and an empty item, if the command can only be a name; ``script`` and the command, if it may be a path;
  ``whole`` and an empty item for a `sync`.

The ticket is the file ``ticket.DIGEST`` in the environment's ``.uv-mutex``, with the digest of all items but the
variables, whose values may be secrets. Only its owner can read it:

    uv-mutex ticket 1 KIND DIGEST     run or sync; the digest of all items
    lock INODE PATH                   the lock to take as one of many. Nobody must hold it, and no dead owner be named
    lock - PATH                       likewise, but only for a moment, and if there is one: turnstiles, deeper levels
    file STATE PATH                   see fingerprint.py; "-" where there must be none
    end
"""

import os

from uv_mutex.environment import fingerprint, note_file, request_key
from uv_mutex.locking import filesystem, levels, process
from uv_mutex.locking.lock_file import FLOCK, LockFile
from uv_mutex.uv import pyproject

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from uv_mutex.locking.lock_file import LockTarget
    from uv_mutex.uv.commandline import Call
    from uv_mutex.uv.project import Project

_HEAD = "uv-mutex ticket 1"
#: Variables that count, besides those of uv.
_COUNTED = ("VIRTUAL_ENV", "XDG_CONFIG_DIRS", "XDG_CONFIG_HOME")
#: Those of uv that don't count: they differ from call to call, and decide nothing about the project's environment.
_IGNORED = ("UV_ENV_FILE", "UV_RUN_RECURSION_DEPTH")
#: Our own variables that ask nothing of the launcher. Any other is for Python.
_UNDERSTOOD = ("UV_MUTEX", "UV_MUTEX_ALSO", "UV_MUTEX_LOG_ARGS", "UV_MUTEX_TIMEOUT", "UV_MUTEX_UV")
#: Options with a value that differ from call to call, and decide nothing about the project's environment.
_APART = ("--env-file", "--with", "--with-editable", "--with-requirements", "-w")
_SCRIPT_OPTIONS = ("-s", "--script", "--gui-script")
#: The launcher reads no longer ticket, and digests no longer form of call.
_MOST_BYTES, _MOST_FORM_BYTES = 1 << 18, 1 << 16
#: A character has at most so many bytes.
_MOST_ENCODED = 4


class Ticket:
    """The ticket for one form of call."""

    def __init__(
        self, uv: str, call: "Call", project: "Project", locks: "Sequence[LockTarget]", environ: "Mapping[str, str]"
    ) -> None:
        """
        :param uv: the path of the real uv.
        :param call: a call of `run` or `sync`.
        :param project: its project.
        :param locks: all locks that it needs, which it holds.
        :param environ: the environment variables.
        """
        self._uv = uv
        self._call = call
        self._project = project
        self._locks = locks
        self._environ = environ
        self._files = note_file.NoteFiles(project.environment, project.root, environ)
        self._lines: list[str] = []
        self._described: list[str] = []
        self._name = self._digest = ""

    def is_wanted(self, since: float) -> bool:
        """Whether the launcher could answer such a call, and no other call has left the ticket meanwhile.

        :param since: when this call began, in seconds since 1970.
        """
        if not self._is_understood() or process.boot_id() == "-":
            return False
        variables, items = self._form()
        self._name, self._digest = _digest(items), _digest(variables + items)
        fits = len(variables) + len(items) < _MOST_FORM_BYTES
        return fits and not self._files.has_ticket(self._name, since) and self._is_local()

    def describe(self) -> None:
        """Describe what decides and stands in no note. All that was decided before must be decided once more then."""
        paths = dict.fromkeys((*self._machine(), *self._projects()))
        self._described = [fingerprint.describe("file", path, self._environ) for path in paths]
        self._lines = list(self._lock_lines())

    def write(self, note: "Sequence[str]") -> None:
        """Write the ticket. Never fails: without one, Python answers.

        :param note: the lines of a note, as they are now; none if no ticket must be written.
        """
        if not note or not self._is_local():
            return
        try:
            lines = [*self._lines, *_file_lines([*self._described, *note])]
        except _UnsupportedLineError:
            return
        text = "\n".join([f"{_HEAD} {self._call.subcommand} {self._digest}", *lines, "end\n"])
        if not any("\n" in line for line in lines) and len(text) * _MOST_ENCODED <= _MOST_BYTES:
            self._files.write_ticket(self._name, text)

    def _is_understood(self) -> bool:
        """Whether the launcher can know that it is the same call."""
        call, environ = self._call, self._environ
        if self._project.script or self._project.found_by_script or call.forces_work:
            return False
        if any(name.startswith("UV_MUTEX") and name not in _UNDERSTOOD for name in environ):
            return False
        if not (os.path.isabs(self._uv) and "HOME" in environ):  # where that is, depends on the user
            return False
        given = request_key.working_directory(call, environ)
        if given and os.path.realpath(given) != os.path.abspath(given):
            return False
        words = self._words()
        # A password in a URL must not get into the name of a file.
        return not any("://" in word and "@" in word for word in words) and self._has_known_target()

    def _has_known_target(self) -> bool:
        """Whether the command is a name, or a file whose line in the ticket tells whether it is the same script."""
        call = self._call
        if call.subcommand == "sync":
            return not call.operands
        target = call.operands[0] if call.operands else "-"
        if target == "-":
            return False
        if not _may_be_path(target):
            return not call.has(*_SCRIPT_OPTIONS)
        path = self._absolute(target)
        return os.path.isfile(path) or not os.path.lexists(path)

    def _is_local(self) -> bool:
        """Whether there is flock, and no other host can change anything."""
        places = {self._project.root, self._project.environment, *(lock.path for lock in self._locks)}
        return all(map(filesystem.is_local, places)) and all(
            isinstance(lock, LockFile) and lock.folder is not None and lock.recorded_backend() == FLOCK
            for lock in self._locks
        )

    def _form(self) -> tuple[bytes, bytes]:
        """The variables, and the other items, that describe the form of call."""
        variables = [f"{name}={value}" for name, value in self._environ.items() if _counts(name)]
        environment, home = os.path.realpath(self._project.environment), self._environ["HOME"]
        items = [_HEAD, process.boot_id(), self._uv, os.getcwd(), environment, home, *self._words()]
        if self._call.subcommand == "sync":
            items += ["whole", ""]
        else:
            target = self._call.operands[0]
            items += ["script", target] if _may_be_path(target) else ["command", ""]
        return b"".join(sorted(map(_item, variables))), b"".join(map(_item, items))

    def _words(self) -> list[str]:
        """The words that are the same for all calls of this form."""
        call, found = self._call, []
        words = iter(call.words[: len(call.words) - len(call.operands)])
        for word in words:
            name, equals, _ = word.partition("=")
            if name not in _APART:
                found.append(word)
            elif not equals:
                next(words, None)
        return found

    def _absolute(self, path: str) -> str:
        return request_key.absolute(path, self._call, self._environ)

    def _machine(self) -> "Iterator[str]":
        """The real uv, and what the key of a note depends on."""
        yield self._uv
        yield from request_key.interpreters(self._project, self._call, self._environ)
        yield from request_key.machine_settings(self._environ)

    def _projects(self) -> "Iterator[str]":
        """The script, if it is one, and all files that decide which project is found."""
        starts = [self._absolute("."), self._project.start]
        if self._call.subcommand == "run" and _may_be_path(self._call.operands[0]):
            path = self._absolute(self._call.operands[0])
            yield path
            starts.append(os.path.dirname(path))
        for start in starts:
            for folder in pyproject.folder_and_parents(start):
                yield f"{folder}/pyproject.toml"

    def _lock_lines(self) -> "Iterator[str]":
        for lock in self._locks:
            yield f"lock - {lock.beside('turn').path}"
            yield f"lock {os.stat(lock.path).st_ino} {lock.path}"
            depth = len(list(levels.deeper(lock, 0)))
            yield from (f"lock - {levels.level(lock, number).path}" for number in range(1, depth + 1))
            yield f"file - {levels.level(lock, depth + 1).path}"
            if isinstance(lock, LockFile):
                yield fingerprint.describe("file", lock.backend_file, self._environ)


class _UnsupportedLineError(Exception):
    """The launcher can't compare a line, or the line would not show a change."""


def _file_lines(lines: "Sequence[str]") -> "Iterator[str]":
    """Each line as the launcher compares it.

    :raises _UnsupportedLineError: if it can't.
    """
    for line in dict.fromkeys(lines):
        kind, state, path = line.split(" ", 2)
        if kind == fingerprint.GLOB:  # the folders in which it searches have lines of their own
            continue
        is_coarse = fingerprint.has_coarse_time(line)
        if (
            kind == "env"
            or fingerprint.changed_within(line, fingerprint.CLOCK_STEP_NS)
            or (is_coarse and kind in fingerprint.LISTED)
            or (is_coarse and fingerprint.changed_within(line, fingerprint.COARSE_STEP_NS))
        ):
            raise _UnsupportedLineError
        if kind != "exists":
            yield f"file {state} {path}"
        elif not any(f" {path}/" in other and " - " not in other for other in lines):  # a file in it proves it
            raise _UnsupportedLineError


def _counts(name: str) -> bool:
    return name in _COUNTED or (name.startswith("UV_") and name not in _IGNORED)


def _may_be_path(word: str) -> bool:
    """Whether a word may be the path of a script. Else it is the name of a command, whatever files there are."""
    return "/" in word or ("." in word and word.rpartition(".")[2].lower().startswith("py"))


def _item(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape") + b"\0"


def _digest(data: bytes) -> str:
    from _blake2 import blake2s  # as fingerprint.digest(); made for words of 32 bits, its code in C is short

    return blake2s(data, digest_size=16).hexdigest()
