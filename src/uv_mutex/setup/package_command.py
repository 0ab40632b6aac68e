"""Let `uv-mutex install` upgrade a prefix whose own `uv-mutex` comes first on PATH."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from uv_mutex.errors import MutexError
from uv_mutex.setup.install import is_ours
from uv_mutex.uv import executable

_NAME = "uv-mutex"
#: Tells the command that is started here not to start another, should it be a wrapper of the prefix's own.
_STARTED = "UV_MUTEX_PACKAGE_COMMAND"


def become(words: Sequence[str]) -> None:
    """Become the `uv-mutex` of an installed package, the next on PATH, if this is the one of a prefix.

    The one of a prefix has its own version alone to install. The package is what pip, pipx and uv upgrade. Return if
    this is no command of a prefix, or if PATH has no other.

    :param words: the words after ``uv-mutex``.
    :raises MutexError: if the command is there, but does not start.
    """
    if os.environ.pop(_STARTED, None) or not is_ours(Path(sys.argv[0])):
        return
    for program in executable.programs_on_path(os.environ.get("PATH"), _NAME):
        if not is_ours(Path(program)):
            try:
                os.execve(program, [program, *words], {**os.environ, _STARTED: "1"})
            except OSError as error:
                raise MutexError(
                    f"{program} does not start ({error.strerror}); install the package uv-mutex again, or remove it"
                ) from None
