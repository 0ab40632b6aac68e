"""The parts of tests/support that start processes do what the other tests expect."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.herd import explain, failures, herd
from support.index import LocalIndex
from support.project import Project, run
from support.uvs import numeric_version, uv
from support.wheels import make_sdist, make_wheel, slow_backend

two_versions = pytest.mark.parametrize("uv_version", ["0.7.8", "newest"])


def test_index_survives_a_crowd(index: LocalIndex, tmp_path: Path) -> None:
    make_wheel(index.folder, "alpha")
    url = index.url.replace("/simple/", "/files/alpha-1.0-py3-none-any.whl")
    program = (
        "import sys, threading, urllib.request\n"
        "got = []\n"
        "def get(): got.append(urllib.request.urlopen(sys.argv[1]).status)\n"
        "threads = [threading.Thread(target=get) for _ in range(200)]\n"
        "[thread.start() for thread in threads]; [thread.join() for thread in threads]\n"
        "sys.exit(got != [200] * 200)\n"
    )
    outcomes = herd([[sys.executable, "-c", program, url]] * 2, env={}, cwd=tmp_path, timeout=60)
    assert not failures(outcomes), explain(outcomes)
    assert index.downloads.total() == 400


@two_versions
def test_sync_fetches_every_file_once(
    uv_version: str, index: LocalIndex, project_factory: Callable[..., Project]
) -> None:
    wheels = [
        make_wheel(index.folder, "alpha", requires=["beta>=1"], scripts=["say-alpha"]),
        make_wheel(index.folder, "beta", "1.2"),
        make_wheel(index.folder, "gamma.ray", payload_bytes=3_000_000),
    ]
    project = project_factory(dependencies=["alpha", "gamma-ray"])
    env = project.env(uv_version, shimmed=False)
    done = run(project, ["uv", "sync"], env)
    assert done.returncode == 0, done.stderr.decode()
    assert index.downloads == {wheel.name: 1 for wheel in wheels}
    assert not index.ranges
    words = ["uv", "run", "python", "-c", "import alpha, beta, gamma_ray as g; g.check(); alpha.main()"]
    assert run(project, words, env).stdout == b"alpha 1.0 1\n"
    assert run(project, ["uv", "run", "say-alpha"], env).stdout == b"alpha 1.0 1\n"
    shutil.rmtree(project.venv)
    assert run(project, ["uv", "sync"], env).returncode == 0
    assert index.downloads == {wheel.name: 1 for wheel in wheels}


def test_big_wheel_installs_whole(index: LocalIndex, project_factory: Callable[..., Project]) -> None:
    make_wheel(index.folder, "big", files=3000)
    project = project_factory(dependencies=["big"])
    env = project.env("newest", shimmed=False)
    done = run(project, ["uv", "run", "python", "-c", "import big, big.m2999 as m; big.check(); print(m.VALUE)"], env)
    assert (done.returncode, done.stdout) == (0, b"2999\n"), done.stderr.decode()
    next(project.venv.glob("lib/*/site-packages/big/m1500.py")).unlink()
    done = run(project, ["uv", "run", "python", "-c", "import big; big.check()"], env)
    assert b"m1500.py" in done.stderr


@two_versions
def test_slow_sdist_builds(
    uv_version: str, index: LocalIndex, project_factory: Callable[..., Project], tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    backend = slow_backend(0.2, f"with open({str(journal)!r}, 'a') as file:\n    print(name, version, file=file)")
    sdist = make_sdist(index.folder, "slow-thing", "2.0", backend_source=backend, requires=["alpha"])
    make_wheel(index.folder, "alpha")
    project = project_factory(name="outer", dependencies=["slow-thing"], backend_source=backend)
    env = project.env(uv_version, shimmed=False)
    done = run(project, ["uv", "lock"], env)
    assert done.returncode == 0, done.stderr.decode()
    assert not journal.exists()
    done = run(project, ["uv", "sync"], env)
    assert done.returncode == 0, done.stderr.decode()
    assert sorted(journal.read_text().splitlines()) == ["outer 0.1.0", "slow-thing 2.0"]
    assert index.downloads[sdist.name] == 1
    done = run(
        project, ["uv", "run", "python", "-c", "import outer, alpha, slow_thing; print(slow_thing.VERSION)"], env
    )
    assert done.stdout == b"2.0\n", done.stderr.decode()
    assert len(journal.read_text().splitlines()) == 2


@two_versions
def test_real_uv_stands_alone_in_its_folder(uv_version: str) -> None:
    binary = uv(uv_version)
    assert [item.name for item in binary.parent.iterdir()] == ["uv"]
    assert numeric_version(uv_version)[0].isdigit()
    assert uv_version in (numeric_version(uv_version), "newest")


def test_environment_is_clean(project_factory: Callable[..., Project], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIRTUAL_ENV", "/somewhere")
    monkeypatch.setenv("UV_NO_CONFIG", "1")
    env = project_factory().env("0.7.8", shimmed=False, UV_OFFLINE="1")
    assert set(env) == {"PATH", "HOME", "UV_CACHE_DIR", "UV_PYTHON", "UV_PYTHON_DOWNLOADS", "UV_OFFLINE"}


def test_herd_reports_each_call(tmp_path: Path) -> None:
    good = ["sh", "-c", "sleep 1; echo out"]
    bad = ["sh", "-c", "echo sorry >&2; exit 3"]
    killed = ["sh", "-c", "kill -9 $$"]
    outcomes = herd([good, bad, bad, killed], env={"PATH": "/usr/bin:/bin"}, cwd=tmp_path)
    assert [outcome.returncode for outcome in outcomes] == [0, 3, 3, -9]
    assert outcomes[0].stdout == b"out\n"
    assert outcomes[0].end - outcomes[0].start >= 1
    assert min(outcome.end for outcome in outcomes[1:]) < outcomes[0].end
    assert failures(outcomes) == outcomes[1:]
    text = explain(outcomes)
    assert text.startswith("3 of 4 failed\n--- 2 x exit 3: ")
    assert "sorry" in text


def test_herd_kills_what_takes_too_long(tmp_path: Path) -> None:
    commands = [["sh", "-c", "echo hello >&2; sleep 60"], ["true"]]
    said = []
    for timeout in (0.3, 5, 20):  # on a busy machine the two may not have got so far
        with pytest.raises(AssertionError) as caught:
            herd(commands, env={"PATH": "/bin"}, cwd=tmp_path, timeout=timeout)
        said.append(str(caught.value))
        if re.match(rf"1 of 2 still running after {timeout} s[^$]*hello", said[-1]):
            return
    pytest.fail("\n".join(said))
