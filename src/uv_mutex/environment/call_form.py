"""Describe the form of a call, so that the native launcher knows equal calls: src/launcher/ticket.c does the same.

A form of call is described by these items, each ended by a zero byte:

- ``NAME=VALUE`` of each variable that counts, sorted;
- the first words of tickets, the boot id of the kernel, the real uv, the working directory, HOME;
- the words before the command of a `run`, or all words of a `sync`, without the options that decide nothing about the
  project's environment;
- ``command`` and an empty item, if the command can only be a name; ``script`` and the command, if it may be a path;
  ``whole`` and an empty item for a `sync`.

Files of a form are named by the digest of all items but the variables, whose values may be secrets.
"""

import os

from uv_mutex.environment import request_key
from uv_mutex.locking import filesystem, process
from uv_mutex.locking.lock_file import FLOCK, LockFile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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
#: The launcher digests no longer form of call.
_MOST_BYTES = 1 << 16


class CallForm:
    """The form of one call.

    ``uv``, ``call``, ``project``, ``locks`` and ``environ``: what it was made of. ``name``: the digest of all items but
    the variables; set if the form is understood.
    """

    def __init__(
        self, uv: str, call: "Call", project: "Project", locks: "Sequence[LockTarget]", environ: "Mapping[str, str]"
    ) -> None:
        """
        :param uv: the path of the real uv.
        :param call: a call of `run` or `sync`.
        :param project: its project.
        :param locks: all locks that it needs.
        :param environ: the environment variables.
        """
        self.uv = uv
        self.call = call
        self.project = project
        self.locks = locks
        self.environ = environ
        self._variables = self._items = b""
        self.name = ""

    def is_understood(self) -> bool:
        """Whether the launcher can know that it is the same call."""
        call, environ = self.call, self.environ
        if self.project.script or self.project.found_by_script or call.forces_work or process.boot_id() == "-":
            return False
        if any(name.startswith("UV_MUTEX") and name not in _UNDERSTOOD for name in environ):
            return False
        if not (os.path.isabs(self.uv) and "HOME" in environ):  # where that is, depends on the user
            return False
        given = request_key.working_directory(call, environ)
        if given and os.path.realpath(given) != os.path.abspath(given):
            return False
        words = self._words()
        # A password in a URL must not get into the name of a file.
        if any("://" in word and "@" in word for word in words) or not self._has_known_target():
            return False
        self._describe(words)
        return len(self._variables) + len(self._items) < _MOST_BYTES

    def head(self, *before: str) -> str:
        """The first line of a file of this form.

        :param before: items to digest before those of the form.
        """
        data = b"".join(map(_item, before)) + self._variables + self._items
        return f"{_HEAD} {self.call.subcommand} {_digest(data)}"

    def is_local(self) -> bool:
        """Whether there is flock, and no other host can change anything."""
        places = {self.project.root, self.project.environment, *(lock.path for lock in self.locks)}
        return all(map(filesystem.is_local, places)) and all(
            isinstance(lock, LockFile) and lock.folder is not None and lock.recorded_backend() == FLOCK
            for lock in self.locks
        )

    def _has_known_target(self) -> bool:
        """Whether the command is a name, or a file whose line in the ticket tells whether it is the same script."""
        call = self.call
        if call.subcommand == "sync":
            return not call.operands
        target = call.operands[0] if call.operands else "-"
        if target == "-":
            return False
        if not may_be_path(target):
            return not call.has(*_SCRIPT_OPTIONS)
        path = request_key.absolute(target, call, self.environ)
        return os.path.isfile(path) or not os.path.lexists(path)

    def _describe(self, words: list[str]) -> None:
        variables = [f"{name}={value}" for name, value in self.environ.items() if _counts(name)]
        items = [_HEAD, process.boot_id(), self.uv, os.getcwd(), self.environ["HOME"], *words]
        if self.call.subcommand == "sync":
            items += ["whole", ""]
        else:
            target = self.call.operands[0]
            items += ["script", target] if may_be_path(target) else ["command", ""]
        self._variables, self._items = b"".join(sorted(map(_item, variables))), b"".join(map(_item, items))
        self.name = _digest(self._items)

    def _words(self) -> list[str]:
        """The words that are the same for all calls of this form."""
        call, found = self.call, []
        words = iter(call.words[: len(call.words) - len(call.operands)])
        for word in words:
            name, equals, _ = word.partition("=")
            if name not in _APART:
                found.append(word)
            elif not equals:
                next(words, None)
        return found


def _counts(name: str) -> bool:
    return name in _COUNTED or (name.startswith("UV_") and name not in _IGNORED)


def may_be_path(word: str) -> bool:
    """Whether a word may be the path of a script. Else it is the name of a command, whatever files there are."""
    return "/" in word or ("." in word and word.rpartition(".")[2].lower().startswith("py"))


def _item(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape") + b"\0"


def _digest(data: bytes) -> str:
    from _blake2 import blake2s  # as fingerprint.digest(); made for words of 32 bits, its code in C is short

    return blake2s(data, digest_size=16).hexdigest()
