"""Clear away what a uv that was killed in the middle of its work left half-installed.

uv takes a distribution for installed if its .dist-info folder is there, even if it was killed before all files were.
Without that folder uv installs it anew.
"""

import csv
import os
import shutil
import time
from collections.abc import Iterator

#: A killed process is in its last call to a network's file system until that answers, although its lock is free.
_LAST_CALL_SECONDS = 0.1


def repair(environment: str) -> None:
    """Make uv see what is missing. Never fails: what can't be read or removed is left to uv.

    :param environment: the environment's folder, under the lock; nobody else is working on it.
    """
    time.sleep(_LAST_CALL_SECONDS)
    wreck = not os.path.isfile(f"{environment}/pyvenv.cfg") or not os.path.exists(f"{environment}/bin/python")
    if wreck and os.path.basename(environment) == ".venv":  # by any other name it may be more than an environment
        shutil.rmtree(environment, ignore_errors=True)
        return
    for folder in _distributions(environment):
        if not _is_whole(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _distributions(environment: str) -> Iterator[str]:
    lib = f"{environment}/lib"
    for python in _list(lib):
        packages = f"{lib}/{python}/site-packages"
        for name in _list(packages):
            if name.endswith(".dist-info"):
                yield f"{packages}/{name}"


def _is_whole(dist_info: str) -> bool:
    """Whether every file that RECORD lists is there, in its size (https://peps.python.org/pep-0376/#record)."""
    packages = os.path.dirname(dist_info)
    try:
        with open(f"{dist_info}/RECORD", newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
    except (OSError, ValueError, csv.Error):
        return False
    for row in rows:
        if len(row) != 3:
            return False
        path, _, size = row
        try:
            found = os.stat(os.path.join(packages, path))
        except (OSError, ValueError):
            return False
        if size and size.isdecimal() and found.st_size != int(size):
            return False
    return bool(rows)


def _list(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []
