"""A Slurm cluster of two nodes on this machine, and a user of it.

Debian's own programs, with their usual paths, in a root folder of their own: like this machine's, but with /shared,
which a cluster's nodes share, and /local, the disk of a node. All run in one PID namespace: no job outlives the test.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import filelock

from support import need
from support.namespaces import Namespaces, NoWire
from support.terminal import wait_until
from support.users import ALICE, GROUP, SOURCES, everybodys_python
from support.uvs import uv

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged", "pivot_root", "setpriv", "unshare", "nsenter", "ip")
_SYSTEM_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"

# The last program stays in the foreground, so that what fails before it is told from what goes on. Slurm asks for
# addresses of kinds that the machine has beside loopback's.
_START = f"""\
set -e
cd "$0"
mount -t tmpfs -o mode=755 none root
for entry in /*; do
    if [ -L "$entry" ]; then
        cp -P "$entry" "root$entry"
    elif [ -d "$entry" ]; then
        mkdir "root$entry"
        mount --rbind "$entry" "root$entry"
    fi
done
for name in shared local; do
    mkdir -p "root/$name"
    mount --bind "$name" "root/$name"
done
for name in passwd group hosts; do
    mount --bind "$name" "root/etc/$name"
done
mount --bind slurm root/etc/slurm
for name in run etc/munge var/log/munge var/lib/munge; do
    mount -t tmpfs -o mode=755 none "root/$name"
done
mkdir root/run/munge root/run/slurm
chown munge:munge root/etc/munge root/run/munge root/var/log/munge root/var/lib/munge
cd root
mkdir old
pivot_root . old
umount -l old
cd /
ip addr add 10.213.0.1/32 dev lo
(umask 077 && head -c 1024 /dev/urandom >/etc/munge/munge.key)
chown munge:munge /etc/munge/munge.key
export PATH={_SYSTEM_PATH}
setpriv --reuid=munge --regid=munge --clear-groups munged
slurmctld
slurmd -N n1
exec slurmd -D -N n2
"""

# Whatever is short here is so that tests are: KillWait is 30 s by default, and a requeued job waits 120 s. Messages may
# take long, as a hundred jobs keep the machine busy.
_CONFIGURATION = """\
ClusterName=tests
SlurmctldHost=cluster(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
TaskProlog=/etc/slurm/task-prolog
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/builtin
SchedulerParameters=batch_sched_delay=0,sched_interval=1
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=2
MessageTimeout=100
MinJobAge=3600
MpiDefault=none
StateSaveLocation=/run/slurm/state
SlurmdSpoolDir=/run/slurm/%n
SlurmdPidFile=/run/slurm/%n.pid
SlurmctldLogFile=/run/slurm/controller.log
SlurmdLogFile=/run/slurm/%n.log
NodeName=n1 NodeHostname=cluster NodeAddr=127.0.0.1 Port=17001 CPUs=60
NodeName=n2 NodeHostname=cluster NodeAddr=127.0.0.1 Port=17002 CPUs=60
PartitionName=main Nodes=n1,n2 Default=YES State=UP
"""

# As many sites do: a temporary folder for each job.
_TASK_PROLOG = """\
#!/bin/sh
mkdir -p "/local/tmp/$SLURM_JOB_ID"
echo "export TMPDIR=/local/tmp/$SLURM_JOB_ID"
"""


class SlurmCluster(Namespaces):
    """The cluster. `shared` is where its /shared can be reached from here. It ends with `close`."""

    home = "/shared/alice"

    def __init__(self, folder: Path) -> None:
        """:param folder: for all that belongs to it."""
        need.root()
        for name in PROGRAMS:
            need.executable(name)
        self.shared = folder / "shared"
        for name in ("root", "shared/alice", "local/tmp", "slurm"):
            (folder / name).mkdir(parents=True)
        for name in ("local", "local/tmp"):
            (folder / name).chmod(0o1777)
        os.chown(folder / "shared/alice", ALICE, GROUP)
        user = {"passwd": f"alice:x:{ALICE}:{GROUP}::{self.home}:/bin/bash", "group": f"alice:x:{GROUP}:"}
        for name, line in user.items():
            (folder / name).write_text(Path("/etc", name).read_text() + line + "\n")
        (folder / "hosts").write_text("127.0.0.1 localhost cluster\n")
        (folder / "slurm/slurm.conf").write_text(_CONFIGURATION)
        (folder / "slurm/task-prolog").write_text(_TASK_PROLOG)
        (folder / "slurm/task-prolog").chmod(0o755)
        command = ["sh", "-c", _START, str(folder)]
        super().__init__("cluster", command, log=folder / "log", mount="/shared", network=NoWire())
        try:
            self._python = everybodys_python()
            wait_until(lambda: "2 idle" in self._as_root("sinfo", "-h", "-o", "%D %t"), 120, self._last_words)
            paths = f"{SOURCES}:{Path(filelock.__file__).parents[1]}"
            install = [self._python, "-m", "uv_mutex", "install", "--prefix", "/shared/uv-mutex"]
            self._as_root("env", f"PYTHONPATH={paths}", *install)
        except BaseException:
            self.close()
            raise

    def _as_root(self, *words: str) -> str:
        env = {"PATH": _SYSTEM_PATH, "HOME": "/run"}
        done = subprocess.run(self.enter(words, env=env), capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    def _last_words(self) -> str:
        logs = self._as_root("sh", "-c", "sinfo; tail -n 20 /run/slurm/*.log")
        return f"Slurm does not start:\n{logs}"

    def env(self, uv_version: str, **extra: str) -> dict[str, str]:
        """The environment block of the user's shell on the login node, with a real uv first on PATH."""
        folder = self.shared / f"uv-{uv_version}"
        if not folder.exists():
            folder.mkdir()
            (folder / "uv").write_bytes(uv(uv_version).read_bytes())
            (folder / "uv").chmod(0o755)
        return {
            "PATH": f"/shared/uv-{uv_version}:/usr/bin:/bin",
            "HOME": self.home,
            "USER": "alice",
            "UV_PYTHON": self._python,
            "UV_PYTHON_DOWNLOADS": "never",
            **extra,
        }

    def run(self, words: Sequence[str], env: Mapping[str, str], cwd: str) -> str:
        """Run a command as the user; return what it prints. Raises AssertionError if it fails."""
        user = ["setpriv", f"--reuid={ALICE}", f"--regid={GROUP}", "--clear-groups"]
        command = self.enter([*user, *words], env=env, cwd=cwd)
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def submit(self, script: str, *options: str, env: Mapping[str, str], cwd: str) -> str:
        """Call sbatch in a folder; return the number of the job."""
        return self.run(["sbatch", "--parsable", *options, script], env, cwd).strip()

    def jobs(self, job: str) -> list[dict[str, str]]:
        """What Slurm says of a job, or of each job of an array: JobState, ExitCode and so on."""
        said = self._as_root("scontrol", "show", "job", "--oneliner", job)
        lines = [line for line in said.splitlines() if line.startswith("JobId=")]
        assert lines, said
        return [dict(re.findall(r"(\w+)=(\S*)", line)) for line in lines]

    def states(self, job: str) -> list[str]:
        """The state of a job, or of each job of an array."""
        return [each["JobState"] for each in self.jobs(job)]

    def wait(self, job: str, timeout: float = 400) -> list[str]:
        """Wait until a job is over, each one of an array; return their states."""
        deadline = time.monotonic() + timeout
        while self._as_root("squeue", "--noheader", f"--job={job}").strip():
            assert time.monotonic() < deadline, self._as_root("squeue")
            time.sleep(0.2)
        return self.states(job)

    def control(self, *words: str) -> None:
        """Call scancel, scontrol or the like, as the administrator."""
        said = self._as_root(*words)
        assert "error" not in said, said
