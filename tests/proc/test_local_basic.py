# SPDX-License-Identifier: Apache-2.0
"""tarn local as it is meant: start, read, report, stop."""
import errno
import json
import os
import socket
import subprocess
import time
import urllib.error

import pytest

from tests.lib import local, sums, util
from tests.lib.local import says, sha
from tests.lib.tarn import FSTYPE, binary

BKT = "bkt"
MIB = 1 << 20

ODD_NAMES = [
    b"plain", b"a b", b" lead", b"trail ", b"new\nline", b"tab\t", b"quo'te", b'dou"ble',
    b"back\\slash", b"star*", b"?", b"[x]", b"-n", b"--help", b"#", b"%41", b"$(id)", b"`id`",
    b"\xc3\xa9", b"e\xcc\x81", b"\xff\xfe not utf-8", b"\x01\x1b[31m", b".hidden", b"...", b"..x",
    b"~", b"n" * 255, "漢字".encode()
]


@pytest.fixture
def odd_tree(workdir):
    """A directory with everything that a name, a mode and a type can be."""
    top = os.fsencode(os.path.join(workdir, "odd"))
    for folder in (b"", b"deep/er/still", b"d\xff", b"dir with space"):
        os.makedirs(os.path.join(top, folder), exist_ok=True)
        for i, name in enumerate(ODD_NAMES):
            path = os.path.join(top, folder, name)
            with open(path, "wb") as f:
                f.write(util.some_bytes(i * 997, f"{folder}/{i}"))
            os.utime(path, ns=(10**18 + i, 10**18 + 123_456_789 * i))
            os.chmod(path, [0o644, 0o600, 0o755, 0o400, 0o444, 0o666][i % 6])
            if i % 5 == 0 and os.getuid() == 0:
                os.chown(path, 1000 + i, 2000 + i)
    for name, target in ((b"to-file", b"plain"), (b"to-dir", b"deep/er"), (b"dangling", b"no/such"),
                         (b"loop", b"loop"), (b"absolute", b"/etc/hostname"), (b"up", b"../../.."),
                         (b"odd", b"\xff\xfe not utf-8")):
        os.symlink(target, os.path.join(top, name))
    os.makedirs(os.path.join(top, b"empty"))
    os.chmod(os.path.join(top, b"empty"), 0o711)
    os.mkfifo(os.path.join(top, b"fifo"))
    with socket.socket(socket.AF_UNIX) as s:
        cwd = os.getcwd()
        os.chdir(top)
        try:
            s.bind("socket")
        finally:
            os.chdir(cwd)
    return os.fsdecode(top)


def tree(top):
    """What find says of everything below top, but for what cannot be served."""
    shown = r"%P\t%y\t%m\t%U\t%G\t%l"
    done = subprocess.run([
        "find", top, "-mindepth", "1", "(", "-type", "d", "-printf", shown + r"\0", "-o", "-type",
        "f", "-printf", shown + r"\t%s\t%T@\0", "-o", "-type", "l", "-printf", shown + r"\0", "-o",
        "-printf", shown + r"\0", ")"
    ], capture_output=True, timeout=60, check=True)
    return sorted(done.stdout.split(b"\0")[:-1])


def test_tree_equals_its_source(tarn, odd_tree):
    server = tarn(f"file://{odd_tree}")
    source = [row for row in tree(odd_tree) if row.split(b"\t")[-5:][0] not in (b"p", b"s")]
    source = [row for row in source if b"\tp\t" not in row and b"\ts\t" not in row]
    assert tree(server.mnt) == source
    listings = [
        subprocess.run(["ls", "-lAR", "--time-style=full-iso"], cwd=top, capture_output=True,
                       timeout=60, check=True).stdout for top in (odd_tree, server.mnt)
    ]
    kept = [[
        line.split(None, 2)[2] if line[:1] == b"-" else line.split(b" -> ")[-1]
        for line in text.split(b"\n") if line[:1] in (b"-", b"l")
    ] for text in listings]
    assert kept[0] == kept[1] and len(kept[0]) > 100
    sums_of = [
        subprocess.run("find . -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum", shell=True,
                       cwd=top, capture_output=True, timeout=60, check=True).stdout
        for top in (odd_tree, server.mnt)
    ]
    assert sums_of[0] == sums_of[1] and sums_of[0].count(b"\n") > 100
    for name in ("fifo", "socket"):
        assert not os.path.lexists(server.path(name))
    done = util.run("diff", "-r", "--no-dereference", "-x", "fifo", "-x", "socket", odd_tree,
                    server.mnt, check=False)
    assert done.returncode == 0, done.stdout


def test_symlinks_are_not_followed_by_the_server(tarn, workdir):
    served = os.path.join(workdir, "served")
    util.write_tree(workdir, [("outside/secret", b"outside"), ("served/x", b"x")])
    os.symlink("../outside", f"{served}/way-out")
    os.symlink(f"{workdir}/outside/secret", f"{served}/file-out")
    server = tarn(f"file://{served}")
    assert os.readlink(server.path("way-out")) == "../outside"
    assert os.readlink(server.path("file-out")) == f"{workdir}/outside/secret"
    assert not os.path.exists(
        server.path("way-out/secret")), "the link was followed on the server's side"
    assert server.cli("cat", "/way-out/secret", check=False).code == 1


# ---- life ----

def background(server, *args):
    done = subprocess.run([*server.command(), "-d", "--pid-file", f"{server.dir}/pid", *args],
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30,
                          check=False)
    assert done.returncode == 0, done.stderr
    with open(f"{server.dir}/pid", encoding="ascii") as f:
        return int(f.read()), done


@pytest.fixture
def served(workdir):
    root = os.path.join(workdir, "served")
    util.write_tree(root, util.tree_items(30))
    return root


def test_background(tarn, served):
    server = tarn(f"file://{served}", start=False)
    pid, _ = background(server)
    try:
        assert util.mounted(server.mnt, FSTYPE)
        assert sorted(os.listdir(server.mnt)) == [f"d{i:03d}" for i in range(10)]
        assert util.alive(pid) and server.cli("status").code == 0
        assert os.getsid(pid) == os.getpgid(pid) != os.getsid(0)
        for fd in (0, 1, 2):
            assert os.readlink(f"/proc/{pid}/fd/{fd}") == "/dev/null"
    finally:
        os.kill(pid, 15)
    util.wait_until("the end", lambda: not util.alive(pid), 20)
    assert not util.mounted(server.mnt)
    assert not os.path.exists(f"{server.dir}/pid")
    log = f"{server.cache}/tarn.log"
    with open(log, encoding="utf-8") as f:
        says(f.read(), server.mnt)


def test_stop_by_signal_and_by_umount(tarn, served):
    server = tarn(f"file://{served}", "--pid-file", "pid-is-relative")
    assert server.stop() == 0
    assert not util.mounted(server.mnt)
    server.start()
    server.cli("umount", server.mnt)
    assert server.process.wait(timeout=20) == 0
    server.process = None
    assert not util.mounted(server.mnt)
    os.path.exists("pid-is-relative") and os.unlink("pid-is-relative")


def test_stop_with_an_open_file(tarn, served):
    server = tarn(f"file://{served}")
    with open(server.path("d000/f000000.bin"), "rb"):
        done = server.cli("umount", server.mnt, check=False)
        assert done.code != 0
        says(done.err, server.mnt, ("busy", "in use"))
        assert os.path.isdir(server.path("d000"))
        assert server.stop() == 0
    assert not util.mounted(server.mnt)


def test_pid_file_and_log_file(tarn, served, workdir):
    pid, log = f"{workdir}/the.pid", f"{workdir}/the.log"
    server = tarn(f"file://{served}", "--pid-file", pid, "--log-file", log, "--log-format", "json",
                  "--log-level", "debug")
    with open(pid, encoding="ascii") as f:
        assert int(f.read()) == server.process.pid
    util.run("md5sum", server.path("d001/f000001.bin"))
    os.rename(log, f"{log}.1")
    os.kill(server.process.pid, 1)
    util.wait_until("a new log file", lambda: os.path.exists(log), 10)
    assert server.stop() == 0
    lines = []
    for name in (f"{log}.1", log):
        with open(name, encoding="utf-8") as f:
            lines += [json.loads(line) for line in f]
    assert len(lines) >= 3
    keys = set.intersection(*(set(line) for line in lines))
    assert len(keys) >= 3, f"a time, a level and a text at least: {keys}"


def test_text_log(tarn, served):
    server = tarn(f"file://{served}", "--log-file", f"{served}.log")
    with open(f"{served}.log", encoding="utf-8") as f:
        util.wait_until("the line that it is ready", lambda: f"file://{served}" in f.read(), 5)
        f.seek(0)
        says(f.read(), server.mnt)


@pytest.mark.parametrize("ttl", ["60s", "forever"])
def test_second_start_is_warm(tarn, s3fault, ttl):
    items = dict(util.tree_items(40, max_size=200_000))
    right = {name: sha(data) for name, data in items.items()}
    for name, data in items.items():
        s3fault.put(BKT, name, data)
    server = tarn(f"s3://{BKT}", *local.fault_options(s3fault), "--meta-ttl", ttl)
    assert sums.read(server.mnt, items) == right
    util.run("find", server.mnt)
    assert server.stop() == 0
    for end in (server.stop, server.kill):
        s3fault.forget_requests()
        server.start()
        assert sums.read(server.mnt, items) == right
        assert not s3fault.requests("get")
        if ttl == "forever":
            assert not s3fault.requests("head"), "names that are trusted for ever were asked for"
        util.wait_until(
            "the counter", lambda: server.metric("tarn_read_bytes_total", source="local") == sum(
                map(len, items.values())), 5)
        assert server.metric("tarn_read_bytes_total", source="ufs") == 0
        end()


def test_the_default_size_is_chosen_once(tarn, s3fault):
    s3fault.put(BKT, "f", util.some_bytes(30 << 20))
    server = tarn(f"s3://{BKT}", *local.fault_options(s3fault))
    size = server.json("status")["cache"]["capacity_bytes"]
    server.cli("load", "/")
    assert server.stop() == 0
    server.start()
    assert server.json("status")["cache"]["capacity_bytes"] == size


def test_start_is_quick(tarn, s3fault):
    s3fault.put(BKT, "f", b"x")
    server = tarn(f"s3://{BKT}", *local.fault_options(s3fault))
    assert server.stop() == 0
    begun = time.monotonic()
    server.start()
    assert time.monotonic() - begun < 2


# ---- a read-only file system ----

CHANGES = {
    "create": lambda d: os.open(f"{d}/new", os.O_WRONLY | os.O_CREAT),
    "open to write": lambda d: os.open(f"{d}/d000/f000000.bin", os.O_WRONLY),
    "open to read and write": lambda d: os.open(f"{d}/d000/f000000.bin", os.O_RDWR),
    "truncate": lambda d: os.truncate(f"{d}/d000/f000000.bin", 0),
    "mkdir": lambda d: os.mkdir(f"{d}/new"),
    "rmdir": lambda d: os.rmdir(f"{d}/d000"),
    "unlink": lambda d: os.unlink(f"{d}/d000/f000000.bin"),
    "rename": lambda d: os.rename(f"{d}/d000/f000000.bin", f"{d}/d000/new"),
    "link": lambda d: os.link(f"{d}/d000/f000000.bin", f"{d}/new"),
    "symlink": lambda d: os.symlink("x", f"{d}/new"),
    "mkfifo": lambda d: os.mkfifo(f"{d}/new"),
    "chmod": lambda d: os.chmod(f"{d}/d000/f000000.bin", 0o600),
    "chown": lambda d: os.chown(f"{d}/d000/f000000.bin", 1, 1),
    "utime": lambda d: os.utime(f"{d}/d000/f000000.bin", (1, 1)),
    "setxattr": lambda d: os.setxattr(f"{d}/d000/f000000.bin", "user.x", b"y"),
    "removexattr": lambda d: os.removexattr(f"{d}/d000/f000000.bin", "user.tarn.cached"),
}


def test_changes_are_refused(tarn, served):
    before = local.snapshot(served)
    server = tarn(f"file://{served}")
    for what, call in CHANGES.items():
        with pytest.raises(OSError) as e:
            call(server.mnt)
        assert e.value.errno == errno.EROFS, f"{what}: {e.value}"
    assert local.snapshot(served) == before


def test_statfs(tarn, served):
    server = tarn(f"file://{served}", "--cache-size", "64MiB")
    st = os.statvfs(server.mnt)
    assert st.f_namemax == 255 and st.f_bsize > 0
    assert st.f_blocks * st.f_frsize == 64 * MIB
    assert util.run("df", server.mnt).stdout.count("\n") == 2


def test_seeks_and_reads_at_the_edges(tarn, workdir):
    data = util.some_bytes(3 * MIB + 7, "edges")
    util.write_tree(f"{workdir}/s", [("f", data), ("empty", b"")])
    server = tarn(f"file://{workdir}/s")
    fd = os.open(server.path("f"), os.O_RDONLY)
    size = len(data)
    for offset, length in ((0, 1), (size - 1, 10), (size, 10), (size + 10**9, 1), (65535, 2),
                           (MIB - 1, 2), (0, size + 5), (4096, 65536), (size - 70_000, 100_000)):
        assert os.pread(fd, length, offset) == data[offset:offset + length]
    os.close(fd)
    assert open(server.path("empty"), "rb").read() == b""
    with open(server.path("f"), "rb") as f:
        import mmap
        with mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as m:
            assert m[size - 5:] == data[-5:] and m[MIB:MIB + 9] == data[MIB:MIB + 9]
    with pytest.raises(IsADirectoryError):
        open(server.mnt, "rb")
    with pytest.raises(NotADirectoryError):
        os.stat(server.path("f/x"))
    with pytest.raises(OSError) as e:
        os.stat(server.path("n" * 256))
    assert e.value.errno == errno.ENAMETOOLONG


def test_extended_attributes(tarn, served):
    server = tarn(f"file://{served}")
    path = server.path("d003/f000003.bin")
    names = os.listxattr(path)
    assert {"user.tarn.cached", "user.tarn.version", "user.tarn.workers"} <= set(names)
    before = os.getxattr(path, "user.tarn.cached")
    version = os.getxattr(path, "user.tarn.version")
    assert version
    util.sha256_file(path)
    util.wait_until("the change", lambda: os.getxattr(path, "user.tarn.cached") != before, 5)
    assert str(server.json("stat", "/d003/f000003.bin")["version"]) == version.decode()
    assert os.getxattr(path, "user.tarn.version") == version
    with pytest.raises(OSError) as e:
        os.getxattr(path, "user.none")
    assert e.value.errno == errno.ENODATA


# ---- changes of the source ----

def test_changes_of_the_source_are_seen(tarn, served):
    server = tarn(f"file://{served}", "--meta-ttl", "1s")
    name = "d000/f000000.bin"
    util.sha256_file(server.path(name))
    new = util.some_bytes(5000, "new")
    with open(f"{served}/{name}.tmp", "wb") as f:
        f.write(new)
    os.rename(f"{served}/{name}.tmp", f"{served}/{name}")
    os.unlink(f"{served}/d001/f000001.bin")
    util.write_tree(served, [("d000/sub/new", b"n")])
    util.wait_until("the new bytes", lambda: sums.read(server.mnt, [name])[name] == sha(new), 15,
                    step=0.1)
    util.wait_until("the end of a name",
                    lambda: not os.path.exists(server.path("d001/f000001.bin")), 15, step=0.1)
    util.wait_until("a new name", lambda: os.path.exists(server.path("d000/sub/new")), 15, step=0.1)


def test_always_fresh(tarn, served):
    server = tarn(f"file://{served}", "--meta-ttl", "always")
    for i in range(20):
        data = f"version {i}".encode() * (i + 1)
        with open(f"{served}/x.tmp", "wb") as f:
            f.write(data)
        os.rename(f"{served}/x.tmp", f"{served}/x")
        with open(server.path("x"), "rb") as f:
            assert f.read() == data
    os.unlink(f"{served}/x")
    assert not os.path.exists(server.path("x"))


# ---- reports ----

METRICS = """tarn_read_bytes_total tarn_ufs_requests_total tarn_ufs_read_bytes_total
    tarn_cache_used_bytes tarn_cache_capacity_bytes tarn_cache_evicted_bytes_total
    tarn_checksum_errors_total tarn_master_inodes tarn_raft_leader tarn_fuse_op_seconds
    tarn_job_files tarn_ufs_saved_bytes_total tarn_ufs_saved_requests_total"""
LABELS = [("tarn_read_bytes_total", "source"), ("tarn_ufs_requests_total", "op"),
          ("tarn_ufs_requests_total", "status"), ("tarn_cache_used_bytes", "medium"),
          ("tarn_cache_capacity_bytes", "medium"), ("tarn_cache_evicted_bytes_total", "medium"),
          ("tarn_job_files", "state"), ("tarn_fuse_op_seconds", "op")]


def test_http(tarn, served):
    server = tarn(f"file://{served}", "--cache-size", "64MiB")
    assert sums.read(server.mnt, ["d000/f000000.bin", "d001/f000001.bin"])
    server.cli("load", "/d002")
    util.wait_until("the counters", lambda: server.metric("tarn_read_bytes_total") > 0, 5)
    text = server.http("/metrics")
    missing = [name for name in METRICS.split() if f"# TYPE {name} " not in text]
    assert not missing
    samples = {}
    for name, labels in server.metrics():
        samples.setdefault(name, set()).update(k for k, _ in labels)
    unlabelled = [(n, k) for n, k in LABELS
                  if k not in samples.get(n, samples.get(n + "_count", set()))]
    assert not unlabelled
    assert "tarn_fuse_op_seconds_bucket" in samples, "a histogram"
    assert server.metric("tarn_cache_capacity_bytes") == 64 * MIB
    for path in ("/healthz", "/readyz", "/version"):
        assert server.http(path)
    with pytest.raises(urllib.error.HTTPError) as e:
        server.http("/none")
    assert e.value.code == 404


def test_reports_are_true(tarn, workdir):
    items = {
        "a/one": util.some_bytes(100_000, 1),
        "a/two": util.some_bytes(3 * MIB, 2),
        "b/three": b"3",
        "b/empty": b""
    }
    util.write_tree(f"{workdir}/s", items.items())
    server = tarn(f"file://{workdir}/s", "--cache-size", "64MiB")
    total = sum(map(len, items.values()))
    util.run("find", server.mnt)
    status = server.json("status")
    assert len(status["cluster_id"]) >= 8
    assert [m["role"]
            for m in status["masters"]] == ["leader"] and status["masters"][0]["healthy"] is True
    assert [w["state"] for w in status["workers"]] == ["live"]
    tier = status["workers"][0]["tiers"][0]
    assert tier["capacity_bytes"] == status["cache"]["capacity_bytes"] == 64 * MIB
    assert tier["medium"] in ("SSD", "HDD", "MEM") and tier["path"].startswith(server.cache)
    mount = status["mounts"][0]
    assert (mount["path"], mount["ufs"], mount["files"], mount["bytes"]) == ("/", server.uri, 4,
                                                                             total)
    assert status["reads"]["hit_ratio"] is None and status["jobs"] == {"running": 0, "failed": 0}

    before = server.json("stat", "/a/two")
    assert (before["path"], before["type"], before["size"]) == ("/a/two", "file", 3 * MIB)
    assert (before["cached_bytes"], before["cached_ratio"], before["workers"]) == (0, 0, [])
    assert before["ino"] == os.stat(server.path("a/two")).st_ino
    assert before["uid"] == os.stat(server.path("a/two")).st_uid
    assert server.json("stat", "/b/empty")["cached_ratio"] == 1.0
    assert server.json("stat", "/a")["type"] == "directory"
    assert sums.read(server.mnt, ["a/two"]) == {"a/two": sha(items["a/two"])}
    after = util.wait_until(
        "the cached bytes", lambda:
        (s := server.json("stat", "/a/two"))["cached_bytes"] == 3 * MIB and s, 5)
    assert (after["cached_bytes"], after["cached_ratio"], len(after["workers"])) == (3 * MIB, 1.0,
                                                                                     1)
    assert after["version"] == before["version"]
    du = server.json("du", "/a")
    assert (du["files"], du["bytes"], du["cached_bytes"],
            du["cached_files"]) == (2, 3 * MIB + 100_000, 3 * MIB, 1)
    assert server.json("du", "/")["dirs"] in (2, 3)
    assert sums.read(server.mnt, ["a/two"]) == {"a/two": sha(items["a/two"])}

    reads = util.wait_until(  # they are told once a second
        "all bytes that applications got", lambda:
        (r := server.json("status")["reads"])["ufs_bytes"] + r["local_bytes"] == 6 * MIB and r, 5)
    assert 0 < reads["ufs_bytes"] <= 3 * MIB and reads["remote_bytes"] == 0
    assert abs(reads["hit_ratio"] - reads["local_bytes"] / (6 * MIB)) < 1e-6
    used = server.json("status")["cache"]["used_bytes"]
    assert 3 * MIB <= used <= 64 * MIB
    for command in (("status",), ("stat", "/a/two"), ("du", "/")):
        assert server.cli(*command).out.strip()


# ---- load ----

def manifest(server, job):
    text = server.cli("job", "manifest", job, "--json").out
    return {row["path"]: row for row in map(json.loads, text.splitlines())}


def last_job(server):
    return server.json("job", "ls")[-1]


def test_load_everything(tarn, s3fault):
    items = dict(util.tree_items(60, max_size=100_000))
    for name, data in items.items():
        s3fault.put(BKT, name, data)
    server = tarn(f"s3://{BKT}", *local.fault_options(s3fault))
    assert server.cli("load", "/").code == 0
    du = server.json("du", "/")
    assert (du["files"], du["cached_files"]) == (60, 60)
    assert du["cached_bytes"] == du["bytes"] == sum(map(len, items.values()))
    job = last_job(server)
    assert (job["kind"], job["state"]) == ("load", "succeeded")
    assert (job["files_total"], job["files_done"], job["files_failed"]) == (60, 60, 0)
    rows = manifest(server, job["id"])
    assert {p.lstrip("/") for p in rows} >= set(items)
    s3fault.forget_requests()
    assert sums.read(server.mnt, items) == {n: sha(d) for n, d in items.items()}
    assert server.cli("load", "/").code == 0, "again: nothing to do"
    assert not s3fault.requests("get")
    assert server.cli("free", "/d001").code == 0
    assert server.json("du", "/d001")["cached_bytes"] == 0
    assert server.json("du", "/")["cached_files"] == 54
    assert sums.read(server.mnt, items) == {n: sha(d) for n, d in items.items()}


def test_load_with_a_missing_path(tarn, s3fault):
    items = dict(util.tree_items(20, max_size=50_000))
    for name, data in items.items():
        s3fault.put(BKT, name, data)
    server = tarn(f"s3://{BKT}", *local.fault_options(s3fault))
    wanted = sorted(items)[:10]
    listed = [
        "# the coming epoch", "", *(f"/{n}" for n in wanted[:5]), "/d000/not-there.bin", *wanted[5:]
    ]
    done = server.cli("load", "/", "-f", "-", stdin="\n".join(listed) + "\n", check=False)
    assert done.code == 1
    says(done.err, "not-there.bin")
    job = last_job(server)
    assert (job["state"], job["files_failed"], job["files_done"]) == ("failed", 1, 10)
    rows = manifest(server, job["id"])
    assert rows["/d000/not-there.bin"]["state"] == "failed" and rows["/d000/not-there.bin"]["error"]
    for name in wanted:
        assert rows[f"/{name}"]["bytes"] == len(
            items[name]) and rows[f"/{name}"]["state"] != "failed"
    s3fault.stop()
    assert sums.read(server.mnt, wanted) == {n: sha(items[n]) for n in wanted}
    assert server.json("du", "/")["cached_files"] == 10


def test_load_of_what_the_store_cannot_give(tarn, s3fault):
    items = dict(util.tree_items(20, max_size=50_000))
    for name, data in items.items():
        s3fault.put(BKT, name, data)
    server = tarn(f"s3://{BKT}", *local.fault_options(s3fault, retries=1))
    bad = sorted(items)[3]
    s3fault.fail("status", op="get", key=bad, code=500)
    done = server.cli("load", "/", check=False)
    assert done.code == 1
    rows = manifest(server, last_job(server)["id"])
    assert [p for p, row in rows.items() if row["state"] == "failed"] == [f"/{bad}"]
    assert server.json("du", "/")["cached_files"] == 19
    s3fault.heal()
    assert server.cli("load", "/").code == 0
    assert server.json("du", "/")["cached_files"] == 20


def test_load_of_more_than_fits(tarn, s3fault):
    for i in range(8):
        s3fault.put(BKT, f"f{i}", util.some_bytes(4 * MIB, i))
    server = tarn(f"s3://{BKT}", *local.fault_options(s3fault), "--cache-size", "16MiB")
    done = server.cli("load", "/", check=False)
    assert done.code == 1
    says(done.err, ("fit", "room", "missing"), "MiB")
    assert not s3fault.requests("get"), "it began all the same"
    assert server.json("stat", "/f0")["cached_bytes"] == 0


def test_load_says_done_only_if_all_of_it_stays(tarn, workdir):
    """By the bytes it fits, with what else the cache directory holds it does not."""
    top = os.path.join(workdir, "tight")
    os.makedirs(top)
    for i in range(240):
        with open(os.path.join(top, f"f{i}"), "wb") as f:
            f.write(util.some_bytes(MIB // 16, i))
    server = tarn(f"file://{top}", "--cache-size", "16MiB")
    done = server.cli("load", "/", check=False)
    cached = server.json("du", "/")["cached_files"]
    assert (done.code == 0) == (cached == 240), (done, cached)


def test_load_of_nothing_that_exists(tarn, served):
    server = tarn(f"file://{served}")
    for args in (("/none",), ("/d000", "/none"), ("-f", f"{served}/no-list")):
        done = server.cli("load", *args, check=False)
        assert done.code in (1, 2), done
        says(done.err, args[-1])


def test_load_detached(tarn, served):
    server = tarn(f"file://{served}")
    job = server.cli("load", "/", "--detach").out.strip()
    assert server.cli("job", "wait", job).code == 0
    shown = server.json("job", "show", job)
    assert (shown["state"], shown["files_done"]) == ("succeeded", 30)
    assert shown["bytes_done"] == shown["bytes_total"] and shown["started_at"] and shown[
        "finished_at"]
    assert server.cli("job", "show", "999999", check=False).code == 1


def test_dry_run_lists_and_fetches_nothing(tarn, s3fault):
    s3fault.put(BKT, "d/f", b"x" * 1000)
    server = tarn(f"s3://{BKT}", *local.fault_options(s3fault))
    done = server.cli("load", "/d", "--dry-run")
    assert "/d/f\n" in done.out and "would load 1 file" in done.out, done
    assert not s3fault.requests("get")
    done = server.cli("load", "/none", "--dry-run", check=False)
    assert done.code == 1 and "/none" in done.err, done
    assert server.json("du", "/")["cached_bytes"] == 0


# ---- commands that need no server ----

def test_help_and_version():
    for args in (("help", ), ("--help", ), ("help", "local"), ("local", "--help"), ("version", ),
                 ("--version", )):
        done = local.command(*args)
        assert done.code == 0 and done.out.strip(), args
    assert "--cache-size" in local.command("local", "--help").out
    assert os.path.basename(binary()) == "tarn"
