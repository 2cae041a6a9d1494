# SPDX-License-Identifier: Apache-2.0
"""What a crash, a dead disk, a full disk or damage leaves: less cache, never wrong bytes."""
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time

import pytest

from tests.lib import local, sums, util
from tests.lib.local import sha

HERE = os.path.dirname(os.path.abspath(__file__))
HAMMER = os.path.join(HERE, "../lib/hammer.py")
BKT = "bkt"
MIB = 1 << 20
KILLS = 50
SHUTDOWNS = 10        # on each kind of file system
FLIPS_A_START = 40
FLIP_STARTS = 26      # 1,040 flips
READY_SECONDS = 2.0


def items_of_all_sizes(files, seed):
    """(path, bytes): most are small, some have several granules, a few several groups."""
    rng = random.Random(seed)
    for i in range(files):
        size = rng.choice(
            [rng.randint(0, 5000),
             rng.randint(5000, 400_000),
             rng.randint(400_000, 5 * MIB)])
        yield f"d{i % 5}/f{i:03d}", util.some_bytes(size, f"{seed}/{i}")


@pytest.fixture
def data(workdir):
    """(directory, {name: SHA-256}) of about 50 MiB."""
    root = os.path.join(workdir, "data")
    return root, util.write_tree(root, items_of_all_sizes(60, "crash"))


@pytest.fixture
def hammer(workdir):
    """Starts readers that check each byte: hammer(mountpoint, right) -> process."""
    made = []

    def make(mnt, right, threads=4):
        path = os.path.join(workdir, "right.json")
        with open(path, "w", encoding="utf-8") as f:
            json.dump(right, f)
        made.append(
            subprocess.Popen(
                [sys.executable, HAMMER, mnt, path,
                 str(threads), str(len(made))], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                text=True, start_new_session=True))
        assert made[-1].stdout.readline() == "on\n"
        return made[-1]

    yield make
    for process in made:
        util.end_group(process)
        process.stdout.close()


def report(process, seconds=20):
    out, _ = process.communicate(timeout=seconds)
    return json.loads(out)


def check_all(server, right, threads=2):
    """Every file, past the kernel's pages."""
    got = sums.read(server.mnt, right, threads=threads, seconds=120)
    wrong = {name: got[name] for name in right if got[name] != right[name]}
    assert not wrong, wrong


def sample(server, right, rng, n=6):
    names = rng.sample(sorted(right), n)
    got = sums.read(server.mnt, names, threads=2)
    assert got == {name: right[name] for name in names}


# ---- kill -9 ----

def test_kill_under_load(tarn, data, hammer):
    root, right = data
    rng = random.Random(1)
    server = tarn(f"file://{root}", "--cache-size", "256MiB")
    took, reads, loads = [], 0, 0
    for turn in range(KILLS):
        if turn % 5 == 0:
            server.cli("free", "/", check=False)
        load = subprocess.Popen(
            server.cli_command("load", "/", "--force", "--bandwidth",
                               "30MiB/s"), env=server.cli_env(), stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        readers = hammer(server.mnt, right)
        time.sleep(rng.uniform(0.0, 0.25))  # the moment of the kill, not a wait
        loads += load.poll() is None
        server.kill()
        found = report(readers)
        assert not found["wrong"], found
        assert found["under_way"] > 0, "nothing was under way"
        reads += found["under_way"]
        load.kill()
        load.wait()
        begun = time.monotonic()
        server.start()
        took.append(time.monotonic() - begun)
        sample(server, right, rng)
    check_all(server, right)
    # Loads go on after a kill, and what they force is freed first.
    util.wait_until("the end of all jobs", lambda: not any(
        job["state"] in ("planned", "running") for job in server.json("job", "ls")), 60)
    assert server.cli("load", "/").code == 0
    assert server.json("du", "/")["cached_files"] == len(right)
    check_all(server, right)
    assert reads >= KILLS and loads >= KILLS * 0.9, f"under way: {reads} reads, {loads} loads"
    took.sort()
    assert took[int(len(took) * 0.9)] < READY_SECONDS, took
    assert took[-1] < 3 * READY_SECONDS, took


def test_kill_while_starting(tarn, data):
    """At any moment of the start itself."""
    root, right = data
    server = tarn(f"file://{root}", start=False)
    rng = random.Random(2)
    for _ in range(15):
        server.spawn()
        time.sleep(rng.uniform(0.0, 0.3))  # the moment of the kill
        server.kill()
    server.start()
    check_all(server, right)
    assert local.count_mounts(server.mnt) == 1


def test_stop_under_load(tarn, data, hammer):
    root, right = data
    server = tarn(f"file://{root}")
    for _ in range(5):
        load = subprocess.Popen(server.cli_command("load", "/", "--force"), env=server.cli_env(),
                                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                stderr=subprocess.DEVNULL, start_new_session=True)
        readers = hammer(server.mnt, right)
        assert server.stop() == 0
        found = report(readers)
        assert not found["wrong"] and not util.mounted(server.mnt)
        load.kill()
        load.wait()
        server.start()
    check_all(server, right)


def test_load_goes_on_after_a_kill(tarn, s3fault):
    for name, content in items_of_all_sizes(40, "resume"):
        s3fault.put(BKT, name, content)
    server = tarn(f"s3://{BKT}", *local.fault_options(s3fault))
    slow = s3fault.fail("slow", op="get", rate=3_000_000)
    job = server.cli("load", "/", "--detach").out.strip()
    util.wait_until("some of it", lambda: server.json("job", "show", job)["files_done"] > 3, 30)
    assert slow.struck
    server.kill()
    s3fault.heal()
    server.start()
    done = server.cli("job", "wait", job, check=False, seconds=60)
    shown = server.json("job", "show", job)
    assert (done.code, shown["state"], shown["files_done"],
            shown["files_failed"]) == (0, "succeeded", 40, 0), shown
    assert server.json("du", "/")["cached_files"] == 40


# ---- a disk that dies ----

@pytest.mark.parametrize("kind, size", [("ext4", "200M"), ("xfs", "300M")])
def test_file_system_below_the_cache_shuts_down(tarn, loopfs, data, hammer, kind, size):
    root, right = data
    fs = loopfs(kind, size)
    server = tarn(f"file://{root}", "--cache-size", "100MiB", start=False)
    server.cache = os.path.join(fs.path, "cache")
    server.start()
    rng = random.Random(kind)
    for turn in range(SHUTDOWNS):
        readers = hammer(server.mnt, right, threads=3)
        time.sleep(rng.uniform(0.0, 0.4))  # the moment of the cut
        fs.shutdown()
        got = sums.read(server.mnt, rng.sample(sorted(right), 5), seconds=60)
        wrong = {n: s for n, s in got.items() if s not in (right[n], "EIO")}
        assert not wrong, wrong
        if turn % 2:
            server.kill()
        else:
            server.stop()
        found = report(readers)
        assert not found["wrong"], found
        fs.remount()
        server.start()
        sample(server, right, rng)
    check_all(server, right)


def test_reads_go_on_without_the_disk(tarn, loopfs, data):
    """Metadata that is known and the store are enough: a dead disk costs cache."""
    root, right = data
    fs = loopfs("ext4", "200M")
    server = tarn(f"file://{root}", "--cache-size", "100MiB", start=False)
    server.cache = os.path.join(fs.path, "cache")
    server.start()
    util.run("find", server.mnt, "-type", "f", "-size", "+0")
    sample(server, right, random.Random(3))
    fs.shutdown()
    check_all(server, right)
    assert server.stop() == 0


def test_cache_directory_is_removed_while_it_runs(tarn, data):
    root, right = data
    server = tarn(f"file://{root}")
    names = sorted(right)
    assert sums.read(server.mnt, names[:30]) == {n: right[n] for n in names[:30]}
    # What is still being written would keep rm from removing its directory.
    util.wait_until("all files", lambda: server.json("du", "/")["cached_files"] == 30, 10)
    util.run("rm", "-rf", server.cache)
    got = sums.read(server.mnt, names)
    wrong = {n: s for n, s in got.items() if s not in (right[n], "EIO")}
    assert not wrong, wrong
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(timeout=20) is not None
    server.process = None
    util.unmount(server.mnt)
    server.start()
    check_all(server, right)


# ---- damage ----

def kind_of(path, cache):
    part = os.path.relpath(path, cache).split("/")
    if part[0] == "meta" or part[:2] == ["tier0", "index"]:
        name = os.path.basename(path)
        for start in ("CURRENT", "MANIFEST", "OPTIONS", "IDENTITY", "LOG"):
            if name.startswith(start):
                return "/".join(part[:-1]) + "/" + start
        return "/".join(part[:-1]) + "/*." + name.rsplit(".", 1)[-1]
    return "/".join(part[:2]) if part[1:2] == ["data"] else "/".join(part)


def flip(path, rng):
    size = os.path.getsize(path)
    if not size:
        return False
    with open(path, "r+b") as f:
        at = rng.randrange(size)
        f.seek(at)
        old = f.read(1)[0]
        f.seek(at)
        f.write(bytes([old ^ rng.randrange(1, 256)]))
    return True


def checksum_errors(server):
    """Told by the server itself at once, unlike the metric."""
    return server.json("status")["workers"][0]["tiers"][0]["checksum_errors"]


def test_flipped_bytes(tarn, s3fault):
    """In every kind of file below the cache directory, while the daemon is down."""
    right = {}
    for name, content in items_of_all_sizes(25, "flips"):
        right[name] = sha(content)
        s3fault.put(BKT, name, content)
    server = tarn(f"s3://{BKT}", *local.fault_options(s3fault))
    rng = random.Random(4)
    flips, kinds, errors = 0, {}, 0
    for turn in range(FLIP_STARTS):
        check_all(server, right)
        errors += checksum_errors(server)
        if turn % 2:
            assert server.stop() == 0
        else:
            server.kill()
        files = {}
        for path in local.below(server.cache):
            if os.path.isfile(path) and os.path.getsize(path):
                files.setdefault(kind_of(path, server.cache), []).append(path)
        # In turns: damage that makes all else be dropped would hide the rest.
        part = ("tier0/data", "tier0/index", "meta", "")[turn % 4]
        chosen = sorted(k for k in files if k.startswith(part))
        for i in range(FLIPS_A_START):
            kind = chosen[i % len(chosen)]
            if flip(rng.choice(files[kind]), rng):
                flips += 1
                kinds[kind] = kinds.get(kind, 0) + 1
        try:
            server.start()
        except AssertionError as e:
            raise AssertionError(
                f"it does not start after flips in {chosen} (turn {turn})\n{e}") from e
    check_all(server, right)
    errors += checksum_errors(server)
    assert flips >= 1000, flips
    assert kinds.get("tier0/data", 0) > 200 and len(kinds) >= 8, kinds
    assert errors > 0, "no flip was met: this test showed nothing"


def test_damage_to_what_says_whose_it_is(tarn, data):
    """FORMAT and LOCK, of the cache directory and of the tier: it starts, if need be empty."""
    root, right = data
    server = tarn(f"file://{root}")
    names = sorted(right)[:20]
    for damage in ("echo tarn cache 9 > FORMAT", "rm FORMAT", "echo x > FORMAT; rm LOCK",
                   "echo x > tier0/LOCK; echo x > tier0/FORMAT", "rm tier0/LOCK tier0/FORMAT",
                   "rm FORMAT tier0/LOCK tier0/FORMAT; rm -r tier0/index"):
        got = sums.read(server.mnt, names)
        assert got == {n: right[n] for n in names}
        server.kill()
        util.run("sh", "-c", f"cd '{server.cache}' && {{ {damage}; }}")
        server.start()
    check_all(server, right)


def test_truncated_and_missing_files(tarn, s3fault):
    right = {}
    for name, content in items_of_all_sizes(25, "cuts"):
        right[name] = sha(content)
        s3fault.put(BKT, name, content)
    server = tarn(f"s3://{BKT}", *local.fault_options(s3fault))
    rng = random.Random(5)
    for turn in range(16):
        check_all(server, right)
        server.kill()
        part = ("tier0/data", "tier0/index", "meta", "")[turn % 4]
        files = sorted(p for p in local.below(server.cache) if os.path.isfile(p) and
                       os.path.relpath(p, server.cache).startswith(part))
        for path in rng.sample(files, min(4, len(files))):
            way = rng.randrange(4)
            if way == 0:
                os.unlink(path)
            else:
                size = os.path.getsize(path)
                os.truncate(path,
                            0 if way == 1 else size + 4096 if way == 2 else rng.randrange(size + 1))
        server.start()
    check_all(server, right)


def test_two_files_of_the_cache_are_swapped(tarn, s3fault):
    """Bytes that are whole, but another file's."""
    right = {}
    for i in range(10):
        content = util.some_bytes(200_000, f"swap{i}")
        right[f"f{i}"] = sha(content)
        s3fault.put(BKT, f"f{i}", content)
    server = tarn(f"s3://{BKT}", *local.fault_options(s3fault))
    check_all(server, right)
    # A reader has its bytes before the cache has them.
    util.wait_until("all files", lambda: server.json("du", "/")["cached_files"] == 10, 10)
    server.kill()
    files = sorted(p for p in local.below(f"{server.cache}/tier0/data") if os.path.isfile(p))
    assert len(files) == 10
    for a, b in zip(files[::2], files[1::2]):
        os.rename(a, f"{a}.x")
        os.rename(b, a)
        os.rename(f"{a}.x", b)
    server.start()
    check_all(server, right)
    assert checksum_errors(server) > 0


def test_verify_rereads_the_medium_and_mends(tarn, s3fault):
    right = {}
    for i in range(10):
        content = util.some_bytes(300_000, f"verify{i}")
        right[f"f{i}"] = sha(content)
        s3fault.put(BKT, f"f{i}", content)
    server = tarn(f"s3://{BKT}", *local.fault_options(s3fault))
    assert server.cli("load", "/").code == 0
    check_all(server, right)  # all of it is verified since the start
    rng = random.Random(6)
    files = sorted(p for p in local.below(f"{server.cache}/tier0/data") if os.path.isfile(p))
    for path in files[:3]:
        assert flip(path, rng)
    s3fault.forget_requests()
    done = server.cli("load", "/", "--verify", check=False)
    assert done.code == 0, done.err
    assert checksum_errors(server) >= 3
    util.wait_until("the metric", lambda: server.metric("tarn_checksum_errors_total") >= 3, 5)
    fetched = s3fault.requests("get")
    assert {r.key for r in fetched} and len({r.key for r in fetched}) == 3, "three files were bad"
    s3fault.stop()
    check_all(server, right)
    done = server.cli("load", "/", "--verify", check=False)
    assert done.code == 0, "all is right and there: no store is needed"


# ---- room ----

def test_full_disk(tarn, loopfs, data):
    """At any time: reads stay right, and the cache goes on when there is room again."""
    root, right = data
    fs = loopfs("ext4", "64M")
    server = tarn(f"file://{root}", "--cache-size", "1GiB", start=False)
    server.cache = os.path.join(fs.path, "cache")
    server.start()
    check_all(server, right)  # does not fit
    filler = fs.fill()
    check_all(server, right)
    util.run("find", server.mnt)
    server.kill()
    server.start()
    check_all(server, right)
    os.unlink(filler)
    check_all(server, right)
    assert server.stop() == 0
    server.start()
    check_all(server, right)
    assert 0 < server.json("du", "/")["cached_bytes"] < 64 * MIB, "what fits is kept"


def test_first_start_on_a_full_disk(tarn, loopfs, data):
    """It works or says why; it leaves nothing that keeps a later start from working."""
    root, right = data
    fs = loopfs("ext4", "32M")
    filler = fs.fill()
    server = tarn(f"file://{root}", start=False)
    server.cache = os.path.join(fs.path, "cache")
    server.spawn()
    util.wait_until("an end or a mount", lambda: server.process.poll() is not None or
                    util.mounted(server.mnt) and server.answers(), 15)
    if server.process.poll() is None:
        check_all(server, right)
        server.stop()
    else:
        assert server.process.returncode in (1, 2)
        local.says(server.log_tail(), server.cache, "space")
        server.process = None
    os.unlink(filler)
    server.start()
    check_all(server, right)


class Watch:
    """The room below a directory, looked at all the time."""

    def __init__(self, path):
        self.path, self.most, self.looks = path, 0, 0
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._run)

    def _run(self):
        while not self.ended.wait(0.05):
            self.most = max(self.most, local.room(self.path))
            self.looks += 1

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *args):
        self.ended.set()
        self.thread.join()


@pytest.mark.parametrize("sizes", ["mixed", "small", "big"])
def test_quota(tarn, workdir, sizes):
    """Never exceeded while twice its size is read, also by many readers at a time."""
    quota = 32 * MIB
    make = {
        "mixed": lambda: items_of_all_sizes(75, "quota"),
        "small": lambda: util.tree_items(3000, 8000, 36_000, seed=9),
        "big": lambda: ((f"b{i}", util.some_bytes(13 * MIB + i, f"b{i}")) for i in range(5))
    }[sizes]
    root = os.path.join(workdir, "data")
    right = util.write_tree(root, make())
    assert sum(os.path.getsize(os.path.join(root, n)) for n in right) >= 1.9 * quota
    server = tarn(f"file://{root}", "--cache-size", "32MiB", start=False)
    os.makedirs(server.cache, mode=0o700)
    with Watch(server.cache) as watch:
        server.start()
        check_all(server, right, threads=4)
        check_all(server, right, threads=4)
        assert server.stop() == 0
        server.start()
        sample(server, right, random.Random(7), 5)
    assert watch.most <= quota, f"{watch.most - quota} bytes more than the quota"
    assert watch.most > quota // 2 and watch.looks > 5
    assert server.json("status")["cache"]["used_bytes"] <= quota
    check_all(server, right)


def test_size_is_remembered(tarn, data):
    """A cache that is started without saying how large it is keeps what it holds."""
    root, right = data
    server = tarn(f"file://{root}", "--cache-size", "100MiB")
    server.cli("load", "/")
    cached = server.json("du", "/")["cached_bytes"]
    assert server.stop() == 0
    at = server.args.index("--cache-size")
    del server.args[at:at + 2]
    server.start()
    assert server.json("status")["cache"]["capacity_bytes"] == 100 * MIB
    assert server.json("du", "/")["cached_bytes"] == cached > 0
    sample(server, right, random.Random(5), 20)


def test_size_beyond_the_disk(loopfs, tarn, workdir):
    """The cache says what it can hold, and a load that needs more fails before it begins."""
    disk = loopfs("ext4", "120M")
    root = os.path.join(workdir, "big")
    util.write_tree(root, ((f"b{i}", util.some_bytes(13 * MIB, i)) for i in range(10)))
    server = tarn(f"file://{root}", "--cache-size", "10GiB", start=False)
    server.cache = os.path.join(disk.path, "cache")
    server.start()
    assert server.json("status")["cache"]["capacity_bytes"] < 120 * MIB
    assert "can hold" in server.log_tail()
    done = server.cli("load", "/", check=False)
    assert done.code == 1 and "the cache holds" in done.err, done
    assert "worker" not in done.err, "who has one process knows of no workers"
    assert server.json("du", "/")["cached_bytes"] == 0
    assert server.stop() == 0


def test_smaller_quota_at_the_next_start(tarn, data):
    root, right = data
    server = tarn(f"file://{root}", "--cache-size", "128MiB")
    check_all(server, right)
    assert server.stop() == 0
    assert local.room(server.cache) > 40 * MIB
    server.args[server.args.index("128MiB")] = "20MiB"
    begun = time.monotonic()
    server.start()
    assert time.monotonic() - begun < 5
    util.wait_until("the eviction", lambda: local.room(server.cache) <= 20 * MIB, 20, step=0.1)
    check_all(server, right)
    assert local.room(server.cache) <= 20 * MIB
