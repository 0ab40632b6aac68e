"""Two processes that want the same two locks, named in different orders, do not wait for each other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from uv_mutex.errors import TIMED_OUT

_SOURCES = str(Path(__file__).parents[2] / "src")
#: Both must be at it at the same time. The control has ended by then, unless one of them was held up in the beginning.
_ROUNDS = {"set": 100, "one by one": 2000}

# Takes two locks again and again: all at once as the shim does, or one by one in the order of the arguments.
_TAKE_TWO = f"""\
import sys, time
sys.path.insert(0, {_SOURCES!r})
from uv_mutex.errors import MutexError
from uv_mutex.locking import acquire, lock_set
from uv_mutex.locking.lock_file import LockFile
from uv_mutex.locking.wait_budget import WaitBudget
how, *folders = sys.argv[1:]
targets = [LockFile(folder) for folder in folders]
print("begun", flush=True)
sys.stdin.read()
try:
    for _ in range({_ROUNDS}[how]):
        budget = WaitBudget(5.0, quiet=True, command="uv add")
        if how == "set":
            held = lock_set.take(targets, budget, {{}}, shared=False)
        else:
            held = []
            for target in targets:
                held.append(acquire.take(target, budget))
                time.sleep(0.01)
        while held:
            held.pop().release()
except MutexError as error:
    sys.exit(error.status)
"""


def _two(tmp_path: Path, how: str) -> list[int]:
    """The exit statuses of two processes, each of which takes the lock of another project first."""
    folders = [str(tmp_path / name) for name in ("a", "b")]
    for folder in folders:
        Path(folder).mkdir()
    both = [
        subprocess.Popen([sys.executable, "-c", _TAKE_TWO, how, *order], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for order in (folders, folders[::-1])
    ]
    for one in both:
        assert one.stdout
        assert one.stdout.readline() == b"begun\n"
    for one in both:
        assert one.stdin
        one.stdin.close()
    try:
        return [one.wait(60) for one in both]
    finally:
        for one in both:
            one.kill()
            assert one.stdout
            one.stdout.close()


def test_one_order_for_all(tmp_path: Path) -> None:
    assert _two(tmp_path, "set") == [0, 0]


def test_control_each_its_own_order(tmp_path: Path) -> None:
    assert TIMED_OUT in _two(tmp_path, "one by one")
