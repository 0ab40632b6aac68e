"""Start each program that looks for the next uv on PATH, as the shim does, only once.

Such a program (a version manager, a wrapper of the user's) takes the shim for the real uv, and each would start the
other for ever. So a shim that starts one leaves a variable which the next shim reads: what stands there is passed
over. The real uv is no such program. It gets no variable, so that its environment stays what it would be without the
shim, and the variable of an earlier shim is taken away from it.

A line of the variable: the process that started a program (see :mod:`uv_mutex.locking.process`), its
UV_RUN_RECURSION_DEPTH, and the program. It holds for this process, which an exec does not change, and for those below
it as long as it still runs that program; but not below a `uv run` of that program, whose command may start it anew.
"""

import os

from uv_mutex.locking import process
from uv_mutex.uv.executable import ANYWHERE, PASSED, may_start_shim

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_DEPTH = "UV_RUN_RECURSION_DEPTH"
#: A script is the second or third word of its process, behind the interpreter and its option.
_FIRST_WORDS = 4
_found: list[str] = []


def passed(environ: "Mapping[str, str]") -> list[str]:
    """The programs that were started as the real uv, and that started this shim again.

    :param environ: the environment variables.
    """
    above = process.ancestors()
    me = process.this_process().encode()
    lines = [line.split(" ", 2) for line in environ.get(PASSED, "").split("\n")]
    _found[:] = [
        words[2]
        for words in lines
        if len(words) == 3 and (words[0] in (me, ANYWHERE) or _still_runs(words[0], words[1], words[2], above, environ))
    ]
    return _found


def _still_runs(
    word: str, depth: str, program: str, above: list[process.Process], environ: "Mapping[str, str]"
) -> bool:
    started = process.decode(word)
    if started not in above or started is None or depth != environ.get(_DEPTH, "-"):
        return False
    try:
        with open(f"/proc/{started.pid}/cmdline", "rb") as file:
            words = file.read().split(b"\0")[:_FIRST_WORDS]
        return os.fsencode(program) in words or os.path.samefile(f"/proc/{started.pid}/exe", program)
    except OSError:  # another user's
        return False


def mark(uv: str) -> None:
    """Leave the variable for the program that this process is about to become."""
    if may_start_shim(uv) and "\n" not in uv:
        me, depth = process.this_process().encode(), os.environ.get(_DEPTH, "-")
        os.putenv(PASSED, "\n".join(f"{me} {depth} {program}" for program in (*_found, uv)))
    else:
        os.unsetenv(PASSED)
