# SPDX-License-Identifier: Apache-2.0
"""The readers that judge: they see each kind of wrong byte, calls that take too long, and when a
fault met nothing. And the frames that tests make are those that our own servers take."""
import os
import time

import pytest

from tests.lib import frames, netns, util
from tests.lib.netns import Here
from tests.lib.verify import BLOCK, Content, Readers

SIZES = {"a": 3 * BLOCK + 100, "d/b": 300_000, "empty": 0}


@pytest.fixture
def content():
    return Content(SIZES)


@pytest.fixture
def tree(workdir, content):
    root = os.path.join(workdir, "tree")
    util.write_tree(root, [(p, content.data(p)) for p in SIZES])
    return root


def test_content_is_itself_and_nothing_else(content):
    whole = content.data("a")
    assert len(whole) == SIZES["a"] and content.data("empty") == b""
    for offset, length in ((0, 1), (1, BLOCK), (BLOCK - 1, 2), (2 * BLOCK, 2 * BLOCK), (SIZES["a"], 5)):
        part = content.data("a", 1, offset, length)
        assert part == whole[offset:offset + length]
        assert content.wrong("a", 1, offset, part) is None
    assert "version 2 offset 4096" in content.wrong("a", 1, BLOCK, content.data("a", 2, BLOCK, BLOCK))
    assert "of d/b version 1" in content.wrong("a", 1, 0, content.data("d/b", 1, 0, BLOCK))
    assert "offset 4096" in content.wrong("a", 1, 0, content.data("a", 1, BLOCK, BLOCK))
    mixed = content.data("a", 1, 0, BLOCK) + content.data("a", 2, BLOCK, BLOCK)
    assert "byte 4112 of" in content.wrong("a", 1, 0, mixed)
    assert "near it" in content.wrong("a", 1, 10, b"x" + content.data("a", 1, 11, 20))
    assert "behind the end" in content.wrong("a", 1, 0, whole + b"x")


def test_readers_find_everything_right(tree, content):
    with Readers(tree, content, threads=4, kinds=("open", "names", "whole")) as readers:
        readers.wait_calls(200)
        readers.wait_each(5)
    readers.check(200, errors=0)
    assert readers.read_bytes() > 100_000


def test_readers_see_one_flipped_byte(tree, content):
    with open(f"{tree}/d/b", "r+b") as f:
        f.seek(250_000)
        byte = f.read(1)
        f.seek(250_000)
        f.write(bytes([byte[0] ^ 1]))
    with Readers(tree, content, threads=1, kinds=("whole",)) as readers:
        readers.wait_calls(50)
    with pytest.raises(AssertionError, match="d/b: byte 250000 of version 1 is wrong"):
        readers.check()


def test_readers_see_a_file_that_is_too_short(tree, content):
    os.truncate(f"{tree}/d/b", 1000)
    with Readers(tree, content, threads=2, kinds=("names", "open")) as readers:
        readers.wait_calls(50)
    with pytest.raises(AssertionError, match="d/b: "):
        readers.check()


def test_readers_count_errors_and_time(tree, content):
    os.unlink(f"{tree}/a")
    with Readers(tree, content, threads=2, kinds=("names",)) as readers:
        readers.wait_calls(20)
        netns.pause(readers.process.pid)
        time.sleep(0.6)
        netns.go_on(readers.process.pid)
        readers.wait_each()
    assert readers.errors()[0][0] == "ENOENT"
    with pytest.raises(AssertionError, match="ENOENT"):
        readers.check(errors=0)
    if readers.longest() > 0.5:  # it was paused inside a call; else nothing is to be seen of it
        with pytest.raises(AssertionError):
            readers.check(deadline=0.5)
    readers.check(deadline=30)


def test_readers_that_stand_still(workdir, content):
    """A call that does not come back is seen while it lasts, and is no success afterwards."""
    os.mkfifo(os.path.join(workdir, "a"))
    readers = Readers(workdir, content, threads=1, kinds=("names",), paths=["a"], deadline=0.5)
    try:
        util.wait_until("the call", readers.under_way, 10)
        with pytest.raises(AssertionError, match="stand still"):
            readers.wait_each(seconds=0.5)
        assert readers.longest() > 0.4
        assert readers.catch(lambda: None) == 1
        readers.close(seconds=0.5)
        assert readers.hung == 1
        with pytest.raises(AssertionError, match="never came back"):
            readers.check()
    finally:
        readers.process.kill()
        readers.process.wait()


def test_a_fault_that_meets_nothing(tree, content):
    with Readers(tree, content, threads=1, kinds=("names",), paths=["a"], pause=1e6) as readers:
        util.wait_until("the only step", lambda: readers.calls() == 3 and not readers.under_way(), 10)
        with pytest.raises(AssertionError, match="no call was ever under way"):
            readers.catch(lambda: None, seconds=0.2)


def test_frames(tarn, workdir):
    root = os.path.join(workdir, "served")
    util.write_tree(root, [("f", b"x")])
    server = tarn(f"file://{root}")
    token = frames.token_of(f"/run/tarn/{server.port}.token")
    with frames.Connection(Here(), server.master, token) as good:
        assert good.welcome.status == 0 and good.call(frames.STATUS).status == 0
        assert good.call(9999).status != 0
    with frames.Connection(Here(), server.master, b"wrong") as bad:
        assert bad.welcome.status == 1061  # AUTH_BAD
    with frames.Connection(Here(), server.master) as silent:
        silent.send(b"x" * 100)
        assert silent.ended()
