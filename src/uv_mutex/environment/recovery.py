"""Remove what a killed uv left half-installed.

uv takes a distribution for installed if its .dist-info folder exists, even if uv was killed before it had written all
files. Without that folder uv installs the distribution again.
"""

import os

from uv_mutex import files
from uv_mutex.environment import fingerprint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

#: A killed process stays in its last call to a network file system until the server answers. Its lock is free already.
_LAST_CALL_SECONDS = 0.1
#: Far more than any RECORD has; the largest packages have a few MB.
_MOST_BYTES = 1 << 26


def remove_half_installed(environment: str) -> None:
    """Remove each distribution that is incomplete, so that uv installs it again.

    If the environment itself is incomplete, and its folder is named .venv, the whole folder is removed. Never fails:
    what can't be read or removed is left to uv.

    :param environment: the environment's folder. The caller holds the lock; no other call works on the environment.
    """
    import shutil
    import time

    time.sleep(_LAST_CALL_SECONDS)
    incomplete = not os.path.isfile(f"{environment}/pyvenv.cfg") or not os.path.exists(f"{environment}/bin/python")
    if incomplete and os.path.basename(environment) == ".venv":  # another folder may hold more than an environment
        shutil.rmtree(environment, ignore_errors=True)
        return
    for folder in _dist_info_folders(environment):
        if not _is_complete(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _dist_info_folders(environment: str) -> "Iterator[str]":
    for packages in fingerprint.site_packages(environment):
        for name in fingerprint.list_folder(packages):
            if name.endswith(".dist-info"):
                yield f"{packages}/{name}"


def _is_complete(dist_info: str) -> bool:
    """Whether every file in RECORD exists and has its size (https://peps.python.org/pep-0376/#record)."""
    import csv
    import io

    packages = os.path.dirname(dist_info)
    try:
        text = files.read(f"{dist_info}/RECORD", _MOST_BYTES).decode()
        rows = list(csv.reader(io.StringIO(text, newline="")))
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
