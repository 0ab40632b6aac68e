"""Let two doctors on two hosts meet in a project's folder and try out whether the lock of one excludes the other.

They talk by the names of empty files, since a network file system shows a new name before it shows content:

    peer.HOST.PID.NONCE              a doctor is here
    peer.NONCE.OTHER.STEP            doctor NONCE tells doctor OTHER that it has finished STEP

The steps: both write `met`. The doctor with the smaller nonce takes the lock and writes `holds` (or `lacks`, where the
file system has no such lock). The other one tries to take it and writes the result (`busy`, `got` or `missing`). Then
the lock is `free` again. They change roles (`holds2`, `busy2`, `free2`), and both write `done`.
"""

import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import NamedTuple

from uv_mutex import files
from uv_mutex.commands.doctor import lock_trial
from uv_mutex.commands.doctor.finding import Finding, bad, fine, of_error, of_failed_trial, warning
from uv_mutex.errors import MutexError
from uv_mutex.locking import filesystem, lock_file
from uv_mutex.locking.lock_file import LockTarget

_STEP_SECONDS = 10.0
_PAUSE_SECONDS = 0.1
_NONCE_CHARS = 16
_RESULTS = (lock_trial.BUSY, lock_trial.GOT, lock_trial.MISSING)


class _SilentError(Exception):
    """The other doctor did not come, or went away."""


def meet(target: LockTarget, seconds: float) -> Iterable[Finding]:
    """Wait for a doctor on another host, and try the lock out with it.

    :param target: the lock. The folder of an environment is not tried.
    :param seconds: how long to wait for the other doctor.
    """
    if target.folder is None:
        return
    try:
        yield _try_with_other(target, seconds)
    except MutexError as error:
        yield of_error(error)
    except OSError as error:
        yield of_failed_trial(error, target.path)


def _try_with_other(target: LockTarget, seconds: float) -> Finding:
    kind = os.environ.get("UV_MUTEX_BACKEND") or target.recorded_backend()
    with_lease = kind == lock_file.LEASE or (kind is None and filesystem.keeping_flock(target.path) is not None)
    with _Doctor(target) as doctor:
        try:
            other = doctor.find(time.monotonic() + seconds)
        except _SilentError:
            return warning(
                f"no other doctor showed up in {os.path.dirname(target.path)} within {seconds:g} s",
                "run `uv-mutex doctor --peer` on two hosts at once, in the same project; "
                "if both did, they share no folder",
            )
        name = f"{other.host} (pid {other.pid})"
        try:
            results = doctor.take_turns(other, _lease if with_lease else _flock)
        except _SilentError:
            return warning(
                f"saw {name}, which then fell silent", "run `uv-mutex doctor --peer` again, on both hosts at once"
            )
    if other.host == os.uname().nodename:
        return warning(f"saw {name}, which is on this host too", "run one of the two on another host")
    return _judge(name, "lease" if with_lease else "flock", results)


def _judge(name: str, kind: str, results: set[str]) -> Finding:
    """What the results of both turns mean.

    :param name: the other doctor.
    :param kind: flock or lease.
    :param results: what each doctor got while the other one held the lock.
    """
    if results == {lock_trial.BUSY}:
        return fine(f"saw {name}, and {kind} excluded between the two hosts")
    if results == {lock_trial.MISSING}:
        return fine(f"saw {name}; neither host has a flock there, and both take the lease")
    if lock_trial.MISSING in results:
        return bad(
            f"saw {name}; one of the two hosts has a flock there and the other has none",
            "set UV_MUTEX_BACKEND=lease on every host",
        )
    return bad(
        f"saw {name}, and {kind} did not exclude between the two hosts",
        (
            "set UV_MUTEX_BACKEND=lease on every host, and run this again"
            if kind == "flock"
            else "move the project to another file system"
        ),
    )


@contextmanager
def _flock(path: str) -> Iterator[str]:
    """Try to take the flock of a file; yield the result, and release it at the end."""
    fd = lock_trial.open_file(path)
    try:
        yield lock_trial.flock(fd)
    finally:
        os.close(fd)


@contextmanager
def _lease(path: str) -> Iterator[str]:
    """Try to create a file, as a lease does; yield the result, and remove the file at the end."""
    marker = f"{path}.lease"
    result = lock_trial.create(marker)
    try:
        yield result
    finally:
        if result == lock_trial.GOT:
            with suppress(FileNotFoundError):  # the other doctor got it too, and removed it
                os.unlink(marker)


class _Other(NamedTuple):
    """Another doctor, as the name of its file says."""

    host: str
    pid: str
    nonce: str

    @property
    def file_name(self) -> str:
        """The name of the file that says that it is here."""
        return f"peer.{self.host}.{self.pid}.{self.nonce}"

    @classmethod
    def all_in(cls, names: Iterable[str]) -> "Iterator[_Other]":
        """The doctors whose files are among these names."""
        for name in sorted(names):
            if name.startswith("peer.") and name.count(".") > 2 and len(name.rpartition(".")[2]) == _NONCE_CHARS:
                yield cls(*name.removeprefix("peer.").rsplit(".", 2))


class _Doctor:
    """This doctor, as a context manager: it removes all of its files at the end."""

    def __init__(self, target: LockTarget) -> None:
        self._target = target
        self._folder = os.path.dirname(target.path)
        self._nonce = secrets.token_hex(_NONCE_CHARS // 2)
        self._written: list[str] = []

    def __enter__(self) -> "_Doctor":
        os.close(self._target.open())
        self._write(f"peer.{os.uname().nodename}.{os.getpid()}.{self._nonce}")
        return self

    def __exit__(self, *_: object) -> None:
        for name in self._written:
            with suppress(OSError):
                os.unlink(f"{self._folder}/{name}")

    def find(self, deadline: float) -> _Other:
        """Wait for a doctor that has seen this one too. The file of a killed doctor never answers.

        :param deadline: when to give up, as time.monotonic() gives it.
        :raises _SilentError: if none came in time.
        """
        while True:
            names = os.listdir(self._folder)
            for other in _Other.all_in(names):
                if other.nonce == self._nonce:
                    continue
                self._tell(other, "met")
                if f"peer.{other.nonce}.{self._nonce}.met" in names:
                    return other
            if time.monotonic() > deadline:
                raise _SilentError
            time.sleep(_PAUSE_SECONDS)

    def take_turns(self, other: _Other, lock: Callable[[str], AbstractContextManager[str]]) -> set[str]:
        """Hold a lock in turns; return what each doctor got while the other one held it.

        :param other: the other doctor.
        :param lock: takes the lock of a path.
        :raises _SilentError: if the other doctor does not answer.
        """
        with lock_trial.trial_file(self._target, "-".join(sorted((self._nonce, other.nonce)))) as path:
            if self._nonce < other.nonce:
                results = self._hold(other, lock(path), "") | self._try(other, lock(path), "2")
            else:
                results = self._try(other, lock(path), "") | self._hold(other, lock(path), "2")
            self._tell(other, "done")
            self._hear(other, "done", gone_will_do=True)
        return results

    def _hold(self, other: _Other, lock: AbstractContextManager[str], turn: str) -> set[str]:
        """Hold the lock until the other doctor has tried to take it."""
        with lock as got:
            is_missing = got == lock_trial.MISSING
            self._tell(other, f"{'lacks' if is_missing else 'holds'}{turn}")
            result = self._hear(other, *(f"{word}{turn}" for word in _RESULTS)).removesuffix("2")
        self._tell(other, f"free{turn}")
        return {result, lock_trial.MISSING} if is_missing else {result}

    def _try(self, other: _Other, lock: AbstractContextManager[str], turn: str) -> set[str]:
        """Try to take the lock while the other doctor holds it."""
        is_missing = self._hear(other, f"holds{turn}", f"lacks{turn}").startswith("lacks")
        with lock as got:
            result = got
        self._tell(other, f"{result}{turn}")
        self._hear(other, f"free{turn}")
        return {result, lock_trial.MISSING} if is_missing else {result}

    def _tell(self, other: _Other, step: str) -> None:
        """Write that this doctor has finished a step."""
        name = f"peer.{self._nonce}.{other.nonce}.{step}"
        if name not in self._written:
            self._write(name)

    def _write(self, name: str) -> None:
        self._written.append(name)
        files.create(f"{self._folder}/{name}", self._target.file_mode(), b"")

    def _hear(self, other: _Other, *steps: str, gone_will_do: bool = False) -> str:
        """Wait until the other doctor has finished one of these steps; return the step.

        :param other: the other doctor.
        :param steps: the steps to wait for.
        :param gone_will_do: return "" if the other doctor has removed its files.
        :raises _SilentError: if it takes too long.
        """
        deadline = time.monotonic() + _STEP_SECONDS
        while True:
            names = os.listdir(self._folder)
            for step in steps:
                if f"peer.{other.nonce}.{self._nonce}.{step}" in names:
                    return step
            if gone_will_do and other.file_name not in names:
                return ""
            if time.monotonic() > deadline:
                raise _SilentError
            time.sleep(_PAUSE_SECONDS)
