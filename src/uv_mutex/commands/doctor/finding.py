"""What the doctor found: one fact, its grade, and what to do about it."""

from typing import NamedTuple

FINE, WARNING, BAD = 0, 1, 2
_WORDS = {FINE: "ok", WARNING: "warning", BAD: "NOT PROTECTED"}


class Finding(NamedTuple):
    """One fact about a project.

    ``grade``: FINE, WARNING, or BAD (the project is not protected); the doctor's exit status is the highest grade.
    ``fact``: what is the case. ``remedy``: what the user can do.
    """

    grade: int
    fact: str
    remedy: str = "nothing to do"

    def __str__(self) -> str:
        return f"{_WORDS[self.grade]:13}  {self.fact}; {self.remedy}"


def fine(fact: str, remedy: str = "nothing to do") -> Finding:
    """A fact that is as it should be."""
    return Finding(FINE, fact, remedy)


def warning(fact: str, remedy: str) -> Finding:
    """A fact that can cause trouble, while the project is still protected."""
    return Finding(WARNING, fact, remedy)


def bad(fact: str, remedy: str) -> Finding:
    """A fact because of which the project is not protected."""
    return Finding(BAD, fact, remedy)


def of_error(error: Exception) -> Finding:
    """The finding for an error that would stop a call. Its text is the fact and, after a semicolon, the remedy."""
    fact, _, remedy = str(error).partition("; ")
    return Finding(BAD, fact, remedy)


def of_failed_trial(error: OSError, path: str) -> Finding:
    """The finding for an error that kept the doctor from trying a lock out.

    :param error: the error.
    :param path: the path to name if the error names none.
    """
    return bad(
        f"the lock can't be tried out: {error.filename or path}: {error.strerror}", "mend that, then run this again"
    )
