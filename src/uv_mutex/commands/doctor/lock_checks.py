"""Examine one lock: what kind it is and why, whether it excludes, how far, and what lies around in its folder."""

import os
import stat
import time
from collections.abc import Iterable, Iterator

from uv_mutex.commands.doctor import lock_trial
from uv_mutex.commands.doctor.finding import Finding, bad, fine, of_error, warning
from uv_mutex.errors import MutexError
from uv_mutex.locking import filesystem, lease, lock_file, waiters
from uv_mutex.locking.filesystem import Mount
from uv_mutex.locking.lock_file import LockTarget
from uv_mutex.records import history

#: A host whose clock is off by more than that misjudges what other hosts wrote.
_SKEW_SECONDS = 5.0
#: What belongs to work that lasts moments is left over after that.
_LEFT_OVER_SECONDS = 300.0
_MOST_SHOWN = 8
_PASSING = ("peer.", lock_trial.PREFIX, "backend.", f".{history.PREFIX}")


def lock(target: LockTarget, table: bytes | None = None) -> Iterator[Finding]:
    """Everything about one lock.

    :param target: the lock.
    :param table: the mount table, as in /proc/self/mountinfo; None for that one.
    """
    mount = filesystem.find(os.path.dirname(target.path), table)
    try:
        shut_out = list(_shut_out(target))
        yield from shut_out
        # In a folder where we can't write, nothing can be tried out; that was said just now.
        if not shut_out or os.access(os.path.dirname(target.path), os.W_OK):
            yield from _kind(target, mount)
        yield from left_over(target)
    except MutexError as error:
        yield of_error(error)
    except OSError as error:
        yield bad(
            f"the lock can't be tried out: {error.filename or target.path}: {error.strerror}",
            "mend that, then run this again",
        )


def _kind(target: LockTarget, mount: Mount | None) -> Iterator[Finding]:
    """Which backend is used here, why, and whether it is one."""
    forced, recorded = os.environ.get("UV_MUTEX_BACKEND") or None, target.recorded_backend()
    if target.folder is None:
        yield from _flock(
            target, mount, _two_descriptors_of_a_folder(target.path), "the environment's own folder is locked"
        )
        return
    if forced not in (None, lock_file.FLOCK, lock_file.LEASE):
        yield bad(f"UV_MUTEX_BACKEND={forced} is neither flock nor lease", "set one of them, or unset it")
        return
    if forced and recorded and forced != recorded:
        yield bad(
            f"UV_MUTEX_BACKEND={forced}, but {target.path} is locked by {recorded} on other hosts or before",
            f"set it alike on all hosts while none runs, and remove {os.path.dirname(target.path)}/backend",
        )
        return
    with lock_trial.file(target) as path:
        second = lock_trial.two_descriptors(path)
        why = "UV_MUTEX_BACKEND says so" if forced else "calls before recorded it" if recorded else "it is tried first"
        wanted = forced or recorded or (lock_file.LEASE if second == lock_trial.MISSING else lock_file.FLOCK)
        if wanted == lock_file.FLOCK:
            yield from _flock(target, mount, second, why)
            return
        if not forced and not recorded:
            why = "there is no flock here"
        if lock_trial.created_twice(path) != lock_trial.BUSY:
            yield bad(
                f"a lease does not exclude here: {path} could be created twice",
                "move the project to another file system",
            )
            return
        yield fine(f"{target.path} is locked by lease ({why}), and that excludes")
        skew = lock_trial.clock_skew(path)
        if abs(skew) > _SKEW_SECONDS:
            yield warning(
                f"the file server's clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} this host's, "
                "and status misjudges other hosts",
                "set both by NTP (the lease itself goes by one host's clock alone)",
            )


def _flock(target: LockTarget, mount: Mount | None, second: str, why: str) -> Iterator[Finding]:
    kind = mount.name if mount else "a file system that can't be told"
    if second == lock_trial.MISSING:
        yield bad(
            f"there is no flock for {target.path} on {kind}, but flock is asked for",
            f"unset UV_MUTEX_BACKEND, and remove {os.path.dirname(target.path)}/backend while no call runs",
        )
        return
    if second != lock_trial.BUSY:
        yield bad(
            f"flock does not exclude for {target.path} on {kind}: two descriptors had it at once",
            "set UV_MUTEX_BACKEND=lease on every host",
        )
        return
    yield fine(f"{target.path} is locked by flock ({why}), and that excludes on this host")
    if mount is None:
        return
    if mount.is_local:
        yield fine(f"{mount.point} is {kind}, which this host has for itself")
    elif mount.flock_reach == filesystem.EVERYWHERE:
        yield fine(
            f"{mount.point} is {kind}, whose flock reaches every host", "make sure with `uv-mutex doctor --peer`"
        )
    elif mount.flock_reach == filesystem.UNKNOWN:
        yield warning(
            f"{mount.point} is {kind}, and whether its flock reaches other hosts isn't known here",
            "run `uv-mutex doctor --peer` on two hosts at once, or set UV_MUTEX_BACKEND=lease on every host",
        )
    else:
        yield bad(
            f"{mount.point} is {kind}, whose flock reaches this host alone",
            "set UV_MUTEX_BACKEND=lease on every host that shares the project; on one host alone leave it so",
        )


def _two_descriptors_of_a_folder(path: str) -> str:
    first, second = (os.open(path, os.O_RDONLY | os.O_DIRECTORY) for _ in range(2))
    try:
        got = lock_trial.flock(first)
        # A call may hold it just now, and then it excludes.
        return got if got in (lock_trial.MISSING, lock_trial.BUSY) else lock_trial.flock(second)
    finally:
        os.close(first)
        os.close(second)


def _shut_out(target: LockTarget) -> Iterable[Finding]:
    """Whether the permissions of a lock's files keep out somebody who may work in the folder."""
    if target.folder is None or not os.path.exists(target.path):
        return
    wanted = target.file_mode()
    for path, needed in ((target.path, wanted), (os.path.dirname(target.path), wanted | (wanted & 0o444) >> 2)):
        found = os.stat(path)
        missing = needed & ~stat.S_IMODE(found.st_mode) & 0o077
        if found.st_uid != os.geteuid() and not os.access(path, os.W_OK):
            yield warning(
                f"{path} belongs to user {found.st_uid}, and you can't write it",
                f"ask them to `chmod g+w {path}`, or for a shared group",
            )
        elif missing:
            yield warning(f"{path} shuts out others who may work on the project", f"chmod {needed:o} {path}")


def left_over(target: LockTarget) -> Iterator[Finding]:
    """What calls left behind that were killed."""
    folder = os.path.dirname(target.path)
    if target.folder is None or not os.path.isdir(folder):
        return
    old: list[str] = []
    for name in sorted(os.listdir(folder)):
        passing = name.startswith(_PASSING) or ".lease.dead." in name
        if passing and _age(f"{folder}/{name}") > _LEFT_OVER_SECONDS:
            old.append(f"{folder}/{name}")
    old += sorted(waiters.orphans(target))
    if old:
        more = f" and {len(old) - _MOST_SHOWN} more" if len(old) > _MOST_SHOWN else ""
        yield warning(
            f"killed calls left {' '.join(old[:_MOST_SHOWN])}{more}", "remove them while no call runs; they do no harm"
        )
    marker = lease.marker(target)
    idle = _age(marker)
    if idle > lease.LEASE_SECONDS + _SKEW_SECONDS:
        yield warning(
            f"nobody renewed the lease {marker} for {idle:.0f} s, so its holder is dead",
            "nothing, the next call takes it over after 31 s; or remove it while no call runs",
        )


def _age(path: str) -> float:
    try:
        return time.time() - os.lstat(path).st_mtime
    except OSError:
        return 0.0
