# SPDX-License-Identifier: Apache-2.0
"""tarn local before a real object store."""
import errno
import os
import subprocess
import sys

import pytest

from tests.lib import local, sums, util
from tests.lib.local import sha
from tests.lib.swift import Swift

OBJECTS = 10_000
MIB = 1 << 20


def start(tarn, swift, bucket, workdir, *args, **options):
    return tarn(f"s3://{bucket}", *local.swift_options(swift, workdir, **options), *args)


@pytest.fixture
def big_swift(loopfs):
    """One on a file system of its own: ten thousand objects are tens of thousands of files, and
    unmounting is quicker than removing them."""
    fs = loopfs("ext4", "2G", make_options=("-O", "^has_journal", "-N", "200000"))
    store = Swift(os.path.join(fs.path, "swift"))
    yield store.start()
    store.stop()


@pytest.mark.timeout(400)
def test_ten_thousand_objects(tarn, big_swift, workdir):
    """A copy equals the source, also without the store, also after kill -9 without the store."""
    swift = big_swift
    swift.client.create_bucket("data")
    source = {}

    def items():
        for name, data in util.tree_items(OBJECTS, 100, 3000, dirs=20):
            source[name] = sha(data)
            yield name, data

    assert swift.seed("data", items()) == OBJECTS
    server = start(tarn, swift, "data", workdir)
    copy = os.path.join(swift.dir, "../copy")
    os.makedirs(copy)
    folders = sorted({name.split("/")[0] for name in source})
    copies = [subprocess.Popen(["cp", "-r", *(server.path(f) for f in folders[i::4]), copy], start_new_session=True)
              for i in range(4)]
    try:
        assert [c.wait(timeout=300) for c in copies] == [0] * 4
    finally:
        for c in copies:
            util.end_group(c)
    found = util.run("find", copy, "-type", "f", "-printf", "%P\\n").stdout.splitlines()
    assert sorted(found) == sorted(source)
    assert sums.read(copy, source, keep=True) == source
    gets = len(swift.requests("GET", "data"))
    assert gets < OBJECTS * 1.1, "more than a request for each object, and some for listings"

    # A reader has its bytes before the cache has them.
    util.wait_until("all files", lambda: server.json("du", "/")["cached_files"] == OBJECTS, 20)
    swift.kill()
    assert sums.read(server.mnt, source, threads=4) == source
    server.kill()
    server.start()
    assert sums.read(server.mnt, source, threads=4) == source
    found = util.run("find", server.mnt, "-type", "f", "-printf", "%P\\n").stdout.splitlines()
    assert sorted(found) == sorted(source)
    assert len(swift.requests("GET", "data")) == gets
    du = server.json("du", "/")
    assert (du["files"], du["cached_files"]) == (OBJECTS, OBJECTS)
    assert du["bytes"] == du["cached_bytes"]


_READERS = """
import hashlib, os, sys, threading
begin = threading.Barrier(32)
def one(i):
    fd = os.open(sys.argv[1], os.O_RDONLY)
    begin.wait()
    h = hashlib.sha256()
    at = 0
    while block := os.pread(fd, 1 << 18, at):
        h.update(block)
        at += len(block)
    found[i] = h.hexdigest()
found = [None] * 32
threads = [threading.Thread(target=one, args=(i,)) for i in range(32)]
for t in threads: t.start()
for t in threads: t.join()
print(*set(found))
"""


def test_many_readers_of_a_cold_file(tarn, swift, bucket, workdir):
    data = util.some_bytes(40 * MIB, "cold")
    swift.client.put(bucket, "cold", data)
    server = start(tarn, swift, bucket, workdir)
    swift.forget_requests()
    done = util.run(sys.executable, "-c", _READERS, server.path("cold"), seconds=120)
    assert done.stdout.split() == [sha(data)]
    _, sent = swift.served(bucket)["cold"]
    assert sent == len(data), f"{sent - len(data)} bytes more than the file has"
    assert server.metric("tarn_ufs_read_bytes_total") >= len(data)


def test_random_reads_do_not_fetch_everything(tarn, swift, bucket, workdir):
    data = util.some_bytes(40 * MIB, "random")
    swift.client.put(bucket, "big", data)
    server = start(tarn, swift, bucket, workdir)
    swift.forget_requests()
    fd = os.open(server.path("big"), os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    for offset in (39 * MIB, 17, 20 * MIB + 5):
        assert os.pread(fd, 4096, offset) == data[offset:offset + 4096]
    os.close(fd)
    assert swift.served(bucket)["big"][1] <= 3 * 8 * MIB


ODD = [
    "a b", "plain", "a+b", "100%", "%41", "%2F", "ü/ñ/漢字", "q?x=1&y=2", "h#ash", "semi;colon",
    "quo'te", 'dou"ble', "back\\slash", "tab\there", "star*", "[br]", "{cu}", "~tilde", "$HOME",
    "<xml>&amp;", "dot.", ".hidden", "-dash", "é", "e\u0301", " lead", "trail ", "UPPER", "upper",
    "m,n", "eq=ual", "at@x", "new\nline"
]
LONGEST = "/".join(["l" * 200] * 5)[:1004] + "/" + "m" * 19  # 1,024 bytes


def test_odd_keys(tarn, swift, bucket, workdir):
    shown = {name: name.encode() * 3 for name in ODD}
    shown[LONGEST] = b"longest"
    assert len(LONGEST) == 1024
    shown.update({"both/b": b"below", "both-x": b"sorts before", "marker/inside": b"i",
                  "empty": b"", "d/..x": b"not the parent", "d/.. ": b"nor this"})
    hidden = {"both": b"the directory wins", "dir//x": b"no name between", "dir/ok/../up": b"up",
              "./dot": b"dot", "dir/./dot": b"dot", "long/" + "n" * 300: b"name of 300 bytes"}
    items = {**shown, **hidden, "marker/": b"", "dir/ok/file": b"in dir"}
    shown["dir/ok/file"] = b"in dir"
    for key, data in items.items():
        swift.client.put(bucket, key, data)
    server = start(tarn, swift, bucket, workdir)
    done = util.run("find", server.mnt, "-type", "f", "-printf", "%P\\0")
    assert sorted(done.stdout.split("\0")[:-1]) == sorted(shown)
    assert sums.read(server.mnt, shown) == {name: sha(data) for name, data in shown.items()}
    assert os.path.isdir(server.path("both")) and os.path.isdir(server.path("marker"))
    assert os.listdir(server.path("marker")) == ["inside"]
    for name in ("dir/ok/up", "dir//x", "up", "nothing"):
        assert not os.path.isfile(server.path(name)), name
    load = server.cli("load", "/", check=False, seconds=60)
    assert load.code == 0, load.err
    job = server.json("job", "ls")[-1]
    rows = [line for line in server.cli("job", "manifest", job["id"], "--json").out.splitlines()]
    skipped = [row for row in rows if '"skipped"' in row]
    assert len(skipped) == len(hidden) - 1, skipped  # `both` is a name, but a directory has it
    assert any('"/dir//' in row for row in skipped)


def test_names_are_found_without_a_listing(tarn, swift, bucket, workdir):
    """Each name asked for by itself, before any directory was listed."""
    keys = {"x/y/z": b"1", "x/y-z": b"2", "a b/c d": b"3", "both/b": b"4", "100%/+": b"5"}
    for key, data in {**keys, "both": b"hidden"}.items():
        swift.client.put(bucket, key, data)
    server = start(tarn, swift, bucket, workdir)
    assert sums.read(server.mnt, keys) == {k: sha(v) for k, v in keys.items()}
    assert os.path.isdir(server.path("both"))
    for name in ("x/none", "none", "x/y/z/none", "x/y/zz", "bot"):
        assert not os.path.exists(server.path(name)), name


def test_prefix(tarn, swift, bucket, workdir):
    swift.client.put_many(bucket, [("p/one", b"1"), ("p/d/two", b"2"), ("pp/three", b"3"),
                                   ("p", b"4")])
    for prefix in ("p", "p/"):
        server = start(tarn, swift, f"{bucket}/{prefix}", workdir)
        done = util.run("find", server.mnt, "-type", "f", "-printf", "%P\\n")
        assert sorted(done.stdout.splitlines()) == ["d/two", "one"]
        assert server.stop() == 0


def test_replaced_objects(tarn, swift, bucket, workdir):
    old, new = util.some_bytes(8 * MIB, "old"), util.some_bytes(8 * MIB, "new")
    for key in ("read", "half", "grows"):
        swift.client.put(bucket, key, old)
    server = start(tarn, swift, bucket, workdir, "--meta-ttl", "1s")
    handles = {key: os.open(server.path(key), os.O_RDONLY) for key in ("read", "half")}
    assert sha(os.pread(handles["read"], 9 * MIB, 0)) == sha(old)
    os.posix_fadvise(handles["half"], 0, 0, os.POSIX_FADV_RANDOM)
    assert os.pread(handles["half"], 4096, 0) == old[:4096]
    swift.client.put(bucket, "read", new)
    swift.client.put(bucket, "half", new)
    swift.client.put(bucket, "grows", new + new[:MIB])
    swift.client.put(bucket, "is-new", new)
    for key, data in (("read", new), ("half", new), ("grows", new + new[:MIB]), ("is-new", new)):
        util.wait_until(f"the new {key}", lambda key=key, data=data:
                        sums.read(server.mnt, [key])[key] == sha(data), 20, step=0.2)
    os.posix_fadvise(handles["read"], 0, 0, os.POSIX_FADV_DONTNEED)
    assert sha(os.pread(handles["read"], 9 * MIB,
                        0)) == sha(old), "an open handle keeps its version"
    assert os.pread(handles["half"], 4096, 0) == old[:4096]
    try:
        assert os.pread(handles["half"], 4096, 7 * MIB) == old[7 * MIB:7 * MIB + 4096]
    except OSError as e:
        assert e.errno == errno.EIO
    for fd in handles.values():
        os.close(fd)
    swift.client.delete(bucket, "read")
    util.wait_until("the end of a name", lambda: "read" not in local.listed(server), 20, step=0.2)
    assert local.listed(server) == ["grows", "half", "is-new"]


def test_store_hangs_and_goes_on(tarn, swift, bucket, workdir):
    data = util.some_bytes(3 * MIB, "hangs")
    swift.client.put(bucket, "f", data)
    server = start(tarn, swift, bucket, workdir, timeout="3s", retries="1")
    assert local.listed(server) == ["f"]
    swift.stall()
    assert sums.read(server.mnt, ["f"], seconds=30) == {"f": "EIO"}
    assert server.json("stat", "/f")["cached_bytes"] == 0
    swift.go_on()
    util.wait_until("right bytes", lambda: sums.read(server.mnt, ["f"]) == {"f": sha(data)}, 20,
                    step=0.2)


@pytest.mark.parametrize("way", ["environment", "standard file", "options"])
def test_ways_to_give_credentials(tarn, swift, bucket, workdir, way):
    swift.client.put(bucket, "f", b"x")
    credentials = os.path.join(workdir, "credentials")
    with open(credentials, "w", encoding="ascii") as f:
        f.write(f"[default]\naws_access_key_id = {swift.access_key}\n"
                f"aws_secret_access_key = {swift.secret_key}\n")
    env = {
        "AWS_ACCESS_KEY_ID": "",
        "AWS_SECRET_ACCESS_KEY": "",
        "AWS_SHARED_CREDENTIALS_FILE": f"{workdir}/none"
    }
    flags = ["-o", f"endpoint={swift.endpoint}"]
    if way == "environment":
        env.update({
            "AWS_ACCESS_KEY_ID": swift.access_key,
            "AWS_SECRET_ACCESS_KEY": swift.secret_key
        })
    elif way == "standard file":
        env["AWS_SHARED_CREDENTIALS_FILE"] = credentials
    else:
        flags = local.swift_options(swift, workdir)
    server = tarn(f"s3://{bucket}", *flags, env=env)
    assert local.listed(server) == ["f"]
