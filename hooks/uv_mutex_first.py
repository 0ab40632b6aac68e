"""Put the shim of the prefix that contains this file first on PATH. Old versions of Python can read this too."""

import os

try:
    _bin = os.path.realpath(__file__).rsplit("/", 4)[0] + "/bin"
    if os.access(_bin + "/uv", os.X_OK):
        _path = os.environ.get("PATH", os.defpath)
        if _path.split(":", 1)[0] != _bin:
            os.environ["PATH"] = ":".join([_bin] + [folder for folder in _path.split(":") if folder != _bin])
except Exception:  # noqa: BLE001 - a Python that does not start is worse than a call without the lock
    pass
