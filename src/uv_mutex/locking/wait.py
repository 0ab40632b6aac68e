"""Wait for a lock that another call holds, and say so.

Where no other host takes part, the wait is one blocking call of the kernel, and the next waiter goes on within a
millisecond. Across a network it is polling that spares the file server: the pauses grow from 10 ms to 0.5 s, each of
random length.
"""

import errno
import fcntl
import os
import signal
import sys
import threading
import time

from uv_mutex import terminal
from uv_mutex.errors import TIMED_OUT, MutexError, say
from uv_mutex.locking import filesystem, owner
from uv_mutex.locking.flock import try_flock
from uv_mutex.locking.lock_file import LockTarget
from uv_mutex.locking.waiters import WaiterFile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from uv_mutex.locking.wait_budget import WaitBudget

_SILENT_SECONDS = 2.0
_REPEAT_SECONDS = 30.0
_LIVE_SECONDS = 1.0
#: A longer wait shows in `uv-mutex status`: it leaves a file, and renews it as long as it lasts.
_SHOW_SECONDS, _RENEW_SECONDS = 0.5, 10.0
#: How often a waiter that polls looks whether its file is still the one that others lock.
_LOOK_SECONDS = 1.0
_FIRST_PAUSE, _LONGEST_PAUSE, _GROWTH = 0.01, 0.5, 1.5
_LONGEST_WAIT = 1e9
#: Wakes the main thread out of the kernel when time is up; its default action is to be ignored.
_WAKE = signal.SIGURG
#: Signals that end a wait, as they end a uv; nothing must stay behind.
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _TimeUpError(Exception):
    pass


def describe_owner(target: LockTarget, waited: float) -> str:
    """Who is waited for, as in ``uv sync (pid 4121 on node-3, 14 s)``.

    :param target: the lock.
    :param waited: seconds waited so far: the clock of another host can't be compared with ours.
    """
    found = None if target.folder is None else owner.read_owner(target.path)
    if found is None:
        return f"other uv calls ({waited:.0f} s)"
    seconds = max(waited, time.time() - found.since) if found.host == os.uname().nodename else waited
    who = f"{found.command} (pid {found.pid} on {found.host}"
    return f"{terminal.printable(who)}, {seconds:.0f} s)"


class Wait:
    """A wait for one lock, as a context. A second thread says who is waited for, and ends the wait in time."""

    def __init__(self, target: LockTarget, budget: "WaitBudget") -> None:
        """
        :param target: the lock, for the messages.
        :param budget: how long to wait, and whether to be quiet. The seconds of this wait are added to its sum.
        """
        self._target = target
        self._budget = budget
        self._quiet = budget.quiet
        self._limit = None if budget.limit is None else max(0.0, budget.limit - budget.waited)
        self._live = not self._quiet and sys.stderr is not None and sys.stderr.isatty()
        self._main = threading.get_ident()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._blocking = False
        self._sign: WaiterFile | None = None
        self._said = False

    def __enter__(self) -> "Wait":
        self.began = time.monotonic()
        self._since = time.time()
        self._next_line = self.began + (_LONGEST_WAIT if self._quiet else _SILENT_SECONDS)
        self._next_sign = self.began + _SHOW_SECONDS
        self._old_handlers = {_WAKE: signal.signal(_WAKE, self._wake)}
        for number in _ENDING:
            if signal.getsignal(number) == signal.SIG_DFL:
                self._old_handlers[number] = signal.signal(number, self._end)
        self._old_mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, {_WAKE})
        self._thread = self._start_thread()
        return self

    def _start_thread(self) -> threading.Thread | None:
        """Start the second thread; None if there can't be one (`ulimit -u`): then the first one polls and does both."""
        thread = threading.Thread(target=self._run, daemon=True)
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # signals are for the main thread
        try:
            thread.start()
        except RuntimeError:
            return None
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        return thread

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        self._over.set()
        if self._thread:
            self._thread.join()
        if self._said and self._live:
            _write("\r\x1b[K")
        if self._sign:
            self._sign.remove()
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._old_mask)
        self._budget.waited += time.monotonic() - self.began
        if isinstance(error, _TimeUpError):
            raise MutexError(
                f"gave up after {self._budget.limit or 0.0:g} s (UV_MUTEX_TIMEOUT) waiting for "
                f"{describe_owner(self._target, time.monotonic() - self.began)}, which holds {self._target.path}; "
                "try again later, or allow more time",
                TIMED_OUT,
            ) from None

    def wait_for_flock(self, target: LockTarget, fd: int, *, shared: bool) -> None:
        """Block until the flock on ``fd`` is ours.

        :param target: what ``fd`` was opened for: the lock, or its turnstile.
        :raises OSError: if flock fails; ESTALE if others lock another file by now, which only polling finds out.
        """
        if self._thread and filesystem.is_local(self._target.path):
            self._blocking = True
            try:
                fcntl.flock(fd, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
            finally:
                self._blocking = False
        elif shared or not self._thread:
            self._poll_file(target, fd, lambda: try_flock(fd, shared=shared))
        else:
            from filelock import lock_descriptor

            self._poll_file(target, fd, lambda: lock_descriptor(fd, blocking=False))

    def _poll_file(self, target: LockTarget, fd: int, attempt: "Callable[[], bool]") -> None:
        """Poll, and look from time to time whether somebody removed the file, since its holder's host is dead."""
        looked = time.monotonic()

        def attempt_or_look() -> bool:
            nonlocal looked
            if attempt():
                return True
            if time.monotonic() - looked >= _LOOK_SECONDS:
                if not target.is_current(fd):
                    raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), target.path)
                looked = time.monotonic()
            return False

        self.poll(attempt_or_look)

    def poll(self, attempt: "Callable[[], bool]") -> None:
        """Try until it works, in pauses that grow."""
        pause = _FIRST_PAUSE
        while not attempt():
            time.sleep(pause * (0.5 + os.urandom(1)[0] / 512))
            self._raise_if_time_is_up()
            if not self._thread:
                self._show(time.monotonic())
            pause = min(pause * _GROWTH, _LONGEST_PAUSE)

    def _raise_if_time_is_up(self) -> None:
        if self._limit is not None and time.monotonic() - self.began >= self._limit:
            raise _TimeUpError

    def _wake(self, _number: int, _frame: "FrameType | None") -> None:
        if self._blocking:
            self._raise_if_time_is_up()

    def _end(self, number: int, _frame: "FrameType | None") -> None:
        """Die of a signal, as without a handler."""
        if self._sign:
            self._sign.remove()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        # Still here: the kernel spares the first process of a container a signal that it does not handle.
        if os.getpid() == 1:
            os._exit(128 + number)

    def _run(self) -> None:
        deadline = self.began + (_LONGEST_WAIT if self._limit is None else self._limit)
        while True:
            until = min(deadline, self._next_line, self._next_sign)
            if self._over.wait(max(0.0, until - time.monotonic())):
                return
            now = time.monotonic()
            if now >= deadline:
                # Repeated, since the main thread may not have reached its blocking call yet.
                signal.pthread_kill(self._main, _WAKE)
                if self._over.wait(0.05):
                    return
            self._show(now)

    def _show(self, now: float) -> None:
        """Do what is due: say who is waited for, and let others see that this call waits."""
        if now >= self._next_line:
            self._say(now)
            self._said = True
            self._next_line = now + (_LIVE_SECONDS if self._live else _REPEAT_SECONDS)
        if now >= self._next_sign:
            if self._sign is None:
                self._sign = WaiterFile(self._target, self._budget.command, self._since)
            self._sign.show()
            self._next_sign = now + _RENEW_SECONDS

    def _say(self, now: float) -> None:
        text = f"waiting for {describe_owner(self._target, now - self.began)}"
        if self._live:
            _write(f"\r\x1b[K{terminal.fit(f'uv-mutex: {text}', sys.stderr.fileno())}")
        else:
            say(text)


def _write(text: str) -> None:
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (OSError, ValueError):
        pass
