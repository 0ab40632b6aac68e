"""Run a command that may read everything and write only below some folders, by Landlock, as agents' sandboxes do.

Runs as ``python -I sandbox.py FOLDER[:FOLDER...] COMMAND...``.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_PATH_BENEATH = 1
_SET_NO_NEW_PRIVS = 38
#: Write, remove and make anything, and truncate (Landlock's bits from ABI 3 on).
_WRITE = sum(1 << bit for bit in (1, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14))
#: What exit status says that this kernel has no Landlock.
MISSING = 77


def main(folders: str, command: list[str]) -> None:
    """Restrict this process, then become the command."""
    libc = ctypes.CDLL(None, use_errno=True)
    ruleset = libc.syscall(_CREATE_RULESET, ctypes.c_char_p(struct.pack("Q", _WRITE)), ctypes.c_size_t(8), 0)
    if ruleset < 0:
        sys.exit(MISSING)
    for folder in folders.split(":"):
        rule = struct.pack("=Qi", _WRITE, os.open(folder, os.O_PATH))
        if libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.c_char_p(rule), 0):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), folder)
    libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if libc.syscall(_RESTRICT_SELF, ruleset, 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
