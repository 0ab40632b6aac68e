"""All locks of a call: each one once, in one order that all calls keep, at the level that is free for this call."""

import os
import time

from uv_mutex.errors import MutexError, NoLockError, go_on
from uv_mutex.locking import acquire, levels
from uv_mutex.locking.lock_file import GONE_ERRORS, PAUSE_SECONDS
from uv_mutex.locking.nesting import CallsAbove

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from uv_mutex.locking.flock import HeldLock
    from uv_mutex.locking.lock_file import LockTarget
    from uv_mutex.locking.wait_budget import WaitBudget


class _ReplacedError(Exception):
    """What was opened is not what others take by now, or its level is not right any more."""


def take(
    targets: "Sequence[LockTarget]", budget: "WaitBudget", environ: "Mapping[str, str]", *, shared: bool
) -> "list[HeldLock]":
    """Take locks, write the owner into them, and wait for those that other calls hold.

    Once they are taken exclusively, no call below a dead owner works any more. Taken as one of many, such a call shows
    as a previous owner that died.

    :param targets: what to lock. Two names of one file count once.
    :param budget: how long to wait, whether to be quiet, and what the locks are wanted for.
    :param environ: the environment, with the marks of the calls above this one.
    :param shared: as one of many.
    :raises MutexError: if they can't be taken, or the time to wait is over.
    """
    while True:
        try:
            return _take_in_order(targets, budget, environ, shared=shared)
        except _ReplacedError:  # a new file has another place in the order: so all are taken anew
            pass
        except OSError as error:
            if error.errno not in GONE_ERRORS:
                raise targets[0].cannot("lock", error) from None
            time.sleep(PAUSE_SECONDS)  # another call removed a file or its folder


def release(held: "list[HeldLock]") -> None:
    """Release locks under which nothing was done: what a previous owner left half done is still to be undone."""
    while held:
        lock = held.pop()
        lock.release(unfinished=lock.previous_owner_died)


def _take_in_order(
    targets: "Sequence[LockTarget]", budget: "WaitBudget", environ: "Mapping[str, str]", *, shared: bool
) -> "list[HeldLock]":
    held: list[HeldLock] = []
    opened = _open_in_order(targets)
    try:
        while opened:
            base, fd = opened.pop(0)
            found = _take_level(base, fd, budget, environ, shared=shared)
            if found:
                lock, number = found
                held.append(lock)
                if not levels.is_below_holder(base, number, CallsAbove(environ)):
                    raise _ReplacedError
                lock.record(budget.command)
                _settle(lock, number, budget)
    except BaseException:
        release(held)
        raise
    finally:
        for _, fd in opened:
            os.close(fd)
    return held


def _open_in_order(targets: "Sequence[LockTarget]") -> "list[tuple[LockTarget, int]]":
    """Open lock files, each once, and put them into an order that all hosts see alike.

    The inode number comes first: each host numbers the devices of network file systems for itself.
    """
    opened: dict[tuple[int, int], tuple[LockTarget, int]] = {}
    try:
        for target in targets:
            try:
                fd = target.open()
            except NoLockError as error:
                go_on(str(error))
                continue
            status = os.fstat(fd)
            if (status.st_ino, status.st_dev) in opened:
                os.close(fd)
            else:
                opened[status.st_ino, status.st_dev] = target, fd
    except BaseException:
        for _, fd in opened.values():
            os.close(fd)
        raise
    return [opened[place] for place in sorted(opened)]


def _take_level(
    base: "LockTarget", fd: int, budget: "WaitBudget", environ: "Mapping[str, str]", *, shared: bool
) -> "tuple[HeldLock, int] | None":
    """Take a lock at the level that is right for this call.

    :param fd: the descriptor of ``base``, which the lock closes in the end.
    :returns: the lock and its level; None if there is nothing to lock.
    :raises _ReplacedError: if that is another file by now.
    """
    try:
        number = levels.find(base, fd, CallsAbove(environ))
    except BaseException:
        os.close(fd)
        raise
    target = levels.level(base, number)
    if number:
        os.close(fd)
        try:
            fd = target.open()
        except MutexError as error:
            # The holder above still keeps all others out.
            go_on(str(error).partition(", or set UV_MUTEX=off")[0], how="beside others below the same holder")
            return None
    try:
        lock = acquire.take_opened(target, fd, budget, shared=shared)
    except NoLockError as error:
        go_on(str(error))
        return None
    if lock is None:
        raise _ReplacedError
    lock.base = base
    return lock, number


def _settle(lock: "HeldLock", number: int, budget: "WaitBudget") -> None:
    """Once an owner has died, wait for the calls below it that go on.

    :param number: the level of the lock.
    """
    if not lock.shared:
        for target in levels.deeper(lock.base, number):
            lock.absorb(acquire.take(target, budget))
    elif not levels.is_settled(lock.base, number):
        lock.previous_owner_began = time.time()
