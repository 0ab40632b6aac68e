"""How many round trips to a file server a call adds over NFS, as the client's kernel counts them."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from support.nfs import NfsHost

#: Runs in the client. Prints, for each PATH, the operations of a call, by name: each the median of some calls, since
#: attributes that time out just then add ten to one of them. NFSv3 locks by another protocol, which is not counted.
_COUNT = r"""
import json, os, statistics, subprocess, sys
mount, rounds, remembered, *paths = sys.argv[1:]
def operations():
    found, is_here = {}, False
    with open("/proc/self/mountstats") as file:
        for line in file:
            name, _, numbers = line.strip().partition(":")
            if line.startswith("device "):
                is_here = f" mounted on {mount} with " in line
            elif is_here and name.isupper() and numbers:
                found[name] = int(numbers.split()[0])
    return found
def count():
    if remembered == "nothing":
        with open("/proc/sys/vm/drop_caches", "w") as file:
            file.write("3")
    before = operations()
    subprocess.run(["uv", "run", "--quiet", "true"], env={**os.environ, "PATH": path}, check=True)
    return {name: number - before.get(name, 0) for name, number in operations().items()}
medians = []
for path in paths:
    for _ in range(2):
        count()
    counted = [count() for _ in range(int(rounds))]
    medians.append({name: statistics.median(each.get(name, 0) for each in counted) for name in counted[-1]})
print(json.dumps(medians))
"""


def added(host: NfsHost, project: str, *, rounds: int, remembers: bool) -> dict[str, float]:
    """The operations that a fresh `uv run` by the shim adds to those of bare uv, by name.

    :param project: its name on the shared folder.
    :param remembers: whether the client still has in memory what the call before read.
    """
    shimmed, bare = (host.env("newest", shimmed=shimmed) for shimmed in (True, False))
    for env in (shimmed, bare):
        del env["UV_MUTEX_LOG"], env["UV_MUTEX_LOG_ARGS"]
    for _ in range(2):
        done = host.run(["uv", "run", "true"], shimmed, project)
        assert done.returncode == 0, done.stderr.decode()
    mount = str(Path(host.mount).parent)
    words = [os.path.realpath(sys.executable), "-ISc", _COUNT, mount, str(rounds), "all" if remembers else "nothing"]
    done = host.run([*words, bare["PATH"], shimmed["PATH"]], bare, project)
    assert done.returncode == 0, done.stderr.decode()
    of_bare, of_shim = json.loads(done.stdout)
    differences = {name: number - of_bare.get(name, 0) for name, number in of_shim.items()}
    return {name: number for name, number in differences.items() if number}
