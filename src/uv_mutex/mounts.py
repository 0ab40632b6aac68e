"""Which file system a path is on."""

import os

#: File systems whose flock is the kernel's own, so that a blocking call is as good as a poll and much faster.
_LOCAL = frozenset(
    """ext2 ext3 ext4 xfs btrfs tmpfs ramfs overlay zfs f2fs bcachefs jfs reiserfs ntfs3 exfat vfat apfs hfs ufs
    """.split()
)
#: The default of attribute-timeout and entry-timeout of GlusterFS and most others on FUSE, and a little more.
_CACHE_SECONDS = 1.05


def is_local(path: str) -> bool:
    """Whether the file system at ``path`` is this kernel's alone. Unknown counts as not."""
    return file_system(path) in _LOCAL


def cache_seconds(path: str) -> float:
    """How long this host may answer from memory what another host has changed since; 0 if it asks when it opens."""
    return _CACHE_SECONDS if file_system(path).startswith("fuse") else 0.0


def file_system(path: str) -> str:
    """The type of the file system at ``path`` as the mount table names it, empty if it can't be told."""
    real = os.fsencode(os.path.realpath(path))
    best, kind = b"", b""
    try:
        with open("/proc/self/mountinfo", "rb") as file:
            lines = file.read().splitlines()
    except OSError:  # macOS
        return ""
    for line in lines:
        fields, _, after = line.partition(b" - ")
        point = fields.split(b" ")[4].replace(b"\\040", b" ").replace(b"\\011", b"\t").replace(b"\\134", b"\\")
        covers = real == point or real.startswith(point.rstrip(b"/") + b"/")
        if covers and len(point) >= len(best):  # of two mounts on one point the later one is seen
            best, kind = point, after.split(b" ")[0]
    return kind.decode()
