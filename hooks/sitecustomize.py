"""Puts the shim first on PATH in every Python process, for what it starts; then runs the sitecustomize that this hides.

With PYTHONPATH=PREFIX/lib/uv-mutex/python. Where no variable can be set, link the uv-mutex.pth of that folder into an
environment's site-packages instead.
"""

import sys


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
    import uv_mutex_first  # noqa: F401

    _spec = _hidden()
except Exception:  # noqa: BLE001 - as there
    pass
if _spec is not None and _spec.loader is not None:
    _run(_spec)
