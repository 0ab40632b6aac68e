"""A fresh `uv run` over NFS asks the server little, since every question is a round trip."""

from __future__ import annotations

from collections.abc import Sequence

from cluster.conftest import NFS_3, NFS_4, over_nfs
from support.host import project_on
from support.index import LocalIndex
from support.nfs import NfsHost
from support.round_trips import added
from support.wheels import make_wheel

pytestmark = over_nfs

#: 5 were counted over NFSv4.2, and 8 over NFSv3. Attributes that time out in a slow kernel add a few.
MOST = {NFS_4: 9, NFS_3: 11}


def test_a_fresh_run_asks_little(pair: Sequence[NfsHost], index: LocalIndex, file_system: str) -> None:
    names = [f"pkg-{number}" for number in range(10)]
    for name in names:
        make_wheel(index.folder, name)
    project = project_on(pair[0], "demo", dependencies=names, index_url=index.url)
    operations = added(pair[0], project, rounds=5, remembers=True)
    print(operations)
    assert sum(operations.values()) <= MOST[file_system]
    # What the client has in memory, and nobody has changed, is not read again: neither by the shim nor by uv after it.
    assert not any(name.startswith("READ") for name in operations)
