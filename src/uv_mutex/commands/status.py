"""`uv-mutex status`: who holds a project's locks, who waits for them, and the last guarded calls.

It looks without disturbing anybody; see :func:`look`.
"""

import contextlib
import json
import os
import pwd
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from uv_mutex import terminal
from uv_mutex.commands import find_project
from uv_mutex.errors import MutexError
from uv_mutex.locking import lease, lock_file, owner, waiters
from uv_mutex.locking.flock import try_flock
from uv_mutex.locking.lock_file import LockTarget
from uv_mutex.locking.owner import LockOwner
from uv_mutex.records import history
from uv_mutex.records.history import PastCall
from uv_mutex.shim.project_locks import project_locks
from uv_mutex.uv.project import Project

FREE, HELD, UNKNOWN = "free", "held", "unknown"
_CALLS = 10
_REDRAW_SECONDS = 1.0


class LockStatus:
    """What there is to see of one lock.

    ``state``: free, held, or unknown (it can't be read, for ``reason``). ``holder``: who holds it, None if nobody does
    or it was not written down.
    """

    def __init__(self, target: LockTarget, state: str, holder: LockOwner | None = None, reason: str = "") -> None:
        self.target = target
        self.state = state
        self.holder = holder
        self.reason = reason
        self.backend = target.recorded_backend()
        self.waiting = waiters.read(target)


class Status:
    """What there is to see of a project: its locks, and its last calls, the newest last."""

    def __init__(self, project: Project) -> None:
        self.project = project
        targets = project_locks(project, keeps_lockfile=False, to_look=True)
        self.locks = [look(target) for target in targets]
        self.calls: list[PastCall] = sorted(
            (call for target in targets for call in history.read(target)), key=lambda call: call.began
        )[-_CALLS:]

    def as_json(self) -> dict[str, Any]:
        """As `--json` prints it. Names are added to it, never taken away."""
        return {
            "project": self.project.root,
            "environment": self.project.environment,
            "locks": [
                {
                    "path": seen.target.path,
                    "backend": seen.backend,
                    "state": seen.state,
                    "reason": seen.reason or None,
                    "holder": seen.holder and _person(seen.holder),
                    "waiting": [_person(waiter) for waiter in seen.waiting],
                }
                for seen in self.locks
            ],
            "calls": [
                {
                    "time": call.began,
                    "host": call.host,
                    "pid": call.pid,
                    "command": call.command,
                    "waited": call.waited,
                    "held": call.held,
                    "prepared": call.prepared,
                    "exit": call.status,
                }
                for call in self.calls
            ],
        }

    def lines(self) -> Iterator[str]:
        """As a person reads it."""
        now = time.time()
        yield f"project  {self.project.root}"
        for seen in self.locks:
            yield f"lock     {seen.target.path}{f' ({seen.backend})' if seen.backend else ''}"
            yield f"         {_state(seen, now)}"
            if seen.waiting:
                yield f"         {len(seen.waiting)} waiting:"
            for waiter in seen.waiting:
                yield f"           {_describe(waiter, now)}"
        if not self.calls:
            yield "no guarded call yet"
            return
        yield ""
        yield f"{'last calls':20}{'host':16}{'pid':>8}  {'waited':>9}{'held':>9}  {'prepared':10}{'exit':>4}  command"
        for call in self.calls:
            yield (
                f"{_clock(call.began):20}{call.host[:15]:16}{call.pid:>8}  {call.waited:>7.2f} s{call.held:>7.2f} s  "
                f"{'yes' if call.prepared else '-':10}{'-' if call.status is None else call.status:>4}  {call.command}"
            )


def look(target: LockTarget) -> LockStatus:
    """Look at one lock.

    A free flock is taken, shared with others, for some microseconds. A call that tries for it in that very moment goes
    into its wait, where it gets the lock at once or 10 ms later; nothing else comes of it.
    """
    try:
        fd = os.open(target.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return LockStatus(target, FREE)  # never locked, and looking must not change that
    except OSError as error:
        return LockStatus(target, UNKNOWN, reason=error.strerror or "")
    reason = ""
    try:
        if target.recorded_backend() == lock_file.LEASE:
            held, reason = _look_at_lease(lease.marker(target))
        else:
            held = not try_flock(fd, shared=True)
    except OSError as error:
        return LockStatus(target, UNKNOWN, reason=error.strerror or "")
    finally:
        os.close(fd)
    if not held:
        return LockStatus(target, FREE)
    return LockStatus(target, HELD, None if target.folder is None else owner.read_owner(target.path), reason)


def _look_at_lease(marker: str) -> tuple[bool, str]:
    try:
        idle = time.time() - os.stat(marker).st_mtime
    except FileNotFoundError:
        return False, ""
    return (
        True,
        f"not renewed for {idle:.0f} s by this host's clock: if it is dead, the next call takes it over"
        if idle > lease.LEASE_SECONDS
        else "",
    )


def status(folder: str | None, *, as_json: bool, watch: bool) -> None:
    """Print the status of a project, once or every second.

    :param folder: a folder of the project; None for the one that uv would take here.
    :raises MutexError: if there is no such project, or nothing to draw on every second.
    """
    project = find_project.project_at(folder)
    if watch:
        if as_json or not sys.stdout.isatty():
            raise MutexError("--watch draws on a terminal; leave it out, or leave out --json and the pipe")
        _watch(project)
    elif as_json:
        print(json.dumps(Status(project).as_json(), indent=2))
    else:
        _print(map(terminal.printable, Status(project).lines()))


def _watch(project: Project) -> None:
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            columns, rows = os.get_terminal_size(sys.stdout.fileno())
            # A terminal that doesn't know its size says 0.
            lines = [terminal.cut(terminal.printable(line), (columns or 80) - 1) for line in Status(project).lines()]
            # Overwritten rather than wiped first, which would flicker.
            _print(["\x1b[H" + "\x1b[K\n".join(lines[: (rows or 24) - 1]) + "\x1b[K\n\x1b[J"], end="")
            time.sleep(_REDRAW_SECONDS)
    _print([])


def _print(lines: "Iterator[str] | Sequence[str]", end: str = "\n") -> None:
    text = "".join(f"{line}{end}" for line in lines)
    sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape"))
    sys.stdout.flush()


def _state(seen: LockStatus, now: float) -> str:
    if seen.state == UNKNOWN:
        return f"can't be looked at: {seen.reason}; `uv-mutex doctor` says what to do"
    if seen.state == FREE:
        return "free"
    if seen.holder is None:
        return "held, by calls that did not write it down (fresh ones, or another program)"
    return f"held by {_describe(seen.holder, now)}{'; ' if seen.reason else ''}{seen.reason}"


def _describe(person: LockOwner, now: float) -> str:
    user = _user(person.uid)
    seconds = max(0.0, now - person.since)
    by = f", user {user}" if user else ""
    return f"{person.command} (pid {person.pid} on {person.host}{by}) since {_clock(person.since)}, {seconds:.0f} s"


def _person(person: LockOwner) -> dict[str, Any]:
    return {
        "host": person.host,
        "pid": person.pid,
        "user": _user(person.uid),
        "command": person.command,
        "since": person.since,
    }


def _user(uid: int | None) -> str | None:
    """The user's name, as this host knows it."""
    if uid is None:
        return None
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):
        return str(uid)


def _clock(seconds: float) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    except (ValueError, OverflowError, OSError):
        return "?"
