"""The levels of a lock: a call never waits for the call that started it, but for others that were started below it.

Level 0 is the lock itself. Below a call that holds it, calls take level 1, the lock file `NAME.1` beside it, below one
of those level 2, and so on. A call below an owner that was killed may still work: so whoever takes a level waits until
the deeper ones are free, and a call below a dead owner begins no new work at its level.
"""

import os

from uv_mutex.locking.lock_file import LockTarget
from uv_mutex.locking.nesting import CallsAbove, is_held

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


def level(base: LockTarget, number: int) -> LockTarget:
    """A level of a lock."""
    return base.beside(str(number)) if number else base


def deeper(base: LockTarget, number: int) -> "Iterator[LockTarget]":
    """The levels deeper than ``number`` that were ever taken."""
    while True:
        number += 1
        found = level(base, number)
        if not os.path.lexists(found.path):
            return
        yield found


def find(base: LockTarget, fd: int, above: CallsAbove) -> int:
    """The level that this call takes: one deeper than the deepest that a call above it holds.

    That one need not be all of them: their own ancestors may have died.

    :param base: the lock.
    :param fd: its descriptor.
    :param above: the calls above this one.
    :raises MutexError: if a level can't be opened.
    """
    number = 1 if above.hold(base, fd) else 0
    for below, target in enumerate(deeper(base, 0), 1):
        if _hold(above, target):
            number = below + 1
    return number


def is_below_holder(base: LockTarget, number: int, above: CallsAbove) -> bool:
    """Whether a level is still right once it is taken. A call above this one may have died during the wait."""
    return not number or _hold(above, level(base, number - 1))


def is_settled(base: LockTarget, number: int) -> bool:
    """Whether no call works, or died at work, at a level deeper than ``number``."""
    for target in deeper(base, number):
        fd = target.open()
        try:
            if os.pread(fd, 1, 0) or is_held(target, fd, shared=True):
                return False
        finally:
            os.close(fd)
    return True


def _hold(above: CallsAbove, target: LockTarget) -> bool:
    fd = target.open()
    try:
        return above.hold(target, fd)
    finally:
        os.close(fd)
