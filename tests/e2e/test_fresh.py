"""What a note calls fresh, real uv would leave alone; and the ordinary cycle of calls prepares once.

Each case starts from a project that the shim just synced, changes one thing, and holds the note's verdict against
`uv sync --check --locked` with the same options.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from support.herd import read_log
from support.index import LocalIndex
from support.native import PythonlessShim
from support.shim import Shim
from support.uvs import VERSIONS, uv
from support.wheels import BUILD_SYSTEM, make_sdist, make_wheel, project_table, slow_backend

from uv_mutex.environment import request_key
from uv_mutex.environment.freshness import FreshnessNote
from uv_mutex.setup import launcher
from uv_mutex.uv import commandline, executable, project
from uv_mutex.uv.settings import Settings

# ---------------------------------------------------------------------------------------------- verdicts

#: Not fresh, and uv would act.
SEEN = "seen"
#: Fresh, and uv would do nothing.
SAME = "same"
#: Not fresh, though uv would do nothing: costs one preparation.
SPARE = "spare"
#: Fresh, though uv would act. uv's own check in the call that follows repairs it, without the lock.
MISSED = "missed"

#: All that is ever missed; README says so too.
DOCUMENTED = {
    "dist-info: direct_url.json edited by hand",
    "dist-info: uv_cache.json removed by hand",
}

Words = Sequence[str]

# ---------------------------------------------------------------------------------------------- the world

_PLAIN = f"""{project_table("demo", "0.1.0", ["alpha", "beta>=1"])}
[project.optional-dependencies]
more = ["gamma"]
[dependency-groups]
dev = ["delta"]
docs = ["gamma"]
"""
_WORKSPACE = f"""{project_table("demo", "0.1.0", ["one", "dep", "beta"])}
[tool.uv.workspace]
members = ["packages/*", "tools/*/inner", "single"]
exclude = ["packages/excluded"]
[tool.uv.sources]
one = {{ workspace = true }}
dep = {{ path = "../outer/dep" }}
beta = {{ path = "../outer/beta-1.0-py3-none-any.whl" }}
"""
_OUTER = """[tool.uv.workspace]
members = ["dep"]
[tool.uv.sources]
beta = { path = "beta-1.0-py3-none-any.whl" }
"""


class World:
    """A folder with projects, a home and an interpreter, always at the same path: it is put back for each case."""

    def __init__(self, folder: Path, shim: Shim, index: LocalIndex) -> None:
        self.live = folder / "live"
        self.root = self.live / "project"
        self.venv = self.root / ".venv"
        self.home = self.live / "home"
        self.outer = self.live / "outer"
        self.dep = self.outer / "dep"
        self.index = index
        self.is_native = launcher.describe(str(shim.uv))[0] == launcher.NATIVE
        self._launcher = PythonlessShim(shim, folder)
        self._stores = folder / "stores"
        self._folders = [str(shim.bin), str(uv("newest").parent), str(self.live / "bin"), "/usr/bin", "/bin"]
        self.base_env = {
            "PATH": ":".join(self._folders),
            "HOME": str(self.home),
            "UV_CACHE_DIR": str(folder / "cache"),
            "UV_DEFAULT_INDEX": index.url,
            "UV_PYTHON_DOWNLOADS": "never",
            "UV_MUTEX_LOG": str(folder / "log"),
        }
        self.log = folder / "log"
        self.env = dict(self.base_env)
        self.cwd = self.root

    def restore(self, base: str) -> None:
        """Begin anew with one of the bases."""
        store = self._stores / base
        self.env = dict(self.base_env)
        self.cwd = self.root
        shutil.rmtree(self.live, ignore_errors=True)
        if not store.exists():
            self._make(base)
            self.shim("sync")
            store.parent.mkdir(exist_ok=True)
            self.live.rename(store)
        subprocess.run(["cp", "-a", store, self.live], check=True)

    def _make(self, base: str) -> None:
        self.home.mkdir(parents=True)
        self.root.mkdir()
        (self.live / "bin").mkdir()
        (self.live / "bin" / "python3").symlink_to(os.path.realpath(sys.executable))
        if base == "packaged":
            self.package(self.root, "demo", ["alpha"])
            return
        if base == "plain":
            (self.root / "pyproject.toml").write_text(_PLAIN)
            return
        (self.root / "pyproject.toml").write_text(_WORKSPACE)
        self.package(self.root / "packages" / "one", "one")
        for name in ("single", "tools/hammer/inner"):
            (self.root / name).mkdir(parents=True)
            table = project_table(name.split("/")[-1], "1.0", ["alpha"])
            (self.root / name / "pyproject.toml").write_text(table)
        self.package(self.dep, "dep", ["beta"])
        (self.outer / "pyproject.toml").write_text(_OUTER)
        wheel = "beta-1.0-py3-none-any.whl"
        shutil.copy(self.index.folder / wheel, self.outer / wheel)

    def package(self, folder: Path, name: str, requires: Words = (), extra: str = "") -> None:
        """Write a package that is built."""
        (folder / "src" / name).mkdir(parents=True)
        (folder / "src" / name / "__init__.py").touch()
        (folder / "backend.py").write_text(slow_backend(0))
        (folder / "pyproject.toml").write_text(project_table(name, "1.0", requires) + BUILD_SYSTEM + extra)

    @property
    def site(self) -> Path:
        """Where distributions are."""
        return next(self.venv.glob("lib/*/site-packages"))

    def info(self, name: str) -> Path:
        """A distribution's dist-info."""
        return next(self.site.glob(f"{name}-*.dist-info"))

    def uv(self, *words: str) -> subprocess.CompletedProcess[bytes]:
        """Run the real uv."""
        return self._run([executable.find(self.env), *words])

    def shim(self, *words: str) -> bool:
        """Run the shim, which must succeed. Says whether it prepared."""
        done = self._run(["uv", *words])
        assert done.returncode == 0, f"uv {words}:\n{done.stderr.decode()}"
        return bool(read_log(self.log)[-1]["prepared"])

    def _run(self, argv: Words) -> subprocess.CompletedProcess[bytes]:
        # subprocess would look for the program on our own PATH.
        program = shutil.which(argv[0], path=self.env["PATH"])
        assert program
        return subprocess.run(
            argv,
            executable=program,
            env=self.env,
            cwd=self.cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=120,
            check=False,
        )

    def note(self, *words: str) -> FreshnessNote | None:
        """The note that the shim would look at, by the shim's own steps; None where it would not."""
        binary = executable.find(self.env)

        def ask_help(subcommand: str) -> str:
            return executable.help_text(binary, [subcommand] if subcommand else [])

        call = commandline.parse(words, ask_help)
        assert call
        with _inside(self.cwd):
            settings = Settings(self.env, ask_help)
            found = project.find(call, settings, lambda wanted: executable.version_at_least(binary, wanted))
            return FreshnessNote(found, call, self.env, binary) if found else None

    def fresh(self, subcommand: str, options: Words) -> bool:
        """The shim's verdict."""
        note = self.note(subcommand, *options, *(["true"] if subcommand == "run" else []))
        return note is not None and note.fresh()

    def uv_acts(self, subcommand: str, options: Words) -> bool:
        """Real uv's verdict, on uv.lock too."""
        inexact = ["--inexact"] if subcommand == "run" else []
        loose = {"--frozen", "--upgrade"} & {*options} or "UV_FROZEN" in self.env
        locked = [] if loose else ["--locked"]
        return self.uv("sync", "--check", *locked, *inexact, *options).returncode != 0

    def launcher_answers(self, subcommand: str, options: Words) -> bool:
        """The verdict of the native launcher, by what was left for it. If it says fresh, the real uv makes the call."""
        words = [subcommand, *options, *(["true"] if subcommand == "run" else [])]
        env = {name: value for name, value in self.env.items() if name != "UV_MUTEX_LOG"}
        return self._launcher.answers(words, env, self.cwd)

    def leave_tickets(self, options: Words) -> bool:
        """Make calls until the native launcher can answer them; return whether it does."""
        log = self.env.pop("UV_MUTEX_LOG")
        for words in (["sync", *options], ["run", *options, "true"]):
            for _ in range(3):
                assert self._run(["uv", *words]).returncode == 0
        self.env["UV_MUTEX_LOG"] = log
        return all(self.launcher_answers(subcommand, options) for subcommand in ("sync", "run"))

    def cell(self, subcommand: str, options: Words) -> str:
        """Both verdicts together."""
        cells = {(False, True): SEEN, (True, False): SAME, (False, False): SPARE, (True, True): MISSED}
        return cells[self.fresh(subcommand, options), self.uv_acts(subcommand, options)]


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    """What contextlib.chdir does from Python 3.11 on."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, shim: Shim) -> Iterator[World]:
    """The one world of this module."""
    folder = tmp_path_factory.mktemp("fresh")
    with LocalIndex(folder / "index") as index:
        for name in ("alpha", "beta", "gamma", "delta"):
            make_wheel(index.folder, name)
        make_wheel(index.folder, "beta", "1.1")
        make_wheel(index.folder, "alpha", "1.1")
        make_sdist(index.folder, "slow", backend_source=slow_backend(4))
        yield World(folder, shim, index)


# ---------------------------------------------------------------------------------------------- changes

Change = Callable[[World], None]
Where = Callable[[World], Path]


def pyproject(world: World) -> Path:
    """The project's pyproject.toml."""
    return world.root / "pyproject.toml"


def lockfile(world: World) -> Path:
    """The project's uv.lock."""
    return world.root / "uv.lock"


def below(part: str, of: str = "root") -> Where:
    """A path below one of the world's folders."""
    return lambda world: getattr(world, of) / part


def both(*changes: Change) -> Change:
    """One after the other."""

    def change(world: World) -> None:
        for each in changes:
            each(world)

    return change


def write(where: Where, text: str) -> Change:
    """Make a file, or overwrite it in place."""

    def change(world: World) -> None:
        where(world).parent.mkdir(parents=True, exist_ok=True)
        where(world).write_text(text)

    return change


def edit(where: Where, old: str, new: str, *, old_mtime: bool = False, swap: bool = False) -> Change:
    """Replace text, in place or by a new file as editors do; with the old mtime if asked."""

    def change(world: World) -> None:
        path = where(world)
        before = path.stat()
        text = path.read_text()
        assert old in text
        if swap:
            part = path.with_name("part")
            part.write_text(text.replace(old, new))
            os.replace(part, path)
        else:
            path.write_text(text.replace(old, new))
        if old_mtime:
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    return change


def touch(where: Where) -> Change:
    """A new mtime and nothing else."""
    return lambda world: os.utime(where(world))


def chmod(where: Where) -> Change:
    """Another mode: moves ctime alone."""
    return lambda world: where(world).chmod(0o755)


def remove(where: Where) -> Change:
    """Delete a file or folder."""

    def change(world: World) -> None:
        path = where(world)
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    return change


def move(where: Where, to: Where) -> Change:
    """Rename."""

    def change(world: World) -> None:
        where(world).rename(to(world))

    return change


def setenv(name: str, value: Callable[[World], str] | str | None) -> Change:
    """Set a variable, or unset it."""

    def change(world: World) -> None:
        if value is None:
            del world.env[name]
        else:
            world.env[name] = value(world) if callable(value) else value

    return change


def pip(*words: str) -> Change:
    """`uv pip` behind our back."""

    def change(world: World) -> None:
        world.env["VIRTUAL_ENV"] = str(world.venv)
        done = world.uv("pip", *(word.format(index=world.index.folder) for word in words))
        del world.env["VIRTUAL_ENV"]
        assert done.returncode == 0, done.stderr.decode()

    return change


def site(name: str) -> Where:
    """A path in site-packages; a name with a * is looked up."""
    return lambda world: next(iter(world.site.glob(name)), world.site / name)


def in_info(name: str, file: str) -> Where:
    """A file of a dist-info."""
    return lambda world: world.info(name) / file


def uv_command(*words: str) -> Change:
    """A call of the real uv."""

    def change(world: World) -> None:
        done = world.uv(*words)
        assert done.returncode == 0, done.stderr.decode()

    return change


def other_uv(world: World) -> None:
    """Another version comes first on PATH."""
    world.env["PATH"] = f"{uv('0.9.30').parent}:{world.env['PATH']}"


def copied_uv(world: World) -> None:
    """The same version from another place."""
    folder = world.live / "elsewhere"
    folder.mkdir()
    shutil.copy(uv("newest"), folder / "uv")
    world.env["PATH"] = f"{folder}:{world.env['PATH']}"


def copied_venv(world: World) -> None:
    """The environment is a copy of itself."""
    world.venv.rename(world.root / "old")
    subprocess.run(["cp", "-a", world.root / "old", world.venv], check=True)


def emptied_venv(world: World) -> None:
    """The environment's folder, empty."""
    shutil.rmtree(world.venv)
    world.venv.mkdir()


def there_and_back(world: World) -> None:
    """The environment, moved and moved back."""
    world.venv.rename(world.root / "old")
    (world.root / "old").rename(world.venv)


def linked_venv(world: World) -> None:
    """The environment, moved away and linked to."""
    world.venv.rename(world.live / "venv")
    world.venv.symlink_to(world.live / "venv")


def other_interpreter(where: Where) -> Change:
    """A link leads to an interpreter that doesn't run."""

    def change(world: World) -> None:
        where(world).unlink()
        where(world).symlink_to("/bin/false")

    return change


def bytecode(world: World) -> None:
    """What Python leaves in site-packages."""
    (world.site / "__pycache__").mkdir()
    (world.site / "__pycache__" / "six.pyc").touch()


def new_member(folder: str) -> Change:
    """A member appears."""
    return lambda world: world.package(world.root / folder, folder.rpartition("/")[2])


def again(where: Where) -> Change:
    """A folder is replaced by another with the same content."""

    def change(world: World) -> None:
        path = where(world)
        shutil.copytree(path, path.with_name("again"))
        shutil.rmtree(path)
        path.with_name("again").rename(path)

    return change


def made_again(where: Where) -> Change:
    """A folder is removed, and made again: often with the same inode."""

    def change(world: World) -> None:
        shutil.rmtree(where(world))
        where(world).mkdir()

    return change


def killed_sync(world: World) -> None:
    """A sync that had a new dependency to build is killed; the edit is taken back, time and all."""
    path = pyproject(world)
    before, text, locked = path.stat(), path.read_text(), lockfile(world).read_bytes()
    path.write_text(text.replace('"alpha"', '"alpha", "slow"'))
    sync = subprocess.Popen(
        ["uv", "sync"],
        executable=shutil.which("uv", path=world.env["PATH"]),
        env=world.env,
        cwd=world.root,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while lockfile(world).read_bytes() == locked:
        time.sleep(0.005)
    sync.send_signal(signal.SIGKILL)
    sync.wait()
    path.write_text(text)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def half_removed(world: World) -> None:
    """What an uninstall that was killed leaves: the dist-info lost its files, the package is still there."""
    for item in world.info("beta").iterdir():
        item.unlink()


def commit(number: str, ref: str = "refs/heads/main") -> Change:
    """A commit in the dependency's repository, as git writes it."""

    def change(world: World) -> None:
        git = world.outer / ".git"
        if not git.exists():
            write(lambda _: git / "HEAD", "ref: refs/heads/main\n")(world)
        (git / ref).parent.mkdir(parents=True, exist_ok=True)
        (git / f"{ref}.lock").write_text(number * 40 + "\n")
        (git / f"{ref}.lock").rename(git / ref)

    return change


def git_status(world: World) -> None:
    """What git rewrites although nothing changed."""
    for git in (world.root / ".git", world.outer / ".git"):
        git.mkdir(parents=True, exist_ok=True)
        (git / "index").write_text(str(time.time()))
        os.utime(git)


# ---------------------------------------------------------------------------------------------- the cases


@dataclass(frozen=True)
class Case:
    """One change to a synced project."""

    name: str
    change: Change | None = None
    #: The cell that a `run` ends up in, and a `sync`, if that is another.
    run: str = SEEN
    sync: str = ""
    base: str = "plain"
    #: What comes before the first preparation.
    setup: Change | None = None
    options: Words = ()
    #: The options of the second call, if they are others.
    then: Words | None = None
    #: Whether the native launcher can answer the call before the change.
    has_ticket: bool = True

    def __str__(self) -> str:
        return self.name


_LOWEST = 'resolution = "lowest"\n'
_USER = below(".config/uv/uv.toml", "home")
_MEMBER = below("packages/one/pyproject.toml")
_SINGLE = below("single/pyproject.toml")
_DEP = below("pyproject.toml", "dep")
_KEYS = '\n[tool.uv]\ncache-keys = ["pyproject.toml", {}]\n'


def keyed(key: str) -> Change:
    """Give the path dependency a cache-key of this kind."""

    def change(world: World) -> None:
        path = _DEP(world)
        path.write_text(path.read_text() + _KEYS.format(key))

    return change


PROJECT_FILES = [
    Case("pyproject: dependency added", edit(pyproject, '"alpha"', '"alpha", "gamma"')),
    Case("pyproject: dependency removed", edit(pyproject, '"alpha", ', "")),
    Case("pyproject: same size, old mtime", edit(pyproject, "beta>=1", "beta<=1", old_mtime=True)),
    Case("pyproject: replaced by an editor", edit(pyproject, "beta>=1", "beta<=1", swap=True)),
    Case("pyproject: replaced, same size, old mtime", edit(pyproject, ">=1", "<=1", swap=True, old_mtime=True)),
    Case("pyproject: deleted", remove(pyproject)),
    Case("pyproject: not TOML", write(pyproject, "[project\n")),
    Case("pyproject: settings", edit(pyproject, "[dependency-groups]", f"[tool.uv]\n{_LOWEST}[dependency-groups]")),
    Case("pyproject: default groups", write(pyproject, f'{_PLAIN}[tool.uv]\ndefault-groups = ["docs"]\n')),
    Case("pyproject: touched", touch(pyproject), SPARE),
    Case("pyproject: a comment", write(pyproject, f"{_PLAIN}# said\n"), SPARE),
    Case("uv.lock: deleted", remove(lockfile)),
    Case("uv.lock: garbage", write(lockfile, "garbage\n")),
    Case("uv.lock: same size, old mtime", edit(lockfile, 'version = "1.1"', 'version = "1.0"', old_mtime=True)),
    Case("uv.lock: replaced", edit(lockfile, 'name = "alpha"', 'name = "gamma"', swap=True)),
    Case("uv.lock: upgraded without us", uv_command("lock", "--upgrade"), setup=uv_command("lock", "-P", "beta==1.0")),
    Case("uv.lock: touched", touch(lockfile), SPARE),
    Case("uv.toml: appears", write(below("uv.toml"), _LOWEST)),
    Case("uv.toml: edited", edit(below("uv.toml"), "lowest", "highest"), setup=write(below("uv.toml"), _LOWEST)),
    Case("uv.toml: deleted", remove(below("uv.toml")), setup=write(below("uv.toml"), _LOWEST)),
    Case("uv.toml: appears above", write(below("uv.toml", "live"), _LOWEST)),
    Case("pyproject above: settings", write(below("pyproject.toml", "live"), f"[tool.uv]\n{_LOWEST}")),
    Case("user's uv.toml: appears", write(_USER, _LOWEST)),
    Case("user's uv.toml: edited", edit(_USER, "lowest", "highest"), setup=write(_USER, _LOWEST)),
    Case("user's uv.toml: deleted", remove(_USER), setup=write(_USER, _LOWEST)),
    Case(
        "user's uv.toml: another by XDG_CONFIG_HOME",
        both(write(below("xdg/uv/uv.toml", "live"), _LOWEST), setenv("XDG_CONFIG_HOME", lambda w: f"{w.live}/xdg")),
    ),
    Case(
        "system's uv.toml: appears",
        write(below("xdg/uv/uv.toml", "live"), _LOWEST),
        setup=setenv("XDG_CONFIG_DIRS", lambda w: f"{w.live}/xdg"),
    ),
    Case(
        "--config-file, edited",
        write(below("my.toml"), _LOWEST),
        setup=write(below("my.toml"), ""),
        options=["--config-file", "my.toml"],
    ),
    Case(
        "--config-file, edited, from elsewhere",
        write(below("my.toml", "live"), _LOWEST),
        setup=both(write(below("my.toml", "live"), ""), lambda world: setattr(world, "cwd", world.live)),
        options=["--project", "project", "--config-file", "my.toml"],
    ),
    Case(
        "UV_CONFIG_FILE, edited",
        write(below("my.toml"), _LOWEST),
        setup=both(write(below("my.toml"), ""), setenv("UV_CONFIG_FILE", "my.toml")),
    ),
    Case(".python-version: appears", write(below(".python-version"), "3.99\n")),
    Case(
        ".python-version: edited",
        write(below(".python-version"), "3.99\n"),
        setup=write(below(".python-version"), "3\n"),
    ),
    Case(
        ".python-version: deleted", remove(below(".python-version")), SPARE, setup=write(below(".python-version"), "3")
    ),
    Case(".python-versions: appears", write(below(".python-versions"), "3.99\n")),
    Case("user's .python-version: appears", write(below(".config/uv/.python-version", "home"), "3.99\n")),
    Case("user's .python-versions: appears", write(below(".config/uv/.python-versions", "home"), "3.99\n")),
]

ENVIRONMENT = [
    Case("pip: another package", pip("install", "gamma"), SPARE, SEEN),
    Case("pip: a package uninstalled", pip("uninstall", "beta")),
    Case("pip: another version", pip("install", "beta==1.0")),
    Case("pip: same version from a file", pip("install", "{index}/beta-1.1-py3-none-any.whl")),
    Case("pip: same version, reinstalled", pip("install", "--reinstall", "beta==1.1"), SPARE),
    Case("pip: uninstalled and installed", both(pip("uninstall", "beta"), pip("install", "beta==1.1")), SPARE),
    Case("package: a file removed", remove(site("beta/m0000.py")), SAME),
    Case("package: its folder removed", remove(site("beta")), SAME),
    Case("package: its dist-info removed", remove(site("beta-*.dist-info"))),
    Case("package: its dist-info renamed", move(site("beta-*.dist-info"), site("beta-0.9.dist-info"))),
    Case(
        "package: a dist-info from nowhere", write(site("extra-1.0.dist-info/METADATA"), "Name: extra\n"), SPARE, SEEN
    ),
    Case("package: a .pth", write(site("my.pth"), "/tmp\n"), SPARE),
    Case("dist-info: RECORD removed", remove(in_info("beta", "RECORD")), SAME),
    Case("dist-info: RECORD edited", write(in_info("beta", "RECORD"), ""), SAME),
    Case("dist-info: METADATA removed by hand", remove(in_info("beta", "METADATA")), SAME),
    Case("uninstall killed", half_removed, SAME),
    Case("sync killed", killed_sync),
    Case("site-packages: bytecode", bytecode, SAME),
    Case("site-packages: touched", touch(lambda world: world.site), SAME),
    Case("environment: removed", remove(below(".venv"))),
    Case("environment: emptied", emptied_venv),
    Case("environment: made anew", uv_command("venv", "--clear")),
    Case("environment: a copy", copied_venv, SPARE),
    Case("environment: there and back", there_and_back, SAME),
    Case("environment: moved and linked to", linked_venv, SAME),
    Case("environment: moved away", move(below(".venv"), below("old"))),
    Case("pyvenv.cfg: edited", write(below(".venv/pyvenv.cfg"), "home = /nowhere\nversion_info = 3.9.1\n")),
    Case("pyvenv.cfg: removed", remove(below(".venv/pyvenv.cfg")), SPARE),
    Case("interpreter: removed", remove(below(".venv/bin/python"))),
    Case("interpreter: another", other_interpreter(below(".venv/bin/python"))),
    Case(
        "interpreter: UV_PYTHON leads to another",
        other_interpreter(below("bin/mine", "live")),
        setup=both(
            lambda world: (world.live / "bin" / "mine").symlink_to(os.path.realpath(sys.executable)),
            setenv("UV_PYTHON", lambda world: f"{world.live}/bin/mine"),
        ),
    ),
    Case("git status", git_status, SAME),
    Case("files beside the project's", write(below("main.py"), "print()\n"), SAME),
]

OPTIONS = [
    Case("--extra", then=["--extra", "more"]),
    Case("--all-extras", then=["--all-extras"]),
    Case("--group", then=["--group", "docs"]),
    Case("--all-groups", then=["--all-groups"]),
    Case("--only-group", run=SEEN, then=["--only-group", "docs"]),
    Case("--no-dev", run=SPARE, sync=SEEN, then=["--no-dev"]),
    Case("without --extra", run=SPARE, sync=SEEN, options=["--extra", "more"], then=[]),
    Case("--package", run=SPARE, then=["--package", "demo"]),
    Case("-p, unsuitable", then=["-p", "3.99"]),
    Case("-p, suitable", run=SPARE, then=["-p", "3"]),
    Case("--frozen", run=SPARE, then=["--frozen"]),
    Case("--resolution", then=["--resolution", "lowest"]),
    Case("--index", run=SPARE, then=["--index", "http://127.0.0.1:1/simple"]),
    Case("-q", run=SAME, then=["-q"]),
    Case("--no-progress", run=SAME, then=["--no-progress"]),
    Case("--reinstall", run=SEEN, then=["--reinstall"]),
    Case("--upgrade", run=SPARE, then=["--upgrade"]),
    Case("UV_NO_DEV", setenv("UV_NO_DEV", "1"), SPARE, SEEN),
    Case("UV_INDEX", setenv("UV_INDEX", "http://127.0.0.1:1/simple"), SPARE),
    Case("UV_RESOLUTION", setenv("UV_RESOLUTION", "lowest")),
    Case("UV_PYTHON", setenv("UV_PYTHON", "3.99")),
    Case("UV_FROZEN", setenv("UV_FROZEN", "1"), SPARE),
    Case("UV_PROJECT_ENVIRONMENT", setenv("UV_PROJECT_ENVIRONMENT", "other")),
    Case("UV_DEFAULT_INDEX", setenv("UV_DEFAULT_INDEX", lambda world: f"{world.index.url}none/")),
    Case("UV_CACHE_DIR", setenv("UV_CACHE_DIR", lambda world: f"{world.live}/cache"), SAME),
    Case("UV_RUN_RECURSION_DEPTH", setenv("UV_RUN_RECURSION_DEPTH", "1"), SAME),
    Case("UV_MUTEX_TIMEOUT", setenv("UV_MUTEX_TIMEOUT", "9"), SAME),
    Case("a variable of another program", setenv("COLUMNS", "9"), SAME),
    Case("uv: another version", other_uv, SPARE),
    Case("uv: same version elsewhere", copied_uv, SAME),
]


def globbed(*keys: str) -> Change:
    """Give the path dependency globs as cache-keys, and some files."""
    files = [write(below(f"native/{name}", "dep"), "1") for name in ("a.rs", "deep/b.rs", "a.txt")]
    return both(keyed(", ".join(f'{{ file = "{key}" }}' for key in keys)), write(below("h/x.h", "outer"), "1"), *files)


_RUST = globbed("native/**/*.rs")
GLOBS = (
    Case("key, glob: edited", write(below("native/a.rs", "dep"), "2"), setup=_RUST),
    Case("key, glob: edited, old mtime", edit(below("native/a.rs", "dep"), "1", "2", old_mtime=True), setup=_RUST),
    Case("key, glob: mode", chmod(below("native/a.rs", "dep")), setup=_RUST),
    Case("key, glob: edited deep down", write(below("native/deep/b.rs", "dep"), "2"), setup=_RUST),
    Case("key, glob: added", write(below("native/c.rs", "dep"), ""), setup=_RUST),
    Case("key, glob: added in a new folder", write(below("native/new/er/c.rs", "dep"), ""), setup=_RUST),
    Case("key, glob: the newest removed", remove(below("native/deep/b.rs", "dep")), setup=_RUST),
    Case("key, glob: an older one removed", remove(below("native/a.rs", "dep")), SPARE, setup=_RUST),
    Case("key, glob: renamed", move(below("native/a.rs", "dep"), below("native/z.rs", "dep")), setup=_RUST),
    Case("key, glob: its folder removed", remove(below("native", "dep")), setup=_RUST),
    Case(
        "key, glob: appears with its folder",
        write(below("other/a.rs", "dep"), ""),
        setup=globbed("native/*.rs", "other/*.rs"),
    ),
    Case("key, glob: another file edited", write(below("native/a.txt", "dep"), "2"), SAME, setup=_RUST),
    Case("key, glob: another file added", write(below("native/deep/b.txt", "dep"), "2"), SAME, setup=_RUST),
    Case("key, glob: elsewhere", write(below("native.rs", "dep"), "2"), SAME, setup=_RUST),
    Case("key, glob: any depth", write(below("native/deep/b.rs", "dep"), "2"), setup=globbed("*.rs")),
    Case("key, glob: braces", write(below("native/a.txt", "dep"), "2"), setup=globbed("native/*.{rs,txt}")),
    Case(
        "key, glob: braces, another", write(below("native/a.c", "dep"), "2"), SAME, setup=globbed("native/*.{rs,txt}")
    ),
    Case("key, glob: a class", write(below("native/a.rs", "dep"), "2"), setup=globbed("native/[ab].rs")),
    Case("key, glob: a class, another", write(below("native/c.rs", "dep"), "2"), SAME, setup=globbed("native/[ab].rs")),
    Case("key, glob: a class negated", write(below("native/c.rs", "dep"), "2"), setup=globbed("native/[!ab].rs")),
    Case("key, glob: not in it", write(below("native/a.rs", "dep"), "2"), SPARE, setup=globbed("native/[!ab].rs")),
    Case("key, glob: one character", write(below("native/c.rs", "dep"), ""), setup=globbed("native/?.rs")),
    Case("key, glob: everything", write(below("native/x/y", "dep"), ""), setup=globbed("native/**")),
    Case("key, glob: outside", write(below("h/y.h", "outer"), ""), setup=globbed("../h/*.h")),
)

WORKSPACE = (
    Case("root: a member's source dropped", edit(pyproject, "one = { workspace = true }\n", "")),
    Case("member: dependency added", edit(_SINGLE, '"alpha"', '"alpha", "gamma"')),
    Case("member: same size, old mtime", edit(_SINGLE, '"alpha"', '"gamma"', old_mtime=True)),
    Case("member: deep down, edited", edit(below("tools/hammer/inner/pyproject.toml"), "alpha", "gamma")),
    Case("member, built: edited", edit(_MEMBER, "dependencies = []", 'dependencies = ["alpha"]')),
    Case("member, built: touched", touch(_MEMBER)),
    Case("member, built: mode", chmod(_MEMBER)),
    Case("member, built: setup.py appears", write(below("packages/one/setup.py"), "")),
    Case("member, built: a source edited", write(below("packages/one/src/one/__init__.py"), "A = 1\n"), SAME),
    Case("member, built: src removed", remove(below("packages/one/src"))),
    Case("member: pyproject removed", remove(_SINGLE)),
    Case("member: removed", remove(below("tools/hammer"))),
    Case("member: appears", new_member("packages/two")),
    Case("member: appears deep down", new_member("tools/saw/inner")),
    Case(
        "member: appears where a folder was",
        write(below("tools/saw/inner/pyproject.toml"), project_table("saw", "1.0")),
        setup=lambda world: (world.root / "tools/saw/inner").mkdir(parents=True),
    ),
    Case("member: an empty folder appears", lambda world: (world.root / "packages/e").mkdir(), SPARE),
    Case("member: an excluded one appears", new_member("packages/excluded"), SPARE),
    Case("member: a file beside them", write(below("packages/notes.txt"), ""), SAME),
    Case("path: edited", edit(_DEP, '"beta"', '"beta", "gamma"')),
    Case("path: same size, old mtime", edit(_DEP, '"beta"', '"alph"', old_mtime=True)),
    Case("path: pyproject removed", remove(_DEP)),
    Case("path: removed", remove(below("dep", "outer"))),
    Case("path: setup.py appears", write(below("setup.py", "dep"), "")),
    Case("path: setup.py edited", write(below("setup.py", "dep"), "#"), setup=write(below("setup.py", "dep"), "")),
    Case("path: setup.py deleted", remove(below("setup.py", "dep")), setup=write(below("setup.py", "dep"), "")),
    Case(
        "path: setup.cfg, old mtime",
        edit(below("setup.cfg", "dep"), "a", "b", old_mtime=True),
        setup=write(below("setup.cfg", "dep"), "a"),
    ),
    Case("path: a source edited", write(below("src/dep/__init__.py", "dep"), "A = 1\n"), SAME),
    Case("path: a source added", write(below("src/dep/more.py", "dep"), "A = 1\n"), SAME),
    Case("path: a file in src added", write(below("src/more.py", "dep"), "A = 1\n"), SPARE),
    Case("path: src removed", remove(below("src", "dep"))),
    Case("path: src replaced", again(below("src", "dep"))),
    Case("path: src made again", made_again(below("src", "dep"))),
    Case("dist-info: direct_url.json edited by hand", edit(in_info("dep", "direct_url.json"), "/dep", "/de"), MISSED),
    Case("dist-info: uv_cache.json removed by hand", remove(in_info("dep", "uv_cache.json")), MISSED),
    Case("path: its workspace's sources", edit(below("pyproject.toml", "outer"), "beta = ", "gamma = ")),
    Case("path: an archive replaced", touch(below("beta-1.0-py3-none-any.whl", "outer"))),
    Case("key, file: edited", write(below("k", "dep"), "2"), setup=both(keyed('"k"'), write(below("k", "dep"), "1"))),
    Case("key, file: appears", write(below("k", "dep"), "2"), setup=keyed('{ file = "k" }')),
    Case("key, dir: appears", write(below("k/x", "dep"), ""), setup=keyed('{ dir = "k" }')),
    Case("key, env: set", setenv("MY_KEY", "1"), setup=keyed('{ env = "MY_KEY" }'), has_ticket=False),
    Case(
        "key, env: changed",
        setenv("MY_KEY", "2"),
        setup=both(keyed('{ env = "MY_KEY" }'), setenv("MY_KEY", "1")),
        has_ticket=False,
    ),
    Case("key, git: commit", commit("b"), setup=both(commit("a"), keyed("{ git = true }"))),
    Case("key, git: appears", commit("b"), setup=keyed("{ git = { commit = true } }")),
    Case("key, git: status", git_status, SAME, setup=both(commit("a"), keyed("{ git = true }"))),
    Case(
        "key, git: tag",
        commit("b", "refs/tags/v1"),
        setup=both(commit("a"), keyed("{ git = { commit = true, tags = true } }")),
    ),
    Case(
        "key, git: tag moved",
        commit("b", "refs/tags/v/1"),
        setup=both(commit("a"), commit("a", "refs/tags/v/1"), keyed("{ git = { tags = true } }")),
    ),
    Case(
        "key, git: a tag that doesn't count",
        commit("b", "refs/tags/v1"),
        SAME,
        setup=both(commit("a"), keyed("{ git = true }")),
    ),
    *GLOBS,
    Case("--all-packages", then=["--all-packages"]),
    Case("--package of a member", then=["--package", "single"]),
    Case("--no-editable", then=["--no-editable"]),
)

CASES = [*PROJECT_FILES, *ENVIRONMENT, *OPTIONS, *(replace(case, base="workspace") for case in WORKSPACE)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_verdict(case: Case, world: World) -> None:
    world.restore(case.base)
    if case.setup:
        case.setup(world)
    assert world.shim("sync", *case.options)
    assert world.fresh("run", case.options)
    assert world.fresh("sync", case.options)
    if world.is_native:
        assert world.leave_tickets(case.options) is case.has_ticket
    if case.change:
        case.change(world)
    then = case.options if case.then is None else case.then
    cells = world.cell("run", then), world.cell("sync", then)
    assert cells == (case.run, case.sync or case.run)
    for subcommand, cell in zip(("run", "sync"), cells, strict=True):
        assert not world.is_native or cell in (SAME, MISSED) or not world.launcher_answers(subcommand, then)
    if MISSED in cells:
        assert world.shim("run", *then, "true") is False
        assert not world.uv_acts("run", then)


def test_what_is_missed_is_documented() -> None:
    cells = Counter(cell for case in CASES for cell in (case.run, case.sync or case.run))
    print(len(CASES), "changes:", dict(cells))
    assert len({case.name for case in CASES}) == len(CASES) >= 60
    assert {case.name for case in CASES if MISSED in (case.run, case.sync)} == DOCUMENTED


# ---------------------------------------------------------------------------------------------- the ordinary cycle

_PYTHON = ("run", "python", "-c", "import alpha, beta")
_ONE = ("run", "python", "-c", "import one, dep")


@pytest.mark.parametrize("locked", [True, False], ids=["locked", "no uv.lock"])
@pytest.mark.parametrize(
    ("base", "folder", "calls"),
    [
        ("plain", "", [_PYTHON] * 3),
        ("packaged", "", [("run", "python", "-c", "import demo")] * 3),
        ("workspace", "", [_ONE] * 3),
        ("workspace", "packages/one", [("run", "python", "-c", "import one")] * 3),
        ("workspace", "single", [("run", "python", "-c", "import alpha")] * 3),
        ("plain", "", [("sync",), ("sync",), _PYTHON, _PYTHON]),
        ("plain", "", [("sync", "--output-format", "json"), ("sync", "-v"), _PYTHON]),
        ("workspace", "", [("sync",), _ONE, ("sync",), _ONE]),
        ("plain", "", [("run", "--with", "gamma", "python", "-c", "import alpha, gamma")] * 3),
        ("plain", "", [_PYTHON, ("run", "-v", "alpha.py"), ("run", "-m", "alpha"), ("run", "--", "true")]),
    ],
    ids="virtual packaged workspace member virtual-member sync display sync-workspace with commands".split(),
)
def test_one_preparation(locked: bool, base: str, folder: str, calls: Sequence[Words], world: World) -> None:
    world.restore(base)
    world.cwd = world.root / folder
    (world.root / "alpha.py").write_text("import beta\n")
    shutil.rmtree(world.venv)
    if not locked:
        lockfile(world).unlink()
    prepared = []
    for words in calls:
        prepared.append(world.shim(*words))
        git_status(world)
    assert prepared == [True] + [False] * (len(calls) - 1)


@pytest.mark.parametrize("uv_version", VERSIONS[:-1])
@pytest.mark.parametrize("first", [("sync",), _ONE], ids=["sync", "run"])
def test_one_preparation_by_older_uv(first: Words, uv_version: str, world: World) -> None:
    world.restore("workspace")
    world.env["PATH"] = world.env["PATH"].replace(str(uv("newest").parent), str(uv(uv_version).parent))
    shutil.rmtree(world.venv)
    lockfile(world).unlink()
    assert [world.shim(*words) for words in (first, _ONE, _ONE)] == [True, False, False]


def test_exact_calls_ask_for_more(world: World) -> None:
    world.restore("plain")
    pip("install", "gamma")(world)
    assert world.shim("run", "true")
    assert world.fresh("run", [])
    assert not world.fresh("run", ["--exact"])
    assert not world.fresh("sync", [])
    assert not world.fresh("sync", ["--inexact", "--extra", "more"])
    assert world.fresh("sync", ["--inexact"])


def test_sync_that_leaves_packages_out_prepares_for_no_run(world: World) -> None:
    world.restore("plain")
    world.env["UV_NO_INSTALL_PACKAGE"] = "beta"
    assert world.shim("sync")
    assert world.fresh("sync", [])
    assert not world.fresh("run", [])
    world.restore("plain")
    assert world.shim("sync", "--no-install-package", "beta")
    assert not world.fresh("run", [])


def test_what_a_note_cannot_hold_is_never_fresh(world: World) -> None:
    world.restore("workspace")
    keyed('"/assets/*"')(world)
    assert [world.shim("run", "true") for _ in range(2)] == [True, True]


def _snapshot(world: World) -> dict[str, int]:
    """When each file of the environment and uv.lock changed, without what belongs to the shim."""
    files = {str(lockfile(world)): lockfile(world).stat().st_ctime_ns}
    for folder, names, found in os.walk(world.venv):
        names[:] = [name for name in names if name != ".uv-mutex"]
        files |= {f"{folder}/{name}": os.lstat(f"{folder}/{name}").st_ctime_ns for name in found}
    return files


def _decides_nothing(world: World, options: Words) -> None:
    """Whatever these options and the variables say, the note is fresh, and real uv leaves the environment alone."""
    assert world.fresh("run", options), options
    before = _snapshot(world)
    done = world.uv("run", *options, "true")
    assert done.returncode == 0, (options, done.stderr.decode())
    assert _snapshot(world) == before, options


def test_options_that_decide_nothing(world: World) -> None:
    world.restore("plain")
    world.package(world.live / "epsilon", "epsilon")
    write(below("my.env"), "A = 1")(world)
    write(below("my.txt"), "gamma")(world)
    (world.root / "inside").mkdir()
    assert world.shim("run", "true")
    for options in (
        ["--with", "gamma"],
        ["-w", "beta<1.1"],
        ["--with-editable", f"{world.live}/epsilon"],
        ["--with-requirements", "my.txt"],
        ["--env-file", "my.env"],
        ["--env-file", "my.env", "--no-env-file"],
        ["--max-recursion-depth", "7"],
        ["--directory", "inside"],
        ["--directory", "..", "--project", "project"],
        ["--project", "."],
        ["--cache-dir", f"{world.live}/another-cache"],
        ["--native-tls"],
        ["--no-native-tls"],
        ["--system-certs"],
        ["--no-system-certs"],
        ["--allow-insecure-host", "127.0.0.1"],
        ["--trusted-host", "127.0.0.1"],
        ["--keyring-provider", "disabled"],
        ["-q"],
        ["-v"],
        ["--color", "always"],
        ["--no-color"],
        ["--no-progress"],
        ["--show-resolution"],
    ):
        _decides_nothing(world, options)
    before = _snapshot(world)  # the control
    assert not world.fresh("run", ["--extra", "more"])
    assert world.uv("run", "--extra", "more", "true").returncode == 0
    assert _snapshot(world) != before


def test_variables_that_decide_nothing(world: World) -> None:
    world.restore("plain")
    write(below("my.env"), "A = 1")(world)
    assert world.shim("run", "true")
    values = {
        "UV_ENV_FILE": "my.env",
        "UV_RUN_RLIMIT_NOFILE": "100",
        "UV_PROJECT": ".",
        "UV_WORKING_DIR": ".",
        "UV_WORKING_DIRECTORY": ".",
        "UV_PROJECT_ENVIRONMENT": ".venv",
        "UV_CACHE_DIR": f"{world.live}/another-cache",
        "UV_STACK_SIZE": "4194304",
        "UV_LOG_CONTEXT": "1",
        "UV_INSECURE_HOST": "127.0.0.1",
        "UV_KEYRING_PROVIDER": "disabled",
        "UV_CREDENTIALS_DIR": f"{world.live}/credentials",
        "UV_PUBLISH_URL": "http://127.0.0.1:1/",
        "UV_PUBLISH_CHECK_URL": "http://127.0.0.1:1/",
        "UV_INIT_BUILD_BACKEND": "hatch",
        "UV_GITHUB_FAST_PATH_URL": "http://127.0.0.1:1/",
        "UV_INDEX_PRIVATE_USERNAME": "me",
        "UV_INDEX_PRIVATE_PASSWORD": "secret",
    }
    for name in sorted({*request_key._IGNORED_VARIABLES, *values}):
        world.env[name] = values.get(name, "1")
        _decides_nothing(world, [])
        del world.env[name]
    world.env["UV_DEFAULT_INDEX"] = world.index.url.replace("://", "://me:secret@")
    _decides_nothing(world, [])
    world.env["UV_RESOLUTION"] = "lowest"  # the control
    before = _snapshot(world)
    assert not world.fresh("run", [])
    assert world.uv("run", "true").returncode == 0
    assert _snapshot(world) != before


_PATTERNS = ("native/*.rs", "*.rs", "{native,h}/*.rs", "native/[!x].rs")


@pytest.mark.parametrize("uv_version", ["0.5.31", "0.7.8", "0.9.30", "newest"])
@pytest.mark.parametrize("pattern", _PATTERNS)
def test_globs_by_each_uv(pattern: str, uv_version: str, world: World) -> None:
    """uv's rules for globs changed. In each version a note sees at least what uv sees."""
    world.restore("workspace")
    world.env["PATH"] = world.env["PATH"].replace(str(uv("newest").parent), str(uv(uv_version).parent))
    shutil.rmtree(world.venv)
    lockfile(world).unlink()
    globbed(pattern)(world)
    uv_saw = 0
    assert world.shim("sync")
    for change in (
        write(below("native/a.rs", "dep"), "2"),
        write(below("native/deep/b.rs", "dep"), "2"),
        write(below("native/new/c.rs", "dep"), "2"),
        remove(below("native/new/c.rs", "dep")),
        write(below("native/a.txt", "dep"), "2"),
        write(below("top.rs", "dep"), "2"),
    ):
        assert world.fresh("sync", [])
        change(world)
        fresh = world.fresh("sync", [])
        before = world.info("dep").stat().st_ctime_ns
        uv_command("sync")(world)
        acted = world.info("dep").stat().st_ctime_ns != before
        assert not (fresh and acted)
        uv_saw += acted
        world.shim("sync")
    assert uv_saw


# ---------------------------------------------------------------------------------------------- work each time


def _builds(world: World) -> list[str]:
    """For each build of the project since the last look, whether the lock was held."""
    journal = world.live / "builds"
    found = journal.read_text().split() if journal.exists() else []
    journal.write_text("")
    return found


@pytest.mark.parametrize("uv_version", VERSIONS)
def test_configured_reinstall_is_done_once_under_the_lock(uv_version: str, world: World) -> None:
    """And the control: bare uv does it as often, without a lock."""
    world.restore("packaged")
    world.env["PATH"] = world.env["PATH"].replace(str(uv("newest").parent), str(uv(uv_version).parent))
    extra = f"open({str(world.live / 'builds')!r}, 'a').write('held ' if 'UV_MUTEX_HELD' in os.environ else 'free ')"
    (world.root / "backend.py").write_text(slow_backend(0, extra))
    write(pyproject, pyproject(world).read_text() + '[tool.uv]\nreinstall-package = ["demo"]\n')(world)
    world.uv("sync")
    _builds(world)
    for words in (("run", "true"), ("sync",)):
        assert world.uv(*words).returncode == 0
        assert _builds(world) == ["free"]
        for _ in range(2):
            assert world.shim(*words)
            assert _builds(world) == ["held"]
    # What the call itself cancels is not done.
    assert world.shim("run", "--no-reinstall", "true")
    assert _builds(world) == []
    assert world.shim("run", "--no-reinstall", "true") is False


# ---------------------------------------------------------------------------------------------- where notes lie


def test_environment_that_cannot_be_written(world: World) -> None:
    """A file stands where the folder of the notes would: root could write to a folder of any mode."""
    world.restore("plain")
    shutil.rmtree(world.venv / ".uv-mutex")
    (world.venv / ".uv-mutex").touch()
    assert [world.shim("run", "true") for _ in range(3)] == [True, False, False]
    (note,) = (world.root / ".uv-mutex").glob("note.*")
    note.unlink()
    assert world.shim("run", "true")  # the control: without the note it prepares again


def test_home_is_not_set(world: World) -> None:
    world.restore("plain")
    del world.env["HOME"]
    assert [world.shim("run", "true") for _ in range(2)] == [True, False]


def test_a_note_for_each_kind_of_call_alone(world: World) -> None:
    world.restore("plain")
    shutil.rmtree(world.venv / ".uv-mutex")
    prepared = []
    for number in range(5):
        write(below(f"{number}.env"), "A = 1")(world)
        prepared.append(world.shim("run", "--env-file", f"{number}.env", "--with", "gamma", "true"))
    assert prepared == [True] + [False] * 4
    assert len(list((world.venv / ".uv-mutex").glob("note.*"))) == 1


def test_nothing_secret_is_written_down(world: World) -> None:
    """No value of a variable, no password and no URL stands in a file of ours, nor is a note wider than it must be."""
    world.restore("workspace")
    keyed('{ env = "MY_KEY" }')(world)
    (world.venv / ".uv-mutex").mkdir(exist_ok=True)
    write(below(".venv/.uv-mutex/0badcafe"), "('UV_INDEX_URL', 's3cret-old')")(world)
    secret = world.index.url.replace("://", "://s3cret-user:s3cret-password@")
    world.env |= {
        "UV_INDEX_PRIVATE_USERNAME": "s3cret-1",
        "UV_INDEX_PRIVATE_PASSWORD": "s3cret-2",
        "UV_DEFAULT_INDEX": secret,
        "UV_PUBLISH_TOKEN": "s3cret-3",
        "UV_NEVER_HEARD_OF": "s3cret-4",
        "MY_KEY": "s3cret-5",
    }
    calls: list[Words] = [
        ("sync",),
        ("run", "true"),
        ("run", "--index", f"private={secret}", "true"),
        ("run", "--extra-index-url", secret, "true"),
        ("run", "-C", "token=s3cret-6", "true"),
        ("run", "true"),
        ("add", "--frozen", "gamma"),
    ]
    for words in calls:
        world.shim(*words)
    folders = [world.root / ".uv-mutex", world.venv / ".uv-mutex", world.home / ".cache" / "uv-mutex"]
    ours = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    notes = [path for path in ours if path.name.startswith("note.")]
    assert len(notes) >= 4
    for path in ours:
        text = path.read_bytes()
        assert b"s3cret" not in text, path
        assert world.index.url.encode() not in text, path
    assert not (world.venv / ".uv-mutex" / "0badcafe").exists()
    assert any(b"MY_KEY" in path.read_bytes() for path in notes)  # the control: what is no secret is found
    assert {path.stat().st_mode & 0o777 for path in notes} == {0o600}


# ---------------------------------------------------------------------------------------------- changes meanwhile

MEANWHILE = {
    "pyproject": edit(pyproject, '"one"', '"one", "alpha"'),
    "pyproject, same size, old mtime": edit(pyproject, '"beta"', '"alph"', old_mtime=True),
    "uv.lock": touch(lockfile),
    "member": edit(_SINGLE, '"alpha"', '"gamma"', old_mtime=True),
    "member deep down": touch(below("tools/hammer/inner/pyproject.toml")),
    "member appears": new_member("packages/two"),
    "member removed": remove(below("tools/hammer")),
    "path": edit(_DEP, '"beta"', '"beta", "gamma"', old_mtime=True),
    "path's setup.py": write(below("setup.py", "dep"), ""),
    "path's src": remove(below("src", "dep")),
    "archive": touch(below("beta-1.0-py3-none-any.whl", "outer")),
    "uv.toml": write(below("uv.toml"), ""),
    "user's uv.toml": write(_USER, ""),
    ".python-version": write(below(".python-version"), "3"),
    "uninstalled": pip("uninstall", "one"),
    "installed": pip("install", "gamma"),
    "dist-info removed": remove(site("one-*.dist-info")),
    "interpreter": other_interpreter(below(".venv/bin/python")),
}


@pytest.mark.parametrize("name", MEANWHILE)
def test_change_after_uv_looked_is_not_noted(name: str, world: World) -> None:
    world.restore("workspace")
    uv_command("sync")(world)
    shutil.rmtree(world.venv / ".uv-mutex")
    note = world.note("run", "true")
    assert note
    note.before_preparation()
    uv_command("run", "true")(world)
    MEANWHILE[name](world)
    assert note.write() is False
    assert not note.fresh()


@pytest.mark.parametrize("call", [("sync",), ("run", "true")], ids=["sync", "run"])
def test_pyproject_edited_while_a_package_is_built(call: Words, world: World) -> None:
    world.restore("workspace")
    text = pyproject(world).read_text()
    added = text.replace('"one"', '"one", "gamma"')
    backend = world.root / "packages" / "one" / "backend.py"
    backend.write_text(
        slow_backend(0, f"with open({str(pyproject(world))!r}, 'w') as file:\n    file.write({added!r})")
    )
    touch(_MEMBER)(world)
    assert world.shim(*call)
    assert pyproject(world).read_text() == added
    assert world.cell("run", []) == SPARE
    assert world.shim("run", "python", "-c", "import gamma")
    assert not world.shim("run", "python", "-c", "import gamma")
    assert world.cell("run", []) == SAME
