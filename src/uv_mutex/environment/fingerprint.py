"""Describe the state of files and folders in lines of text: equal lines mean that nothing changed.

A line has three parts, separated by spaces: a kind, the state, and a path or a variable's name.
"""

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

#: Kinds of folders whose times also change for no reason that counts, such as a new __pycache__. If their lines
#: differ, their contents are compared: installed distributions, folders that could be members of the workspace, and
#: files that a glob matches.
PACKAGES, MEMBERS, TREE = LISTED = ("packages", "members", "tree")
#: A line of this kind says which files count in the TREE folders below its path. Its state is the pattern of their
#: names, in hexadecimal.
GLOB = "glob"
_DISTRIBUTION_SUFFIXES = (".dist-info", ".egg-info", ".egg-link", ".pth", ".egg")
#: In nanoseconds: the kernel's clock for file times moves in steps of up to 10 ms.
CLOCK_STEP_NS = 10_000_000
#: In nanoseconds: some file systems store whole seconds (Lustre, ext3, HFS+), FAT stores every second one.
COARSE_STEP_NS = 2_000_000_000


def describe(kind: str, path: str, environ: "Mapping[str, str]") -> str:
    """One line about the present state.

    The state of a file has ctime first. uv compares ctime, and no program can set it back after an edit. mtime is for
    file systems that make ctime up.

    :param kind: "env" for a variable, of whose value a digest is written; "exists" for a path that only has to exist;
        any other word for a file or folder whose times (in nanoseconds), size (in bytes) and inode count.
    :param path: the path, or the variable's name.
    :param environ: the environment variables.
    """
    if kind == "env":
        value = environ.get(path)
        return f"env {'-' if value is None else digest(value)} {path}"
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # ValueError: a null byte in a damaged note
        return f"{kind} - {path}"
    if kind == "exists":
        return f"{kind} + {path}"
    return f"{kind} {found.st_ctime_ns}/{found.st_mtime_ns}/{found.st_size}/{found.st_ino} {path}"


def describe_contents(lines: "Sequence[str]", environ: "Mapping[str, str]") -> "Iterator[str]":
    """A line for each distribution in the PACKAGES folders, each folder in the MEMBERS folders, each file of a GLOB.

    :param lines: lines of :func:`describe`; those of other kinds are skipped.
    :param environ: the environment variables.
    """
    for line in lines:
        kind, found, path = line.split(" ", 2)
        if kind == PACKAGES:
            for name in list_folder(path):
                if name.endswith(_DISTRIBUTION_SUFFIXES):
                    yield describe("distribution", f"{path}/{name}", environ)
        elif kind == MEMBERS:
            for name in subfolders(path):
                yield f"folder + {path}/{name}"
        elif kind == GLOB:
            for _, files in walk(path, bytes.fromhex(found).decode()):
                yield from (f"matched + {file}" for file in files)


def walk(base: str, pattern: str) -> "Iterator[tuple[str, list[str]]]":
    """Each folder below a path, itself included, and the files in it whose names match; sorted.

    :param base: the path.
    :param pattern: the pattern of the names, see :func:`uv_mutex.uv.globs.name_matches`.
    """
    from uv_mutex.uv import globs

    for folder, names, files in os.walk(base):
        names.sort()
        yield folder, [os.path.join(folder, name) for name in sorted(files) if globs.name_matches(name, pattern)]


def digest(text: str) -> str:
    """What stands for a text that must not be written down: 32 hexadecimal digits."""
    from _blake2 import blake2b  # hashlib makes it too, but its import takes 3 ms

    return blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


def size(path: str) -> str:
    """The size of a program in bytes, "-" if it is missing.

    It differs between versions of uv, but not between copies of one version on several hosts.
    """
    try:
        return str(os.stat(path).st_size)
    except OSError:
        return "-"


def size_and_mtime(path: str) -> str:
    """The size and mtime of an interpreter, "-" if it is missing.

    Versions of Python may have the same size. A system package sets the same mtime on all hosts.
    """
    try:
        found = os.stat(path)
    except OSError:
        return "-"
    return f"{found.st_mtime_ns}/{found.st_size}"


def state(line: str) -> str:
    """The state in a line of :func:`describe`."""
    return line.split(" ", 2)[1]


def changed_within(line: str, period_ns: int) -> bool:
    """Whether the file changed less than ``period_ns`` nanoseconds ago."""
    import time

    changed = _ctime_ns(line)
    return changed is not None and changed > time.time_ns() - period_ns


def has_coarse_time(line: str) -> bool:
    """Whether the file system seems to store whole seconds only."""
    changed = _ctime_ns(line)
    return changed is not None and changed % 1_000_000_000 == 0


def _ctime_ns(line: str) -> int | None:
    fields = state(line).split("/")
    return int(fields[0]) if len(fields) > 1 else None


def with_unknown_state(line: str) -> str:
    """The line with a state that no file ever has, so that it never compares equal."""
    kind, _, path = line.split(" ", 2)
    return f"{kind} ? {path}"


def site_packages(environment: str) -> "Iterator[str]":
    """The site-packages folders of an environment."""
    lib = f"{environment}/lib"
    for name in list_folder(lib):
        path = f"{lib}/{name}/site-packages"
        if os.path.isdir(path):
            yield path


def subfolders(folder: str) -> list[str]:
    """The names of the folders in a folder, sorted and without __pycache__."""
    return [name for name in list_folder(folder) if name != "__pycache__" and os.path.isdir(f"{folder}/{name}")]


def list_folder(folder: str) -> list[str]:
    """The names in a folder, sorted; none if it can't be read."""
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []
