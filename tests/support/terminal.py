"""A command in the foreground of a terminal, and the keys that are pressed there."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

from support import need

CTRL_C, CTRL_Z, CTRL_BACKSLASH = b"\x03", b"\x1a", b"\x1c"

# What an interactive shell does for one job, but it tells the whole wait status: `$?` is 130 for an exit status of 130
# and for a death by SIGINT alike. One line of JSON for each stop and for the end; a line on stdin puts a stopped job
# back into the foreground.
_SHELL = """\
import fcntl, json, os, signal, sys, termios
report, terminal, command = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
gate, opened = os.pipe()
pid = os.fork()
if not pid:
    os.setpgid(0, 0)
    os.read(gate, 1)
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    for number in range(3):
        os.dup2(terminal, number)
    os.close(report), os.close(terminal)
    os.execvp(command[0], command)
os.write(report, json.dumps({"pid": pid}).encode() + b"\\n")
try:
    os.setpgid(pid, pid)
except OSError:
    pass
os.tcsetpgrp(terminal, pid)
os.write(opened, b"x")
while True:
    _, status = os.waitpid(pid, os.WUNTRACED)
    os.write(report, json.dumps({"status": status}).encode() + b"\\n")
    if not os.WIFSTOPPED(status):
        break
    os.tcsetpgrp(terminal, os.getpgrp())
    sys.stdin.readline()
    os.tcsetpgrp(terminal, pid)
    os.killpg(pid, signal.SIGCONT)
"""


class Terminal:
    """A pseudo-terminal with one command in its foreground process group; a context manager that leaves none behind."""

    def __init__(self, command: Sequence[str], *, env: Mapping[str, str], cwd: Path) -> None:
        self._shown = bytearray()
        self._keyboard, terminal = need.terminal()
        report, tell = os.pipe()
        try:
            self._shell = subprocess.Popen(
                [sys.executable, "-IS", "-c", _SHELL, str(tell), str(terminal), *command],
                env=env,
                cwd=cwd,
                stdin=subprocess.PIPE,
                pass_fds=(tell, terminal),
                start_new_session=True,
            )
        finally:
            os.close(tell)
            os.close(terminal)
        self._report: IO[bytes] = os.fdopen(report, "rb", buffering=0)
        threading.Thread(target=self._show, daemon=True).start()
        #: The command's process, which leads the foreground process group.
        self.pid: int = self._read()["pid"]

    def press(self, keys: bytes) -> None:
        """Type something."""
        os.write(self._keyboard, keys)

    def resize(self, rows: int, columns: int) -> None:
        """Change the window's size."""
        size = rows.to_bytes(2, sys.byteorder) + columns.to_bytes(2, sys.byteorder) + bytes(4)
        fcntl.ioctl(self._keyboard, termios.TIOCSWINSZ, size)

    @property
    def shown(self) -> bytes:
        """Everything that was written to the terminal so far."""
        return bytes(self._shown)

    def wait_for(self, text: bytes, timeout: float = 60) -> None:
        """Wait until the terminal has shown this text."""
        wait_until(lambda: text in self._shown, timeout, lambda: f"{text!r} in {self.shown!r}")

    def status(self, timeout: float = 60) -> int:
        """The wait status (see os.WIFSIGNALED) with which the command stops or ends; waits for that."""
        ready, _, _ = select.select([self._report], [], [], timeout)
        assert ready, f"neither stopped nor over after {timeout} s; shown: {self.shown!r}"
        return self._read()["status"]

    def foreground(self) -> None:
        """Continue a stopped command, as `fg` does."""
        assert self._shell.stdin is not None
        self._shell.stdin.write(b"\n")
        self._shell.stdin.flush()

    def _read(self) -> dict[str, int]:
        line = self._report.readline()
        assert line, "the terminal's shell is gone"
        answer: dict[str, int] = json.loads(line)
        return answer

    def _show(self) -> None:
        while True:
            try:
                some = os.read(self._keyboard, 65536)
            except OSError:  # EIO: nobody has the other end open
                return
            if not some:
                return
            self._shown += some

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        for send, pid in ((os.killpg, self.pid), (os.kill, self._shell.pid)):
            with contextlib.suppress(ProcessLookupError):
                send(pid, signal.SIGKILL)
        self._shell.wait()
        assert self._shell.stdin is not None
        self._shell.stdin.close()
        self._report.close()


def wait_until(true: Callable[[], object], timeout: float = 60, explain: Callable[[], str] | None = None) -> None:
    """Poll until `true()` is; fail after `timeout` seconds, with what `explain()` says."""
    deadline = time.monotonic() + timeout
    while not true():
        assert time.monotonic() < deadline, explain() if explain else f"not within {timeout} s"
        time.sleep(0.02)
