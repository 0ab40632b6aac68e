"""Which file system a path lies on, and how far a flock reaches there."""

import os

#: Types that one host has for itself, so that the kernel can wake a waiter. "disk": a disk of an unknown type.
_LOCAL = frozenset(
    """disk ext2 ext3 ext4 xfs btrfs tmpfs ramfs overlay zfs f2fs bcachefs jfs reiserfs ntfs3 exfat vfat
    """.split()
)
#: The default of attribute-timeout and entry-timeout of GlusterFS and most others on FUSE, and a little more.
_CACHE_SECONDS = 1.05

#: How far a flock reaches: to all hosts that mount the file system, to this host alone, nowhere (there is none), or
#: nobody knows.
EVERYWHERE, THIS_HOST, NOWHERE, UNKNOWN = "everywhere", "this host", "nowhere", "unknown"
#: By their manuals; GlusterFS is tested here.
_SHARING = frozenset("fuse.glusterfs ceph fuse.ceph fuse.ceph-fuse gpfs nfs nfs4 gfs2 ocfs2 fuse.juicefs afs".split())
#: They keep flock in the kernel of each host, without an error; so do virtiofs and 9p in the kernel of each virtual
#: machine (virtiofsd and QEMU, as they are by default). Docker Desktop's fakeowner loses some even there.
_PRETENDING = frozenset(
    """beegfs fuse.sshfs fuse.s3fs fuse.gcsfuse fuse.goofys fuse.rclone fuse.mountpoint-s3 fuse.blobfuse fuse.blobfuse2
    fuse.s3ql fuse.vmhgfs-fuse fuse.bindfs vboxsf virtiofs 9p fakeowner prl_fs
    """.split()
)
_NFS = ("nfs", "nfs4")
#: Mount options that keep flock on the host, by the type of file system they belong to.
_KEPT_BY = {
    "nfs": ("nolock", "local_lock=all", "local_lock=flock"),
    "nfs4": ("nolock", "local_lock=all", "local_lock=flock"),
    "lustre": ("localflock",),
    "gfs2": ("localflocks",),
    "ocfs2": ("localflocks",),
}


class Mount:
    """A line of the mount table: what is mounted, where, its type, and all of its options."""

    def __init__(self, source: str, point: str, kind: str, options: frozenset[str]) -> None:
        self.source = source
        self.point = point
        self.kind = kind
        self.options = options

    @property
    def flock_reach(self) -> str:
        """How far a flock reaches, as the mount table says."""
        kept = sorted(self.options.intersection(_KEPT_BY.get(self.kind, ())))
        if kept or self.kind in _PRETENDING or self.kind in _LOCAL:
            return THIS_HOST
        if self.kind == "lustre":
            return EVERYWHERE if "flock" in self.options else NOWHERE
        return EVERYWHERE if self.kind in _SHARING else UNKNOWN

    @property
    def is_local(self) -> bool:
        """Whether this host has it for itself."""
        return self.kind in _LOCAL

    @property
    def forgets_at_open(self) -> bool:
        """Whether it drops what it has in memory of a file when the file is opened and another host has changed it."""
        return self.kind in _NFS and "nocto" not in self.options

    @property
    def locks_folders(self) -> bool:
        """Whether the flock of a folder reaches as far as that of a file. Linux's NFS client keeps it to itself."""
        return self.kind not in _NFS

    @property
    def name(self) -> str:
        """Its type, and the option that keeps flock on the host, if one does."""
        kept = sorted(self.options.intersection(_KEPT_BY.get(self.kind, ())))
        return f"{self.kind} ({', '.join(kept)})" if kept else self.kind


def is_local(path: str) -> bool:
    """Whether this host has the file system at ``path`` for itself. An unknown one counts as shared."""
    mount = find(path)
    return mount is not None and mount.is_local


def keeping_flock(path: str, table: bytes | None = None) -> Mount | None:
    """The file system at a path if it is one of a network, and yet keeps flock on this host; else None.

    :param path: the path; it need not exist.
    :param table: the mount table, as for :func:`find`.
    """
    mount = find(path, table)
    return mount if mount and not mount.is_local and mount.flock_reach == THIS_HOST else None


def cache_seconds(path: str) -> float:
    """For how many seconds this host may answer from memory what another host has changed; 0 if it asks at open."""
    mount = find(path)
    return _CACHE_SECONDS if mount is not None and mount.kind.startswith("fuse") else 0.0


def shows_owners_at_open(path: str, table: bytes | None = None) -> bool:
    """Whether whoever opens a lock file sees the owner that another host has named in it, and is kept out by its flock.

    :param path: the lock file.
    :param table: the mount table, as for :func:`find`.
    """
    mount = find(path, table)
    return mount is not None and mount.forgets_at_open and mount.flock_reach == EVERYWHERE


def find(path: str, table: bytes | None = None) -> Mount | None:
    """What is mounted at a path, None if it can't be told.

    :param path: the path; it need not exist.
    :param table: the mount table, as in /proc/self/mountinfo; None for that one.
    """
    if table is None:
        try:
            with open("/proc/self/mountinfo", "rb") as file:
                table = file.read()
        except OSError:  # no /proc
            return None
    real = os.fsencode(os.path.realpath(path))
    best, found = b"", b""
    for line in table.splitlines():
        fields = line.split(b" ")
        if len(fields) < 5:
            continue
        point = _unescape(fields[4])
        covers = real == point or real.startswith(point.rstrip(b"/") + b"/")
        if covers and len(point) >= len(best):  # of two mounts on one point the later one is seen
            best, found = point, line
    if not found and b" - " in table:
        return _disk(real)
    before, _, after = found.partition(b" - ")
    fields, last = before.split(b" "), after.split(b" ")
    if len(fields) < 6 or len(last) < 2:
        return None
    options = b",".join([fields[5], *last[2:3]]).decode("utf-8", "replace").split(",")
    return Mount(os.fsdecode(_unescape(last[1])), os.fsdecode(best), last[0].decode(), frozenset(options))


def _disk(path: bytes) -> Mount | None:
    """A mount table does not show what a chroot lies on, but the number of a device tells a disk from a network."""
    while not os.path.exists(path):
        path = os.path.dirname(path)
    device = os.stat(path).st_dev
    if not os.major(device):
        return None
    return Mount(f"{os.major(device)}:{os.minor(device)}", os.fsdecode(path), "disk", frozenset())


def _unescape(text: bytes) -> bytes:
    return text.replace(b"\\040", b" ").replace(b"\\011", b"\t").replace(b"\\012", b"\n").replace(b"\\134", b"\\")
