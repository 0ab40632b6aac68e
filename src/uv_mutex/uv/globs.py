"""The patterns of a workspace's members, matched as Rust's glob crate matches them."""

import os


def matches(path: str, globs: object, *, across: bool) -> bool:
    """Whether one of a workspace's patterns matches a path below its root.

    :param across: whether a star matches "/", too.
    """
    if not isinstance(globs, list):
        return False
    return any(isinstance(glob, str) and _glob_matches(os.path.normpath(glob), path, across) for glob in globs)


def _glob_matches(pattern: str, text: str, across: bool) -> bool:
    """By the rules of Rust's glob crate. fnmatch would bring in re, which costs a call in a workspace 7 ms."""
    while pattern:
        if pattern.startswith("**"):  # any folders, or none
            rest = pattern[2:].removeprefix("/")
            starts = (0, *(at + 1 for at, char in enumerate(text) if char == "/"), *([] if rest else [len(text)]))
            return any(_glob_matches(rest, text[at:], across) for at in starts)
        if pattern[0] == "*":
            for at in range(len(text) + 1):
                if _glob_matches(pattern[1:], text[at:], across):
                    return True
                if text[at : at + 1] == "/" and not across:
                    break
            return False
        if not text:
            return False
        end = pattern.find("]", 3 if pattern.startswith("[!") else 2)
        if pattern[0] == "[" and end > 0:
            if not _in_class(text[0], pattern[1:end], across):
                return False
            pattern = pattern[end + 1 :]
        elif pattern[0] == text[0] or (pattern[0] == "?" and (across or text[0] != "/")):
            pattern = pattern[1:]
        else:
            return False
        text = text[1:]
    return not text


def _in_class(char: str, members: str, across: bool) -> bool:
    """Whether ``[members]`` matches: single characters and ranges, all others if it begins with "!"."""
    if char == "/" and not across:
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
