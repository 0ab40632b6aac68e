"""Check one lock: its kind, whether it excludes and on which hosts, its permissions, and files left in its folder."""

import os
import stat
import time
from collections.abc import Iterable, Iterator

from uv_mutex import files
from uv_mutex.commands.doctor import lock_trial
from uv_mutex.commands.doctor.finding import Finding, bad, fine, of_error, of_failed_trial, warning
from uv_mutex.errors import MutexError
from uv_mutex.locking import filesystem, lease, lock_file, waiters
from uv_mutex.locking.filesystem import Mount
from uv_mutex.locking.lock_file import LockTarget
from uv_mutex.records import failed_preparation, history

#: If the clocks differ by more seconds than this, `uv-mutex status` misjudges what other hosts wrote.
_SKEW_SECONDS = 5.0
#: A file that a call needs for a moment is left over if it is older than this.
_LEFT_OVER_SECONDS = 300.0
#: How the names of such files begin.
_MOMENTARY = (
    "peer.",
    lock_trial.PREFIX,
    files.TEMPORARY,
    "backend.",
    f".{history.PREFIX}",
    failed_preparation.TEMPORARY_PREFIX,
)
_MOST_SHOWN = 8


def check_lock(target: LockTarget, table: bytes | None = None) -> Iterator[Finding]:
    """Check everything about one lock.

    :param target: the lock.
    :param table: the mount table, in the form of /proc/self/mountinfo; None to read that file.
    """
    folder = os.path.dirname(target.path)
    mount = filesystem.find(folder, table)
    try:
        shut_out = list(_permissions(target))
        yield from shut_out
        # A user who can't write the folder can't try the lock out; a finding says so already.
        if not shut_out or os.access(folder, os.W_OK):
            os.close(target.open())  # from now on it knows whether there can be a lock file
            yield from _kind(target, mount)
        yield from _left_over_files(target)
    except MutexError as error:
        yield of_error(error)
    except OSError as error:
        yield of_failed_trial(error, target.path)


def _kind(target: LockTarget, mount: Mount | None) -> Iterator[Finding]:
    """Say which kind of lock calls use here and why, and try it out."""
    forced, recorded = os.environ.get("UV_MUTEX_BACKEND") or None, target.recorded_backend()
    if target.folder is None:
        yield from _flock(target, mount, _flock_folder_twice(target.path), "no lock file can be created")
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
    with lock_trial.trial_file(target) as path:
        result = lock_trial.flock_twice(path)
        missing = _what_flock_lacks(mount, result)
        why = "UV_MUTEX_BACKEND says so" if forced else "calls before recorded it" if recorded else "it is tried first"
        kind = forced or recorded or (lock_file.LEASE if missing else lock_file.FLOCK)
        if kind == lock_file.FLOCK:
            yield from _flock(target, mount, result, why)
        else:
            yield from _lease(target, path, why if forced or recorded else missing)


def _what_flock_lacks(mount: Mount | None, result: str) -> str:
    """Why calls do without flock here; "" if they don't.

    :param mount: the file system, if it is known.
    :param result: what the second descriptor got when flock was tried out.
    """
    if result == lock_trial.MISSING:
        return "there is no flock here"
    if mount and not mount.is_local and mount.flock_reach == filesystem.THIS_HOST:
        return f"flock on {mount.name} reaches this host alone"
    return ""


def _lease(target: LockTarget, path: str, why: str) -> Iterator[Finding]:
    """Try a lease out.

    :param target: the lock.
    :param path: a trial file that exists.
    :param why: why calls use a lease here.
    """
    if lock_trial.create(path) != lock_trial.BUSY:
        yield bad(
            f"a lease does not exclude here: {path} could be created twice",
            "move the project to another file system",
        )
        return
    yield fine(
        f"{target.path} is locked by lease ({why}), and that excludes", reason=f"{target.path} is locked by lease"
    )
    skew = lock_trial.clock_skew(path)
    if abs(skew) > _SKEW_SECONDS:
        yield warning(
            f"the file server's clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} this host's, "
            "and status misjudges other hosts",
            "set both by NTP (the lease itself goes by one host's clock alone)",
        )


def _flock(target: LockTarget, mount: Mount | None, result: str, why: str) -> Iterator[Finding]:
    """Judge a trial of flock.

    :param target: the lock.
    :param mount: the file system it lies on, if it is known.
    :param result: what the second descriptor got.
    :param why: why calls use flock here.
    """
    kind = mount.name if mount else "a file system that can't be told"
    if result == lock_trial.MISSING:
        yield bad(
            f"there is no flock for {target.path} on {kind}, but flock is asked for",
            f"unset UV_MUTEX_BACKEND, and remove {os.path.dirname(target.path)}/backend while no call runs",
        )
    elif result != lock_trial.BUSY:
        yield bad(
            f"flock does not exclude for {target.path} on {kind}: two descriptors had it at once",
            "set UV_MUTEX_BACKEND=lease on every host",
        )
    else:
        yield fine(
            f"{target.path} is locked by flock ({why}), and that excludes on this host",
            reason=f"{target.path} is locked by flock",
        )
        if mount is not None:
            yield _reach(target, mount, kind)


def _reach(target: LockTarget, mount: Mount, kind: str) -> Finding:
    """Say on which hosts a flock excludes."""
    if target.folder is None and not mount.locks_folders:
        return bad(
            f"{mount.point} is {kind}, which keeps the lock of a folder on this host",
            f"give yourself write access to {target.path}, so that a lock file can be created",
        )
    if mount.is_local:
        return fine(f"{mount.point} is {kind}, which this host has for itself")
    if mount.flock_reach == filesystem.EVERYWHERE:
        return fine(
            f"{mount.point} is {kind}, whose flock reaches every host", "make sure with `uv-mutex doctor --peer`"
        )
    if mount.flock_reach == filesystem.UNKNOWN:
        return warning(
            f"{mount.point} is {kind}, and whether its flock reaches other hosts isn't known here",
            "run `uv-mutex doctor --peer` on two hosts at once, or set UV_MUTEX_BACKEND=lease on every host",
        )
    return bad(
        f"{mount.point} is {kind}, whose flock reaches this host alone",
        f"set UV_MUTEX_BACKEND=lease on all hosts while none runs, and remove {os.path.dirname(target.path)}/backend",
    )


def _flock_folder_twice(path: str) -> str:
    """Take the flock of a folder by two descriptors; return what the second one got."""
    first, second = (os.open(path, os.O_RDONLY | os.O_DIRECTORY) for _ in range(2))
    try:
        result = lock_trial.flock(first)
        # BUSY here: a call holds the lock at this moment, so it excludes.
        return result if result in (lock_trial.MISSING, lock_trial.BUSY) else lock_trial.flock(second)
    finally:
        os.close(first)
        os.close(second)


def _permissions(target: LockTarget) -> Iterable[Finding]:
    """Find out whether the permissions of the lock's files shut out a user who may write the project."""
    if target.folder is None or not os.path.exists(target.path):
        return
    file_mode = target.file_mode()
    folder_mode = file_mode | (file_mode & 0o444) >> 2  # who may read a folder may also enter it
    for path, mode in ((target.path, file_mode), (os.path.dirname(target.path), folder_mode)):
        status = os.stat(path)
        missing = mode & ~stat.S_IMODE(status.st_mode) & 0o077
        if status.st_uid != os.geteuid() and not os.access(path, os.W_OK):
            yield warning(
                f"{path} belongs to user {status.st_uid}, and you can't write it",
                f"ask them to `chmod g+w {path}`, or for a shared group",
            )
        elif missing:
            yield warning(f"{path} shuts out others who may work on the project", f"chmod {mode:o} {path}")


def _left_over_files(target: LockTarget) -> Iterator[Finding]:
    """Find the files that killed calls left in the lock's folder."""
    folder = os.path.dirname(target.path)
    if target.folder is None or not os.path.isdir(folder):
        return
    old: list[str] = []
    for name in sorted(os.listdir(folder)):
        momentary = name.startswith(_MOMENTARY) or ".lease.dead." in name
        if momentary and _age(f"{folder}/{name}") > _LEFT_OVER_SECONDS:
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
    """How many seconds ago a file was last written; 0 if it is gone."""
    try:
        return time.time() - os.lstat(path).st_mtime
    except OSError:
        return 0.0
