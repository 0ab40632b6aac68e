"""`uv-mutex status`: print who holds a project's locks, who waits for them, and the last calls."""

import contextlib
import json
import os
import pwd
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from uv_mutex import terminal
from uv_mutex.commands import find_project
from uv_mutex.errors import MutexError
from uv_mutex.locking import lease, levels, lock_file, owner, waiters
from uv_mutex.locking.flock import try_flock
from uv_mutex.locking.lock_file import LockTarget
from uv_mutex.locking.owner import LockOwner
from uv_mutex.records import history
from uv_mutex.records.history import PastCall
from uv_mutex.shim.project_locks import project_locks
from uv_mutex.uv.project import Project

#: The states of a lock.
FREE, HELD, UNKNOWN = "free", "held", "unknown"
_CALLS = 10
_REDRAW_SECONDS = 1.0


@dataclass
class LockStatus:
    """The state of one lock, or of a level of it.

    ``backend``: flock or lease; None if the lock was never taken. ``state``: FREE, HELD or UNKNOWN. ``reason``: why
    the state is unknown, or what is wrong with the lease; else empty. ``holder``: who holds the lock; None if nobody
    holds it, or nobody wrote it down. ``waiting``: who waits for it; the one that waits longest comes first.
    ``below``: the deeper levels that are held or waited for: by calls that were started below its holder.
    """

    target: LockTarget
    backend: str | None
    state: str
    reason: str
    holder: LockOwner | None
    waiting: list[LockOwner]
    below: list["LockStatus"]

    def as_json(self) -> dict[str, Any]:
        """What `--json` prints for this lock."""
        return {
            "path": self.target.path,
            "backend": self.backend,
            "state": self.state,
            "reason": self.reason or None,
            "holder": self.holder and _owner_as_json(self.holder),
            "waiting": [_owner_as_json(waiter) for waiter in self.waiting],
            "below": [level.as_json() for level in self.below],
        }

    def lines(self, now: float, title: str = "lock") -> Iterator[str]:
        """What a user reads about this lock.

        :param now: the time, in seconds since 1970.
        :param title: what to call it.
        """
        yield f"{title:8} {self.target.path}{f' ({self.backend})' if self.backend else ''}"
        yield f"         {self._state(now)}"
        if self.waiting:
            yield f"         {len(self.waiting)} waiting:"
        for waiter in self.waiting:
            yield f"           {_describe(waiter, now)}"
        for level in self.below:
            yield from level.lines(now, "below")

    def _state(self, now: float) -> str:
        if self.state == UNKNOWN:
            return f"can't be looked at: {self.reason}; `uv-mutex doctor` says what to do"
        if self.state == FREE:
            return "free"
        if self.holder is None:
            return "held, by calls that did not write it down (fresh ones, or another program)"
        return f"held by {_describe(self.holder, now)}{'; ' if self.reason else ''}{self.reason}"


class ProjectStatus:
    """The state of a project: its locks, and its last calls that did more than a fresh one; the newest comes last."""

    def __init__(self, project: Project) -> None:
        self.project = project
        targets = project_locks(project, keeps_lockfile=False, to_look=True)
        self.locks = [look(target) for target in targets]
        calls = [call for target in targets for call in history.read(target)]
        self.calls = sorted(calls, key=lambda call: call.began)[-_CALLS:]

    def as_json(self) -> dict[str, Any]:
        """What `--json` prints. Later versions may add names, and must not remove any."""
        return {
            "project": self.project.root,
            "environment": self.project.environment,
            "locks": [lock.as_json() for lock in self.locks],
            "calls": [_call_as_json(call) for call in self.calls],
        }

    def lines(self) -> Iterator[str]:
        """What a user reads."""
        now = time.time()
        yield f"project  {self.project.root}"
        for lock in self.locks:
            yield from lock.lines(now)
        if not self.calls:
            yield "no call yet that waited, prepared or changed something"
            return
        yield ""
        yield f"{'last calls':20}{'host':16}{'pid':>8}  {'waited':>9}{'held':>9}  {'prepared':10}{'exit':>4}  command"
        for call in self.calls:
            yield (
                f"{_clock(call.began):20}{call.host[:15]:16}{call.pid:>8}  {call.waited:>7.2f} s{call.held:>7.2f} s  "
                f"{'yes' if call.prepared else '-':10}{'-' if call.status is None else call.status:>4}  {call.command}"
            )


def look(target: LockTarget) -> LockStatus:
    """Find out the state of one lock and its levels, without making others wait for it.

    To find out whether a flock is free, this takes it, shared, for some microseconds. A call that tries to take it
    exclusively in this moment waits at most 10 ms.
    """
    found = _look(target)
    if target.folder is not None:
        found.below = [level for level in map(_look, levels.deeper(target, 0)) if level.state != FREE or level.waiting]
    return found


def _look(target: LockTarget) -> LockStatus:
    state, reason = _state(target)
    held = state == HELD and target.folder is not None
    return LockStatus(
        target=target,
        backend=target.recorded_backend(),
        state=state,
        reason=reason,
        holder=owner.read_owner(target.path) if held else None,
        waiting=waiters.read(target),
        below=[],
    )


def _state(target: LockTarget) -> tuple[str, str]:
    """The state of a lock, and the reason if there is something to say about it."""
    try:
        fd = os.open(target.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return FREE, ""  # nobody has taken it yet, and this must not create it
    except OSError as error:
        return UNKNOWN, error.strerror or ""
    try:
        if target.recorded_backend() == lock_file.LEASE:
            return _state_of_lease(lease.marker(target))
        return (FREE if try_flock(fd, shared=True) else HELD), ""
    except OSError as error:
        return UNKNOWN, error.strerror or ""
    finally:
        os.close(fd)


def _state_of_lease(marker: str) -> tuple[str, str]:
    try:
        idle = time.time() - os.stat(marker).st_mtime
    except FileNotFoundError:
        return FREE, ""
    if idle <= lease.LEASE_SECONDS:
        return HELD, ""
    return HELD, f"not renewed for {idle:.0f} s by this host's clock: if it is dead, the next call takes it over"


def status(folder: str | None, *, as_json: bool, watch: bool) -> None:
    """Print the state of a project.

    :param folder: a folder of the project; None for the project that uv finds from the working directory.
    :param as_json: print it as JSON.
    :param watch: print it again each second, until Ctrl-C.
    :raises MutexError: if there is no such project, or if ``watch`` is given without a terminal or with JSON.
    """
    project = find_project.project_at(folder)
    if watch:
        if as_json or not sys.stdout.isatty():
            raise MutexError("--watch draws on a terminal; leave it out, or leave out --json and the pipe")
        _watch(project)
    elif as_json:
        print(json.dumps(ProjectStatus(project).as_json(), indent=2))
    else:
        _print(map(terminal.printable, ProjectStatus(project).lines()))


def _watch(project: Project) -> None:
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            columns, rows = os.get_terminal_size(sys.stdout.fileno())
            # A terminal that doesn't know its size says 0.
            lines = [
                terminal.cut(terminal.printable(line), (columns or 80) - 1) for line in ProjectStatus(project).lines()
            ]
            # Write over the old lines; a screen that is cleared first would flicker.
            _print(["\x1b[H" + "\x1b[K\n".join(lines[: (rows or 24) - 1]) + "\x1b[K\n\x1b[J"], end="")
            time.sleep(_REDRAW_SECONDS)
    _print([])


def _print(lines: Iterable[str], end: str = "\n") -> None:
    text = "".join(f"{line}{end}" for line in lines)
    sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape"))
    sys.stdout.flush()


def _describe(person: LockOwner, now: float) -> str:
    """A holder or waiter, as a user reads it.

    :param now: the time, in seconds since 1970.
    """
    user = _user(person.uid)
    seconds = max(0.0, now - person.since)
    by = f", user {user}" if user else ""
    return f"{person.command} (pid {person.pid} on {person.host}{by}) since {_clock(person.since)}, {seconds:.0f} s"


def _owner_as_json(person: LockOwner) -> dict[str, Any]:
    return {
        "host": person.host,
        "pid": person.pid,
        "user": _user(person.uid),
        "command": person.command,
        "since": person.since,
    }


def _call_as_json(call: PastCall) -> dict[str, Any]:
    return {
        "time": call.began,
        "host": call.host,
        "pid": call.pid,
        "command": call.command,
        "waited": call.waited,
        "held": call.held,
        "prepared": call.prepared,
        "exit": call.status,
    }


def _user(uid: int | None) -> str | None:
    """The name of a user on this host, or the number where it has no name."""
    if uid is None:
        return None
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):
        return str(uid)


def _clock(seconds: float) -> str:
    """A time, in seconds since 1970, as date and time of this host's time zone."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    except (ValueError, OverflowError, OSError):
        return "?"
