"""The target of `uv run` decides whether it uses the project's environment."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from uv_mutex.uv import run_target
from uv_mutex.uv.commandline import Call, parse

_METADATA = "# /// script\n# dependencies = []\n# ///\nprint(1)\n"


def _run(*words: str) -> Call:
    call = parse(["run", *words], lambda _: "")
    assert call is not None
    return call


def _has_own_environment(call: Call, base: str) -> bool:
    return run_target.inline_script(call, base) is not None


@contextmanager
def _stdin(fd: int) -> Iterator[None]:
    kept = os.dup(0)
    os.dup2(fd, 0)
    try:
        yield
    finally:
        os.dup2(kept, 0)
        os.close(kept)


@pytest.mark.parametrize(
    ("name", "text", "own"),
    [
        ("x.py", _METADATA, True),
        ("X.PY", _METADATA, True),
        ("x.pyw", _METADATA, True),
        ("x.py", "print(1)\n", False),
        ("x.py", "#!/usr/bin/env -S uv run\n\n" + _METADATA, True),
        ("x.py", _METADATA.replace("\n", "\r\n"), True),
        ("x.py", "# /// script", True),  # uv reports the missing end
        ("x.py", "# /// script \n# ///\n", False),
        ("x.py", "# /// scripts\n# ///\n", False),
        ("x.py", " # /// script\n# ///\n", False),
        ("x.py", "x = '# /// script'\n" + _METADATA, False),  # uv looks at the first occurrence only
        ("x.txt", _METADATA, False),
        (".py", _METADATA, False),
        ("x", _METADATA, False),
        ("x.py", "", False),
    ],
)
def test_script(tmp_path: Path, name: str, text: str, own: bool) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / name).write_bytes(text.encode())
    base = str(tmp_path)
    assert _has_own_environment(_run(f"sub/{name}", "x"), base) is own
    assert _has_own_environment(_run(name), base + "/sub") is own
    assert _has_own_environment(_run("--", str(tmp_path / "sub" / name)), "/") is own
    assert not _has_own_environment(_run("python", f"sub/{name}"), base)
    assert not _has_own_environment(_run("-m", f"sub/{name}"), base)
    if own or name != "x.py":
        as_script = _has_own_environment(_run("--script", f"sub/{name}"), base)
        assert as_script is (text == _METADATA or own)


def test_targets_that_are_not_scripts(tmp_path: Path) -> None:
    (tmp_path / "dir.py").mkdir()
    for words in ([], ["missing.py"], ["dir.py"], ["-s", "missing.py"], ["-s", "dir.py"], [""], ["python"]):
        assert not _has_own_environment(_run(*words), str(tmp_path))


def test_url(tmp_path: Path) -> None:
    base = str(tmp_path)
    assert _has_own_environment(_run("https://host/x.py"), base)
    assert _has_own_environment(_run("-m", "http://host/x.py"), base)
    assert not _has_own_environment(_run("httpx://host/x.py"), base)
    (tmp_path / "https:" / "host").mkdir(parents=True)
    (tmp_path / "https:" / "host" / "x.py").touch()
    assert not _has_own_environment(_run("https://host/x.py"), base)


def test_stdin_that_is_a_file_keeps_its_position(tmp_path: Path) -> None:
    (tmp_path / "script").write_text("skipped\n" + _METADATA)
    with (tmp_path / "script").open("rb", buffering=0) as file:
        os.lseek(file.fileno(), len("skipped\n"), os.SEEK_SET)
        with _stdin(file.fileno()):
            assert _has_own_environment(_run("-"), "/")
            assert os.lseek(0, 0, os.SEEK_CUR) == len("skipped\n")
            os.lseek(0, 0, os.SEEK_END)
            assert not _has_own_environment(_run("-"), "/")
            assert _has_own_environment(_run("-m", "-"), "/")


def test_stdin_that_is_a_pipe_is_not_read() -> None:
    reader, writer = os.pipe()
    os.write(writer, _METADATA.encode())
    os.close(writer)
    with _stdin(reader):
        assert not _has_own_environment(_run("-"), "/")
        assert os.read(0, 1000) == _METADATA.encode()
    os.close(reader)


def test_a_script_that_is_a_pipe_is_not_read(tmp_path: Path) -> None:
    """As in `uv run -s <(generate)`."""
    reader, writer = os.pipe()
    os.write(writer, _METADATA.encode())
    os.close(writer)
    assert not _has_own_environment(_run("-s", f"/dev/fd/{reader}"), "/")
    assert run_target.folder(_run("-s", f"/dev/fd/{reader}"), "/") == "/dev/fd"
    assert run_target.folder(_run(f"/dev/fd/{reader}"), "/") is None
    assert os.read(reader, 1000) == _METADATA.encode()
    os.close(reader)
    os.mkfifo(tmp_path / "fifo.py")
    assert not _has_own_environment(_run("-s", "fifo.py"), str(tmp_path))  # and the call does not block


def test_folder(tmp_path: Path) -> None:
    base = str(tmp_path)
    for path in ("s/x.py", "s/x", "s/m/__main__.py"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch()
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("__main__.py", "")
    (tmp_path / "s" / "z").write_bytes(content.getvalue())
    there = f"{base}/s"
    assert run_target.folder(_run("s/x.py"), base) == there
    assert run_target.folder(_run("-s", "s/x"), base) == there
    assert run_target.folder(_run("s/m"), base) == there
    assert run_target.folder(_run("s/m/"), base) == there
    assert run_target.folder(_run("s/z"), base) == there
    assert run_target.folder(_run(f"{there}/x.py"), "/") == there
    for words in ([], ["x.py"], ["s/x"], ["s"], ["python", "s/x.py"], ["-m", "s/x.py"], ["s/missing.py"]):
        assert run_target.folder(_run(*words), base) is None
