"""One command wires a whole machine, each way in leads through the shim, and undo leaves no trace."""

from __future__ import annotations

import ast
import os
import shlex
import stat
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import filelock
import packaging
import pytest
from support import readme
from support.debian import DOCKER_PATH, SSH_PATH, Machine, booted, machine
from support.herd import read_log
from support.native import compile_launcher
from support.uvs import uv

# The first one makes the Debian that all use.
pytestmark = pytest.mark.timeout(900)

_ROOT = Path(__file__).parents[2]
_WHEELS = "/wheels"
_WITH_WHEELS = readme.command("python3 hooks/install-worker --wheelhouse").replace("DIR", _WHEELS).split()
_WORKER = [_WITH_WHEELS[0], f"/repo/{_WITH_WHEELS[1]}"]
_TOML = '[project]\nname = "demo"\nversion = "0"\nrequires-python = ">=3.10"\n'
#: What uv's installer writes, word for word, but for the folder; cargo's is the same.
_ENV = """\
#!/bin/sh
# add binaries to PATH if they aren't added yet
# affix colons on either side of $PATH to simplify matching
case ":${{PATH}}:" in
    *:"$HOME/{folder}":*)
        ;;
    *)
        # Prepending path in case a system-installed binary needs to be overridden
        export PATH="$HOME/{folder}:$PATH"
        ;;
esac
"""
_USERS = ("root", "joe")
_PLACES = (".local/bin", "/usr/local/bin", ".cargo/bin")


def make_wheel_of(package: str, folder: Path) -> Path:
    """A wheel of an installed library, without the network."""
    module = {"filelock": filelock, "packaging": packaging}[package]
    place = Path(str(module.__file__)).parent
    wheel = folder / f"{package}-99.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path in place.rglob("*.py"):
            archive.write(path, f"{package}/{path.relative_to(place)}")
    return wheel


@pytest.fixture
def debian(tmp_path: Path) -> Iterator[Machine]:
    """A bare worker with a clone of the repository, a wheelhouse and a project; no uv, no network needed."""
    with machine(tmp_path / "machine") as made:
        (tmp_path / "wheels").mkdir()
        for name in ("filelock", "packaging"):
            make_wheel_of(name, tmp_path / "wheels")
        made.copy(tmp_path / "wheels", _WHEELS)
        for name in ("src", "hooks", "pyproject.toml"):
            made.copy(_ROOT / name, f"/repo/{name}")
        for user in _USERS:
            made.write(f"/srv/{user}/pyproject.toml", _TOML, user=user)
        yield made


def give_uv(debian: Machine, place: str, user: str) -> None:
    """Put uv there, as its installer does for a user: with lines in the profiles, which want it first on PATH."""
    if place.startswith("/"):
        debian.copy(uv("newest"), f"{place}/uv")
        return
    home = "/root" if user == "root" else f"/home/{user}"
    debian.copy(uv("newest"), f"{home}/{place}/uv")
    folder = place.partition("/")[0]
    env = f"{folder}/env" if folder == ".cargo" else f"{place}/env"
    debian.write(f"{home}/{env}", _ENV.format(folder=place))
    for name in (".profile", ".bashrc"):
        with debian.path(f"{home}/{name}").open("a") as file:
            file.write(f'\n. "$HOME/{env}"\n')
    debian.write(f"{home}/.zshenv", f'. "$HOME/{env}"')  # no line end
    debian.write(f"{home}/.config/fish/conf.d/uv.env.fish", f'set -x PATH "$HOME/{place}" $PATH\n')
    debian.own(home, user)


def worker(debian: Machine, *words: str, user: str = "root") -> subprocess.CompletedProcess[str]:
    """Run hooks/install-worker offline."""
    wheels = [] if "--undo" in words else _WITH_WHEELS[2:]
    return debian.run([*_WORKER, *wheels, *words], user=user)


def snapshot(debian: Machine) -> dict[str, object]:
    """All that the worker may touch: content, mode, owner."""
    seen: dict[str, object] = {}
    for top in ("etc", "root", "home", "usr/local", "opt"):
        for path in (debian.root / top).rglob("*"):
            status = path.lstat()
            kind = stat.S_IFMT(status.st_mode)
            if ".cache" in path.parts:  # uv's
                continue
            content: object = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else kind
            seen[str(path.relative_to(debian.root))] = (content, status.st_mode, status.st_uid, status.st_gid)
    return seen


def changed(before: dict[str, object], after: dict[str, object]) -> set[str]:
    """Paths that differ."""
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def goes_through(debian: Machine, words: list[str], user: str, path: str = DOCKER_PATH, runs_as: str = "") -> str:
    """Run `uv sync` by this way in; say "shim", or what happened instead."""
    runs_as = runs_as or user
    log = debian.path(f"/srv/{runs_as}/log")
    before = len(read_log(log))
    line = f"cd /srv/{runs_as} && UV_MUTEX_LOG=/srv/{runs_as}/log UV_OFFLINE=1 uv sync -q"
    home = "/root" if user == "root" else f"/home/{user}"
    env = {"HOME": home, "USER": user, "PATH": path, "TERM": "dumb"}
    done = debian.run([*words, line], user=user, env=env)
    if done.returncode:
        return done.stderr
    return "shim" if len(read_log(log)) == before + 1 else "past the shim"


_SHELLS = [["bash", "-lc"], ["sh", "-lc"], ["bash", "-ic"], ["zsh", "-c"], ["zsh", "-ic"], ["fish", "-c"]]
_FORK = ["python3", "-c", "import subprocess, sys; sys.exit(subprocess.call(['sh', '-c', sys.argv[1]]))"]
_NO_PROFILE = [["sh", "-c"], ["bash", "-c"], _FORK]
_NO_UV = "uv-mutex: no uv on PATH besides the shim /usr/local/sbin/uv; install uv, or name it in UV_MUTEX_UV\n"


@pytest.mark.parametrize("place", _PLACES)
@pytest.mark.parametrize("user", _USERS)
def test_every_way_in(user: str, place: str, debian: Machine) -> None:
    give_uv(debian, place, user)
    done = worker(debian, user=user)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "PAST" not in done.stdout
    for path in (DOCKER_PATH, SSH_PATH):
        for way in _SHELLS:
            assert goes_through(debian, way, user, path) == "shim", (way, path)
    assert goes_through(debian, ["su", "-", user, "-c"], "root", runs_as=user) == "shim"


@pytest.mark.parametrize("place", _PLACES)
def test_root_wires_what_reads_no_profile(place: str, debian: Machine) -> None:
    """As `docker exec CONTAINER uv …`, sudo and services without a PATH of their own do."""
    give_uv(debian, place, "root")
    worker(debian)
    everyones = place.startswith("/")
    for way in _NO_PROFILE:
        assert goes_through(debian, way, "root") == ("shim" if everyones else _NO_UV), way
    if everyones:
        for way in (*_SHELLS, *_NO_PROFILE):
            assert goes_through(debian, way, "joe") == "shim", way
        for way in (["su", "joe", "-c"], ["su", "-", "joe", "-c"], ["su", "joe", "-s", "/bin/bash", "-c"]):
            assert goes_through(debian, way, "root", SSH_PATH, runs_as="joe") == "shim", way


@pytest.mark.parametrize("place", _PLACES)
@pytest.mark.parametrize("user", _USERS)
def test_twice_is_once_and_undo_leaves_no_trace(user: str, place: str, debian: Machine) -> None:
    give_uv(debian, place, user)
    before = snapshot(debian)
    first = worker(debian, user=user)
    assert first.returncode == 0, first.stderr
    wired = snapshot(debian)
    assert worker(debian, user=user).stdout == first.stdout
    assert changed(wired, snapshot(debian)) == set()
    undone = worker(debian, "--undo", user=user)
    assert undone.returncode == 0, undone.stderr
    assert changed(before, snapshot(debian)) == set()
    again = worker(debian, "--undo", user=user)
    prefix = "/opt/uv-mutex" if user == "root" else "/home/joe/.local/share/uv-mutex"
    assert (again.returncode, again.stderr) == (1, f"uv-mutex: nothing is installed in {prefix}; name its --prefix\n")


def test_a_running_systemd(debian: Machine) -> None:
    """Services, and those of a user's own manager, once wired while systemd runs."""
    give_uv(debian, "/usr/local/bin", "root")
    with booted(debian) as system:
        before = system.run(["systemctl", "show-environment"]).stdout
        assert system.run(["systemctl", "start", "user@1000"]).returncode == 0
        for user in ("joe", "root"):  # root last, whose links would do for a system manager on their own
            done = system.run(["su", "-", user, "-c", f"python3 /repo/hooks/install-worker --wheelhouse {_WHEELS}"])
            assert done.returncode == 0, done.stdout + done.stderr
            home = "/opt" if user == "root" else "/home/joe/.local/share"
            line = f"cd /srv/{user} && UV_MUTEX_LOG=/srv/{user}/log UV_OFFLINE=1 uv sync -q && command -v uv"
            service = ["systemd-run", "--wait", "--pipe", "--quiet", "sh", "-c", line]
            if user == "joe":
                service.insert(1, "--user")
                command = f"XDG_RUNTIME_DIR=/run/user/1000 {shlex.join(service)}"
                service = ["su", "-", "joe", "-s", "/bin/sh", "-c", command]
            done = system.run(service)
            assert (done.returncode, done.stdout) == (0, f"{home}/uv-mutex/bin/uv\n"), done.stderr
            assert len(read_log(debian.path(f"/srv/{user}/log"))) == 1
        for user in ("joe", "root"):
            done = system.run(["su", "-", user, "-c", "python3 /repo/hooks/install-worker --undo"])
            assert done.returncode == 0, done.stderr
        assert system.run(["systemctl", "show-environment"]).stdout == before


def test_what_others_changed_since_stays(debian: Machine) -> None:
    before = snapshot(debian)
    done = worker(debian)
    assert done.returncode == 0
    assert "  ok    login shell (sh -l): the shim, but no real uv is on that PATH\n" in done.stdout
    for name in ("/etc/bash.bashrc", "/etc/environment", "/etc/profile.d/zz-uv-mutex.sh"):
        with debian.path(name).open("a") as file:
            file.write("# later\n")
    debian.path("/usr/local/sbin/uv").unlink()
    debian.path("/usr/local/sbin/uv").symlink_to("/elsewhere")
    assert worker(debian, "--undo").returncode == 0
    after = snapshot(debian)
    places = {"etc/bash.bashrc", "etc/environment", "etc/profile.d/zz-uv-mutex.sh", "usr/local/sbin/uv"}
    assert changed(before, after) == places
    for name in places - {"usr/local/sbin/uv"}:
        old, new = before.get(name, (b"",)), after[name]
        assert isinstance(old, tuple)
        assert isinstance(new, tuple)
        assert new[0] == old[0] + b"# later\n"


@pytest.mark.parametrize(("problem", "reason"), [("ro", "Read-only file system"), ("full", "No space left on device")])
def test_places_that_cannot_be_written(problem: str, reason: str, debian: Machine) -> None:
    """The others are wired, all can be undone, and no file is cut short."""
    give_uv(debian, "/usr/local/bin", "root")
    etc = debian.path("/etc")
    before = snapshot(debian)
    if problem == "ro":
        subprocess.run(["mount", "--bind", etc, etc], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", etc], check=True)
    else:
        copy = debian.root.parent / "etc"
        subprocess.run(["cp", "-a", etc, copy], check=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", etc], check=True)
        subprocess.run(["cp", "-a", f"{copy}/.", etc], check=True)
        with (etc / "filler").open("wb", buffering=0) as filler:
            assert filler.write(bytes(1 << 23)) < 1 << 23
        before["etc/filler"] = snapshot(debian)["etc/filler"]
    try:
        done = worker(debian)
        assert done.returncode == 1
        lines = done.stderr.splitlines()
        assert f"uv-mutex: cannot write /etc/bash.bashrc: {reason}; run this again once it can be written" in lines
        assert all(line.endswith("run this again once it can be written") for line in lines)
        assert "  /usr/local/sbin/uv\n" in done.stdout
        wired = snapshot(debian)
        assert {name for name in changed(before, wired) if name.startswith("etc/") and "." in name[4:]} <= {
            f"etc/{folder}" for folder in ("systemd/system.conf.d", "environment.d")
        }
        for way in _NO_PROFILE:
            assert goes_through(debian, way, "root") == "shim", way
        assert worker(debian, "--undo").returncode == 0
        assert changed(before, snapshot(debian)) == set()
    finally:
        subprocess.run(["umount", etc], check=True)


def test_undo_that_cannot_goes_on_later(debian: Machine) -> None:
    before = snapshot(debian)
    worker(debian)
    etc = debian.path("/etc")
    subprocess.run(["mount", "--bind", etc, etc], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", etc], check=True)
    done = worker(debian, "--undo")
    assert done.returncode == 2
    assert (
        "cannot restore /etc/bash.bashrc: Read-only file system; make it writable, and uninstall again" in done.stderr
    )
    assert done.stderr.count("\n") == 1
    assert "/opt/uv-mutex" not in debian.path("/root/.bashrc").read_text()
    subprocess.run(["umount", etc], check=True)
    assert worker(debian, "--undo").returncode == 0
    assert changed(before, snapshot(debian)) == set()


def test_it_says_where_the_real_uv_stays_first(debian: Machine) -> None:
    give_uv(debian, "/usr/local/sbin", "root")
    give_uv(debian, ".local/bin", "joe")
    with debian.path("/root/.bashrc").open("a") as file:
        file.write("return\n")
    foreign = debian.path("/usr/local/sbin/uv").lstat().st_ino
    done = worker(debian)
    assert done.returncode == 1
    assert done.stderr == (
        "uv-mutex: /usr/local/sbin/uv is not a uv-mutex shim, and is left alone: "
        "calls by that folder go past the shim\n"
    )
    assert debian.path("/usr/local/sbin/uv").lstat().st_ino == foreign
    lines = done.stdout.splitlines()
    assert "  ok    login shell (bash -l): the shim, then /usr/local/sbin/uv" in lines
    docker = "  PAST  docker exec (no profile): /usr/local/sbin/uv comes first; put /opt/uv-mutex/bin before its folder"
    assert f"{docker} there (ENV PATH=/opt/uv-mutex/bin:$PATH in the image)" in lines
    joes = "  PAST  joe's shells: a profile there may put /home/joe/.local/bin/uv first; run this as joe too"
    assert joes in lines
    assert goes_through(debian, ["sh", "-c"], "root") == "past the shim"
    assert goes_through(debian, ["bash", "-lc"], "joe") == "past the shim"
    assert worker(debian, user="joe").returncode == 0
    assert goes_through(debian, ["bash", "-lc"], "joe") == "shim"


def test_an_old_python_can_read_it() -> None:
    """Else it would answer with a syntax error."""
    ast.parse((_ROOT / "hooks/install-worker").read_text(), feature_version=(3, 6))


def test_a_list_that_cannot_be_written(debian: Machine) -> None:
    before = snapshot(debian)
    debian.path("/opt/uv-mutex/lib/uv-mutex/wired").mkdir(parents=True)
    done = worker(debian)
    assert done.returncode == 2
    assert done.stderr == (
        "uv-mutex: cannot write /opt/uv-mutex/lib/uv-mutex/wired: Is a directory; nothing was wired\n"
    )
    assert {name.partition("/")[0] for name in changed(before, snapshot(debian))} == {"opt"}


def test_a_profile_that_never_ends(debian: Machine) -> None:
    give_uv(debian, "/usr/local/bin", "root")
    debian.write("/home/joe/.bash_profile", "sleep 1000\n", user="joe")
    done = worker(debian, user="joe")
    assert "  ?     login shell (bash -l): its profile did not end; try it by hand\n" in done.stdout
    assert done.returncode == 0


def test_a_user_is_told_what_needs_root(debian: Machine) -> None:
    give_uv(debian, "/usr/local/bin", "root")
    done = worker(debian, user="joe")
    assert done.returncode == 0
    assert (
        "docker exec (no profile): not reached without root; run this as root, or set PATH in the image" in done.stdout
    )
    assert goes_through(debian, ["sh", "-c"], "joe") == "past the shim"


def test_a_prefix_that_others_cannot_reach(debian: Machine) -> None:
    debian.path("/root").chmod(0o700)
    done = worker(debian, "--prefix", "/root/shim")
    assert done.returncode == 2
    assert done.stderr == (
        "uv-mutex: other users cannot reach /root/shim/bin/uv, since /root is closed to them; "
        "choose a --prefix such as /opt/uv-mutex, and a Python outside a home folder\n"
    )
    assert not debian.path("/usr/local/sbin/uv").exists()


def test_from_a_folder_of_wheels_alone(debian: Machine, tmp_path: Path) -> None:
    give_uv(debian, "/usr/local/bin", "root")
    wheel = tmp_path / "uv_mutex-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for folder, name in (("src/uv_mutex", "uv_mutex"), ("hooks", "uv_mutex/hooks")):
            for path in (_ROOT / folder).rglob("*"):
                if path.is_file() and "__pycache__" not in path.parts:
                    archive.write(path, f"{name}/{path.relative_to(_ROOT / folder)}")
        compile_launcher(tmp_path / "launcher", "-static")
        archive.write(tmp_path / "launcher", f"uv_mutex/launchers/uv-{os.uname().machine}")
    debian.copy(wheel, f"{_WHEELS}/{wheel.name}")
    debian.copy(_ROOT / "hooks/install-worker", f"{_WHEELS}/worker")
    subprocess.run(["rm", "-r", debian.path("/repo")], check=True)
    done = debian.run(["python3", f"{_WHEELS}/worker"])
    assert done.returncode == 0, done.stderr
    assert goes_through(debian, ["sh", "-c"], "root") == "shim"
    assert debian.path("/opt/uv-mutex/bin/uv").read_bytes() == (tmp_path / "launcher").read_bytes()
    installed = debian.path("/opt/uv-mutex/lib")
    both_names = [*installed.rglob("hooks/install-worker"), *installed.rglob("hooks/worker")]  # the second until 0.2
    assert len(both_names) == 2
    for command in (f"{_WHEELS}/worker", *both_names):
        inside = str(command).removeprefix(str(debian.root))
        assert debian.run(["python3", inside]).returncode == 0, inside  # the installed one needs no wheels
        assert debian.path("/opt/uv-mutex/bin/uv").read_bytes() == (tmp_path / "launcher").read_bytes()
    assert debian.run(["python3", f"{_WHEELS}/worker", "--undo"]).returncode == 0


@pytest.mark.network
def test_from_a_clone_and_the_package_index(debian: Machine) -> None:
    give_uv(debian, "/usr/local/bin", "root")
    debian.copy(Path("/etc/resolv.conf").resolve(), "/etc/resolv.conf")
    certificates = os.environ.get("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt")
    debian.path("/certificates").write_bytes(Path(certificates).read_bytes())
    carried = {name: value for name, value in os.environ.items() if name.startswith("PIP_") or "_PROXY" in name.upper()}
    env = {"HOME": "/root", "PATH": DOCKER_PATH, **carried, "PIP_CERT": "/certificates"}
    env.pop("PIP_FIND_LINKS", None)
    done = debian.run(_WORKER, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert goes_through(debian, ["sh", "-c"], "root") == "shim"


def test_errors_say_what_to_do(debian: Machine) -> None:
    """Nothing is changed by any of them."""
    debian.copy(debian.path(_WHEELS), "/two")
    debian.path("/two/filelock-1-py3-none-any.whl").touch()
    debian.copy(debian.path(_WHEELS), "/damaged")
    debian.path("/damaged/packaging-99.0-py3-none-any.whl").write_text("no zip")
    debian.path("/empty").mkdir()
    before = snapshot(debian)
    cases = {
        "/two": "/two holds 2 wheels of filelock; leave one there",
        "/damaged": "/damaged/packaging-99.0-py3-none-any.whl is damaged (File is not a zip file); fetch it again",
        "/empty": "/empty has no wheel of filelock; `pip download --no-deps -d /empty filelock packaging`",
        "/none": "/none is not a folder; name the one that holds the wheels",
    }
    for folder, message in cases.items():
        done = debian.run([*_WORKER, "--wheelhouse", folder])
        assert (done.returncode, done.stderr) == (1, f"uv-mutex: {message}\n")
    nowhere = {"PATH": DOCKER_PATH, "PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0"}
    done = debian.run(_WORKER, env=nowhere)
    assert done.returncode == 1
    assert done.stderr.endswith(
        "uv-mutex: pip could not fetch filelock and packaging; name a folder of wheels with --wheelhouse\n"
    )
    subprocess.run(["rm", "-r", debian.path("/usr/lib/python3.11/ensurepip")], check=True)
    done = debian.run(_WORKER)
    assert done.returncode == 1
    assert done.stderr == (
        "uv-mutex: /usr/bin/python3 has no ensurepip; "
        "install python3-venv, or name a folder of wheels with --wheelhouse\n"
    )
    old = "sys.version_info, sys.version = (3, 9, 2), '3.9.2 (main)'"
    code = f"import runpy, sys; {old}; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    done = debian.run(["/usr/bin/python3", "-c", code, _WORKER[1]], env={"PATH": "/nowhere"})
    assert done.returncode == 1
    assert done.stderr == (
        "uv-mutex: /usr/bin/python3 is Python 3.9.2, and there is no 3.11 or newer; get one with "
        "`uv python install 3.13`, or install your system's python3.11, then run this again\n"
    )
    debian.copy(_ROOT / "hooks/install-worker", "/alone")
    done = debian.run(["python3", "/alone"])
    assert (done.returncode, done.stderr) == (
        1,
        "uv-mutex: no wheels beside /alone; name their folder with --wheelhouse\n",
    )
    assert changed(before, snapshot(debian)) == set()


def test_an_old_python_finds_a_newer_one(debian: Machine) -> None:
    give_uv(debian, "/usr/local/bin", "root")
    old = "sys.version_info, sys.version = (3, 9, 2), '3.9.2 (main)'"
    code = f"import runpy, sys; {old}; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    done = debian.run(["/usr/bin/python3", "-c", code, _WORKER[1], "--wheelhouse", _WHEELS])
    assert done.returncode == 0, done.stderr
    assert goes_through(debian, ["sh", "-c"], "root") == "shim"


#: The PATH of the official images of Python.
_PYTHON_IMAGE = "/usr/local/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@pytest.mark.parametrize("place", ["/bin", "/usr/local/bin"])
def test_an_image_with_a_path_of_its_own(place: str, debian: Machine) -> None:
    """Each way is judged by the PATH that it gets, and the shim is put where it wins there."""
    give_uv(debian, place, "root")
    env = {"HOME": "/root", "USER": "root", "PATH": _PYTHON_IMAGE}
    command = [*_WORKER, "--wheelhouse", _WHEELS]
    before = snapshot(debian)
    done = debian.run(command, env=env)
    if place == "/bin":
        assert done.returncode == 0, done.stdout
        assert debian.path("/usr/local/bin/uv").is_symlink()
        assert goes_through(debian, ["sh", "-c"], "root", _PYTHON_IMAGE) == "shim"
    else:  # nothing can come before the first folder
        assert done.returncode == 1
        way = f"docker exec (no profile, PATH={_PYTHON_IMAGE})"
        remedy = "put /opt/uv-mutex/bin before its folder there (ENV PATH=/opt/uv-mutex/bin:$PATH in the image)"
        assert f"  PAST  {way}: /usr/local/bin/uv comes first; {remedy}\n" in done.stdout
        assert goes_through(debian, ["sh", "-c"], "root", _PYTHON_IMAGE) == "past the shim"
        env["PATH"] = f"/opt/uv-mutex/bin:{_PYTHON_IMAGE}"
        assert debian.run(command, env=env).returncode == 0
        assert goes_through(debian, ["sh", "-c"], "root", env["PATH"]) == "shim"
    assert worker(debian, "--undo").returncode == 0
    assert changed(before, snapshot(debian)) == set()
