"""Match the patterns of a workspace's members as Rust's glob crate matches them."""

import os


def matches(root: str, path: str, patterns: object, *, star_matches_slash: bool) -> bool:
    """Whether one of a workspace's patterns matches a folder.

    :param root: the workspace root.
    :param path: the folder, relative to the workspace root. An absolute pattern is held against its absolute path.
    :param patterns: what pyproject.toml says; a value that is not a list of strings matches nothing.
    :param star_matches_slash: whether `*`, `?` and `[…]` match "/" too.
    """
    if not isinstance(patterns, list):
        return False
    return any(
        isinstance(pattern, str)
        and _matches(
            os.path.normpath(pattern), f"{root}/{path}" if pattern.startswith("/") else path, star_matches_slash
        )
        for pattern in patterns
    )


def _matches(pattern: str, text: str, star_matches_slash: bool) -> bool:
    """Match one pattern. The module fnmatch has other rules, and would import re, which costs each call 7 ms."""
    while pattern:
        if pattern.startswith("**"):  # any number of folders
            rest = pattern[2:].removeprefix("/")
            starts = (0, *(at + 1 for at, char in enumerate(text) if char == "/"), *([] if rest else [len(text)]))
            return any(_matches(rest, text[at:], star_matches_slash) for at in starts)
        if pattern[0] == "*":
            for at in range(len(text) + 1):
                if _matches(pattern[1:], text[at:], star_matches_slash):
                    return True
                if text[at : at + 1] == "/" and not star_matches_slash:
                    break
            return False
        if not text:
            return False
        end = pattern.find("]", 3 if pattern.startswith("[!") else 2)
        if pattern[0] == "[" and end > 0:
            if not _is_in_class(text[0], pattern[1:end], star_matches_slash):
                return False
            pattern = pattern[end + 1 :]
        elif pattern[0] == text[0] or (pattern[0] == "?" and (star_matches_slash or text[0] != "/")):
            pattern = pattern[1:]
        else:
            return False
        text = text[1:]
    return not text


def _is_in_class(char: str, members: str, slash_allowed: bool) -> bool:
    """Whether ``[members]`` matches a character. Members are characters and ranges; a leading "!" negates them."""
    if char == "/" and not slash_allowed:
        return False
    wanted = not members.startswith("!")
    members = members.removeprefix("!")
    found = False
    while members:
        if len(members) > 2 and members[1] == "-":
            found = found or members[0] <= char <= members[2]
            members = members[3:]
        else:
            found = found or members[0] == char
            members = members[1:]
    return found == wanted
