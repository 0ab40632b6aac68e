"""What to do about an error of a file that a lock needs."""

import errno

_HINTS = {
    errno.ELOOP: "it is a symlink; remove it",
    errno.ENOTDIR: "its folder is a file or a symlink; remove that",
    errno.EISDIR: "remove that folder",
    errno.EACCES: "give yourself write access there",
    errno.EPERM: "give yourself write access there",
    errno.EROFS: "mount it for writing",
    errno.EMFILE: "allow more open files (ulimit -n)",
    errno.ENFILE: "allow more open files (ulimit -n)",
    errno.ENOMEM: "free some memory",
    errno.EBADF: "give yourself write access there",
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
}


def hint(error: OSError) -> str:
    """What the user can do about it, as the end of a message."""
    return _HINTS.get(error.errno or 0, "mend that")
