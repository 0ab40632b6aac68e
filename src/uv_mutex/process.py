"""Hand the process over to the real uv, or run it as a child while a lock is held."""

import _thread
import errno
import sys

from uv_mutex import system
from uv_mutex.errors import CANNOT_EXEC, MutexError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as signals
    from collections.abc import Callable, Mapping
    from typing import NoReturn
else:
    import _signal as signals  # `signal` wraps the same calls in enums, which cost 4 ms to import

#: What Python sets to "ignore" when it starts, and what exec would keep that way.
_IGNORED_BY_PYTHON = (signals.SIGPIPE, signals.SIGXFSZ)
#: What Python puts in LC_CTYPE when it starts in a C locale (PEP 538).
_COERCED = ("C.UTF-8", "C.utf8", "UTF-8")
#: Passed on to the child, so that a signal sent to the shim alone acts as if it had been sent to uv.
_FORWARDED = (
    signals.SIGINT,
    signals.SIGTERM,
    signals.SIGHUP,
    signals.SIGQUIT,
    signals.SIGUSR1,
    signals.SIGUSR2,
    signals.SIGWINCH,
    signals.SIGCONT,
    signals.SIGTSTP,
)
_PR_SET_PDEATHSIG = 1
#: A failed exec is told apart from uv's own statuses by its errno on a pipe.
_ERRNO_BYTES = 4
_GUARD_SECONDS = 0.25


class Ended:
    """How a child ended: by ``status`` (an exit status), or by ``signal`` (its number; 0 if it exited)."""

    __slots__ = ("signal", "status")

    def __init__(self, wait_status: int) -> None:
        self.signal = system.WTERMSIG(wait_status) if system.WIFSIGNALED(wait_status) else 0
        self.status = 0 if self.signal else system.WEXITSTATUS(wait_status)

    @property
    def ok(self) -> bool:
        """Whether the child exited with status 0."""
        return not self.signal and not self.status

    @property
    def shell_status(self) -> int:
        """The one number a shell would give in ``$?``."""
        return 128 + self.signal if self.signal else self.status


def exec_uv(uv: str, words: list[str]) -> "NoReturn":
    """Replace this process by the real uv, which then sees what it would have seen without the shim.

    :param uv: path of the real uv.
    :param words: the words after ``uv``.
    :raises MutexError: if the kernel won't start it.
    """
    _undo_python()
    try:
        # execv, not execve: it passes on the environment block as the kernel gave it, with its order, its
        # duplicates and the entries without "=" that os.environ can't hold.
        system.execv(uv, ["uv", *words])
    except OSError as error:
        raise _cannot_exec(uv, error) from None


def run_uv(
    uv: str,
    words: list[str],
    *,
    extra_env: "Mapping[str, str]",
    empty_stdin: bool = False,
    lost: "Callable[[], str | None] | None" = None,
) -> Ended:
    """Run the real uv as a child and wait for it; see :func:`run_child`.

    :param uv: path of the real uv.
    :param words: the words after ``uv``.
    :param extra_env: variables that the child sees besides its environment.
    :param empty_stdin: give it /dev/null instead of our stdin, which belongs to the user's command.
    :param lost: see :func:`run_child`.
    :raises MutexError: if the kernel won't start it, or it was stopped because a lock was lost.
    """

    def start() -> None:
        for name, value in extra_env.items():
            system.putenv(name, value)
        if empty_stdin:
            null = system.open(system.devnull, system.O_RDONLY)
            system.dup2(null, 0)
            # uv can't wait for its command where SIGCHLD is ignored. The user's own call may say so, not this one.
            signals.signal(signals.SIGCHLD, signals.SIG_DFL)
        system.execv(uv, ["uv", *words])

    return run_child(start, uv, lost)


def run_child(
    start: "Callable[[], None]",
    name: str,
    lost: "Callable[[], str | None] | None" = None,
    *,
    remedy: str | None = None,
) -> Ended:
    """Fork, call ``start`` (which must exec), and wait for the child to end.

    Signals that reach the shim alone are passed on; those that a terminal sends to the whole process group are not,
    since the child has them already. (What a program sends to the whole group, the child gets twice: the kernel doesn't
    say whom else a signal went to.) Stopping and continuing works as for one process. If the shim dies, the child dies
    (Linux), because the lock that the shim held is free then.

    :param start: runs in the child, with signals, mask and locale as the shim found them.
    :param name: what is started, for the error message.
    :param lost: asked every quarter of a second; once it gives a reason the child is killed, since two writers are
        worse than none.
    :param remedy: what to do if it can't be started; None where it is uv.
    :raises MutexError: if ``start`` could not exec, or for what ``lost`` said.
    """
    pdeathsig = _load_pdeathsig()
    # Inherited as "ignore", SIGCHLD would make the kernel throw the child's status away.
    old_chld = signals.signal(signals.SIGCHLD, signals.SIG_DFL)
    parent = system.getpid()
    try:
        told, tell = system.pipe()  # closed by a successful exec
        pid = system.fork()
    except OSError as error:  # EAGAIN: hundreds of calls meet `ulimit -u`
        from uv_mutex.messages import calls

        raise MutexError(calls.cannot_fork(name, error), CANNOT_EXEC) from None
    if not pid:
        failure = errno.EIO
        try:
            pdeathsig()
            if system.getppid() == parent:
                _undo_python()
                signals.signal(signals.SIGCHLD, old_chld)
                start()
        except OSError as error:
            failure = error.errno or errno.EIO
        finally:
            try:
                system.write(tell, failure.to_bytes(_ERRNO_BYTES, "little"))
            finally:
                system._exit(CANNOT_EXEC)
    # Not before the fork: a Ctrl-C that came in between would wait for us alone, and look as if the child had it too.
    # Until here signals do to the shim what they would do to a uv that has only begun.
    old_mask = signals.pthread_sigmask(signals.SIG_BLOCK, {*_FORWARDED, signals.SIGCHLD})
    try:
        system.close(tell)
        guard = _Guard(pid, lost)
        ended = _wait(pid, stoppable=signals.SIGTSTP not in old_mask)
        guard.stop()
        failed = system.read(told, _ERRNO_BYTES)
        system.close(told)
        if not ended.ok:
            _forget_pending()
    finally:
        signals.signal(signals.SIGCHLD, old_chld)
        signals.pthread_sigmask(signals.SIG_SETMASK, old_mask)
    if failed:
        number = int.from_bytes(failed, "little")
        raise _cannot_exec(name, OSError(number, system.strerror(number)), remedy)
    if guard.reason:
        from uv_mutex.messages import calls

        raise MutexError(calls.stopped(guard.reason, name.rpartition("/")[2]))
    return ended


class _Guard:
    """A thread that kills the child once the lock that it works under is lost."""

    def __init__(self, pid: int, lost: "Callable[[], str | None] | None") -> None:
        self.reason: str | None = None
        self._pid = pid
        self._lost = lost
        self._running = _thread.allocate_lock()
        self._running.acquire()
        if lost:
            _thread.start_new_thread(self._run, (lost,))  # with all signals blocked, as they are here

    def _run(self, lost: "Callable[[], str | None]") -> None:
        while not self._running.acquire(timeout=_GUARD_SECONDS):
            reason = lost()
            if reason:
                self.reason = reason
                _kill(self._pid, signals.SIGKILL)
                return

    def stop(self) -> None:
        """End the thread; the child is gone."""
        self._running.release()


def true_command() -> str:
    """A command that does nothing, by its full path: PATH need not lead to it."""
    return next((path for path in ("/usr/bin/true", "/bin/true") if system.access(path, system.X_OK)), "true")


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
        if ended.signal not in (signals.SIGKILL, signals.SIGSTOP):
            signals.signal(ended.signal, signals.SIG_DFL)
            signals.pthread_sigmask(signals.SIG_UNBLOCK, {ended.signal})
        system.kill(system.getpid(), ended.signal)
    system._exit(ended.shell_status)


def _wait(pid: int, *, stoppable: bool) -> Ended:
    """Wait for the child, passing signals on to it meanwhile. All of them are blocked here.

    :param pid: the child.
    :param stoppable: whether SIGTSTP was let through when the shim started.
    """
    wanted = {*_FORWARDED, signals.SIGCHLD}
    stoppable = stoppable and signals.getsignal(signals.SIGTSTP) is not signals.SIG_IGN
    while True:
        done, wait_status = system.waitpid(pid, system.WNOHANG)
        if done:
            return Ended(wait_status)
        number, child_has_it = _next_signal(wanted)
        if number == signals.SIGCHLD:
            continue
        if not child_has_it:
            _kill(pid, number)
        if number == signals.SIGTSTP and stoppable:
            _stop_as_by_default()


def _next_signal(wanted: "set[signals.Signals]") -> tuple[int, bool]:
    """Wait for a signal; say which, and whether the kernel sent it to the whole foreground process group."""
    if sys.platform == "linux":
        info = signals.sigwaitinfo(wanted)
        number, from_kernel = info.si_signo, info.si_code > 0
    else:
        # macOS has no sigwaitinfo: what a terminal can send is taken to come from there.
        number = signals.sigwait(wanted)
        keys = (signals.SIGINT, signals.SIGQUIT, signals.SIGTSTP, signals.SIGWINCH, signals.SIGCONT)
        from_kernel = number in keys and system.isatty(0)
    # A terminal that goes away tells the leader of its session alone: `ssh -t host uv sync` makes us that leader.
    alone = number in (signals.SIGHUP, signals.SIGCONT) and system.getsid(0) == system.getpid()
    return number, from_kernel and not alone


def _forget_pending() -> None:
    """Drop what came while the child was ending: it must not end us otherwise than the child ended.

    `uv add` answers Ctrl-C by putting pyproject.toml back and exiting with 130.
    """
    while pending := signals.sigpending() & {*_FORWARDED}:
        signals.sigwait(pending)


def _kill(pid: int, number: int) -> None:
    try:
        system.kill(pid, number)
    except ProcessLookupError:
        pass


def _stop_as_by_default() -> None:
    """Stop this process by SIGTSTP's default action, so that a shell sees the job stopped."""
    old = signals.signal(signals.SIGTSTP, signals.SIG_DFL)
    system.kill(system.getpid(), signals.SIGTSTP)
    signals.pthread_sigmask(signals.SIG_UNBLOCK, {signals.SIGTSTP})
    signals.pthread_sigmask(signals.SIG_BLOCK, {signals.SIGTSTP})
    if old is not None:
        signals.signal(signals.SIGTSTP, old)


def _undo_python() -> None:
    """Take back what the interpreter changed in this process when it started."""
    for number in _IGNORED_BY_PYTHON:
        signals.signal(number, signals.SIG_DFL)
    if system.variables.get("LC_CTYPE") in _COERCED:
        _restore_lc_ctype()


def _restore_lc_ctype() -> None:
    try:
        with open("/proc/self/environ", "rb") as file:
            entries = file.read().split(b"\0")
    except OSError:  # macOS: Python coerces only where LC_CTYPE said nothing or "C"
        entries = []
    values = [entry[9:] for entry in entries if entry.startswith(b"LC_CTYPE=")]
    if values:
        system.putenv(b"LC_CTYPE", values[0])
    else:
        system.unsetenv("LC_CTYPE")


def _load_pdeathsig() -> "Callable[[], None]":
    """Prepare the call, in the parent, that makes the kernel kill a child when its parent dies."""
    if sys.platform != "linux":
        return lambda: None
    try:
        import ctypes
    except ImportError:  # a Python built without libffi
        return lambda: None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    arguments = (ctypes.c_int(_PR_SET_PDEATHSIG), ctypes.c_ulong(signals.SIGKILL))
    return lambda: prctl(*arguments) and None


def _no_core_dump() -> None:
    """The child left its own core, if one was wanted; Python's would only hide it."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))


def _cannot_exec(name: str, error: OSError, remedy: str | None = None) -> MutexError:
    from uv_mutex.messages import calls

    return MutexError(calls.cannot_exec(name, error, remedy or calls.CHECK_UV), CANNOT_EXEC)
