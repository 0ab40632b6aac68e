"""Examine one lock: what kind it is and why, whether it excludes, how far, and what lies around in its folder."""

import os
import stat
import time
from collections.abc import Iterable, Iterator

from uv_mutex.commands.doctor import lock_trial
from uv_mutex.commands.doctor.finding import Finding, bad, fine, warning
from uv_mutex.errors import MutexError
from uv_mutex.locking import filesystem, lease, lock_file, waiters
from uv_mutex.locking.filesystem import Mount
from uv_mutex.locking.lock_file import LockTarget
from uv_mutex.messages import findings
from uv_mutex.records import history

#: A host whose clock is off by more than that misjudges what other hosts wrote.
_SKEW_SECONDS = 5.0
#: What belongs to work that lasts moments is left over after that.
_LEFT_OVER_SECONDS = 300.0
_PASSING = ("peer.", lock_trial.PREFIX, "backend.", f".{history.PREFIX}")


def lock(place: LockTarget, table: bytes | None = None) -> Iterator[Finding]:
    """Everything about one lock.

    :param place: the lock.
    :param table: the mount table, as in /proc/self/mountinfo; None for that one.
    """
    mount = filesystem.find(os.path.dirname(place.path), table)
    try:
        shut_out = list(_shut_out(place))
        yield from shut_out
        # In a folder where we can't write, nothing can be tried out; that was said just now.
        if not shut_out or os.access(os.path.dirname(place.path), os.W_OK):
            yield from _kind(place, mount)
        yield from left_over(place)
    except MutexError as error:
        yield bad(*findings.problem_of_a_call(str(error)))
    except OSError as error:
        yield bad(*findings.cannot_try(error.filename or place.path, error))


def _kind(place: LockTarget, mount: Mount | None) -> Iterator[Finding]:
    """Which backend is used here, why, and whether it is one."""
    forced, recorded = os.environ.get("UV_MUTEX_BACKEND") or None, place.recorded_backend()
    if place.folder is None:
        yield from _flock(
            place, mount, _two_descriptors_of_a_folder(place.path), "the environment's own folder is locked"
        )
        return
    if forced not in (None, lock_file.FLOCK, lock_file.LEASE):
        yield bad(*findings.unknown_backend(forced))
        return
    if forced and recorded and forced != recorded:
        yield bad(*findings.mixed(place.path, forced, recorded))
        return
    with lock_trial.file(place) as path:
        second = lock_trial.two_descriptors(path)
        why = "UV_MUTEX_BACKEND says so" if forced else "calls before recorded it" if recorded else "it is tried first"
        wanted = forced or recorded or (lock_file.LEASE if second == lock_trial.MISSING else lock_file.FLOCK)
        if wanted == lock_file.FLOCK:
            yield from _flock(place, mount, second, why)
            return
        if not forced and not recorded:
            why = "there is no flock here"
        if lock_trial.created_twice(path) != lock_trial.BUSY:
            yield bad(*findings.lease_does_not_exclude(path))
            return
        yield fine(f"{place.path} is locked by lease ({why}), and that excludes")
        skew = lock_trial.clock_skew(path)
        if abs(skew) > _SKEW_SECONDS:
            yield warning(*findings.clock_skew(skew))


def _flock(place: LockTarget, mount: Mount | None, second: str, why: str) -> Iterator[Finding]:
    kind = mount.name if mount else "a file system that can't be told"
    if second == lock_trial.MISSING:
        yield bad(*findings.no_flock(place.path, kind))
        return
    if second != lock_trial.BUSY:
        yield bad(*findings.does_not_exclude(place.path, kind))
        return
    yield fine(f"{place.path} is locked by flock ({why}), and that excludes on this host")
    if mount is None:
        return
    if mount.is_local:
        yield fine(f"{mount.point} is {kind}, which this host has for itself")
    elif mount.flock_reach == filesystem.EVERYWHERE:
        yield fine(
            f"{mount.point} is {kind}, whose flock reaches every host", "make sure with `uv-mutex doctor --peer`"
        )
    elif mount.flock_reach == filesystem.UNKNOWN:
        yield warning(*findings.unknown_reach(mount.point, kind))
    else:
        yield bad(*findings.pretends(mount.point, kind))


def _two_descriptors_of_a_folder(path: str) -> str:
    first, second = (os.open(path, os.O_RDONLY | os.O_DIRECTORY) for _ in range(2))
    try:
        got = lock_trial.flock(first)
        # A call may hold it just now, and then it excludes.
        return got if got in (lock_trial.MISSING, lock_trial.BUSY) else lock_trial.flock(second)
    finally:
        os.close(first)
        os.close(second)


def _shut_out(place: LockTarget) -> Iterable[Finding]:
    """Whether the permissions of a lock's files keep out somebody who may work in the folder."""
    if place.folder is None or not os.path.exists(place.path):
        return
    wanted = place.file_mode()
    for path, needed in ((place.path, wanted), (os.path.dirname(place.path), wanted | (wanted & 0o444) >> 2)):
        found = os.stat(path)
        missing = needed & ~stat.S_IMODE(found.st_mode) & 0o077
        if found.st_uid != os.geteuid() and not os.access(path, os.W_OK):
            yield warning(*findings.foreign(path, found.st_uid))
        elif missing:
            yield warning(*findings.shuts_out(path, needed))


def left_over(place: LockTarget) -> Iterator[Finding]:
    """What calls left behind that were killed."""
    folder = os.path.dirname(place.path)
    if place.folder is None or not os.path.isdir(folder):
        return
    old: list[str] = []
    for name in sorted(os.listdir(folder)):
        passing = name.startswith(_PASSING) or ".lease.dead." in name
        if passing and _age(f"{folder}/{name}") > _LEFT_OVER_SECONDS:
            old.append(f"{folder}/{name}")
    old += sorted(waiters.orphans(place))
    if old:
        yield warning(*findings.left_over(old))
    marker = lease.marker(place)
    idle = _age(marker)
    if idle > lease.LEASE_SECONDS + _SKEW_SECONDS:
        yield warning(*findings.dead_lease(marker, idle))


def _age(path: str) -> float:
    try:
        return time.time() - os.lstat(path).st_mtime
    except OSError:
        return 0.0
