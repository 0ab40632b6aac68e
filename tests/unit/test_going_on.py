"""What uv can do without, a call does without, and says so in one line; with UV_MUTEX=require it gives up."""

from __future__ import annotations

import errno
import os
import threading
from typing import NoReturn

import pytest

from uv_mutex import errors
from uv_mutex.errors import MutexError
from uv_mutex.shim import child, handover, main
from uv_mutex.uv import executable


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """No warning was printed yet."""
    monkeypatch.setattr(errors, "_warned", set())
    monkeypatch.delenv("UV_MUTEX", raising=False)


def test_it_is_said_once(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        errors.go_on("cannot lock /x: it rains; wait for the sun")
    said = "uv-mutex: warning: cannot lock /x: it rains; wait for the sun; this call goes on without a lock\n"
    assert capfd.readouterr().err == said
    monkeypatch.setenv("UV_MUTEX", "require")
    with pytest.raises(MutexError, match="the sun; UV_MUTEX=require asks for the lock, unset it to do without"):
        errors.go_on("cannot lock /x: it rains; wait for the sun")


@pytest.mark.parametrize("require", [False, True])
def test_an_error_that_nobody_thought_of(
    require: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Such as too few descriptors in the middle of an import."""

    def guard(*_: object) -> NoReturn:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), "/x")

    def exec_uv(uv: str, words: list[str]) -> NoReturn:
        raise SystemExit(f"{uv} {' '.join(words)}")

    monkeypatch.setattr(executable, "find", lambda *_: "/real/uv")
    monkeypatch.setattr(main, "_guard", guard)
    monkeypatch.setattr(handover, "exec_uv", exec_uv)
    if require:
        monkeypatch.setenv("UV_MUTEX", "require")
    with pytest.raises(SystemExit) as caught:
        main.main(["sync", "-q"])
    assert caught.value.code == (2 if require else "/real/uv sync -q")
    said = "cannot guard this call: [Errno 24] Too many open files: '/x'; mend that"
    assert said in capfd.readouterr().err


def test_no_thread_to_watch_the_lock(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    def start(_thread: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    child._Watchdog(1, lambda: "it is lost").stop()
    said = "nobody watches whether the lock is lost: can't start new thread; allow more processes (ulimit -u)"
    assert capfd.readouterr().err == f"uv-mutex: warning: {said}\n"
