"""The quick starts of README.md and hooks/README.md, done as they stand there.

Those that need a machine or containers are in tests/cluster: test_new_machine.py, test_readme_images.py, test_ray.py.
The worker is in test_worker.py.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]
from support import need, readme, release
from support.herd import explain, failures, herd, read_log
from support.index import LocalIndex
from support.project import Project, run
from support.uvs import PINNED_NEWEST, uv
from support.wheels import make_wheel

#: What README calls work.py: says which uv the things below it would find.
_WORK = "import shutil, sys\nprint('works', *sys.argv[1:], shutil.which('uv'))\n"


def test_github_actions(project_factory: Callable[..., Project], index: LocalIndex, tmp_path: Path) -> None:
    """Each step is a shell of its own, and what an earlier one wrote to GITHUB_PATH comes first on its PATH."""
    release.publish(index.folder)
    project = project_factory()
    (project.root / "work.py").write_text(_WORK)
    steps = yaml.safe_load(readme.blocks("GitHub Actions")[0])
    assert steps.pop(0)["uses"].startswith("astral-sh/setup-uv@")  # which puts these two on PATH
    env = project.env("newest", shimmed=False, UV_DEFAULT_INDEX=index.url, UV_MUTEX_LOG=str(tmp_path / "log"))
    env["PATH"] = f"{env['HOME']}/.local/bin:{env['PATH']}"
    env["GITHUB_PATH"] = str(tmp_path / "github-path")
    Path(env["GITHUB_PATH"]).touch()
    said = []
    for step in steps:
        added = Path(env["GITHUB_PATH"]).read_text().splitlines()
        path = ":".join([*reversed(added), env["PATH"]])
        script = f"{step['run']}\ncommand -v uv"
        done = run(project, [need.executable("bash"), "-ec", script], {**env, "PATH": path})
        assert done.returncode == 0, done.stderr.decode()
        said.append(done.stdout.decode().splitlines())
    shim = f"{env['HOME']}/.local/share/uv-mutex/bin/uv"
    assert [lines[-1] for lines in said] == [str(uv("newest")), shim]
    assert said[1][0] == f"works {shim}"
    assert [line["command"] for line in read_log(tmp_path / "log")] == ["uv run python work.py"]


#: What a program that works in a checkout does.
_AGENT = """\
import subprocess, sys
for name in sys.argv[1:]:
    subprocess.run(["uv", "add", "-q", name], check=True)
    subprocess.run(["uv", "run", "-q", "python", "-c", f"import {name}"], check=True)
"""


@pytest.mark.parametrize("shimmed", [True, False], ids=["shim", "control"])
@pytest.mark.usefixtures("shim")
def test_agents_in_one_checkout(
    shimmed: bool, project_factory: Callable[..., Project], index: LocalIndex, tmp_path: Path
) -> None:
    names = [f"package{number}" for number in range(8)]
    for name in names:
        make_wheel(index.folder, name)
    project = project_factory()
    assert project.shim is not None
    (tmp_path / "agent.py").write_text(_AGENT)
    env = project.env("newest" if shimmed else PINNED_NEWEST, shimmed=False, UV_MUTEX_LOG=str(tmp_path / "log"))
    prefix = Path(env["HOME"], ".local/share/uv-mutex")
    prefix.parent.mkdir(parents=True)
    prefix.symlink_to(project.shim().prefix)
    assignment = readme.command('PATH="$HOME/') if shimmed else ""
    agents = [
        ["sh", "-c", f'{assignment} {sys.executable} {tmp_path}/agent.py "$@"', "-", *names[at::4]] for at in range(4)
    ]
    outcomes = herd(agents, env=env, cwd=project.root)
    kept = re.findall(r'^    "(package\d)>=1.0",$', project.pyproject.read_text(), re.MULTILINE)
    if shimmed:
        assert not failures(outcomes), explain(outcomes)
        assert sorted(kept) == names
        assert len(read_log(tmp_path / "log")) == 2 * len(names)
    else:
        assert failures(outcomes) or sorted(kept) != names
