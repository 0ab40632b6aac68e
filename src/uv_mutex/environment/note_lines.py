"""Collect the lines of a note."""

from uv_mutex.environment import fingerprint
from uv_mutex.locking import network_cache

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

#: The most lines about files that globs match, and about the folders that they search. With more of
#: them a note would cost more time than it saves.
_MOST_MATCHED = 2000


class UnsupportedInputsError(Exception):
    """The project has an input that a note can't describe."""


class Lines:
    """The lines of a note, without duplicates."""

    def __init__(self, environ: "Mapping[str, str]", *, reopen: bool) -> None:
        self._environ = environ
        self._reopen = reopen
        self._lines: dict[str, None] = {}
        self._matched = 0

    def add(self, kind: str, *paths: str) -> None:
        """Add a line about each path, see :func:`uv_mutex.environment.fingerprint.describe`."""
        for path in paths:
            if self._reopen:
                network_cache.reopen(path)
            self._lines[fingerprint.describe(kind, path, self._environ)] = None

    def add_files(self, base: str, pattern: str) -> None:
        """Add each file below ``base`` whose name matches, and each folder in which such a file may appear.

        :raises UnsupportedInputsError: if there are too many.
        """
        self._lines[f"{fingerprint.GLOB} {pattern.encode().hex()} {base}"] = None
        self.add(fingerprint.TREE, base)  # walk lists nothing where no folder is
        for folder, files in fingerprint.walk(base, pattern):
            self._matched += 1 + len(files)
            if self._matched > _MOST_MATCHED:
                raise UnsupportedInputsError
            self.add(fingerprint.TREE, folder)
            self.add("file", *files)

    def to_list(self) -> list[str]:
        """All lines, in the order in which they were added."""
        return list(self._lines)
