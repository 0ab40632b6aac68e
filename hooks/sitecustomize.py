"""Puts the shim first on PATH in every Python process, for what it starts; then runs the sitecustomize that this hides.

With PYTHONPATH=PREFIX/lib/uv-mutex/python, or by a link to the uv-mutex.pth there from an environment's site-packages.
Any Python may read this, old ones too.
"""

import os
import sys


def _put_first():
    shim = os.path.realpath(__file__).rsplit("/", 4)[0] + "/bin"
    if not os.access(shim + "/uv", os.X_OK):
        return
    path = os.environ.get("PATH", os.defpath)
    if path.split(":", 1)[0] != shim:
        os.environ["PATH"] = ":".join([shim] + [folder for folder in path.split(":") if folder != shim])


def _hidden():
    """The spec of the sitecustomize that Python would import without this one: the next on sys.path."""
    folder = __file__.rpartition("/")[0]
    rest = sys.path[sys.path.index(folder) + 1 :] if folder in sys.path else []
    for finder in sys.meta_path:
        if getattr(finder, "__name__", "") == "PathFinder":
            return finder.find_spec(__name__, [place for place in rest if place != folder])
    return None  # Python 2


def _run(spec):
    """As the import system would: it takes this one's name, and its errors are its own."""
    module = type(sys)(spec.name)
    module.__spec__ = spec
    module.__loader__ = spec.loader
    module.__file__ = spec.origin
    module.__cached__ = spec.cached
    module.__package__ = ""
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)


_spec = None
try:
    _put_first()
    if __name__ == "sitecustomize":
        _spec = _hidden()
except Exception:  # noqa: BLE001 - a Python that doesn't start is worse than any call past the shim
    pass
if _spec is not None and _spec.loader is not None:
    _run(_spec)
