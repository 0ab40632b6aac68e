"""Run the real uv, or another program, as a child while a lock is held."""

import errno
import os
import signal
import sys
import threading

from uv_mutex.errors import CANNOT_EXEC, CannotForkError, MutexError, warn
from uv_mutex.shim import handover, signal_relay

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import FrameType
    from typing import Any, NoReturn

    _Handler = Callable[[int, FrameType | None], Any] | int | signal.Handlers | None

_PR_SET_PDEATHSIG = 1
#: A failed exec writes its errno to a pipe, which tells it apart from the exit statuses of uv.
_ERRNO_BYTES = 4
_WATCH_SECONDS = 0.25


class Ended:
    """How a child ended: by ``status`` (an exit status), or by ``signal`` (its number; 0 if it exited)."""

    __slots__ = ("signal", "status")

    def __init__(self, wait_status: int) -> None:
        self.signal = os.WTERMSIG(wait_status) if os.WIFSIGNALED(wait_status) else 0
        self.status = 0 if self.signal else os.WEXITSTATUS(wait_status)

    @property
    def ok(self) -> bool:
        """Whether the child exited with status 0."""
        return not self.signal and not self.status

    @property
    def shell_status(self) -> int:
        """The one number a shell would give in ``$?``."""
        return 128 + self.signal if self.signal else self.status


def run_uv(
    uv: str,
    words: list[str],
    *,
    extra_env: "Mapping[str, str]",
    stdin: bytes | None = None,
    silent: bool = False,
    lost: "Callable[[], str | None] | None" = None,
) -> Ended:
    """Run the real uv as a child and wait for it; see :func:`run_child`.

    :param uv: path of the real uv.
    :param words: the words after ``uv``.
    :param extra_env: variables that the child sees besides its environment.
    :param stdin: what it reads instead of our stdin, which belongs to the user's command; None for our stdin.
    :param silent: throw away what it prints.
    :param lost: see :func:`run_child`.
    :raises MutexError: if the kernel won't start it, or it was stopped because a lock was lost.
    """

    def start() -> None:
        for name, value in extra_env.items():
            os.putenv(name, value)
        if stdin is not None:
            _replace_stdin(stdin)
        if silent:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)
            # uv can't wait for its command where SIGCHLD is ignored. The user's own call may say so, not this one.
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        handover.guard_against_loop(uv)
        os.execv(uv, ["uv", *words])

    return run_child(start, uv, lost)


def _replace_stdin(content: bytes) -> None:
    if not content:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        return
    fd = os.memfd_create("script")
    os.write(fd, content)
    os.lseek(fd, 0, os.SEEK_SET)
    os.dup2(fd, 0)


def run_child(
    start: "Callable[[], None]",
    name: str,
    lost: "Callable[[], str | None] | None" = None,
    *,
    remedy: str | None = None,
) -> Ended:
    """Fork, call ``start`` (which must exec), and wait for the child to end.

    Signals that reach the shim alone are passed on. Those that a terminal sends to the whole process group are not,
    since the child has them already. (A signal that a program sends to the whole group reaches the child twice: the
    kernel does not say who else got it.) The two are stopped and continued as one process. If the shim dies, the kernel
    kills the child, because the lock of the shim is free then.

    :param start: runs in the child, with signals, mask and locale as the shim found them.
    :param name: what is started, for the error message.
    :param lost: called every quarter of a second. When it returns a reason the child is killed, since two writers are
        worse than none.
    :param remedy: what to do if it can't be started; None where it is uv.
    :raises MutexError: if ``start`` could not exec, or for the reason that ``lost`` returned.
    """
    # Inherited as "ignore", SIGCHLD would make the kernel throw the child's status away.
    old_chld = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid, told = _fork(start, name, old_chld)
    # Not before the fork: a Ctrl-C that came in between would wait for us alone, as if the child had it too. Until here
    # a signal does to the shim what it would do to a uv that has just begun.
    old_mask = signal.pthread_sigmask(signal.SIG_BLOCK, {*signal_relay.FORWARDED, signal.SIGCHLD})
    try:
        watchdog = _Watchdog(pid, lost)
        signal_relay.wait_for(pid, stoppable=signal.SIGTSTP not in old_mask)
        watchdog.stop()  # before the child is reaped: from then on another process may have its pid
        ended = Ended(os.waitpid(pid, 0)[1])
        failed = os.read(told, _ERRNO_BYTES)
        os.close(told)
        if not ended.ok:
            signal_relay.drop_pending()
    finally:
        signal.signal(signal.SIGCHLD, old_chld)
        signal.pthread_sigmask(signal.SIG_SETMASK, old_mask)
    if failed:
        number = int.from_bytes(failed, "little")
        raise handover.cannot_exec(name, OSError(number, os.strerror(number)), remedy)
    if watchdog.reason:
        raise MutexError(f"{watchdog.reason}; {os.path.basename(name)} was stopped, run it again")
    return ended


def _fork(start: "Callable[[], None]", name: str, sigchld: "_Handler") -> tuple[int, int]:
    """Fork, and call ``start`` in the child.

    :param sigchld: what SIGCHLD did when the shim started; the child gets it back.
    :returns: the child, and a pipe on which it writes the errno if ``start`` fails; a successful exec closes it.
    :raises CannotForkError: if there can't be another process.
    """
    pdeathsig = _load_pdeathsig()
    parent = os.getpid()
    try:
        told, tell = os.pipe()
        pid = os.fork()
    except OSError as error:  # EAGAIN: hundreds of calls meet `ulimit -u`
        raise CannotForkError(
            f"cannot start a process for {name}: {error.strerror}; allow more (ulimit -u), or try again"
        ) from None
    if pid:
        os.close(tell)
        return pid, told
    failure = errno.EIO
    try:
        pdeathsig()
        if os.getppid() == parent:
            handover.undo_python()
            signal.signal(signal.SIGCHLD, sigchld)
            start()
    except OSError as error:
        failure = error.errno or errno.EIO
    finally:
        try:
            os.write(tell, failure.to_bytes(_ERRNO_BYTES, "little"))
        finally:
            os._exit(CANNOT_EXEC)


class _Watchdog:
    """A thread that kills the child when the lock that it works under is lost."""

    def __init__(self, pid: int, lost: "Callable[[], str | None] | None") -> None:
        self.reason: str | None = None
        self._pid = pid
        self._ended = threading.Event()
        self._killing = threading.Lock()
        if lost:
            try:  # the thread has all signals blocked, as they are here
                threading.Thread(target=self._run, args=(lost,), daemon=True).start()
            except RuntimeError as error:  # `ulimit -u`
                warn(f"nobody watches whether the lock is lost: {error}; allow more processes (ulimit -u)")

    def _run(self, lost: "Callable[[], str | None]") -> None:
        while not self._ended.wait(_WATCH_SECONDS):
            reason = lost()
            if reason:
                with self._killing:
                    if not self._ended.is_set():
                        self.reason = reason
                        signal_relay.kill(self._pid, signal.SIGKILL)
                return

    def stop(self) -> None:
        """Let the thread kill nothing from now on. It may still be asking a file server that does not answer."""
        with self._killing:
            self._ended.set()


def true_command() -> str:
    """A command that does nothing, by its full path: PATH need not lead to it."""
    return next((path for path in ("/usr/bin/true", "/bin/true") if os.access(path, os.X_OK)), "true")


def end_like(ended: Ended) -> "NoReturn":
    """End this process as the child ended: with its exit status, or killed by the same signal."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            try:
                stream.flush()
            except (OSError, ValueError):
                pass
    if ended.signal:
        _no_core_dump()
        if ended.signal not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(ended.signal, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {ended.signal})
        os.kill(os.getpid(), ended.signal)
    os._exit(ended.shell_status)


def _load_pdeathsig() -> "Callable[[], None]":
    """Load, in the parent, the call that makes the kernel kill a child when its parent dies."""
    try:
        import ctypes
    except ImportError:  # a Python built without libffi
        return lambda: None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    arguments = (ctypes.c_int(_PR_SET_PDEATHSIG), ctypes.c_ulong(signal.SIGKILL))
    return lambda: prctl(*arguments) and None


def _no_core_dump() -> None:
    """Leave no core dump: the child left its own, if one was wanted, and that of Python would only hide it."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
