"""Put the shim first on PATH in each Python process, for the programs that it starts.

To use it, set PYTHONPATH=PREFIX/lib/uv-mutex/python. Where you can't set a variable, make a symlink to the uv-mutex.pth
of that folder in the site-packages of an environment. Python imports only one sitecustomize; this one then runs the
next one on sys.path.
"""

import sys


def _hidden():
    """The spec of the sitecustomize that Python would import without this one."""
    folder = __file__.rpartition("/")[0]
    rest = sys.path[sys.path.index(folder) + 1 :] if folder in sys.path else []
    for finder in sys.meta_path:
        if getattr(finder, "__name__", "") == "PathFinder":
            return finder.find_spec(__name__, [path for path in rest if path != folder])
    return None  # Python 2


def _run(spec):
    """Run it under the name of this module, as the import system would. Its errors stay its own."""
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
except Exception:  # noqa: BLE001 - as in uv_mutex_first
    pass
if _spec is not None and _spec.loader is not None:
    _run(_spec)
