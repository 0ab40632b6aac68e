"""Pass signals on to a child while this process waits for it, so that the two act as one program."""

import os
import signal

#: The signals that are passed on. A signal that was sent to the shim alone then acts as if it had been sent to uv.
FORWARDED = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGWINCH,
    signal.SIGCONT,
    signal.SIGTSTP,
)


def wait_for(pid: int, *, stoppable: bool) -> None:
    """Wait until a child has ended, and pass signals on to it meanwhile. FORWARDED and SIGCHLD are blocked.

    The child is not reaped: nobody else can get its pid until the caller asks for its status. Other children are: the
    first process of a container is given all orphans there.

    :param pid: the child.
    :param stoppable: whether SIGTSTP was not blocked when the shim started.
    """
    wanted = {*FORWARDED, signal.SIGCHLD}
    stoppable = stoppable and signal.getsignal(signal.SIGTSTP) is not signal.SIG_IGN
    while True:
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended:
            if ended.si_pid == pid:
                return
            os.waitpid(ended.si_pid, 0)
            continue
        number, child_has_it = _next_signal(wanted)
        if number == signal.SIGCHLD:
            continue
        if not child_has_it:
            kill(pid, number)
        if number == signal.SIGTSTP and stoppable:
            _stop_as_by_default()


def _next_signal(wanted: "set[signal.Signals]") -> tuple[int, bool]:
    """Wait for a signal; return it, and whether the kernel sent it to the whole foreground process group."""
    info = signal.sigwaitinfo(wanted)
    number, from_kernel = info.si_signo, info.si_code > 0
    # A terminal that goes away tells only the leader of its session: `ssh -t host uv sync` makes us that leader.
    alone = number in (signal.SIGHUP, signal.SIGCONT) and os.getsid(0) == os.getpid()
    return number, from_kernel and not alone


def drop_pending() -> None:
    """Drop the signals that came while the child ended: they must not end this process in another way.

    `uv add` answers Ctrl-C by putting pyproject.toml back and exiting with 130.
    """
    while pending := signal.sigpending() & {*FORWARDED}:
        signal.sigwait(pending)


def kill(pid: int, number: int) -> None:
    """Send a signal to a process; do nothing if it is gone."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def _stop_as_by_default() -> None:
    """Stop this process by SIGTSTP's default action, so that a shell sees the job stopped."""
    old = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTSTP)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTSTP})
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTSTP})
    if old is not None:
        signal.signal(signal.SIGTSTP, old)
