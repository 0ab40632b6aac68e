"""The native launcher decides as Python does, and nothing that it meets makes it crash or let a call pass unguarded."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from support import need
from support.native import SANITIZERS, StubPrefix, call_python, compile_launcher
from support.project import Project, run
from support.shim import LAUNCHERS, Shim, install_shim
from support.uvs import uv

#: The longest string that the kernel takes as a word or a variable.
_LONGEST = 128 * 1024 - 20


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The launcher, compiled so that it ends with an error where it does what C leaves undefined."""
    program = tmp_path_factory.mktemp("checked") / "uv"
    compile_launcher(program, *SANITIZERS)
    return program


@pytest.fixture
def stub(checked: Path, tmp_path: Path) -> StubPrefix:
    """That launcher between two stubs."""
    return StubPrefix(tmp_path, checked)


def one_line(text: bytes) -> str:
    """The one line of an error of ours, not one of a sanitizer."""
    assert text.startswith(b"uv-mutex: "), text[-3000:]
    assert text.endswith(b"\n")
    assert text.count(b"\n") == 1, text[-3000:]
    return text.decode("utf-8", "surrogateescape").rstrip("\n")


# ---------------------------------------------------------------------------------------------- what it decides


@pytest.mark.parametrize("word", ["add", "remove", "run", "sync", "version"])
def test_a_guarded_word_anywhere(word: str, stub: StubPrefix) -> None:
    for words in ([word], ["-q", word], ["--", "x", "", word], ["pip", word, "y"]):
        assert stub.decide(words)
    for words in ([], [""], [f"{word}s"], [word.upper()], [f"--{word}"], [word[:-1]], [f" {word}"], ["--version"]):
        assert not stub.decide(words)


def test_words_arrive_byte_by_byte(stub: StubPrefix) -> None:
    odd: list[str | bytes] = [b"\xff\xfe", "é", "two\nlines", "", "*", "'\"\\", "x" * 100_000, *map(str, range(5000))]
    assert stub.decide(["run", *odd])
    assert not stub.decide(odd)


@pytest.mark.parametrize("value", ["off", "OFF", "oFf", "0", "false", "no", "No"])
def test_switched_off(value: str, stub: StubPrefix) -> None:
    assert not stub.decide(["sync"], UV_MUTEX=value)


@pytest.mark.parametrize("value", ["", "on", "1", "of", "offf", " off", "require", "of\N{LATIN SMALL LIGATURE FF}"])
def test_not_switched_off(value: str, stub: StubPrefix) -> None:
    assert stub.decide(["sync"], UV_MUTEX=value)


def test_further_words_that_the_user_wants_guarded(stub: StubPrefix) -> None:
    """Python reads the list; the launcher leaves each word to it that can stand there."""
    assert stub.decide(["lock"], UV_MUTEX_ALSO="init lock")
    assert not stub.decide(["lock"])
    assert not stub.decide(["tree"], UV_MUTEX_ALSO="init lock")
    assert not stub.decide(["lock"], UV_MUTEX_ALSO="lock", UV_MUTEX="off")


def test_what_the_caller_ignores(stub: StubPrefix) -> None:
    code = "import os, signal, sys; {}; os.execv(sys.argv[1], sys.argv[1:])"
    ways = {
        "SIGPIPE,SIGXFSZ": "pass",  # Python's own start
        "SIGXFSZ": "signal.signal(signal.SIGPIPE, signal.SIG_DFL)",
        "SIGPIPE,": "signal.signal(signal.SIGXFSZ, signal.SIG_DFL)",
        "": "[signal.signal(number, signal.SIG_DFL) for number in (signal.SIGPIPE, signal.SIGXFSZ)]",
    }
    for told, way in ways.items():
        command = [sys.executable, "-c", code.format(way), str(stub.uv), "sync"]
        done = subprocess.run(
            command, env={"PATH": stub.path}, stdout=subprocess.PIPE, check=True, restore_signals=False
        )
        assert done.stdout.split(b"\0")[3] == f"uv_mutex_ignored={told}".encode()


# ---------------------------------------------------------------------------------------------- hostile surroundings

_ODD_ENVIRONMENTS: dict[str, Callable[[Path], dict[str, str | bytes]]] = {
    "nothing": lambda _: {},
    "an empty PATH": lambda _: {"PATH": ""},
    "no folder": lambda _: {"PATH": ":" * _LONGEST},
    "long folders": lambda _: {"PATH": ":".join(["/" + "x" * 4091, "/" + "x" * 4092, "/" + "x" * 4093, "y" * 50_000])},
    "many folders": lambda folder: {"PATH": ":".join([f"{folder}/{number}" for number in range(1500)])},
    "raw bytes": lambda _: {"PATH": b"\xff:\x80\n"},
    "an empty name": lambda _: {"UV_MUTEX_UV": "", "PATH": "/nowhere"},
    "a long name": lambda _: {"UV_MUTEX_UV": "x" * _LONGEST},
    "a name with line ends": lambda _: {"UV_MUTEX_UV": "\n" * 20_000},
    "a name of raw bytes": lambda _: {"UV_MUTEX_UV": b"\xff\xc0\x80\xe2\x82\xed\xa0\x80\xf5\xf0\x9f\x98\x80\xe9 \xc3"},
    "many raw bytes": lambda _: {"UV_MUTEX_UV": b"\xff" * 60_000},
    "a folder": lambda folder: {"UV_MUTEX_UV": str(folder)},
    "a shim of another version": lambda folder: {"PATH": f"{_shim_of(folder, b'uv-mutex front door')}:/nowhere"},
    "a native shim": lambda folder: {"PATH": f"{_shim_of(folder, b'uv-mutex launcher', begins=b'%cELF' % 127)}"},
    "a small program": lambda folder: {
        "PATH": str(_shim_of(folder, b"", begins=b"%cELF" % 127)),
        "UV_MUTEX": "x" * 1000,
    },
    "variables": lambda folder: {**{f"V{number}": "x" * 1000 for number in range(500)}, "PATH": str(folder)},
}


def _shim_of(folder: Path, marker: bytes, *, begins: bytes = b"#!") -> Path:
    program = folder / "odd/uv"
    program.parent.mkdir()
    program.write_bytes(begins + b"x" * 1000 + marker)
    program.chmod(0o755)
    return program.parent


@pytest.mark.parametrize("name", _ODD_ENVIRONMENTS)
def test_odd_environments(name: str, stub: StubPrefix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Python finds no real uv, it leaves to Python to say so."""
    monkeypatch.chdir(tmp_path)
    environ = _ODD_ENVIRONMENTS[name](tmp_path)
    for words in (["--help"], []):
        found, expected = stub.call(words, environ), call_python(words, environ)
        one_line(expected.stderr)
        if expected.returncode == 127:
            assert (found.returncode, found.stderr) == (0, b"")
            assert found.stdout.startswith(b"guarded\0")
        else:
            assert (found.returncode, found.stdout, found.stderr) == (expected.returncode, b"", expected.stderr)


def test_no_word_at_all(stub: StubPrefix) -> None:
    """Kernels before Linux 5.18 start a program without even argv[0]."""
    code = """if True:
        import ctypes, os, sys
        nothing = (ctypes.c_char_p * 1)(None)
        path = (ctypes.c_char_p * 2)(os.fsencode("PATH=" + sys.argv[2]), None)
        ctypes.CDLL(None).execve(os.fsencode(sys.argv[1]), nothing, path)"""
    done = subprocess.run([sys.executable, "-c", code, stub.uv, stub.path], capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"passed\0", b"")


@pytest.mark.parametrize("name", ["", "/", "x" * 100_000, "\n", "sync"])
def test_odd_names_of_itself(name: str, stub: StubPrefix) -> None:
    for words, kind in ((["x"], b"passed"), (["sync"], b"guarded")):
        done = subprocess.run(
            [name, *words], executable=stub.uv, env={"PATH": stub.path}, capture_output=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout.startswith(kind)


def test_without_proc(stub: StubPrefix, tmp_path: Path) -> None:
    need.root()
    link = tmp_path / "link"
    link.symlink_to(stub.uv)
    script = 'mount -t tmpfs none /proc && cd "$2" && exec "$1" sync'
    for program, folder in ((stub.uv, "/"), (link, "/"), (Path("./uv"), stub.uv.parent)):
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-euc", script, "-", program, folder],
            env={"PATH": f"{stub.path}:/usr/bin:/bin"},
            capture_output=True,
            check=False,
        )
        assert done.stdout.startswith(b"guarded\0"), done
    # Started by a descriptor, it has no path at all.
    code = "import os, sys; os.execve(os.open(sys.argv[1], os.O_RDONLY), ['uv', 'sync'], os.environ)"
    script = f'mount -t tmpfs none /proc && exec "$2" -c "{code}" "$1"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-euc", script, "-", stub.uv, sys.executable],
        env={"PATH": f"{stub.path}:/usr/bin:/bin"},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, b"")
    said = done.stderr.splitlines(keepends=True)[-1]  # below what the sanitizer misses
    assert one_line(said).endswith("cannot find out where it lies: No such file or directory; mount /proc")


# ---------------------------------------------------------------------------------------------- a damaged prefix


def _odd_pointers(good: bytes) -> list[bytes]:
    third = good.index(b"launcher\n") + len("launcher")
    lines = good.split(b"\n")
    odd = [good[:end] for end in range(third + 1)]
    odd += [b"\n" * 100, b"\0" * 100, b"/" * 1_000_000, b"\n-I\nx\n", b"relative\n-I\nx\n", lines[0] + b"\n\nx\n"]
    odd += [
        b"\n".join([lines[0], lines[1], b"x" * 5000, b""]),
        b"\n".join([b"/" + b"x" * 6000, lines[1], lines[2], b""]),
    ]
    odd += [good.replace(b"\n", b"\0\n", 1), good.replace(b"\n", b"\r"), b"\xff" + good, good[::-1]]
    dice = random.Random(0)
    for _ in range(150):
        changed = bytearray(good)
        for _ in range(dice.randrange(1, 8)):
            changed[dice.randrange(third)] = dice.choice([0, 10, 47, 255, dice.randrange(256)])
        odd.append(bytes(changed))
    return odd


def test_odd_pointers(stub: StubPrefix) -> None:
    """Whatever the file holds, the call does not pass unguarded, and ends with one line if Python can't be started."""
    good = stub.pointer.read_bytes()
    for content in _odd_pointers(good):
        stub.pointer.write_bytes(content)
        done = stub.call(["sync"])
        if done.returncode == 0:  # what changed was an option
            assert done.stdout.startswith(b"guarded\0"), content
            assert content.split(b"\n")[0] == good.split(b"\n")[0]
        else:
            assert done.returncode in (1, 126), (content, done)
            assert done.stdout == b""
            one_line(done.stderr)
        assert stub.call(["tree"]).stdout == b"passed\0tree\0"


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe", "loop", "empty"])
def test_no_pointer(kind: str, stub: StubPrefix) -> None:
    stub.pointer.unlink()
    make: Mapping[str, Callable[[], object]] = {
        "folder": stub.pointer.mkdir,
        "pipe": lambda: os.mkfifo(stub.pointer),
        "loop": lambda: stub.pointer.symlink_to(stub.pointer),
        "empty": stub.pointer.touch,
    }
    make.get(kind, lambda: None)()
    reasons = {
        "missing": ": No such file or directory",
        "folder": ": Is a directory",
        "loop": ": Too many levels of symbolic links",
    }
    done = stub.call(["sync"])
    assert (done.returncode, done.stdout) == (1, b"")
    reason = reasons.get(kind, " is damaged")
    assert one_line(done.stderr) == (
        f"uv-mutex: {stub.uv} is incomplete ({stub.pointer}{reason}); install it again, or remove that file"
    )
    assert stub.call(["tree"]).stdout == b"passed\0tree\0"


def test_no_script(stub: StubPrefix) -> None:
    """As between two halves of an `uninstall`."""
    stub.script.unlink()
    done = stub.call(["sync"])
    assert (done.returncode, done.stdout) == (1, b"")
    assert one_line(done.stderr) == (
        f"uv-mutex: {stub.uv} is incomplete ({stub.script}: No such file or directory); "
        "install it again, or remove that file"
    )


def _by_shell(words: list[str]) -> list[str]:
    return ["sh", "-c", " ".join(words)]


def _by_execvp(words: list[str]) -> list[str]:
    return [sys.executable, "-c", "import os, sys; os.execvp(sys.argv[1], sys.argv[1:])", *words]


def _by_subprocess(words: list[str]) -> list[str]:
    code = "import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:]))"
    return [sys.executable, "-c", code, *words]


def _by_xargs(words: list[str]) -> list[str]:
    return ["sh", "-c", f"echo {words[-1]} | xargs {' '.join(words[:-1])}"]


_WAYS = [_by_shell, _by_execvp, _by_subprocess, _by_xargs]


@pytest.fixture
def project(project_factory: Callable[..., Project]) -> Project:
    """A project without dependencies."""
    return project_factory()


def _lose_interpreter(shim: Shim, folder: Path, project: Project) -> dict[str, str]:
    """Move a shim to an interpreter that then goes away; return the environment of a call."""
    copy, python = Shim(folder / "copy"), folder / "python3"
    shutil.copytree(shim.prefix, copy.prefix, symlinks=True)
    for path in (copy.uv, copy.prefix / "lib/uv-mutex/launcher"):
        content = path.read_bytes()
        if not content.startswith(b"\x7fELF"):
            first = b"#!%s -ISXutf8" if path == copy.uv else b"%s"
            path.write_bytes(b"\n".join([first % os.fsencode(python), *content.split(b"\n")[1:]]))
    env = project.env("newest", shimmed=False)
    return {**env, "PATH": f"{copy.bin}:{env['PATH']}"}


@pytest.mark.parametrize("shim", ["native"], indirect=True)
def test_the_interpreter_is_gone(shim: Shim, project: Project, tmp_path: Path) -> None:
    """As an upgrade of Python leaves it. What needs no lock works; what does says what to do, however it is started."""
    env = _lose_interpreter(shim, tmp_path, project)
    for way in _WAYS:
        done = run(project, way(["uv", "sync"]), env)
        assert done.returncode == (123 if way is _by_xargs else 126), done
        said = [line for line in done.stderr.decode().splitlines() if line.startswith("uv-mutex")]
        assert said == [
            f"uv-mutex: cannot start {tmp_path}/python3, the Python that guards this call: No such file or directory; "
            "install uv-mutex again with another Python"
        ]
        assert not project.venv.exists()
        assert run(project, way(["uv", "tree"]), env).returncode == 0
    assert run(project, ["uv", "sync"], {**env, "UV_MUTEX": "off"}).returncode == 0


@pytest.mark.parametrize("shim", ["python"], indirect=True)
def test_control_the_interpreter_is_gone(shim: Shim, project: Project, tmp_path: Path) -> None:
    """A script whose interpreter is missing is a missing program to execvp(3): it goes on to the next uv on PATH."""
    env = _lose_interpreter(shim, tmp_path, project)
    for way in _WAYS[1:]:
        shutil.rmtree(project.venv, ignore_errors=True)
        assert run(project, way(["uv", "sync"]), env).returncode == 0
        assert project.venv.exists()
        assert not (project.root / ".uv-mutex").exists()


@pytest.mark.parametrize("shim", LAUNCHERS, indirect=True)
def test_a_shim_that_the_other_kind_passes_over(shim: Shim, project: Project, tmp_path: Path) -> None:
    """A native and a Python launcher on one PATH, in both orders."""
    other = Shim(tmp_path / "other")
    install_shim(other.prefix, "python" if shim.uv.read_bytes().startswith(b"\x7fELF") else "native")
    env = project.env("newest", shimmed=False)
    for order in ((shim, other), (other, shim)):
        path = ":".join(str(each.bin) for each in order)
        done = run(project, ["uv", "sync"], {**env, "PATH": f"{path}:{env['PATH']}"})
        assert done.returncode == 0, done.stderr
        done = run(project, ["uv", "--version"], {**env, "PATH": f"{path}:/usr/bin"})
        assert done.returncode == 127
        assert f"besides the shim {order[0].uv};".encode() in done.stderr


def test_a_uv_that_cannot_start(stub: StubPrefix) -> None:
    stub.real.write_bytes(b"\x7fELF" + bytes(100))
    done = stub.call(["tree"])
    assert done.returncode == 126
    why = "Exec format error; check that file, or name another in UV_MUTEX_UV"
    assert one_line(done.stderr) == f"uv-mutex: cannot start {stub.real}: {why}"
    assert done.stderr == call_python(["tree"], {"PATH": stub.path}).stderr


def test_programs_that_may_start_it_again_are_left_to_python(stub: StubPrefix, tmp_path: Path) -> None:
    """A script, or a link to a version manager; and what one of them started."""
    assert not stub.decide(["tree"])
    assert stub.decide(["tree"], UV_MUTEX_PASSED="")
    manager, link = tmp_path / "manager", tmp_path / "link"
    shutil.copy(stub.real, manager)
    stub.real.unlink()
    stub.real.symlink_to(manager)
    assert stub.decide(["tree"])
    manager.rename(tmp_path / "uv-0.1")
    link.symlink_to(tmp_path / "uv-0.1")
    stub.real.unlink()
    stub.real.symlink_to(link)
    assert not stub.decide(["tree"])
    stub.real.unlink()
    stub.real.write_text("#!/bin/sh\n")
    stub.real.chmod(0o755)
    assert stub.decide(["tree"])


def test_it_is_found_behind_the_real_uv_too(stub: StubPrefix) -> None:
    assert stub.call(["--version"], {"PATH": f"{uv('newest').parent}:{stub.uv.parent}"}).returncode == 0
