"""Two doctors on two hosts meet in a project's folder, and see whether a lock of the one keeps the other out.

All that they say is in the names of empty files, since names are what network file systems agree on first:

    peer.HOST.PID.NONCE              here I am
    peer.NONCE.OTHER.STEP            NONCE tells OTHER that it is through with a step

The steps, in turns: both have `met`; then the one whose nonce is smaller `holds` the lock (or `lacks` it, where there
is none), the other tries for it and says what came of that (`busy`, `got` or `missing`), and it is `free` again; then
the other way round (`holds2`, `busy2`, `free2`); both are `done`.
"""

import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager

from uv_mutex import files
from uv_mutex.commands.doctor import lock_trial
from uv_mutex.commands.doctor.finding import Finding, bad, fine, of_error, warning
from uv_mutex.errors import MutexError
from uv_mutex.locking import lock_file
from uv_mutex.locking.lock_file import LockTarget

_STEP_SECONDS = 10.0
_PAUSE_SECONDS = 0.1
_NONCE_CHARS = 16


_RESULTS = (lock_trial.BUSY, lock_trial.GOT, lock_trial.MISSING)


class _SilentError(Exception):
    """The other doctor went away, or never came."""


def meet(target: LockTarget, seconds: float) -> Iterable[Finding]:
    """Wait for another doctor, and try the lock out with it.

    :param target: the lock.
    :param seconds: how long to wait for the other.
    """
    try:
        yield from _meet(target, seconds)
    except MutexError as error:
        yield of_error(error)
    except OSError as error:
        yield bad(
            f"the lock can't be tried out: {error.filename or target.path}: {error.strerror}",
            "mend that, then run this again",
        )


def _meet(target: LockTarget, seconds: float) -> Iterable[Finding]:
    if target.folder is None:
        return
    lease = _wants_lease(target)
    with _Doctor(target) as doctor:
        try:
            other = doctor.find(time.monotonic() + seconds)
        except _SilentError:
            yield warning(
                f"no other doctor showed up in {os.path.dirname(target.path)} within {seconds:g} s",
                "run `uv-mutex doctor --peer` on two hosts at once, in the same project; "
                "if both did, they share no folder",
            )
            return
        name = f"{other.host} (pid {other.pid})"
        try:
            results = doctor.try_out(other, _create if lease else _flock)
        except _SilentError:
            yield warning(
                f"saw {name}, which then fell silent", "run `uv-mutex doctor --peer` again, on both hosts at once"
            )
            return
    if other.host == os.uname().nodename:
        yield warning(f"saw {name}, which is on this host too", "run one of the two on another host")
        return
    how = "lease" if lease else "flock"
    if results == {lock_trial.BUSY}:
        yield fine(f"saw {name}, and {how} excluded between the two hosts")
    elif results == {lock_trial.MISSING}:
        yield fine(f"saw {name}; neither host has a flock there, and both take the lease")
    elif lock_trial.MISSING in results:
        yield bad(
            f"saw {name}; one of the two hosts has a flock there and the other has none",
            "set UV_MUTEX_BACKEND=lease on every host",
        )
    else:
        yield bad(
            f"saw {name}, and {how} did not exclude between the two hosts",
            (
                "set UV_MUTEX_BACKEND=lease on every host, and run this again"
                if how == "flock"
                else "move the project to another file system"
            ),
        )


def _wants_lease(target: LockTarget) -> bool:
    return (os.environ.get("UV_MUTEX_BACKEND") or target.recorded_backend()) == lock_file.LEASE


@contextmanager
def _flock(path: str) -> Iterator[str]:
    fd = lock_trial.open_(path)
    try:
        yield lock_trial.flock(fd)
    finally:
        os.close(fd)


@contextmanager
def _create(path: str) -> Iterator[str]:
    """The lease's way: who creates the file has it."""
    marker = f"{path}.lease"
    got = lock_trial.created_twice(marker)
    try:
        yield got
    finally:
        if got == lock_trial.GOT:
            try:
                os.unlink(marker)
            except FileNotFoundError:  # the other got it as well
                pass


def _is_doctor(name: str) -> bool:
    return name.startswith("peer.") and name.count(".") > 2 and len(name.rpartition(".")[2]) == _NONCE_CHARS


class _Other:
    def __init__(self, name: str) -> None:
        self.host, self.pid, self.nonce = name.removeprefix("peer.").rsplit(".", 2)


class _Doctor:
    """This doctor, as a context: it takes all its files away."""

    def __init__(self, target: LockTarget) -> None:
        self._target = target
        self._folder = os.path.dirname(target.path)
        self._nonce = secrets.token_hex(_NONCE_CHARS // 2)
        self._made: list[str] = []

    def __enter__(self) -> "_Doctor":
        os.close(self._target.open())
        self._write(f"peer.{os.uname().nodename}.{os.getpid()}.{self._nonce}")
        return self

    def __exit__(self, *_: object) -> None:
        for name in self._made:
            try:
                os.unlink(f"{self._folder}/{name}")
            except OSError:
                pass

    def find(self, deadline: float) -> _Other:
        """The first doctor that saw us, too. What a killed one left sees nobody."""
        mine = self._made[0]
        while True:
            names = os.listdir(self._folder)
            for other in (_Other(name) for name in sorted(names) if _is_doctor(name) and name != mine):
                self._say(other, "met")
                if f"peer.{other.nonce}.{self._nonce}.met" in names:
                    return other
            if time.monotonic() > deadline:
                raise _SilentError
            time.sleep(_PAUSE_SECONDS)

    def try_out(self, other: _Other, lock: "Callable[[str], AbstractContextManager[str]]") -> set[str]:
        """Hold a lock in turns; what each got that tried for it while the other held it."""
        first = self._nonce < other.nonce
        name = "-".join(sorted((self._nonce, other.nonce)))
        with lock_trial.file(self._target, name) as path:
            results = set()
            for turn, holds in (("", first), ("2", not first)):
                if holds:
                    with lock(path) as got:
                        self._say(other, f"{'lacks' if got == lock_trial.MISSING else 'holds'}{turn}")
                        theirs = self._hear(other, *(f"{word}{turn}" for word in _RESULTS)).removesuffix("2")
                    results.update({theirs, lock_trial.MISSING} if got == lock_trial.MISSING else {theirs})
                    self._say(other, f"free{turn}")
                else:
                    held = self._hear(other, f"holds{turn}", f"lacks{turn}")
                    with lock(path) as got:
                        results.update({got, lock_trial.MISSING} if held.startswith("lacks") else {got})
                    self._say(other, f"{got}{turn}")
                    self._hear(other, f"free{turn}")
            self._say(other, "done")
            self._hear(other, "done", gone_will_do=True)
        return results

    def _say(self, other: _Other, step: str) -> None:
        name = f"peer.{self._nonce}.{other.nonce}.{step}"
        if name not in self._made:
            self._write(name)

    def _write(self, name: str) -> None:
        self._made.append(name)
        files.create(f"{self._folder}/{name}", self._target.file_mode(), b"")

    def _hear(self, other: _Other, *steps: str, gone_will_do: bool = False) -> str:
        deadline = time.monotonic() + _STEP_SECONDS
        there = f"peer.{other.host}.{other.pid}.{other.nonce}"
        while True:
            names = os.listdir(self._folder)
            for step in steps:
                if f"peer.{other.nonce}.{self._nonce}.{step}" in names:
                    return step
            if gone_will_do and there not in names:
                return ""
            if time.monotonic() > deadline:
                raise _SilentError
            time.sleep(_PAUSE_SECONDS)
