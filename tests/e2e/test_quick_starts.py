"""The quick starts of README.md and hooks/README.md, done as they stand there.

The Dockerfile, the devcontainer and the Job are in cluster/test_containers.py; the worker is in test_worker.py, and Ray
in cluster/test_ray.py.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]
from support import need, readme, release
from support.debian import Machine, booted, machine
from support.herd import explain, failures, herd, read_log
from support.index import LocalIndex
from support.project import Project, run
from support.uvs import PINNED_NEWEST, uv
from support.wheels import make_wheel

#: What README calls work.py: says which uv the things below it would find.
_WORK = "import shutil, sys\nprint('works', *sys.argv[1:], shutil.which('uv'))\n"
_TOML = '[project]\nname = "demo"\nversion = "0"\nrequires-python = ">=3.10"\n'


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


@pytest.fixture
def debian(tmp_path: Path) -> Iterator[Machine]:
    """A machine with a user `app`, whose project is /srv/project, a real uv, and the shim in /opt/uv-mutex.

    The worker was undone but for the prefix: nothing puts the shim on PATH.
    """
    with machine(tmp_path / "machine") as made:
        assert made.run(["useradd", "--create-home", "app"]).returncode == 0
        for name, text in {"pyproject.toml": _TOML, "work.py": _WORK}.items():
            made.write(f"/srv/project/{name}", text, user="app")
        made.copy(uv("newest"), "/usr/local/bin/uv")
        (tmp_path / "wheels").mkdir()
        release.publish(tmp_path / "wheels")
        made.copy(tmp_path / "wheels", "/wheels")
        made.run(["python3", "-m", "venv", "/venv"])
        install = "/venv/bin/pip install -q --no-index --find-links /wheels uv-mutex && /venv/bin/uv-mutex install"
        done = made.run(["sh", "-ec", f"{install} --prefix /opt/uv-mutex"])
        assert done.returncode == 0, done.stderr
        yield made


@pytest.mark.timeout(900)  # the first one makes the Debian
def test_cron_and_systemd(debian: Machine) -> None:
    crontab, unit = readme.blocks("cron, systemd, Kubernetes", file="hooks/README.md")[:2]
    assert readme.command("PATH=/opt") in crontab
    assert readme.command("PATH=/opt") in unit
    assert readme.command("ExecStart=").rstrip("… ") in unit
    # cron reads `NAME=VALUE` lines, and hands the rest of the others to sh.
    assignment, job = crontab.splitlines()
    name, _, value = assignment.partition("=")
    env = {"HOME": "/home/app", "LOGNAME": "app", "SHELL": "/bin/sh", name: value, "UV_MUTEX_LOG": "/srv/project/log"}
    done = debian.run(["sh", "-c", job.split(maxsplit=5)[5]], user="app", env=env)
    assert (done.returncode, done.stdout) == (0, "works /opt/uv-mutex/bin/uv\n"), done.stderr
    assert len(read_log(debian.path("/srv/project/log"))) == 1
    debian.write("/etc/systemd/system/work.service", unit)
    debian.write("/etc/systemd/system/past.service", unit.replace("ExecStart=/opt/uv-mutex/bin/uv", "ExecStart=uv"))
    done = debian.run(["systemd-analyze", "verify", "/etc/systemd/system/work.service"])
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    with booted(debian) as system:
        system.run(["systemctl", "set-environment", "UV_MUTEX_LOG=/srv/project/log"])
        for service, guarded in (("work", 2), ("past", 2)):  # the control goes past the shim, as README says
            done = system.run(["systemctl", "start", service])
            system.run(["journalctl", "--sync"])
            journal = system.run(["journalctl", "--unit", service, "--output=cat"]).stdout
            assert done.returncode == 0, journal
            assert "works /opt/uv-mutex/bin/uv\n" in journal
            assert len(read_log(debian.path("/srv/project/log"))) == guarded
