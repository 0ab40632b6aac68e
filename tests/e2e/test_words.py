"""The manual page and the completions say what the parser says, and the programs that read them take them."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support import need
from support.project import Project, run
from support.shim import Shim, install_shim
from support.terminal import Terminal
from support.uvs import uv

from uv_mutex import cli

MANUAL = Path(__file__).parents[2] / "hooks/uv-mutex.1"
SHELLS = ("bash", "zsh", "fish")
#: How a shell is started by hand, with nothing of the user's.
INTERACTIVE = {
    "bash": ["bash", "--norc", "--noprofile", "-i"],
    "zsh": ["zsh", "-f", "-i"],
    "fish": ["fish", "--no-config", "-i"],
}
WITH_COMPLETION = {
    "bash": 'eval "$(uv-mutex completion bash)"',
    "zsh": 'PS1="$ "; autoload -Uz compinit && compinit -D && eval "$(uv-mutex completion zsh)"',
    "fish": "uv-mutex completion fish | source",
}


@pytest.fixture
def project(project_factory: Callable[..., Project]) -> Project:
    """A project whose folder has something to complete."""
    project = project_factory()
    (project.root / "one folder").mkdir()
    (project.root / "only.log").touch()
    return project


def page(words: list[str]) -> str:
    """The manual page as a program shows it, without its overstrikes."""
    done = subprocess.run(
        [*words, str(MANUAL)], capture_output=True, text=True, check=False, env={**os.environ, "MANWIDTH": "200"}
    )
    assert (done.returncode, done.stderr) == (0, ""), done
    return re.sub(r".\x08", "", done.stdout)


def test_the_manual_page_is_well_formed() -> None:
    done = subprocess.run([need.executable("mandoc"), "-Tlint", MANUAL], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("reader", [["mandoc"], ["man", "--warnings", "-l"]], ids=["mandoc", "man"])
def test_the_manual_page_says_everything(reader: list[str]) -> None:
    need.executable(reader[0])
    text = page(reader)
    parser = cli.parser()
    described = text.partition("The commands are:")[2].partition("ENVIRONMENT")[0]
    for name, (command, _) in parser.commands.items():
        (entry,) = re.findall(rf"^     {name}\b.*?(?=^     \S|\Z)", described, re.MULTILINE | re.DOTALL)
        for action in command.options:
            for option in action.option_strings:
                where = entry if option not in ("-h", "--help") else described
                assert re.search(rf"(?<![\w-]){option}\b", where), f"{name} {option}"
    for action in parser.options:
        assert action.option_strings[-1] in text
    # Nothing that isn't there.
    known = {name for each, _ in parser.commands.values() for action in each.options for name in action.option_strings}
    known |= {"--version", "--python"}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)) <= known
    readme = (MANUAL.parents[1] / "README.md").read_text()
    for variable in re.findall(r"^\| `(UV_MUTEX\w*)", readme, re.MULTILINE):
        assert variable in text


def test_help_says_what_each_command_does(capsys: pytest.CaptureFixture[str]) -> None:
    for name, (command, about) in cli.parser().commands.items():
        with pytest.raises(SystemExit) as ended:
            cli.main([name, "--help"])
        assert ended.value.code == 0
        text = capsys.readouterr().out
        assert f"{about[0].upper()}{about[1:]}." in text
        assert all(len(line) <= 100 for line in text.splitlines())
        assert all(action.help for action in command.arguments)


def test_the_prefix_holds_the_page_until_uninstall(tmp_path: Path) -> None:
    prefix = tmp_path / "prefix"
    (prefix / "share/man/man1").mkdir(parents=True)
    other = prefix / "share/man/man1/other.1"
    other.touch()
    shim = Shim(install_shim(prefix).parents[1])
    installed = prefix / "share/man/man1/uv-mutex.1"
    assert installed.read_bytes() == MANUAL.read_bytes()
    need.executable("man")
    # man finds it by PATH.
    done = subprocess.run(
        ["man", "-w", "uv-mutex"],
        env={"PATH": f"{shim.bin}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == str(installed)
    subprocess.run([shim.bin / "uv-mutex", "uninstall", "--prefix", prefix], check=True)
    assert [path for path in prefix.rglob("*") if path.is_file()] == [other]


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_in_a_shell(project: Project, shell: str) -> None:
    need.executable(shell)
    env = {**project.env("newest"), "TERM": "dumb" if shell == "fish" else "xterm"}
    if shell == "fish":  # asks the terminal for things that this one can't answer
        for typed, expected in _TYPED:
            code = f"{WITH_COMPLETION[shell]}; complete -C '{typed}'"
            done = run(project, ["fish", "--no-config", "-c", code], env)
            assert done.stderr == b""
            words = [line.split("\t")[0] for line in done.stdout.decode().splitlines()]
            assert expected.rpartition(" ")[2] in [word.rpartition(" ")[2].rstrip("/") for word in words], (
                typed,
                words,
            )
        return
    with Terminal(INTERACTIVE[shell], env=env, cwd=project.root) as terminal:
        terminal.press(WITH_COMPLETION[shell].encode() + b" && echo re''ady\n")
        terminal.wait_for(b"ready")
        for typed, expected in _TYPED:
            before = len(terminal.shown)
            terminal.press(typed.encode() + b"\t")
            terminal.press(b"\x05")  # End: harmless, and what is shown is complete then
            _wait_for(terminal, before, expected)
            terminal.press(b"\x15")  # away with the line


_TYPED = [
    ("uv-mutex tim", "uv-mutex timeline"),
    ("uv-mutex comp", "uv-mutex completion"),
    ("uv-mutex completion zs", "uv-mutex completion zsh"),
    ("uv-mutex status --wa", "uv-mutex status --watch"),
    ("uv-mutex doctor --sec", "uv-mutex doctor --seconds"),
    ("uv-mutex timeline onl", "uv-mutex timeline only.log"),
    ("uv-mutex timeline --format chr", "uv-mutex timeline --format chrome"),
    ("uv-mutex exec --project on", "uv-mutex exec --project one folder"),
]


def _wait_for(terminal: Terminal, before: int, expected: str) -> None:
    from support.terminal import wait_until

    def plain() -> str:
        text = re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]|[\x07\r]|.\x08", b"", terminal.shown[before:])
        return text.decode(errors="replace").replace("\\", "")

    wait_until(lambda: expected in plain(), 20, lambda: f"{expected!r} in {plain()!r}")


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_parses(project: Project, shell: str, tmp_path: Path) -> None:
    need.executable(shell)
    done = run(project, ["uv-mutex", "completion", shell], project.env("newest"))
    assert (done.returncode, done.stderr) == (0, b"")
    (tmp_path / "script").write_bytes(done.stdout)
    done = run(project, [shell, "-n", str(tmp_path / "script")], project.env("newest"))
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("uv_version", ["0.7.8", "newest"])
def test_uvs_own_completion_goes_through(project: Project, shell: str, uv_version: str) -> None:
    words = ["generate-shell-completion", shell]
    bare = run(project, [str(uv(uv_version)), *words], project.env(uv_version, shimmed=False))
    done = run(project, ["uv", *words], project.env(uv_version))
    assert done.returncode == 0
    assert (done.stdout, done.stderr) == (bare.stdout, bare.stderr)
    assert len(done.stdout) > 1000


def test_output_that_cannot_be_written(project: Project) -> None:
    done = run(project, ["sh", "-c", "uv-mutex completion bash >/dev/full"], project.env("newest"))
    expected = b"uv-mutex: cannot go on: No space left on device; mend that, and run this again\n"
    assert (done.returncode, done.stderr) == (2, expected)
