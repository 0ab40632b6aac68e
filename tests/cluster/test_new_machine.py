"""README's first command, and its ways into cron and systemd, on a Debian that has python3 and python3-venv."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import readme, release
from support.debian import DOCKER_PATH, Machine, booted, machine
from support.download import machines_variables
from support.herd import read_log
from support.uvs import uv

pytestmark = pytest.mark.timeout(900)  # the first one makes the Debian

#: What README calls work.py: says which uv the things below it would find.
_WORK = "import shutil, sys\nprint('works', *sys.argv[1:], shutil.which('uv'))\n"
_TOML = '[project]\nname = "demo"\nversion = "0"\nrequires-python = ">=3.10"\n'


@pytest.mark.network
def test_first_command(tmp_path: Path) -> None:
    """It needs no C compiler, installs the shim, and shows a herd that is right with it."""
    with machine(tmp_path / "machine") as debian:
        debian.copy(release.copy_sources(tmp_path / "clone"), "/home/joe/clone", user="joe")
        debian.copy(Path("/etc/resolv.conf").resolve(), "/etc/resolv.conf")
        certificates = os.environ.get("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt")
        debian.copy(Path(certificates), "/certificates")
        env = {"HOME": "/home/joe", "USER": "joe", "PATH": DOCKER_PATH, **machines_variables("/certificates")}
        env["SSL_CERT_FILE"] = "/certificates"
        script = f"cd ~/clone && {readme.command('python3 -m venv')} && command -v uv"
        done = debian.run(["bash", "-c", script], user="joe", env=env, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Result: with uv-mutex all calls worked and all packages stayed.\n" in done.stdout
        assert done.stdout.endswith("\n/home/joe/.local/share/uv-mutex/bin/uv\n")


@pytest.fixture
def debian(tmp_path: Path) -> Iterator[Machine]:
    """A machine with a user `app` and its project /srv/project, a uv, and the shim in /opt/uv-mutex, on no PATH."""
    with machine(tmp_path / "machine") as made:
        assert made.run(["useradd", "--create-home", "app"]).returncode == 0
        for name, text in {"pyproject.toml": _TOML, "work.py": _WORK}.items():
            made.write(f"/srv/project/{name}", text, user="app")
        made.copy(uv("newest"), "/usr/local/bin/uv")
        (tmp_path / "wheels").mkdir()
        release.publish(tmp_path / "wheels")
        made.copy(tmp_path / "wheels", "/wheels")
        install = "/venv/bin/pip install -q --no-index --find-links /wheels uv-mutex && /venv/bin/uv-mutex install"
        done = made.run(["sh", "-ec", f"python3 -m venv /venv && {install} --prefix /opt/uv-mutex"])
        assert done.returncode == 0, done.stderr
        yield made


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
