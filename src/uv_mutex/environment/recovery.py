"""Undo what a killed uv left half done, and nothing else.

uv takes a distribution for installed if its .dist-info folder exists, even if uv was killed before it had written all
files. Without that folder uv installs the distribution again. But an environment may also hold what uv did not install
or what its user changed: slimmed and patched packages, those of pip, conda and the Linux distribution. So only that is
removed which the dead uv can have written.
"""

import os

from uv_mutex import files
from uv_mutex.environment import fingerprint
from uv_mutex.locking import process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

#: How long a killed uv may go on while its lock is free already: on another host, or in another container; and here,
#: where it is seen.
_LAST_CALL_SECONDS, _LONGEST_DEATH_SECONDS = 0.1, 5.0
#: The kernel's clock for files moves in steps of up to 10 ms; some file systems count whole seconds.
_TICK_SECONDS, _COARSE_SECONDS = 0.02, 2.0
#: By how much the clocks of two file systems may differ.
_SKEW_SECONDS = 5.0
#: Far more than any RECORD has; the largest packages have a few MB.
_MOST_BYTES = 1 << 26
#: All that uv has put into the folder of an environment before it writes pyvenv.cfg (crates/uv-virtualenv).
_MADE_BY_UV = frozenset((".gitignore", ".lock", ".uv-mutex", "CACHEDIR.TAG", "bin", "lib", "lib64", "share", "include"))


def undo_half_done(environment: str, lockfile: str, began: float) -> None:
    """Remove the .dist-info of each distribution that the dead uv left incomplete, so that uv installs it again.

    A distribution counts if uv installed it, uv.lock lists it, and a file that RECORD has a hash of is missing or of
    another size, and that changed since the dead uv began. If the dead uv was killed while it created the environment,
    the folder is removed: uv refuses to use it. Never fails: what can't be read or removed is left to uv.

    :param environment: the folder of the environment. The caller holds the lock; no other call works on it.
    :param lockfile: the uv.lock of the project.
    :param began: when the dead uv's call took the lock, in seconds since 1970.
    """
    import shutil
    import time

    time.sleep(_LAST_CALL_SECONDS)
    process.outlast_killed(_LONGEST_DEATH_SECONDS)
    began -= _clock_error(environment, lockfile, began)
    if _is_unfinished(environment, began):
        shutil.rmtree(environment, ignore_errors=True)
        return
    listed = _listed(lockfile)
    for folder in _dist_info_folders(environment):
        if _name(folder) in listed and _is_half_done(folder, began):
            shutil.rmtree(folder, ignore_errors=True)


def _clock_error(environment: str, lockfile: str, began: float) -> float:
    """By how many seconds a change in the environment can seem to be older than ``began``."""
    try:
        if os.stat(environment).st_dev != os.stat(os.path.dirname(lockfile)).st_dev:
            return _SKEW_SECONDS
    except OSError:
        pass
    return _COARSE_SECONDS if began.is_integer() else _TICK_SECONDS


def _is_unfinished(environment: str, began: float) -> bool:
    """Whether this is an environment that uv had begun to create, and nothing else lies in it."""
    if os.path.lexists(f"{environment}/pyvenv.cfg"):
        return False
    names = fingerprint.list_folder(environment)
    return (
        bool(names)
        and _MADE_BY_UV.issuperset(names)
        and all(_changed_since(f"{environment}/{name}", began) for name in names)
    )


def _listed(lockfile: str) -> set[str]:
    """The names of the packages in uv.lock; none if it can't be read."""
    import tomllib

    from packaging.utils import canonicalize_name

    try:
        packages = tomllib.loads(files.read(lockfile, _MOST_BYTES).decode())["package"]
        return {canonicalize_name(package["name"]) for package in packages}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return set()


def _dist_info_folders(environment: str) -> "Iterator[str]":
    for packages in fingerprint.site_packages(environment):
        for name in fingerprint.list_folder(packages):
            if name.endswith(".dist-info"):
                yield f"{packages}/{name}"


def _name(dist_info: str) -> str:
    from packaging.utils import canonicalize_name

    return canonicalize_name(os.path.basename(dist_info).removesuffix(".dist-info").rpartition("-")[0])


def _is_half_done(dist_info: str, began: float) -> bool:
    """Whether the dead uv left a distribution incomplete (https://peps.python.org/pep-0376/#record)."""
    import csv
    import io

    # uv writes INSTALLER last, so a distribution of the dead uv may have none. Those of others may have none either.
    installer = files.read_or_empty(f"{dist_info}/INSTALLER", 64).strip()
    if installer not in (b"uv", b""):
        return False
    packages = os.path.dirname(dist_info)
    try:
        text = files.read(f"{dist_info}/RECORD", _MOST_BYTES).decode()
        rows = list(csv.reader(io.StringIO(text, newline="")))
    except (OSError, ValueError, csv.Error):
        rows = []
    if not rows or any(len(row) != 3 for row in rows):
        return _changed_since(dist_info, began)
    return any(_differs(os.path.join(packages, path), size, began) for path, digest, size in rows if digest)


def _differs(path: str, size: str, began: float) -> bool:
    """Whether a file is missing or has another size, and that since the dead uv began."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return _changed_since(_nearest_folder(path), began)
    return size.isdecimal() and found.st_size != int(size) and found.st_ctime >= began


def _nearest_folder(path: str) -> str:
    """The folder of a missing file; if that is missing too, the one above it."""
    folder = os.path.dirname(path)
    while folder != "/" and not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    return folder


def _changed_since(path: str, began: float) -> bool:
    try:
        return os.lstat(path).st_ctime >= began
    except (OSError, ValueError):
        return False
