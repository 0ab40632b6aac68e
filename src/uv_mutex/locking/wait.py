"""Wait for a lock that is held, and say so.

Where the lock is the kernel's own, waiting is one blocking call, and the next waiter goes on within a millisecond.
Across a network it is polling, kind to the file server: the pause grows from 10 ms to 0.5 s, each of random length.
"""

import fcntl
import os
import signal
import sys
import threading
import time

from uv_mutex.errors import TIMED_OUT, MutexError, say
from uv_mutex.locking import acquire
from uv_mutex.locking.owner import read_holder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from uv_mutex.locking.acquire import Patience
    from uv_mutex.locking.lock_file import Place

_SILENT_SECONDS = 2.0
_REPEAT_SECONDS = 30.0
_LIVE_SECONDS = 1.0
#: A longer wait shows in `uv-mutex status`: it leaves a file, and renews it as long as it lasts.
_SHOW_SECONDS, _RENEW_SECONDS = 0.5, 10.0
_FIRST_PAUSE, _LONGEST_PAUSE, _GROWTH = 0.01, 0.5, 1.5
_LONGEST_WAIT = 1e9
#: Wakes the main thread out of the kernel when time is up; its default action is to be ignored.
_WAKE = signal.SIGURG


class _TimeUpError(Exception):
    pass


def describe_holder(place: "Place", waited: float) -> str:
    """Who is waited for, as in ``uv sync (pid 4121 on node-3, 14 s)``.

    :param place: the lock.
    :param waited: seconds waited so far: another host's clock can't be compared with ours.
    """
    holder = None if place.is_folder else read_holder(place.path)
    if holder is None:
        return f"other uv calls ({waited:.0f} s)"
    seconds = max(waited, time.time() - holder.since) if holder.host == os.uname().nodename else waited
    from uv_mutex import terminal

    who = f"{holder.command} (pid {holder.pid} on {holder.host}"
    return f"{terminal.printable(who)}, {seconds:.0f} s)"


class Wait:
    """A wait for one lock, as a context. A second thread prints who is waited for, and ends the wait in time."""

    def __init__(self, place: "Place", patience: "Patience") -> None:
        """
        :param place: the lock, for the messages.
        :param patience: how long to wait, and whether to be quiet. What is waited here is added to its sum.
        """
        self._place = place
        self._patience = patience
        self._quiet = patience.quiet
        self._limit = None if patience.limit is None else max(0.0, patience.limit - patience.waited)
        self._live = not self._quiet and sys.stderr is not None and sys.stderr.isatty()
        self._main = threading.get_ident()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._blocking = False

    def __enter__(self) -> "Wait":
        self.began = time.monotonic()
        self._old_handler = signal.signal(_WAKE, self._wake)
        self._old_mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, {_WAKE})
        self._thread.start()
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        self._over.set()
        self._thread.join()
        signal.signal(_WAKE, self._old_handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._old_mask)
        self._patience.waited += time.monotonic() - self.began
        if isinstance(error, _TimeUpError):
            from uv_mutex.messages import calls

            holder = describe_holder(self._place, time.monotonic() - self.began)
            message = calls.timed_out(self._patience.limit or 0.0, holder, self._place.path)
            raise MutexError(message, TIMED_OUT) from None

    def for_flock(self, fd: int, *, shared: bool) -> None:
        """Block until the flock on ``fd`` is ours.

        :raises OSError: if flock fails.
        """
        if self._is_local(fd):
            self._blocking = True
            try:
                fcntl.flock(fd, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
            finally:
                self._blocking = False
        elif shared:
            self.polling(lambda: acquire.try_flock(fd, shared=True))
        else:
            from filelock import lock_descriptor

            self.polling(lambda: lock_descriptor(fd, blocking=False))

    def _is_local(self, fd: int) -> bool:
        """Whether the kernel can wake us, since no other host takes part. The mount table costs a waiter 2 ms."""
        if os.major(os.fstat(fd).st_dev):  # a disk of this host
            return True
        from uv_mutex.locking import filesystem

        return filesystem.is_local(self._place.path)

    def polling(self, attempt: "Callable[[], bool]") -> None:
        """Try until it works, in pauses that grow."""
        pause = _FIRST_PAUSE
        while not attempt():
            time.sleep(pause * (0.5 + os.urandom(1)[0] / 512))
            self._check()
            pause = min(pause * _GROWTH, _LONGEST_PAUSE)

    def _check(self) -> None:
        """Raise once the time is up."""
        if self._limit is not None and time.monotonic() - self.began >= self._limit:
            raise _TimeUpError

    def _wake(self, _number: int, _frame: "FrameType | None") -> None:
        if self._blocking:
            self._check()

    def _run(self) -> None:
        never = self.began + _LONGEST_WAIT
        deadline = never if self._limit is None else self.began + self._limit
        next_line = never if self._quiet else self.began + _SILENT_SECONDS
        next_sign = self.began + _SHOW_SECONDS
        since = time.time()
        sign, shown = None, False
        try:
            while True:
                until = min(deadline, next_line, next_sign)
                if self._over.wait(max(0.0, until - time.monotonic())):
                    return
                now = time.monotonic()
                if now >= deadline:
                    # Repeated, since the main thread may not have reached its blocking call yet.
                    signal.pthread_kill(self._main, _WAKE)
                    if self._over.wait(0.05):
                        return
                if now >= next_line:
                    shown = self._say(now)
                    next_line = now + (_LIVE_SECONDS if self._live else _REPEAT_SECONDS)
                if now >= next_sign:
                    if sign is None:
                        # With all that is said later: the shim may be uninstalled while this waits.
                        from uv_mutex.locking import waiters
                        from uv_mutex.messages import calls  # noqa: F401

                        sign = waiters.Sign(self._place, self._patience.command, since)
                    sign.show()
                    next_sign = now + _RENEW_SECONDS
        finally:
            if shown and self._live:
                _write("\r\x1b[K")
            if sign is not None:
                sign.remove()

    def _say(self, now: float) -> bool:
        from uv_mutex.messages import calls

        text = calls.waiting_for(describe_holder(self._place, now - self.began))
        if self._live:
            from uv_mutex import terminal

            _write(f"\r\x1b[K{terminal.fit(f'uv-mutex: {text}', sys.stderr.fileno())}")
        else:
            say(text)
        return True


def _write(text: str) -> None:
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (OSError, ValueError):
        pass
