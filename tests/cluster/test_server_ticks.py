"""NFSv3 knows by its time whether a folder has changed, and that is the same for all that happens within one tick.

Whoever looks in between believes for up to a minute in what it saw.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from cluster.conftest import NFS_3, NFS_3_NOLOCK, NFS_4, over
from support.host import PLAIN
from support.nfs import NfsHost
from support.shim import Shim

# Half of the rounds go wrong in a control, which ends with the first one that does.
ROUNDS, CONTROL_ROUNDS, FILES = 6, 30, 30

_BEGIN = """\
import os, sys, time
library, folder, what, how = sys.argv[1:]
def read():
    with open(f"{folder}.state") as file:
        return file.read()
def write(state):
    with open(f"{folder}.state", "w") as file:
        file.write(state)
"""
_LOOK = f"""{_BEGIN}
sys.path.insert(0, library)
from uv_mutex.locking import lease_marker
from uv_mutex.records import runs
beside, path = f"{{folder}}/.uv-mutex", f"{{folder}}/.uv-mutex/lock.lease"
def look():
    if how == "shim":
        return len(runs.inodes(folder, [])) if what == "files" else lease_marker.look(path) is not None
    os.close(os.open(beside, os.O_RDONLY))
    if what == "files":
        return len(os.listdir(beside))
    try:
        os.close(os.open(path, os.O_RDONLY))
        return True
    except OSError:
        return False
look()
write("looking")
while read() != "done":
    look()
print(look())
"""
_MAKE = f"""{_BEGIN}
while read() != "looking":
    time.sleep(0.01)
if what == "files":
    for number in range({FILES}):
        open(f"{{folder}}/.uv-mutex/runs.{{number}}", "w").close()
else:
    until = time.monotonic() + 2
    while True:
        os.close(os.open(f"{{folder}}/.uv-mutex/lock.lease", os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        if time.monotonic() > until:
            break
        os.unlink(f"{{folder}}/.uv-mutex/lock.lease")
write("done")
"""


def is_seen(pair: Sequence[NfsHost], number: int, what: str, how: str) -> bool:
    """Whether one host sees in a new folder all that the other has made there."""
    library = str(Shim(Path(pair[0].prefix)).library)
    python = [os.path.realpath(sys.executable), "-ISc"]
    folder = f"folder-{number}"
    pair[0].ask("mkdir", "-p", pair[0].path(f"{folder}/.uv-mutex"))
    pair[0].ask("touch", pair[0].path(f"{folder}.state"))
    making, looking = (
        host.start([*python, program, library, host.path(folder), what, how], PLAIN)
        for host, program in zip(pair, (_MAKE, _LOOK), strict=True)
    )
    for each in (making, looking):
        out, errors = each.communicate(timeout=120)
        assert each.returncode == 0, errors.decode()
    found = out.decode().strip()
    print(found)
    return found == {"files": str(FILES), "marker": "True"}[what]


@over(NFS_3, NFS_4)
def test_the_records_of_another_host(pair: Sequence[NfsHost]) -> None:
    assert all(is_seen(pair, number, "files", "shim") for number in range(ROUNDS))


@over(NFS_3)
def test_control_records(pair: Sequence[NfsHost]) -> None:
    assert not all(is_seen(pair, number, "files", "control") for number in range(CONTROL_ROUNDS))


@over(NFS_3_NOLOCK)
def test_the_lease_of_another_host(pair: Sequence[NfsHost]) -> None:
    assert all(is_seen(pair, number, "marker", "shim") for number in range(ROUNDS))


@over(NFS_3_NOLOCK)
def test_control_lease(pair: Sequence[NfsHost]) -> None:
    assert not all(is_seen(pair, number, "marker", "control") for number in range(CONTROL_ROUNDS))
