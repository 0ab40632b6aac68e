"""The gate of a form of call (see call_form.py): of equal calls that are not known to be fresh, one starts Python.

The others wait for that one in the native launcher (src/launcher/ticket.c), which has a tenth of Python's memory, and
find its ticket then. The gate is the flock of the file ``.uv-mutex/gate.NAME`` in the workspace root. A call keeps it
until it ends or becomes the real uv. Those who wait put a new gate in the place of one behind which nothing happens. It
makes nothing safe: the project lock does. Only its owner can read the file:

    uv-mutex ticket 1 KIND DIGEST     run or sync; the digest of all items of the form
    QUIET SECONDS                     1 for a call that says nothing while it waits; how long it may wait
"""

import os

from uv_mutex import files
from uv_mutex.locking import leftovers
from uv_mutex.locking.flock import try_flock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from uv_mutex.environment.call_form import CallForm

_FOR_EVER = 1e9
#: The launcher looks at the clock twice a second.
_SHORT_SECONDS = 1.0
_MOST_BYTES = 4096


class Gate:
    """The gate of one form of call. Nothing here raises: without a gate, Python waits."""

    def __init__(self, form: "CallForm", fd: int = -1) -> None:
        """
        :param form: the form of this call.
        :param fd: the descriptor of the gate if this process holds it already, else -1.
        """
        self._form = form
        folder = f"{form.project.root}/.uv-mutex"
        self._path = f"{folder}/{leftovers.GATE}"
        self._is_plain = [lock.path for lock in form.locks] == [f"{folder}/lock"]
        self._fd = fd

    def make(self, *, quiet: bool, limit: float | None) -> bool:
        """Make the file, if the launcher can use it for such a call; return whether it can.

        :param quiet: whether the call says nothing while it waits.
        :param limit: how many seconds it may wait; None for ever.
        """
        is_short = limit is not None and limit < _SHORT_SECONDS
        if is_short or not (self._is_plain and self._form.is_understood() and self._form.is_local()):
            return False
        path = self._path + self._form.name
        text = f"{self._form.head()}\n{quiet:d} {_FOR_EVER if limit is None else limit:.3f}\n"
        try:
            files.create(path, 0o600, text.encode())
            return files.read(path, _MOST_BYTES, follow=False) == text.encode()
        except OSError:
            return False

    def enter(self) -> bool:
        """Pass the gate that was made, unless another call has; return whether no other call has."""
        try:
            self._fd = files.open_file(self._path + self._form.name, os.O_RDONLY)
            return try_flock(self._fd, shared=False)
        except OSError:
            return True

    def remove(self) -> None:
        """Let those who wait go on side by side, if this call has passed: it leaves no ticket for them."""
        if self._fd >= 0 and self._form.is_understood():
            try:
                files.remove(self._path + self._form.name)
            except OSError:
                pass
