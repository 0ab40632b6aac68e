"""The user's folders, as uv finds them."""

from __future__ import annotations

import os
import pwd

import pytest

from uv_mutex.uv import user_folders

_HOME = pwd.getpwuid(os.getuid()).pw_dir


@pytest.mark.parametrize(
    ("environ", "config", "cache"),
    [
        ({"HOME": "/h"}, "/h/.config", "/h/.cache"),
        ({"HOME": "/h", "XDG_CONFIG_HOME": "/c", "XDG_CACHE_HOME": "/k"}, "/c", "/k"),
        ({"HOME": "/h", "XDG_CONFIG_HOME": "relative", "XDG_CACHE_HOME": ""}, "/h/.config", "/h/.cache"),
        ({"HOME": ""}, ".config", ".cache"),
        ({}, f"{_HOME}/.config", f"{_HOME}/.cache"),
    ],
)
def test_folders(environ: dict[str, str], config: str, cache: str) -> None:
    assert user_folders.config(environ) == config
    assert user_folders.cache(environ) == cache


def test_nobody_knows_the_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container whose user id has no name. Then uv has no settings of the user, whatever XDG_… says."""

    def unknown(_: int) -> None:
        raise KeyError

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert user_folders.config({"XDG_CONFIG_HOME": "/c"}) is None
    assert user_folders.cache({}) is None
