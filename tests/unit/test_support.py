"""The ground that the other tests stand on holds."""

from __future__ import annotations

import json
import os
import subprocess
from collections import Counter
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from support import need
from support.herd import read_log
from support.index import LocalIndex
from support.wheels import make_sdist, make_wheel, slow_backend


def test_archives_are_the_same_every_time(tmp_path: Path) -> None:
    first, second = (
        [
            make_wheel(tmp_path / folder, "big", files=30, requires=["small"], scripts=["big"]).read_bytes(),
            make_sdist(tmp_path / folder, "slow", backend_source=slow_backend(1)).read_bytes(),
        ]
        for folder in ("a", "b")
    )
    assert first == second


def test_index_counts_whole_and_partial_gets_apart(index: LocalIndex) -> None:
    content = make_wheel(index.folder, "alpha").read_bytes()
    url = index.url.replace("/simple/", "/files/alpha-1.0-py3-none-any.whl")
    assert urlopen(url).read() == content
    urlopen(Request(url, headers={"Range": "bytes=0-9"})).close()
    urlopen(Request(url, method="HEAD")).close()
    assert b"Name: alpha" in urlopen(f"{url}.metadata").read()
    assert b'href="/files/alpha-1.0-py3-none-any.whl#sha256=' in urlopen(f"{index.url}alpha/").read()
    assert index.downloads == index.ranges == Counter({"alpha-1.0-py3-none-any.whl": 1})
    index.reset()
    assert not index.downloads
    assert not index.requests


def test_read_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert read_log(log) == []
    log.write_text(json.dumps({"command": "sync"}) + "\n" + json.dumps({"command": "run"}) + "\n")
    assert [line["command"] for line in read_log(log)] == ["sync", "run"]


def test_need_fails_on_ci_and_skips_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    assert need.executable("sh").endswith("/sh")
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="needs no-such-tool"):
        need.executable("no-such-tool")
    monkeypatch.setattr(os, "openpty", lambda: os.open("/nowhere", os.O_RDONLY))
    with pytest.raises(pytest.skip.Exception, match="needs a pseudo-terminal"):
        need.terminal()
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="CI must not skip"):
        need.executable("no-such-tool")


@pytest.mark.parametrize("start", ["os.fork()", "os.system('true')", "subprocess.run(['true'])"])
def test_a_unit_test_cannot_start_a_process(start: str) -> None:
    with pytest.raises(pytest.fail.Exception, match="starts no process"):
        eval(start, {"os": os, "subprocess": subprocess})
