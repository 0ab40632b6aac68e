"""A process is known by more than its id."""

from __future__ import annotations

import os

import pytest

from uv_mutex.locking import process
from uv_mutex.locking.process import Process


def test_this_process_is_alive_and_equal_to_itself() -> None:
    me = process.this_process()
    assert me.is_visible
    assert me.is_alive is True
    assert process.decode(me.encode()) == me


def test_the_parent_is_an_ancestor_and_this_process_the_nearest() -> None:
    found = process.ancestors()
    assert found[0] == process.this_process()
    assert found[1].pid == os.getppid()


def test_a_process_that_got_the_id_of_a_dead_one_is_another() -> None:
    me = process.this_process()
    former = Process(me.boot, me.namespace, me.pid, "1")
    assert former != me
    assert former.is_alive is False


@pytest.mark.parametrize("part", ["boot", "namespace"])
def test_a_process_of_another_kernel_or_namespace_can_not_be_seen(part: str) -> None:
    me = process.this_process()
    other = Process(me.boot, me.namespace, me.pid, me.start)
    setattr(other, part, "another")
    assert other != me
    assert other.is_alive is None
    assert not other.is_visible


def test_what_is_unknown_equals_nothing() -> None:
    unknown = Process("-", "-", 1, "-")
    assert unknown != Process("-", "-", 1, "-")
    assert unknown.is_alive is None


@pytest.mark.parametrize("word", ["", "a/b/c", "a/b/c/d", "a/b/-1/d", "a/b/1/", "a/b/99999999999/d", "a/b/1/d/e"])
def test_other_words_are_no_process(word: str) -> None:
    assert process.decode(word) is None
