"""Wait for a lock that is held, and say so.

Where the lock is the kernel's own, waiting is one blocking call, and the next waiter goes on within a millisecond.
Across a network it is polling, kind to the file server: the pause grows from 10 ms to 0.5 s, each of random length.
"""

import _thread
import fcntl
import os
import sys
import time

from uv_mutex import lock, mounts
from uv_mutex.errors import TIMED_OUT, MutexError, say

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as signals
    from types import FrameType

    from uv_mutex.lock import Place
else:
    import _signal as signals

_SILENT_SECONDS = 2.0
_REPEAT_SECONDS = 30.0
_LIVE_SECONDS = 1.0
_FIRST_PAUSE, _LONGEST_PAUSE, _GROWTH = 0.01, 0.5, 1.5
#: Wakes the main thread out of the kernel when time is up; its default action is to be ignored.
_WAKE = signals.SIGURG


class _TimeUpError(Exception):
    pass


def wait(fd: int, place: "Place", *, shared: bool, limit: float | None, quiet: bool) -> None:
    """Block until the flock on ``fd`` is ours.

    :param fd: the lock's descriptor.
    :param place: the lock, for the messages.
    :param shared: whether a shared lock is wanted.
    :param limit: seconds to wait at the most; None for ever.
    :param quiet: say nothing.
    :raises MutexError: if the limit is reached.
    :raises OSError: if flock fails.
    """
    watcher = _Watcher(place, limit, quiet=quiet)
    watcher.start()
    try:
        if mounts.is_local(place.path):
            fcntl.flock(fd, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        else:
            _poll(fd, watcher, shared=shared)
    except _TimeUpError:
        holder = describe_holder(place, time.monotonic() - watcher.began)
        raise MutexError(
            f"gave up after {limit:g} s (UV_MUTEX_TIMEOUT) waiting for {holder}, which holds {place.path}", TIMED_OUT
        ) from None
    finally:
        watcher.stop()


def _poll(fd: int, watcher: "_Watcher", *, shared: bool) -> None:
    from filelock import lock_descriptor

    pause = _FIRST_PAUSE
    while not (lock.try_flock(fd, shared=True) if shared else lock_descriptor(fd, blocking=False)):
        time.sleep(pause * (0.5 + os.urandom(1)[0] / 512))
        watcher.check()
        pause = min(pause * _GROWTH, _LONGEST_PAUSE)


def describe_holder(place: "Place", waited: float) -> str:
    """Who is waited for, as in ``uv sync (pid 4121 on node-3, 14 s)``.

    :param place: the lock.
    :param waited: seconds waited so far: another host's clock can't be compared with ours.
    """
    holder = None if place.is_folder else lock.read_holder(place.path)
    if holder is None:
        return f"other uv calls ({waited:.0f} s)"
    seconds = max(waited, time.time() - holder.since) if holder.host == os.uname().nodename else waited
    return f"{holder.command} (pid {holder.pid} on {holder.host}, {seconds:.0f} s)"


class _Watcher:
    """A second thread that prints who is waited for, and ends the wait when its time is up."""

    def __init__(self, place: "Place", limit: float | None, *, quiet: bool) -> None:
        self.began = time.monotonic()
        self._place = place
        self._limit = limit
        self._quiet = quiet
        self._live = not quiet and sys.stderr is not None and sys.stderr.isatty()
        self._main = _thread.get_ident()
        self._running = _thread.allocate_lock()  # held until stop()
        self._gone = _thread.allocate_lock()  # held until the thread ends
        self._old_handler = signals.signal(_WAKE, self._wake)

    def start(self) -> None:
        self._running.acquire()
        self._gone.acquire()
        _thread.start_new_thread(self._run, ())

    def stop(self) -> None:
        """End the thread, and wipe the live line."""
        self._running.release()
        self._gone.acquire()
        signals.signal(_WAKE, self._old_handler)

    def check(self) -> None:
        """Raise once the time is up."""
        if self._limit is not None and time.monotonic() - self.began >= self._limit:
            raise _TimeUpError

    def _wake(self, _number: int, _frame: "FrameType | None") -> None:
        self.check()

    def _run(self) -> None:
        next_line, shown = self.began + _SILENT_SECONDS, False
        try:
            while True:
                deadline = self.began + self._limit if self._limit is not None else next_line
                until = deadline if self._quiet else min(next_line, deadline)
                if self._quiet and self._limit is None:
                    until = time.monotonic() + _REPEAT_SECONDS
                if self._running.acquire(timeout=max(0.0, until - time.monotonic())):
                    return
                now = time.monotonic()
                if self._limit is not None and now >= deadline:
                    # Repeated, since the main thread may not have reached its blocking call yet.
                    signals.pthread_kill(self._main, _WAKE)
                    if self._running.acquire(timeout=0.05):
                        return
                elif not self._quiet and now >= next_line:
                    shown = self._say(now)
                    next_line = now + (_LIVE_SECONDS if self._live else _REPEAT_SECONDS)
        finally:
            if shown and self._live:
                _write("\r\x1b[K")
            self._gone.release()

    def _say(self, now: float) -> bool:
        text = f"waiting for {describe_holder(self._place, now - self.began)}"
        if self._live:
            _write(f"\r\x1b[Kuv-mutex: {text}")
        else:
            say(text)
        return True


def _write(text: str) -> None:
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (OSError, ValueError):
        pass
