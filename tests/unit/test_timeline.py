"""The log as a picture: whole, legible, and not to be broken by what stands in the log."""

from __future__ import annotations

import itertools
import json
import math
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from support.timeline import draw, line

from uv_mutex import cli
from uv_mutex.commands.timeline.axis import Axis

_SVG = "{http://www.w3.org/2000/svg}"


def rows(picture: Path) -> list[tuple[str, list[str]]]:
    """Each row of an SVG: what its hover text says, and the classes of its parts."""
    root = ET.parse(picture).getroot()
    found = []
    for row in root.iter(f"{_SVG}g"):
        title = row.find(f"{_SVG}title")
        assert title is not None
        found.append((title.text or "", [part.get("class", "") for part in row if part is not title]))
    return found


def test_a_row_for_each_call(tmp_path: Path) -> None:
    text = (
        line(time=1_700_000_002.0, waited=1.5, command="uv add <b> & co", exit=1, pid=7)
        + line(prepared=True, held=2.0)
        + line(time=1_700_000_003.0, exit=0, host="node-2", waited=0.5)
    )
    picture = draw(tmp_path, text)
    assert rows(picture) == [
        (
            "uv run true\nnode-1, pid 4121, /p\nwaited 0 s, prepared and held 2 s, uv goes on without the lock",
            ["prepared", "went"],
        ),
        ("uv add <b> & co\nnode-1, pid 7, /p\nwaited 1.5 s, held 10 ms, exit 1", ["waited", "held", "failed"]),
        ("uv run true\nnode-2, pid 4121, /p\nwaited 500 ms, held 10 ms, exit 0", ["waited", "held"]),
    ]
    svg = picture.read_text()
    assert "3 calls on 2 hosts, 1 prepared, 1 failed, longest wait 1.5 s, 3.26 s in all" in svg
    for words in ("waited for the lock", "held it and prepared", "uv goes on without it", "failed", "node-2", "1 s"):
        assert f">{words}" in svg
    assert "prefers-color-scheme: dark" in svg


def test_several_logs(tmp_path: Path) -> None:
    for host in ("a", "b"):
        (tmp_path / host).write_text(line(host=host) * 3)
    output = tmp_path / "out"
    assert cli.main(["timeline", str(tmp_path / "a"), str(tmp_path / "b"), "--output", str(output)]) == 0
    assert len(rows(output)) == 6


def test_a_herd_is_legible(tmp_path: Path) -> None:
    text = "".join(line(time=1_700_000_000 + number / 100, waited=number / 50, pid=number) for number in range(100))
    root = ET.parse(draw(tmp_path, text)).getroot()
    bars = [row.find(f"{_SVG}rect") for row in root.iter(f"{_SVG}g")]
    tops = [float(bar.get("y", "")) for bar in bars if bar is not None]
    assert all(after - before >= 7 for before, after in itertools.pairwise(tops))
    assert float(root.get("viewBox", "").split()[3]) < 1000
    lefts = [float(bar.get("x", "")) for bar in bars if bar is not None]
    assert lefts == sorted(lefts)


def test_pauses_are_left_out(tmp_path: Path) -> None:
    text = "".join(line(time=1_700_000_000 + day * 86400 + number) for day in range(3) for number in range(5))
    svg = draw(tmp_path, text).read_text()
    assert svg.count("nothing for 24 h</text>") == 2
    assert ">+2 s<" in svg
    axis = Axis([(0, 10), (5, 20), (1000, 1010)], 1000)
    assert axis.parts == [(0, 20), (1000, 1010)]
    assert axis.x(0) == 0
    assert axis.x(20) == pytest.approx(2 * (1000 - 36) / 3)
    assert axis.x(1010) == pytest.approx(1000)
    assert axis.x(2000) == 1000


@pytest.mark.parametrize("span", [0.0, 1e-9, 1e-3, 7.0, 1e6, 9e8])
@pytest.mark.parametrize("start", [0.0, 1.7e9, 9e10])
def test_axis_has_some_ticks(span: float, start: float) -> None:
    ticks = list(Axis([(start, start + span)], 1000).ticks())
    assert 1 <= len(ticks) < 30
    assert all(0 <= x <= 1000 and math.isfinite(seconds) for x, seconds, _ in ticks)


_BROKEN = [
    "",
    "not JSON",
    "[]",
    "null",
    "7",
    "{}",
    "[" * 100_000,
    line(time=float("nan")),
    line(waited=float("inf")),
    line(held=-1),
    line(time=1e300),
    line(held=1).replace(": 1,", ": 1" + "0" * 5000 + ","),
    line(pid="4"),
    line(time=True),
    line(host=None),
    line(exit="x"),
    line()[:40],
]


@pytest.mark.parametrize("broken", _BROKEN, ids=range(len(_BROKEN)))
def test_broken_lines_are_passed_over(tmp_path: Path, broken: str, capfd: pytest.CaptureFixture[str]) -> None:
    text = line() + broken.rstrip("\n") + "\n" + line(pid=5)
    assert len(rows(draw(tmp_path, text))) == 2
    assert capfd.readouterr().err == f"uv-mutex: {tmp_path / 'log'}: line 2: not of UV_MUTEX_LOG, passed over\n"


def test_one_warning_for_all_broken_lines(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    draw(tmp_path, (line() + "\n").encode() + b"\xff\x00\n" + line().encode()[:-1])
    expected = f"uv-mutex: {tmp_path / 'log'}: line 2, and 1 more: not of UV_MUTEX_LOG, passed over\n"
    assert capfd.readouterr().err == expected


def test_text_that_is_not_for_xml(tmp_path: Path) -> None:
    odd = "\x00\x1b[2J\ud800\ufffe]]><script>&\n\t" + "x" * 9999
    for words in ([], ["--format", "chrome"]):
        picture = draw(tmp_path, line(command=odd, host=odd, project=odd), *words)
        assert len(picture.read_text()) < 20_000
    assert "?" in rows(draw(tmp_path, line(command=odd)))[0][0]


@pytest.mark.slow
@pytest.mark.parametrize("form", ["svg", "chrome"])
def test_many_lines(tmp_path: Path, form: str) -> None:
    began = time.monotonic()
    text = "".join(line(time=1_700_000_000 + number / 10, pid=number) for number in range(200_000))
    picture = draw(tmp_path, text, "--format", form)
    assert time.monotonic() - began < 60
    if form == "svg":
        assert len(rows(picture)) == 2000
        assert "(198000 earlier calls are left out)" in picture.read_text()
        assert picture.stat().st_size < 3e6


def test_extremes(tmp_path: Path) -> None:
    text = line(time=0, waited=9e8, held=9e8) + line(time=9.9e10, held=0) + line(time=5e-324, held=5e-324)
    picture = draw(tmp_path, text)
    assert len(rows(picture)) == 3
    assert "nan" not in picture.read_text()
    assert "inf" not in picture.read_text()


def test_chrome(tmp_path: Path) -> None:
    text = line(waited=0.5, prepared=True) + line(time=1_700_000_001.0, host="node-2", exit=3)
    trace = json.loads(draw(tmp_path, text, "--format", "chrome").read_text())
    events = trace["traceEvents"]
    assert {event["args"]["name"] for event in events if event["name"] == "process_name"} == {"node-1", "node-2"}
    spans = [(event["name"], event["ts"], event["dur"], event["pid"]) for event in events if event["ph"] == "X"]
    assert spans == [("waited", 0, 500_000, 1), ("prepared", 500_000, 10_000, 1), ("held", 750_000, 10_000, 2)]
    assert [event["name"] for event in events if event["ph"] == "i"] == ["uv goes on", "exit 3"]


def test_what_stands_in_the_way(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log"
    log.write_text(line())
    (tmp_path / "empty").touch()

    def refused(*words: str) -> str:
        assert cli.main(["timeline", *words]) == 2
        return capfd.readouterr().err.removeprefix("uv-mutex: ").rstrip("\n")

    assert refused(str(log), "-o", f"{tmp_path}/../{tmp_path.name}/log") == (
        f"{tmp_path}/../{tmp_path.name}/log is one of the logs, and is left alone; name another file after -o"
    )
    assert log.read_text() == line()
    assert refused(str(tmp_path / "absent"), "-o", str(tmp_path / "out")) == (
        f"cannot read {tmp_path}/absent: No such file or directory; name a file that UV_MUTEX_LOG wrote"
    )
    assert refused(str(tmp_path / "empty"), "-o", str(tmp_path / "out")) == (
        f"no guarded call in {tmp_path}/empty; name files that UV_MUTEX_LOG wrote"
    )
    assert refused(str(log), "-o", f"{tmp_path}/absent/out") == (
        f"cannot write {tmp_path}/absent/out: No such file or directory; name another file after -o"
    )
