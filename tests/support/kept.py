"""Large packages from the package index, in a uv cache that outlives the tests."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence

from filelock import FileLock

from support import need
from support.download import download
from support.project import Project, run
from support.uvs import cache, index_variables


@contextlib.contextmanager
def cached(
    project: Project, uv_version: str, package: str, *, own: Sequence[str], options: Sequence[str] = ()
) -> Iterator[dict[str, str]]:
    """Bring all that a project needs into the cache, and leave nothing installed.

    :param package: what the project needs from the package index; the cache is named after it.
    :param own: the packages that come from this test, each time anew: at the end of the context the cache forgets them.
    :param options: for `uv sync`.
    :returns: the variables by which uv finds everything in the cache.
    """
    folder = cache() / f"{package}-cache"
    variables = {"UV_CACHE_DIR": str(folder)}
    env = project.env(uv_version, shimmed=False, **variables, **index_variables())
    with FileLock(folder.with_suffix(".lock")):
        done = download(["uv", "sync", *options], env=env, cwd=project.root)
    need.that(done.returncode == 0, f"needs {package} from the package index: {done.stderr[-2000:]}")
    shutil.rmtree(project.venv)
    yield {**variables, "UV_OFFLINE": "1"}
    run(project, ["uv", "cache", "clean", *own], env)
