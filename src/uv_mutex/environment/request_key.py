"""The key of a note: what a call asks uv for. A note is valid only for calls with the same key."""

import os

from uv_mutex.environment import fingerprint, note_file
from uv_mutex.uv import user_folders

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from uv_mutex.uv.commandline import Call
    from uv_mutex.uv.project import Project

#: Variables of crates/uv-static/src/env_vars.rs that change neither what a project's environment contains nor how uv
#: finds that out. All others count, the unknown too. The first two lines: for the command that `uv run` starts, and
#: where uv finds what :func:`keys` looks at itself. Then: what uv prints; how fast and how patiently it works; how it
#: connects; what it uses in other subcommands.
_IGNORED_VARIABLES = frozenset(
    """UV_ENV_FILE UV_NO_ENV_FILE UV_RUN_RECURSION_DEPTH UV_RUN_MAX_RECURSION_DEPTH UV_RUN_RLIMIT_NOFILE
    UV_PROJECT UV_WORKING_DIR UV_WORKING_DIRECTORY UV_PROJECT_ENVIRONMENT UV_CACHE_DIR
    UV_NO_PROGRESS UV_NO_WRAP UV_SHOW_RESOLUTION UV_HIDE_BUILD_OUTPUT UV_LOG_CONTEXT UV_INTERNAL__SHOW_DERIVATION_TREE
    UV_CONCURRENT_BUILDS UV_CONCURRENT_CACHE_READS UV_CONCURRENT_DOWNLOADS UV_CONCURRENT_INSTALLS UV_STACK_SIZE
    UV_COMPILE_BYTECODE_TIMEOUT UV_LOCK_TIMEOUT UV_HTTP_TIMEOUT UV_REQUEST_TIMEOUT UV_HTTP_CONNECT_TIMEOUT
    UV_HTTP_RETRIES UV_UPLOAD_HTTP_TIMEOUT
    UV_NATIVE_TLS UV_SYSTEM_CERTS UV_INSECURE_HOST UV_KEYRING_PROVIDER UV_CREDENTIALS_DIR UV_API_KEY UV_AUTH_TOKEN
    UV_GITHUB_TOKEN UV_NO_HF_TOKEN UV_NO_GITHUB_FAST_PATH UV_GITHUB_FAST_PATH_URL
    UV_PUBLISH_CHECK_URL UV_PUBLISH_INDEX UV_PUBLISH_NO_ATTESTATIONS UV_PUBLISH_PASSWORD UV_PUBLISH_TOKEN UV_PUBLISH_URL
    UV_PUBLISH_USERNAME UV_TOOL_DIR UV_TOOL_BIN_DIR UV_INIT_BARE UV_INIT_BUILD_BACKEND UV_CUSTOM_COMPILE_COMMAND
    UV_INSTALL_DIR UV_UNMANAGED_INSTALL UV_DOWNLOAD_URL UV_NO_MODIFY_PATH UV_INSTALLER_GHE_BASE_URL
    UV_INSTALLER_GITHUB_BASE_URL UV_PYTHON_BIN_DIR UV_PYTHON_INSTALL_BIN UV_PYTHON_INSTALL_REGISTRY""".split()
)
#: UV_INDEX_<name>_USERNAME and UV_INDEX_<name>_PASSWORD: they open an index, and choose nothing in it.
_CREDENTIALS = ("_USERNAME", "_PASSWORD")
#: Their values can be paths, which uv takes relative to its working directory.
_PATH_OPTIONS = ("-f", "--find-links", "-i", "--index-url", "--extra-index-url", "--index", "--default-index")
_PATH_VARIABLES = frozenset(
    """UV_FIND_LINKS UV_INDEX UV_DEFAULT_INDEX UV_INDEX_URL UV_EXTRA_INDEX_URL UV_CONSTRAINT UV_BUILD_CONSTRAINT
    UV_OVERRIDE UV_EXCLUDE""".split()
)
#: With a variable of these names `sync`, but not `run`, leaves packages out.
_SYNC_ONLY_PREFIXES = ("UV_NO_INSTALL_", "UV_ONLY_INSTALL_")
_VERSION_FILES = (".python-version", ".python-versions")


def keys(
    project: "Project", call: "Call", environ: "Mapping[str, str]", uv: str, settings_file: str | None
) -> tuple[str, ...]:
    """The keys of the notes that a successful preparation writes: digests, which show nothing of what they stand for.

    The first is the key of this call. An exact `sync` has a second one: it leaves no package that nothing asks for,
    and so prepares the environment for a `run` with the same options too. The opposite is not true. With variables that
    leave packages out, a `sync` prepares for no `run`.

    Where uv, interpreter or settings differ between hosts that share an environment, each host has a key of its own,
    so that no host overwrites the note of another.

    :param project: the project whose environment it is.
    :param call: the call.
    :param environ: the environment variables, those of uv included.
    :param uv: the path of the real uv.
    :param settings_file: what :func:`config_file` returns.
    """
    variables = sorted((name, _without_users(value)) for name, value in environ.items() if _counts(name))
    options = [(name, value and _without_users(value)) for name, value in call.environment_options()]
    folders = [project.member]
    pythons = interpreters(project, call, environ)
    folders += pythons[1:]
    machine = [fingerprint.size(uv), *map(fingerprint.size_and_mtime, pythons)]
    settings = (fingerprint.describe("file", path, environ) for path in machine_settings(environ))
    machine += map(fingerprint.state, settings)
    if _has_version_file(project):
        folders.append(project.start)
    places = [value for name, value in options if name in _PATH_OPTIONS]
    places += [value for name, value in variables if name in _PATH_VARIABLES]
    if any(_has_relative_path(value or "") for value in places):
        folders.append(absolute(".", call, environ))
    paths = [path and note_file.relative_path(path, project.root) for path in (settings_file, *folders)]
    request = repr((options, variables, paths, machine))
    leaves_out = call.subcommand == "sync" and any(name.startswith(_SYNC_ONLY_PREFIXES) for name, _ in variables)
    requests = [request]
    if call.exact:
        requests.insert(0, f"exact {request}")
    if leaves_out:
        requests = [f"partial {requests[0]}"]
    return tuple(map(fingerprint.digest, requests))


def config_file(call: "Call", environ: "Mapping[str, str]") -> str | None:
    """The absolute path of the configuration file that an option or variable names; None if none does."""
    path = call.value("--config-file") or environ.get("UV_CONFIG_FILE")
    return path and absolute(path, call, environ)


def interpreters(project: "Project", call: "Call", environ: "Mapping[str, str]") -> list[str]:
    """The environment's Python, and the one that the call asks for by a path."""
    python = call.value("-p", "--python") or environ.get("UV_PYTHON")
    asked = [absolute(python, call, environ)] if python and "/" in python else []
    return [f"{project.environment}/bin/python", *asked]


def working_directory(call: "Call", environ: "Mapping[str, str]") -> str | None:
    """The folder that uv changes to at first, as the user gave it."""
    return call.value("--directory") or environ.get("UV_WORKING_DIR") or environ.get("UV_WORKING_DIRECTORY")


def absolute(path: str, call: "Call", environ: "Mapping[str, str]") -> str:
    """The absolute path of what uv reads relative to its working directory."""
    folder = working_directory(call, environ)
    return os.path.abspath(os.path.join(folder, path) if folder else path)


def _counts(name: str) -> bool:
    """Whether a variable can change what the environment contains."""
    if not name.startswith("UV_") or name in _IGNORED_VARIABLES:
        return False
    return not name.startswith("UV_MUTEX") and not (name.startswith("UV_INDEX_") and name.endswith(_CREDENTIALS))


def _without_users(value: str) -> str:
    """The value, and in its URLs no user and no password: uv doesn't write them to uv.lock either."""
    start, *urls = value.split("://")
    for at, url in enumerate(urls):
        end = min((found for found in map(url.find, "/?# ,") if found >= 0), default=len(url))
        urls[at] = url[:end].rpartition("@")[2] + url[end:]
    return "://".join((start, *urls))


def _has_relative_path(value: str) -> bool:
    """Whether a list of URLs and paths has a path that depends on the working directory."""
    return any("://" not in item and not item.startswith("/") for item in value.replace(",", " ").split())


def _has_version_file(project: "Project") -> bool:
    """Whether the folder from which uv looks for the project decides on the Python version."""
    folder = project.start
    while folder.startswith(f"{project.root}/"):
        if any(os.path.exists(f"{folder}/{name}") for name in _VERSION_FILES):
            return True
        folder = os.path.dirname(folder)
    return False


def machine_settings(environ: "Mapping[str, str]") -> "Iterator[str]":
    """The files with the settings of the user and of the system (crates/uv-dirs/src/lib.rs)."""
    user = user_folders.config(environ)
    if user:
        for name in ("uv.toml", *_VERSION_FILES):
            yield f"{user}/uv/{name}"
    yield from system_settings(environ)


def system_settings(environ: "Mapping[str, str]") -> "Iterator[str]":
    """The files in which uv looks for the settings of the system; it reads the first one."""
    for folder in (environ.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":"):
        yield f"{folder}/uv/uv.toml"
    yield "/etc/uv/uv.toml"
