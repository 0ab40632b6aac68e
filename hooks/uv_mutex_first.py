"""Puts the shim of the prefix that this file lies in first on PATH. Any Python may read this, old ones too."""

import os

try:
    _bin = os.path.realpath(__file__).rsplit("/", 4)[0] + "/bin"
    if os.access(_bin + "/uv", os.X_OK):
        _path = os.environ.get("PATH", os.defpath)
        if _path.split(":", 1)[0] != _bin:
            os.environ["PATH"] = ":".join([_bin] + [folder for folder in _path.split(":") if folder != _bin])
except Exception:  # noqa: BLE001 - a Python that doesn't start is worse than any call past the shim
    pass
