"""Wait for recent `uv run` and `uv sync` calls whose uv is still checking the environment.

Such a call has released the lock, and its uv checks the environment once more. What that uv reads must not change
meanwhile, or it would begin to install beside the call that changed it. So a call that is about to change something
waits first, with the lock in hand. If this process can see the uv, it waits until uv has started the user's command, or
is gone. Nobody can see the uv of another host or container; such a uv gets two seconds.
"""

import os
import time

from uv_mutex.locking import process
from uv_mutex.records import runs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from uv_mutex.locking.lock_file import LockTarget
    from uv_mutex.records.runs import Run, RunFile

#: A uv that has started no command for so long is thought to be stuck. Earlier runs are not looked at.
_LONGEST_SECONDS = 10.0
#: How long a uv that can't be seen is given for its check.
_UNSEEN_SECONDS = 2.0
#: A child that hides its variables is the user's command once it is so old.
_COMMAND_SECONDS = 1.0
#: Long files are few, so a second reading is rare. More are no use where inode numbers change by themselves.
_READINGS = 3
#: By how much the time in a record can seem to lie in the future: it is rounded.
_ROUNDING_SECONDS = 0.01
_FIRST_PAUSE, _LONGEST_PAUSE, _GROWTH = 0.001, 0.02, 1.5
#: uv sets it for the user's command alone, one higher than its own (crates/uv/src/commands/project/run.rs).
_DEPTH = b"UV_RUN_RECURSION_DEPTH"


def outlast(environment: str, targets: "Iterable[LockTarget]") -> bool:
    """Wait for the runs that released these locks a moment ago, at most 10 s. Never fails.

    :param environment: the folder of the environment.
    :param targets: the locks. This call holds all of them.
    :returns: whether there was a run to wait for.
    """
    waited = False
    # A call that is about to see this one, and to wait, may make a long file the old one meanwhile.
    for _ in range(_READINGS):
        before = runs.inodes(environment, targets)
        if not before:
            return False
        recent = _RecentRuns(runs.find(environment, targets))
        if runs.inodes(environment, targets).items() >= before.items():
            break
    for file, run, recorded in recent.visible:
        in_time = _outlast(file, run, recorded + _LONGEST_SECONDS)
        if in_time is None:
            recent.unseen_since = max(recent.unseen_since, recorded)
        waited = waited or bool(in_time)
    rest = recent.unseen_since + _UNSEEN_SECONDS - time.monotonic()
    if rest > 0:
        time.sleep(rest)
        waited = True
    runs.remove(recent.outlasted)
    return waited


class _RecentRuns:
    """The runs of the last seconds.

    All times are of the monotonic clock, so that they stay right however long it takes to read many files.

    ``visible``: those that this process may be able to see, the file of each, and when it was recorded.
    ``unseen_since``: when the youngest of all others was recorded; minus infinity if there is none. ``outlasted``: the
    files that nobody needs once this process has waited. The others have runs that wait for this process itself, as it
    is their command, or belongs to a build that their check has started.
    """

    __slots__ = ("_ahead", "outlasted", "unseen_since", "visible")

    def __init__(self, found: "Iterable[RunFile]") -> None:
        self.visible: list[tuple[RunFile, Run, float]] = []
        self.unseen_since = float("-inf")
        self.outlasted: list[RunFile] = []
        #: By how much the clock of a folder's file server is ahead of the monotonic clock.
        self._ahead: dict[str, float | None] = {}
        for file in found:
            awaited = self._add_own(file) if file.is_own else self._add_other(file)
            if not awaited:
                self.outlasted.append(file)

    def _add_other(self, file: "RunFile") -> bool:
        """Add the last run of another kernel; none of them can wait for this process."""
        written = self._written(file)
        # 500 hosts have many old files: they are not read.
        if time.monotonic() - written < _UNSEEN_SECONDS and any(file.runs()):
            self._add_unseen(written)
        return False

    def _add_own(self, file: "RunFile") -> bool:
        """Add the runs of this kernel, whose clock is that of this process; return whether one waits for it."""
        above, awaited = process.ancestors(), False
        found = list(file.runs())
        now, clock = time.time(), time.monotonic()
        for run in found:
            age = now - run.time
            if age >= _LONGEST_SECONDS:
                continue
            if run.process in above:
                awaited = True
            elif age < -_ROUNDING_SECONDS:  # the clock was put back, or it is no record of ours
                self._add_unseen(self._written(file))
            elif run.process.is_visible:
                self.visible.append((file, run, clock - max(0.0, age)))
            else:
                self._add_unseen(clock - max(0.0, age))
        return awaited

    def _add_unseen(self, recorded: float) -> None:
        self.unseen_since = max(self.unseen_since, recorded)

    def _written(self, file: "RunFile") -> float:
        """When the last line of a file was written. The clocks of hosts differ, so the file server says it."""
        if file.folder not in self._ahead:
            now = runs.server_time(file.folder)
            self._ahead[file.folder] = None if now is None else now - time.monotonic()
        ahead, clock = self._ahead[file.folder], time.monotonic()
        return clock if ahead is None else min(clock, file.mtime - ahead)


def _outlast(file: "RunFile", run: "Run", until: float) -> bool | None:
    """Wait until a uv has checked the environment, or its call has seen this one and waits in turn.

    :param file: where its run was found.
    :param until: when to give up, by the monotonic clock.
    :returns: whether it was waited for; None if it can't be seen.
    """
    waited, pause = False, _FIRST_PAUSE
    pidfd = _open_pidfd(run.process.pid)
    try:
        while True:
            checking = _is_checking(run)
            rest = until - time.monotonic()
            if not checking or rest <= 0 or file.has_taken_back(run):
                return checking if checking is None else waited
            _wait_for_end(pidfd, min(rest, pause))
            pause, waited = min(pause * _GROWTH, _LONGEST_PAUSE), True
    finally:
        if pidfd is not None:
            os.close(pidfd)


def _open_pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except (OSError, OverflowError):  # it is gone, or a sandbox forbids that
        return None


def _wait_for_end(pidfd: int | None, seconds: float) -> None:
    """Wait for the end of a process, or until the time is over."""
    if pidfd is None:
        time.sleep(seconds)
        return
    import select

    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.poll(max(1.0, 1000 * seconds))


def _is_checking(run: "Run") -> bool | None:
    """Whether a uv has not started the user's command yet; None if this process can't see that."""
    alive = run.process.is_alive
    if not alive or run.kind == runs.SYNC:
        return alive
    children = _children(run.process.pid)
    if children is None:
        return None if run.process.is_alive else False
    if not children:
        return True
    own = _variables(run.process.pid)
    return not any(_is_command(child, own) for child in children)


def _children(pid: int) -> list[int] | None:
    """The children of a process; None if /proc does not tell."""
    found: list[int] | None = None
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return None
    for thread in threads:
        try:
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                found = [*(found or []), *map(int, file.read().split())]
        except OSError:  # this thread has ended
            pass
    return found


def _is_command(pid: int, own: dict[bytes, bytes]) -> bool:
    """Whether a child of uv is the user's command, and no build or query of an interpreter.

    :param pid: the child.
    :param own: the variables of uv.
    """
    variables = _variables(pid)
    if _depth(variables) == _depth(own) + 1:
        return True
    if _age(pid) < _COMMAND_SECONDS or process.is_ending(pid):
        return False
    # `env -i` and setproctitle hide the variables, and so do processes of other users. What uv starts for itself, it
    # gives its own variables, but for a few.
    return 2 * len(own.keys() & variables.keys()) < len(own) or not own


def _variables(pid: int) -> dict[bytes, bytes]:
    """The variables of a process; none if they can't be read."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            parts = (entry.partition(b"=") for entry in file.read().split(b"\0"))
            return {name: value for name, equals, value in parts if equals}
    except OSError:
        return {}


def _depth(variables: dict[bytes, bytes]) -> int:
    try:
        return int(variables.get(_DEPTH, b"0"))
    except ValueError:
        return 0


def _age(pid: int) -> float:
    """How many seconds ago a process was started; 0 if it is gone."""
    try:
        started = int(process.start_time(pid)) / os.sysconf("SC_CLK_TCK")
    except ValueError:
        return 0.0
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started
