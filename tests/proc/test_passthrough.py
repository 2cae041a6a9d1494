# SPDX-License-Identifier: Apache-2.0
"""Files that the kernel reads from the cache itself: the same bytes, whatever happens meanwhile."""
import mmap
import os
import subprocess
import time
from contextlib import contextmanager

import pytest

from tests.lib import util
from tests.lib.local import room

MIB = 1 << 20
BIG = 9 * MIB + 4321


def opens(server, how):
    return server.metric("tarn_fuse_opens_total", how=how)


def released(server):
    """Wait for the end of what was closed: the kernel tells of it later."""
    util.wait_until("the release", lambda: server.metric("tarn_fuse_open_files") == 0, 10)


def content(tag):
    return util.some_bytes(BIG, tag)


@pytest.fixture
def served(tarn, workdir):
    """served(*flags): a server of a directory with the large files a and b, and the directory."""
    root = os.path.join(workdir, "data")
    os.makedirs(root)
    for name in ("a", "b"):
        with open(os.path.join(root, name), "wb") as f:
            f.write(content(name))

    def make(*flags, **kwargs):
        return tarn(f"file://{root}", *flags, **kwargs), root

    return make


@contextmanager
def opened(path, flags=0):
    fd = os.open(path, os.O_RDONLY | flags)
    try:
        yield fd
    finally:
        os.close(fd)


def all_of(fd):
    parts, at = [], 0
    while True:
        part = os.pread(fd, MIB, at)
        if not part:
            return b"".join(parts)
        parts.append(part)
        at += len(part)


def read(path):
    with opened(path) as fd:
        return all_of(fd)


def test_every_way_of_reading(served):
    server, root = served()
    server.cli("load", "/")
    path = server.path("a")
    util.drop_page_cache()
    assert read(path) == content("a")
    with opened(path) as fd, mmap.mmap(fd, 0, prot=mmap.PROT_READ) as mapped:
        assert mapped[:] == content("a")
        assert os.pread(fd, 100, BIG - 7) == content("a")[-7:]
        assert os.pread(fd, 100, BIG) == b""
        assert os.fstat(fd).st_size == BIG
        assert os.fstat(fd).st_mtime_ns == os.stat(os.path.join(root, "a")).st_mtime_ns
    with opened(path, os.O_DIRECT) as fd, mmap.mmap(-1, MIB) as buffer:
        assert os.preadv(fd, [buffer], 4 * MIB) == MIB
        assert buffer[:] == content("a")[4 * MIB:5 * MIB]
    copy = os.path.join(os.path.dirname(root), "copy")
    subprocess.run(["cp", path, copy], check=True, timeout=60)
    assert read(copy) == content("a")
    assert opens(server, "passthrough") == 4
    assert opens(server, "cached") == 0
    released(server)
    util.wait_until("the report", lambda: [s["passthrough_opens"] for s in server.json("status")["sessions"]
                                           if s["mountpoint"]] == [4], 10)
    assert "4 large files opened that the kernel read itself" in server.cli("status").out


def test_small_files_and_the_switch(served):
    server, root = served("--passthrough=false")
    with open(os.path.join(root, "small"), "wb") as f:
        f.write(b"x" * 1000)
    server.cli("load", "/")
    assert read(server.path("a")) == content("a")
    assert opens(server, "passthrough") == 0
    server.args.remove("--passthrough=false")
    server.restart()
    assert read(server.path("small")) == b"x" * 1000
    assert opens(server, "passthrough") == 0
    assert opens(server, "cached") == 1


def test_one_way_at_a_time(served):
    """What is open while it is fetched stays as it is; the kernel would refuse to mix."""
    server, _ = served()
    path = server.path("a")
    with opened(path) as cold:
        assert os.pread(cold, 100, 0) == content("a")[:100]
        server.cli("load", "/")
        with opened(path) as second:
            assert all_of(second) == content("a")
            assert all_of(cold) == content("a")
        assert opens(server, "passthrough") == 0
    released(server)
    with opened(path) as third, opened(path) as fourth:
        assert all_of(third) == content("a")
        assert all_of(fourth) == content("a")
        assert opens(server, "passthrough") == 2


def test_free_while_it_is_open(served):
    server, _ = served()
    server.cli("load", "/")
    with opened(server.path("a")) as fd, mmap.mmap(fd, 0, prot=mmap.PROT_READ) as mapped:
        begun = time.monotonic()
        server.cli("free", "--data", "/a")
        assert time.monotonic() - begun < 5, "it waited for the reader"
        assert server.json("du", "/a")["cached_bytes"] == 0
        used = util.wait_until("what is unlinked and open takes room", lambda:
                               (u := server.metric("tarn_cache_used_bytes")) > 2 * BIG and u, 5)
        assert all_of(fd) == content("a")
        with opened(server.path("a")) as second:
            assert all_of(second) == content("a")
        assert mapped[:] == content("a")
    util.wait_until("the room", lambda: server.metric("tarn_cache_used_bytes") < used - BIG + MIB, 5)
    assert mapped.closed
    assert read(server.path("a")) == content("a")
    util.wait_until("the fetch", lambda: server.json("du", "/a")["cached_bytes"] == BIG, 10)
    assert read(server.path("a")) == content("a")


def test_a_mapping_outlives_everything(served):
    """The kernel keeps the cache file mapped after it said that the file was closed."""
    server, _ = served("--cache-size", "32MiB")
    server.cli("load", "/a")
    with opened(server.path("a")) as fd:
        mapped = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
    server.cli("free", "--data", "/")
    for _ in range(3):
        assert read(server.path("b")) == content("b")
        server.cli("free", "--data", "/")
    util.drop_page_cache()
    assert mapped[:] == content("a")
    assert server.stop() == 0
    util.drop_page_cache()
    assert mapped[:] == content("a")
    mapped.close()


def test_changed_while_it_is_open(served):
    server, root = served("--meta-ttl", "always")
    server.cli("load", "/")
    path = server.path("a")
    with opened(path) as old, mmap.mmap(old, 0, prot=mmap.PROT_READ) as mapped:
        assert os.pread(old, 10, 0) == content("a")[:10]
        with open(os.path.join(root, "a.new"), "wb") as f:
            f.write(content("new"))
        os.rename(os.path.join(root, "a.new"), os.path.join(root, "a"))
        with opened(path) as new:
            assert all_of(new) == content("new")
            assert all_of(old) == content("a")
        assert mapped[:] == content("a")
    released(server)
    util.wait_until("the fetch", lambda: server.json("du", "/a")["cached_bytes"] == BIG, 10)
    assert read(path) == content("new")
    assert opens(server, "passthrough") >= 2


def test_pressure_while_it_is_open(served, workdir):
    """The quota holds, what is open stays whole, and others go."""
    server, root = served("--cache-size", "48MiB")
    for i in range(12):
        with open(os.path.join(root, f"n{i}"), "wb") as f:
            f.write(content(f"n{i}"))
    server.cli("load", "/a")
    with opened(server.path("a")) as fd:
        assert opens(server, "passthrough") == 1
        for i in range(12):
            assert read(server.path(f"n{i}")) == content(f"n{i}")
            assert room(server.cache) <= 48 * MIB
        assert server.json("du", "/a")["cached_bytes"] == BIG
        assert all_of(fd) == content("a")
    for i in range(12):
        assert read(server.path(f"n{i}")) == content(f"n{i}")
        assert room(server.cache) <= 48 * MIB
    assert server.json("du", "/a")["cached_bytes"] in (0, BIG), "a part of it was taken away"
    assert read(server.path("a")) == content("a")


def test_not_before_it_was_verified(served):
    """After a restart the first reader compares; a byte that was flipped meanwhile is not served."""
    server, _ = served()
    server.cli("load", "/")
    server.kill()
    sizes = {}
    for folder, _, names in os.walk(os.path.join(server.cache, "tier0/data")):
        sizes.update({os.path.join(folder, n): os.path.getsize(os.path.join(folder, n)) for n in names})
    victim = next(p for p, size in sorted(sizes.items()) if size == BIG)
    with open(victim, "r+b") as f:
        f.seek(5 * MIB)
        byte = f.read(1)[0]
        f.seek(5 * MIB)
        f.write(bytes([byte ^ 0x40]))
    server.start()
    for name in ("a", "b"):
        assert read(server.path(name)) == content(name)
    assert opens(server, "passthrough") == 0
    util.wait_until("the metric", lambda: server.metric("tarn_checksum_errors_total") == 1, 5)
    released(server)
    for name in ("a", "b"):
        util.wait_until("the mend", lambda n=name: server.json("du", f"/{n}")["cached_bytes"] == BIG, 10)
        assert read(server.path(name)) == content(name)
    assert opens(server, "passthrough") == 2


def test_a_bad_byte_under_a_reader(served):
    """load --verify finds it; who opens then gets the right bytes, and no reader ever sees a hole."""
    server, _ = served()
    server.cli("load", "/")
    with opened(server.path("a")) as fd:
        assert all_of(fd) == content("a")
        for folder, _, names in os.walk(os.path.join(server.cache, "tier0/data")):
            for name in names:
                with open(os.path.join(folder, name), "r+b") as f:
                    if f.read(100) == content("a")[:100]:
                        f.seek(MIB)
                        f.write(b"\0damage\0")
                        os.fsync(f.fileno())
        server.cli("load", "--verify", "/")
        util.wait_until("the metric", lambda: server.metric("tarn_checksum_errors_total") >= 1, 5)
        seen = all_of(fd)
        assert seen[:MIB] == content("a")[:MIB]
        assert seen[MIB + 8:] == content("a")[MIB + 8:]
        assert read(server.path("a")) == content("a"), "who opens beside the reader"
        with opened(server.path("a")) as other:
            assert all_of(other) == content("a")
            assert os.fstat(other).st_ino == os.fstat(fd).st_ino
            again = all_of(fd)
            assert again[:MIB] + again[MIB + 8:] == content("a")[:MIB] + content("a")[MIB + 8:]
    assert read(server.path("a")) == content("a")
    assert server.json("du", "/a")["cached_bytes"] == BIG


def test_on_a_stacked_file_system(tarn, workdir, served):
    """The kernel refuses it there: the same bytes come through the daemon, and the log says so."""
    for name in ("lower", "upper", "work", "top"):
        os.makedirs(os.path.join(workdir, name))
    top = os.path.join(workdir, "top")
    subprocess.run(["mount", "-t", "overlay", "none", "-o",
                    f"lowerdir={workdir}/lower,upperdir={workdir}/upper,workdir={workdir}/work", top],
                   check=True, timeout=20)
    server, _ = served(start=False)
    server.cache = os.path.join(top, "cache")
    server.start()
    server.cli("load", "/")
    for name in ("a", "b"):
        assert read(server.path(name)) == content(name)
    assert opens(server, "passthrough") == 0
    assert "no passthrough" in server.log_tail()
    assert server.log_tail(1000).count("no passthrough") == 1
    assert server.stop() == 0


def test_killed_under_readers(served):
    """An open file goes on being right until it is closed, whatever became of the daemon."""
    server, _ = served()
    server.cli("load", "/")
    with opened(server.path("a")) as fd:
        server.kill()
        util.drop_page_cache()
        try:
            seen = all_of(fd)
        except OSError:
            seen = content("a")
        assert seen == content("a")
    server.start()
    assert read(server.path("a")) == content("a")


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_readers_outlive_the_daemon(served, end):
    """The next one takes nothing from under who has a file open or mapped since before it."""
    server, root = served("--cache-size", "48MiB")
    for i in range(12):
        with open(os.path.join(root, f"n{i}"), "wb") as f:
            f.write(content(f"n{i}"))
    server.cli("load", "/a")
    with opened(server.path("a")) as fd, mmap.mmap(fd, 0, prot=mmap.PROT_READ) as mapped:
        assert opens(server, "passthrough") == 1
        getattr(server, end)()
        server.start()
        for i in range(12):
            assert read(server.path(f"n{i}")) == content(f"n{i}")
        assert server.json("du", "/a")["cached_bytes"] == 0, "it was not evicted: this proves nothing"
        util.drop_page_cache()
        assert mapped[:] == content("a")
        assert all_of(fd) == content("a")
    assert read(server.path("a")) == content("a")
