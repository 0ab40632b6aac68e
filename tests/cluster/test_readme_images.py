"""README's Dockerfile and devcontainer, and the Job of hooks/README.md: built and run as they stand there.

There is no registry here, so python:3.13-slim is a Debian with a Python and a pip of its own in /usr/local, which is
first on its PATH as in the official image.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from support import need, readme, release
from support.debian import DOCKER_PATH, machine
from support.herd import explain, failures, herd, read_log
from support.images import Storage, slim
from support.index import LocalIndex
from support.uvs import PINNED_NEWEST, uv
from support.wheels import make_wheel, project_table

pytestmark = [pytest.mark.serial, pytest.mark.timeout(900)]

#: The PATH of the official images of Python.
_PATH = f"/usr/local/bin:{DOCKER_PATH}"
_WORK = "import shutil, sys, only_here\nonly_here.check()\nprint('works', *sys.argv[1:], shutil.which('uv'))\n"
_SHIM = "/opt/uv-mutex/bin/uv"


@dataclass(frozen=True)
class World:
    """A storage with README's images, and what a project in them needs."""

    storage: Storage
    index: LocalIndex

    def write_project(self, folder: Path) -> None:
        """A project with a dependency and a work.py."""
        folder.mkdir(exist_ok=True)
        (folder / "pyproject.toml").write_text(project_table("demo", "0.1.0", ["only-here"]))
        (folder / "work.py").write_text(_WORK)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Images python:3.13-slim, python:3.13 and astral/uv. Their PyPI is an index of the tests."""
    need.root()
    folder = tmp_path_factory.mktemp("containers")
    storage = Storage(folder / "storage")
    with LocalIndex(folder / "index") as index:
        release.publish(index.folder)
        make_wheel(index.folder, "only-here", files=200, data_files=200)
        try:
            with machine(folder / "machine") as debian:
                slim(debian.root)
                assert debian.run(["userdel", "--remove", "joe"]).returncode == 0
                done = debian.run(["python3", "-m", "venv", "--copies", "/usr/local"])
                assert done.returncode == 0, done.stdout + done.stderr
                indexes = {"PIP_INDEX_URL": index.url, "UV_DEFAULT_INDEX": index.url}
                storage.image("python:3.13-slim", debian.root, PATH=_PATH, **indexes)
            storage.run("tag", "localhost/python:3.13-slim", "localhost/python:3.13")
            (folder / "uv").mkdir()
            for name in ("uv", "uvx"):
                shutil.copy(uv(PINNED_NEWEST), folder / "uv" / name)
            storage.image("astral/uv:latest", folder / "uv")
            yield World(storage, index)
        finally:
            storage.remove()


@pytest.fixture(scope="module")
def image(world: World, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of the image of README's Dockerfile, which lies in a project."""
    context = tmp_path_factory.mktemp("context")
    world.write_project(context)
    (context / "Dockerfile").write_text(_dockerfile())
    done = world.storage.build(context / "Dockerfile", context, "work")
    assert done.returncode == 0, done.stdout + done.stderr
    return "work"


def _dockerfile() -> str:
    (text,) = readme.blocks("A Dockerfile of your own")
    return text


def test_dockerfile(world: World, image: str) -> None:
    command = json.loads(re.findall(r"^CMD (.*)$", _dockerfile(), re.MULTILINE)[0])
    with world.storage.container(image) as container:
        done = world.storage.exec(container, *command, UV_MUTEX_LOG="/home/app/log")
        assert (done.returncode, done.stdout) == (0, f"works {_SHIM}\n"), done.stderr
        root = world.storage.root(container)
        assert len(read_log(root / "home/app/log")) == 1
        assert (root / "home/app/.venv").stat().st_uid == (root / "home/app").stat().st_uid != 0
        for way in (["sh", "-c", "command -v uv"], ["bash", "-ic", "command -v uv"], ["which", "uv"]):
            assert world.storage.exec(container, *way).stdout == f"{_SHIM}\n", way
        assert world.storage.exec(container, "uv-mutex", "doctor").stdout.startswith("protected: ")


def test_devcontainer(world: World, tmp_path: Path) -> None:
    """After postCreateCommand, each process of the editor gets remoteEnv."""
    settings = json.loads(readme.blocks("GitHub Actions")[1])
    world.write_project(tmp_path / "project")
    with world.storage.container(settings["image"]) as container:
        world.storage.run("copy", "--quiet", container, tmp_path / "project", "/project")
        done = world.storage.exec(container, "sh", "-c", settings["postCreateCommand"])
        assert done.returncode == 0, done.stderr
        env = {name: value.replace("${containerEnv:PATH}", _PATH) for name, value in settings["remoteEnv"].items()}
        work = "cd /project && UV_MUTEX_LOG=log uv run python work.py"
        done = world.storage.exec(container, "sh", "-c", work, **env)
        assert (done.returncode, done.stdout) == (0, f"works {_SHIM}\n"), done.stderr
        assert len(read_log(world.storage.root(container) / "project/log")) == 1


#: Starts a pod: namespaces of its own, what it writes in memory, but for the volume.
_POD = """\
mount --make-rprivate / && mount -t tmpfs none /mnt && mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay none -o "lowerdir=$1,upperdir=/mnt/upper,workdir=/mnt/work" /mnt/root && cd /mnt/root
mkdir -p ".$3" && mount --bind "$2" ".$3" && mount -t proc none proc && mount -t tmpfs -o mode=1777 none tmp
mount --bind /dev dev
directory=$3 user=$4
shift 4
exec chroot --userspec="$user:$user" --groups= . /usr/bin/env -i --chdir="$directory" "$@"
"""


def _pods(job: Mapping[str, Any], root: Path, volume: Path, env: Mapping[str, str]) -> list[list[str]]:
    """The commands that start the pods of a Job on the files of its image."""
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    (mount,) = container["volumeMounts"]
    assert mount["name"] in [volume["name"] for volume in pod["volumes"]]
    assert job["spec"]["completions"] == job["spec"]["parallelism"]
    variables = {**env, **{item["name"]: item["value"] for item in container["env"]}}
    start = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-ec", _POD, "-", str(root), str(volume)]
    assert container["workingDir"] == mount["mountPath"]
    start += [mount["mountPath"], str(pod["securityContext"]["runAsUser"])]
    assigned = [f"{name}={value}" for name, value in variables.items()]
    return [
        [*start, *assigned, f"JOB_COMPLETION_INDEX={number}", *container["command"]]
        for number in range(job["spec"]["completions"])
    ]


@pytest.mark.parametrize("shimmed", [True, False], ids=["shim", "control"])
def test_job_of_kubernetes(shimmed: bool, world: World, image: str, tmp_path: Path) -> None:
    """One pod prepares. Without the shim several do, since each has a /tmp of its own, where uv's locks lie."""
    job = yaml.safe_load(readme.blocks("cron, systemd, Kubernetes", file="hooks/README.md")[2])
    need.executable("unshare")
    volume = tmp_path / "volume"
    world.write_project(volume)
    user = job["spec"]["template"]["spec"]["securityContext"]["runAsUser"]
    subprocess.run(["chown", "-R", f"{user}:{user}", volume], check=True)
    # What the image and the runtime set.
    path = f"/opt/uv-mutex/bin:{_PATH}" if shimmed else _PATH
    env = {"PATH": path, "HOME": "/home/app", "UV_DEFAULT_INDEX": world.index.url, "UV_MUTEX_LOG": "log"}
    with world.storage.container(image) as container:
        root = world.storage.root(container)
        assert f"app:x:{user}:" in (root / "etc/passwd").read_text()
        commands = _pods(job, root, volume, env)
        outcomes = herd(commands, env={"PATH": DOCKER_PATH}, cwd=Path("/"))
    prepared = sum(b"Installed 1 package" in outcome.stderr for outcome in outcomes)
    print(f"{prepared} prepared, {len(failures(outcomes))} failed")
    if shimmed:
        assert not failures(outcomes), explain(outcomes)
        said = sorted(int(outcome.stdout.split()[1]) for outcome in outcomes)
        assert said == list(range(job["spec"]["completions"]))
        assert prepared == 1
        assert len(read_log(volume / "log")) == len(outcomes)
    else:
        assert prepared > 1 or failures(outcomes)
