"""Leave a ticket, by which the native launcher answers the same form of call without Python: src/launcher/ticket.c.

The launcher knows neither TOML nor the options of uv. A ticket tells it which locks such a call takes, and what must
be as it is for the environment to be fresh. Where anything differs, Python decides.

The ticket is the file ``ticket.NAME`` in the environment's ``.uv-mutex``, with the name of the form (see
call_form.py). Only its owner can read it:

    uv-mutex ticket 1 KIND DIGEST     run or sync; the digest of the environment (without symlinks) and of all items
    lock INODE PATH                   the lock to take as one of many. Nobody must hold it, and no dead owner be named
    lock - PATH                       likewise, but only for a moment, and if there is one: turnstiles, deeper levels
    file STATE PATH                   see fingerprint.py; "-" where there must be none
    end
"""

import os

from uv_mutex.environment import fingerprint, note_file, request_key
from uv_mutex.environment.call_form import may_be_path
from uv_mutex.locking import levels
from uv_mutex.locking.lock_file import LockFile
from uv_mutex.uv import pyproject

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from uv_mutex.environment.call_form import CallForm

#: The launcher reads no longer ticket.
_MOST_BYTES = 1 << 18
#: A character has at most so many bytes.
_MOST_ENCODED = 4


class Ticket:
    """The ticket for one form of call."""

    def __init__(self, form: "CallForm") -> None:
        """
        :param form: the form of a call of `run` or `sync`, which holds all locks that it needs.
        """
        self._form = form
        self._files = note_file.NoteFiles(form.project.environment, form.project.root, form.environ)
        self._lines: list[str] = []
        self._described: list[str] = []

    def is_wanted(self, since: float) -> bool:
        """Whether the launcher could answer such a call, and no other call has left the ticket meanwhile.

        :param since: when this call began, in seconds since 1970.
        """
        form = self._form
        return form.is_understood() and not self._files.has_ticket(form.name, since) and form.is_local()

    def describe(self) -> None:
        """Describe what decides and stands in no note. All that was decided before must be decided once more then."""
        paths = dict.fromkeys((*self._machine(), *self._projects()))
        self._described = [fingerprint.describe("file", path, self._form.environ) for path in paths]
        self._lines = list(self._lock_lines())

    def write(self, note: "Sequence[str]") -> bool:
        """Write the ticket. Never fails: without one, Python answers.

        :param note: the lines of a note, as they are now; none if no ticket must be written.
        :returns: False if there never is one for such a call.
        """
        if not note or not self._form.is_local():
            return False
        try:
            lines = [*self._lines, *_file_lines([*self._described, *note])]
        except _TooRecentError:
            return True
        except _UnsupportedLineError:
            return False
        text = "\n".join([self._form.head(os.path.realpath(self._form.project.environment)), *lines, "end\n"])
        if not any("\n" in line for line in lines) and len(text) * _MOST_ENCODED <= _MOST_BYTES:
            self._files.write_ticket(self._form.name, text)
            return True
        return False

    def _absolute(self, path: str) -> str:
        return request_key.absolute(path, self._form.call, self._form.environ)

    def _machine(self) -> "Iterator[str]":
        """The real uv, and what the key of a note depends on."""
        yield self._form.uv
        yield from request_key.interpreters(self._form.project, self._form.call, self._form.environ)
        yield from request_key.machine_settings(self._form.environ)

    def _projects(self) -> "Iterator[str]":
        """The script, if it is one, and all files that decide which project is found."""
        starts = [self._absolute("."), self._form.project.start]
        if self._form.call.subcommand == "run" and may_be_path(self._form.call.operands[0]):
            path = self._absolute(self._form.call.operands[0])
            yield path
            starts.append(os.path.dirname(path))
        for start in starts:
            for folder in pyproject.folder_and_parents(start):
                yield f"{folder}/pyproject.toml"

    def _lock_lines(self) -> "Iterator[str]":
        for lock in self._form.locks:
            yield f"lock - {lock.beside('turn').path}"
            yield f"lock {os.stat(lock.path).st_ino} {lock.path}"
            depth = len(list(levels.deeper(lock, 0)))
            yield from (f"lock - {levels.level(lock, number).path}" for number in range(1, depth + 1))
            yield f"file - {levels.level(lock, depth + 1).path}"
            if isinstance(lock, LockFile):
                yield fingerprint.describe("file", lock.backend_file, self._form.environ)


class _UnsupportedLineError(Exception):
    """The launcher can't compare a line, or the line would not show a change."""


class _TooRecentError(_UnsupportedLineError):
    """A line would not show a change that comes within a moment."""


def _file_lines(lines: "Sequence[str]") -> "Iterator[str]":
    """Each line as the launcher compares it.

    :raises _UnsupportedLineError: if it can't.
    :raises _TooRecentError: if it can in a moment.
    """
    for line in dict.fromkeys(lines):
        kind, state, path = line.split(" ", 2)
        if kind == fingerprint.GLOB:  # the folders in which it searches have lines of their own
            continue
        is_coarse = fingerprint.has_coarse_time(line)
        if fingerprint.changed_within(line, fingerprint.CLOCK_STEP_NS):
            raise _TooRecentError
        if (
            kind == "env"
            or (is_coarse and kind in fingerprint.LISTED)
            or (is_coarse and fingerprint.changed_within(line, fingerprint.COARSE_STEP_NS))
        ):
            raise _UnsupportedLineError
        if kind != "exists":
            yield f"file {state} {path}"
        elif not any(f" {path}/" in other and " - " not in other for other in lines):  # a file in it proves it
            raise _UnsupportedLineError
