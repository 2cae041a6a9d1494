# SPDX-License-Identifier: Apache-2.0
"""A master, workers and mounts as processes of their own: what is read once is there for all, what
stops comes back as it was, and what changes hands is not fetched again."""
import os
import secrets
import shutil
import subprocess
import time

import pytest

from tests.lib import util
from tests.lib.cluster import BKT, MIB, SEGMENT
from tests.lib.local import below, says
from tests.lib.verify import Content, Readers

SMALL = {f"d{i % 4}/f{i:03d}": 100_000 + 7919 * i for i in range(40)}
MIXED = {**SMALL, "big": 9 * MIB + 123}


def small_cluster(cluster, sizes=None, **kwargs):
    """Started, with the files in its store: (cluster, content)"""
    content = Content(MIXED if sizes is None else sizes)
    made = cluster(start=False, **kwargs)
    content.put(made.store, BKT)
    return made.start(), content


def check_all(mount, content, paths=None):
    """Every file through a mount, byte for byte."""
    for path in paths if paths is not None else content.sizes:
        said = content.wrong(path, content.versions[path], 0, mount.read(path))
        assert said is None, said
        assert os.stat(mount.path(path)).st_size == content.sizes[path]


def warm(cluster, content):
    """All of it cached; nothing was fetched twice, and every worker has a share."""
    assert cluster.load("/")["state"] == "succeeded"
    assert cluster.fetched_bytes() == sum(content.sizes.values())
    assert cluster.fetched_twice() == {}
    assert all(w.ufs_bytes() > 0 for w in cluster.workers)


def fetched_again(c, content, path):
    """The way to the store works: a file that was freed comes from there."""
    before = c.fetched_bytes()
    c.cli("free", f"/{path}")
    for mount in c.mounts:
        check_all(mount, content, [path])
    assert c.fetched_bytes() - before >= content.sizes[path]


# ---- where bytes are ----

def test_a_cold_read_spreads_and_a_second_asks_the_store_nothing(cluster):
    c, content = small_cluster(cluster, worker_args=["--copies", "never"])
    check_all(c.mounts[0], content)
    shares = [w.ufs_bytes() for w in c.workers]
    assert all(s > 0 for s in shares), "one worker has fetched everything"
    assert sum(shares) == c.fetched_bytes() == sum(content.sizes.values())
    assert c.fetched_twice() == {}
    with c.no_fetches("the second read"):
        for mount in c.mounts:
            check_all(mount, content)
    for source in ("ufs_bytes", "remote_bytes"):  # sessions tell with their next renewal
        util.wait_until(source, lambda s=source: c.status()["reads"][s] > 0, 20, 0.2)


def test_what_is_cached_as_extended_attributes(cluster):
    """As `tarn stat` says it; what is not known, since a worker is away, is empty."""
    def told(path):
        return [os.getxattr(path, f"user.tarn.{name}").decode() for name in ("cached", "workers")]

    c, content = small_cluster(cluster, {"two": 2 * SEGMENT, "cold": 4711, "empty": 0}, mounts=1)
    two, cold, empty = (c.mounts[0].path(name) for name in ("two", "cold", "empty"))
    assert set(os.listxattr(two)) == {f"user.tarn.{n}" for n in ("cached", "version", "workers")}
    assert told(two) == told(cold) == ["0.0000", ""] and told(empty) == ["1.0000", ""]
    assert c.load("/two")["state"] == "succeeded"
    ids = c.json("stat", "/two")["workers"]
    assert told(two) == ["1.0000", ",".join(map(str, ids))] and ids and ids == sorted(ids)
    assert told(cold) == ["0.0000", ""]
    holder = next(w for w in c.workers if w.id in ids)
    number = holder.id
    holder.kill()
    assert told(two) == ["", ",".join(str(i) for i in ids if i != number)]


def test_segments_of_one_file_lie_on_both_workers(cluster):
    """Of 24 segments all on one worker is a chance of 1 in 8 million."""
    size = 24 * SEGMENT
    c, content = small_cluster(cluster, {"huge": size}, mounts=1)
    with open(c.mounts[0].path("huge"), "rb", buffering=0) as f:
        for segment in range(24):
            for offset in (segment * SEGMENT, segment * SEGMENT + SEGMENT - 4096):
                os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
                got = os.pread(f.fileno(), 4096, offset)
                assert content.wrong("huge", 1, offset, got) is None and len(got) == 4096
    assert all(w.ufs_bytes() > 0 for w in c.workers)
    assert c.fetched_twice() == {}


def test_one_fetch_for_readers_of_both_mounts(cluster):
    c, content = small_cluster(cluster, {"hot": 40 * MIB})
    readers = [subprocess.Popen(["sha256sum", m.path("hot")], stdout=subprocess.PIPE, start_new_session=True)
               for m in c.mounts for _ in range(2)]
    try:
        sums = {p.communicate(timeout=100)[0].split()[0] for p in readers}
    finally:
        for p in readers:
            util.end_group(p)
    assert len(sums) == 1
    check_all(c.mounts[1], content)
    assert c.fetched_although_there() == []
    # A read that takes too long is asked of the next worker too, which may fetch its group.
    assert c.fetched_bytes() <= 50 * MIB, c.fetched_twice()


# ---- what stops and comes back ----

def test_a_worker_that_was_killed_has_its_bytes_again(cluster):
    c, content = small_cluster(cluster)
    warm(c, content)
    number = c.workers[0].id
    c.workers[0].kill()
    c.workers[0].start()
    c.wait_states({w: "live" for w in c.workers})
    assert c.workers[0].id == number, "it became another worker"
    with c.no_fetches("after the restart"):
        for mount in c.mounts:
            check_all(mount, content)


def test_a_worker_that_stops_and_comes_back(cluster):
    c, content = small_cluster(cluster)
    warm(c, content)
    assert c.workers[1].stop() == 0
    c.workers[1].start()
    with c.no_fetches("after the restart"):
        check_all(c.mounts[0], content)


def test_reads_go_on_without_a_worker(cluster):
    c, content = small_cluster(cluster)
    warm(c, content)
    c.workers[0].kill()
    begun = time.monotonic()
    check_all(c.mounts[0], content, list(content.sizes)[:10])
    assert time.monotonic() - begun < 30


def test_warm_reads_without_the_store(cluster):
    c, content = small_cluster(cluster)
    warm(c, content)
    for mount in c.mounts:
        check_all(mount, content)
    c.store.stop()
    for mount in c.mounts:
        check_all(mount, content)
    c.store.start()
    fetched_again(c, content, "big")


def test_reads_and_names_without_the_master(cluster):
    c, content = small_cluster(cluster)
    warm(c, content)
    check_all(c.mounts[0], content)
    with Readers(c.mounts[0].mnt, content, threads=4, deadline=5, kinds=("open", "stat")) as readers:
        readers.wait_open()
        assert readers.catch(c.master.kill) > 0
        readers.wait_calls(100, 4)  # in the lease of 10 s
        readers.wait_each(5)
        assert readers.errors_total() == 0, readers.report()
        c.master.start()
        readers.wait_each(5)
    readers.check(100, errors=0)
    assert c.states() and all(s == "live" for s in c.states().values())
    with c.no_fetches("after the master's restart"):
        for mount in c.mounts:
            check_all(mount, content)
    fetched_again(c, content, "big")


def test_a_file_opened_without_the_master_is_read(cluster):
    """Its name was known and its bytes are cached: nothing of it is the master's to tell."""
    c, content = small_cluster(cluster)
    warm(c, content)
    check_all(c.mounts[0], content)
    c.master.kill()
    with Readers(c.mounts[0].mnt, content, threads=2, deadline=5, kinds=("names",)) as readers:
        readers.wait_calls(50, 5)
        readers.wait_each(3, 5)
    readers.check(50, errors=0)


def test_all_of_it_restarted(cluster):
    c, content = small_cluster(cluster)
    warm(c, content)
    cluster_id = c.status()["cluster_id"]
    for part in reversed(c.parts()):
        part.kill()
    for part in c.parts():
        part.start()
    c.wait_states({w: "live" for w in c.workers})
    assert c.status()["cluster_id"] == cluster_id
    with c.no_fetches("after the restart of everything"):
        for mount in c.mounts:
            check_all(mount, content)


@pytest.mark.parametrize("workers", [1, 2])
def test_bytes_that_rot_at_a_worker_are_never_read(cluster, workers):
    """Also after the worker compared them once, when it sends them as they are."""
    c, content = small_cluster(cluster, {"big": 9 * MIB + 123, "f": 700_000, "g": 90_000},
                               workers=workers, worker_args=["--copies", "never"])
    assert c.load("/")["state"] == "succeeded"
    check_all(c.mounts[0], content)
    flips = 0
    for worker in c.workers:
        for path in below(f"{worker.dir}/data"):
            if os.path.isfile(path):
                with open(path, "r+b") as f:
                    for at in range(70_000, os.path.getsize(path), MIB):
                        if os.pread(f.fileno(), 64, at).strip(b"\0"):  # a worker has its share of a file alone
                            f.seek(at)
                            f.write(b"rotten")
                            flips += 1
    assert flips >= 11, "there was nothing to spoil"
    check_all(c.mounts[0], content)
    groups = 5  # what is bad is fetched again by the group: that mends what nobody has read yet
    util.wait_until("each was found", lambda: sum(
        w.metric("tarn_checksum_errors_total") for w in c.workers) >= groups, 20)
    with c.no_fetches("what was fetched anew is right"):
        check_all(c.mounts[1], content)


# ---- what changes in the store ----

def test_a_replaced_object_is_seen_by_both_mounts_and_never_mixed(cluster):
    ttl = 2
    c, content = small_cluster(cluster, {"o": 6 * MIB, "other": 1000},
                               attach_args=["--meta-ttl", f"{ttl}s"])
    for mount in c.mounts:
        check_all(mount, content)
    content.replace(c.store, BKT, "o")
    replaced = time.monotonic()
    newest = [1, 1]
    while min(newest) < 2:
        assert time.monotonic() - replaced < ttl + 15, f"the versions seen are {newest}"
        for i, mount in enumerate(c.mounts):
            begun = time.monotonic()
            try:
                got = content.version_of("o", mount.read("o"))
            except OSError:
                continue  # the version of that handle is gone, and not all of it was cached
            assert isinstance(got, int), got
            assert got >= newest[i], "an older version came back"
            assert got == 2 or begun - replaced < ttl + 5, "the old one is believed for too long"
            newest[i] = got
    for mount in c.mounts:
        check_all(mount, content)


def test_update_of_an_attachment(cluster):
    c, content = small_cluster(cluster, {"o": 1 * MIB}, attach_args=["--meta-ttl", "forever"])
    for mount in c.mounts:
        check_all(mount, content)
    armed = {"TARN_UPDATE": "true", "TARN_FORCE": "true"}  # no variable does what the line is to say itself
    with c.no_fetches("a load that was not forced"):
        c.cli("load", "/", env=armed)
    content.replace(c.store, BKT, "o")
    assert content.version_of("o", c.mounts[0].read("o")) == 1, "it was to be believed for ever"
    done = c.attach("/", check=False)
    assert done.code == 1 and done.err, "attached twice"
    assert c.attach("/", check=False, env=armed).code == 1, "attached anew"
    c.attach("/", BKT, "--update", "--meta-ttl", "1s")
    for mount in c.mounts:
        util.wait_until("the new version", lambda m=mount: content.version_of("o", m.read("o")) == 2, 20)
    assert c.attached() == ["/"]


# ---- members ----

def removed(c, worker, *flags):
    """Tried until nothing is left on it that only it has."""
    number = worker.id
    util.wait_until(f"{worker.name} can be removed",
                    lambda: c.cli("worker", "remove", number, *flags, check=False).code == 0, 90, 0.3)
    assert c.states().get(worker.addr, "removed") == "removed"


def test_drain_and_remove_cost_the_store_nothing(cluster):
    c, content = small_cluster(cluster, workers=3)
    warm(c, content)
    leaver = c.workers[0]
    c.cli("worker", "drain", leaver.id)
    assert leaver.status()["state"] == "draining"
    with c.no_fetches("while it drains"):
        check_all(c.mounts[0], content)
    with c.no_fetches("the drain"):
        removed(c, leaver)
        assert leaver.process.wait(timeout=30) is not None
        leaver.process = None
        for mount in c.mounts:
            check_all(mount, content)


def test_a_new_worker_takes_its_share_from_the_others(cluster):
    c, content = small_cluster(cluster)
    warm(c, content)
    third = c.add_worker()
    with c.no_fetches("the new worker"):
        third.start()
        c.wait_states({third: "live"})
        for mount in c.mounts:
            check_all(mount, content)
        util.wait_until("its share", lambda: third.held() > 100_000, 60, 0.2)
        for mount in c.mounts:
            check_all(mount, content)
    assert third.ufs_bytes() == 0


def test_remove_without_drain_loses_that_share_only(cluster):
    c, content = small_cluster(cluster, workers=3)
    warm(c, content)
    share = c.workers[2].ufs_bytes()
    refused = c.cli("worker", "remove", c.workers[2].id, check=False)
    assert refused.code == 1 and c.workers[2].status()["state"] == "live", \
        "what only it has was given up without a word"
    number = c.workers[2].id
    c.workers[2].kill()
    c.store.forget_requests()
    c.cli("worker", "remove", number, "--force")
    for mount in c.mounts:
        check_all(mount, content)
    assert 0 < c.fetched_bytes() <= share, (c.fetched_bytes(), share)
    assert c.fetched_twice() == {}


def test_who_may_not_join(cluster, workdir):
    c, content = small_cluster(cluster)
    warm(c, content)
    wrong = os.path.join(workdir, "wrong-token")
    with open(os.open(wrong, os.O_WRONLY | os.O_CREAT, 0o600), "w", encoding="ascii") as f:
        f.write(secrets.token_hex(32))
    done = c.cli("status", check=False, env={"TARN_TOKEN_FILE": wrong})
    assert done.code == 5, done
    stranger = c.add_worker()
    stranger.argv[stranger.argv.index("--token-file") + 1] = wrong
    stranger.spawn()
    assert stranger.process.wait(timeout=30) == 5, stranger.log_tail()
    stranger.process = None
    c.workers.remove(stranger)

    # The same directory twice.
    first = c.workers[0]
    twin = c.add_worker()
    twin.argv = [a.replace(twin.dir, first.dir) for a in twin.argv]
    twin.spawn()
    assert twin.process.wait(timeout=30) not in (0, None)
    says(twin.log_tail(), first.dir)
    twin.process = None

    # A copy of it, while the original is alive.
    shutil.rmtree(twin.dir)
    subprocess.run(["cp", "-a", first.dir, twin.dir], check=True, timeout=60)
    twin.argv = [a.replace(first.dir, twin.dir) for a in twin.argv]
    twin.spawn()
    assert twin.process.wait(timeout=60) not in (0, None), "a copy has joined beside its original"
    twin.process = None
    c.workers.remove(twin)
    assert len(c.states()) == 2 and all(s == "live" for s in c.states().values())
    with c.no_fetches("after all that"):
        check_all(c.mounts[0], content)


def test_a_worker_of_another_cluster_is_refused(cluster):
    ours, content = small_cluster(cluster)
    warm(ours, content)
    other = cluster(workers=0, mounts=0, attach=False)
    ours.workers[0].stop()
    guest = other.add_worker()
    shutil.rmtree(guest.dir)
    guest.argv = [a.replace(guest.dir, ours.workers[0].dir) for a in guest.argv]
    guest.spawn()
    assert guest.process.wait(timeout=30) not in (0, None), guest.log_tail()
    guest.process = None
    assert other.status()["workers"] == []
    ours.workers[0].start()
    with ours.no_fetches("after the attempt"):
        check_all(ours.mounts[0], content)


# ---- attachments ----

def test_nested_attachments(cluster):
    c, content = small_cluster(cluster, {"d/a": 5000, "d/sub/hidden": 100, "b": 70_000})
    inner = Content({"x": 300_000, "y/z": 4000})
    inner.put(c.store, "second")
    c.attach("/d/sub", "second")
    mount = c.mounts[0]
    check_all(mount, content, ["d/a", "b"])
    for path in inner.sizes:
        assert inner.wrong(path, 1, 0, mount.read(f"d/sub/{path}")) is None
    assert sorted(os.listdir(mount.path("d/sub"))) == ["x", "y"]
    assert not os.path.exists(mount.path("d/sub/hidden")), "the deepest attachment wins"
    assert c.attached() == ["/", "/d/sub"]
    c.cli("detach", "/d/sub")
    util.wait_until("the outer one", lambda: os.path.exists(mount.path("d/sub/hidden")), 20)
    check_all(mount, content)


def test_detach_and_attach_keep_the_bytes(cluster):
    c, content = small_cluster(cluster, attach=False)
    c.attach("/data")
    assert c.load("/data")["state"] == "succeeded"
    c.cli("detach", "/data")
    assert c.attached() == []
    util.wait_until("the names are gone", lambda: not os.path.exists(c.mounts[0].path("data/big")), 20)
    c.attach("/again")
    with c.no_fetches("the second attachment"):
        for path in content.sizes:
            assert content.wrong(path, 1, 0, c.mounts[1].read(f"again/{path}")) is None


def test_a_file_that_is_open_while_its_store_is_detached(cluster):
    """What is cached of it is read on, and only the first read waits whether the store is to come."""
    c, content = small_cluster(cluster, {"big": 40 * MIB}, mounts=1)
    c.load("/")
    with open(c.mounts[0].path("big"), "rb", buffering=0) as f:
        assert f.read(1) == content.data("big", 1, 0, 1)
        c.cli("detach", "/")
        util.wait_until("the name is gone", lambda: not os.path.exists(c.mounts[0].path("big")), 20)
        begun = time.monotonic()
        for off in range(2 * MIB, 40 * MIB, 4 * MIB):
            got = os.pread(f.fileno(), MIB, off)
            assert content.wrong("big", 1, off, got) is None
        assert time.monotonic() - begun < 5, "each read waits anew"


def test_detach_while_files_are_open(cluster):
    c, content = small_cluster(cluster, attach=False)
    c.attach("/data")
    c.load("/data")
    with Readers(c.mounts[0].path("data"), content, threads=4, deadline=30) as readers:
        readers.wait_each(5)
        c.cli("detach", "/data")
        util.wait_until("new opens fail", lambda: any(
            e[0] in ("ENOENT", "ESTALE", "EIO") for e in readers.errors()), 30)
        util.wait_until("the name is gone", lambda: not os.path.exists(c.mounts[1].path("data")), 20)
        c.attach("/data")
        util.wait_until("they are there", lambda: os.path.exists(c.mounts[0].path("data/big")), 20)
        readers.wait_each(5, 60)
    readers.check(20)
    with c.no_fetches("after it was attached again"):
        check_all_below(c.mounts[0], content, "data")


def check_all_below(mount, content, prefix):
    for path in content.sizes:
        assert content.wrong(path, 1, 0, mount.read(f"{prefix}/{path}")) is None


def test_a_mount_that_was_taken_away_is_waited_for_by_nobody(cluster):
    """It says so: else changes of what it believed would wait for the end of its lease."""
    c, _ = small_cluster(cluster, {"a/o": 1000, "b": 1000})
    other, gone = c.mounts
    for mount in c.mounts:
        assert sorted(os.listdir(mount.path("a"))) == ["o"] and sorted(os.listdir(mount.mnt)) == ["a", "b"]
    c.cli("umount", gone.mnt)
    gone.process.wait(timeout=30)
    assert [s["mountpoint"] for s in c.status()["sessions"] if s["mountpoint"]] == [other.mnt]
    begun = time.monotonic()
    c.store.put(BKT, "a/o", b"another")
    c.cli("detach", "/")
    c.attach("/")
    assert sorted(os.listdir(other.mnt)) == ["a", "b"]
    assert time.monotonic() - begun < 5, "somebody was waited for"


def test_a_mount_of_a_part(cluster):
    c, content = small_cluster(cluster)
    part = c.add_mount("--path", "/d1")
    part.start()
    names = [p for p in SMALL if p.startswith("d1/")]
    assert sorted(os.listdir(part.mnt)) == sorted(p[3:] for p in names)
    for path in names:
        assert content.wrong(path, 1, 0, part.read(path[3:])) is None
    missing = c.add_mount("--path", "/none")
    missing.spawn()
    assert missing.process.wait(timeout=30) == 1, missing.log_tail()
    says(missing.log_tail(), "/none")
    missing.process = None


# ---- loads ----

@pytest.mark.parametrize("of", ["load", "attach"])
def test_two_replicas_survive_one_worker(cluster, of):
    flags = ["--replicas", "2"]
    c, content = small_cluster(cluster, attach_args=flags if of == "attach" else [])
    c.cli("load", "/", *(flags if of == "load" else []))
    number = c.json("job", "ls")[-1]["id"]
    assert all(line["replicas"] == 2 for line in c.manifest(number) if line["bytes"])
    c.workers[0].kill()
    with c.no_fetches("with one of two workers"):
        for mount in c.mounts:
            check_all(mount, content)


def test_the_second_replica_comes_from_the_first(cluster):
    c, content = small_cluster(cluster, attach_args=["--replicas", "2"])
    c.cli("load", "/")
    assert c.fetched_twice() == {}, "the second copy came from the store"
    util.wait_until("both have all of it", lambda: all(
        w.held() >= sum(content.sizes.values()) for w in c.workers), 20, 0.2)


@pytest.mark.timeout(300)
def test_a_load_survives_a_worker_and_the_master(cluster):
    sizes = {f"n{i % 20:02d}/o{i:05d}": 2000 + 37 * (i % 1000) for i in range(2000)}
    c, content = small_cluster(cluster, sizes, workers=3, mounts=1)
    c.store.fail("slow", op="get", rate=1_000_000)
    number = c.cli("load", "/", "--detach").out.strip()
    victim = c.workers[1]
    util.wait_until("it is under way", lambda: 0 < c.job(number)["files_done"] < 1500, 60, 0.01)
    victim.kill()
    c.master.kill()
    c.master.start()
    assert c.job(number)["state"] == "running", "it was over before the faults: nothing was tried"
    c.store.heal()
    victim.start()
    c.cli("job", "wait", number, seconds=200)
    job = c.job(number)
    assert (job["state"], job["files_failed"], job["files_done"]) == ("succeeded", 0, 2000)
    lines = c.manifest(number)
    found = {line["path"].lstrip("/"): line["bytes"] for line in lines}
    assert len(lines) == len(found) == 2000 and found == sizes
    assert all(line["checksum"] and not line["error"] and line["replicas"] >= 1 for line in lines)
    with c.no_fetches("reading what was loaded"):
        for path in sizes:
            with open(c.mounts[0].path(path), "rb") as f:
                assert content.wrong(path, 1, 0, f.read()) is None


def test_a_drain_for_which_others_have_no_room(cluster):
    """It says who has none, and does not wait for ever; it goes on once somebody has."""
    c = cluster(start=False, workers=1, mounts=0)
    c.add_worker(quota="32MiB")
    # A third of it is the small one's, and fits; all of it does not.
    content = Content({f"f{i:02d}": 1 << 20 for i in range(42)})
    content.put(c.store, BKT)
    c.start()
    c.load("/")
    leaver, small = c.workers
    stuck = c.cli("worker", "drain", leaver.id, "--wait", check=False)
    assert stuck.code == 1, stuck
    says(stuck.err, f"for which others have no room, worker {small.id} among them")
    says(stuck.err, f"tarn worker remove {leaver.id} --force")
    row = next(w for w in c.status()["workers"] if w["id"] == leaver.id)
    assert row["state"] == "draining" and row["refused_by"] == small.id
    assert 0 < row["refused_bytes"] <= row["left_bytes"] <= 42 << 20
    says(c.cli("status").out, f"others have no room, worker {small.id} among them")
    assert leaver.metric("tarn_worker_refused_bytes") == row["refused_bytes"]
    third = c.add_worker()
    third.start()
    c.cli("worker", "drain", small.id)
    c.cli("worker", "drain", leaver.id, "--wait")
    row = next(w for w in c.status()["workers"] if w["id"] == leaver.id)
    assert (row["left_bytes"], row["refused_bytes"], row["refused_by"]) == (0, 0, 0)
    says(c.cli("worker", "ls").out, " drained ")
    assert c.fetched_twice() == {}


def test_a_drain_of_the_last_one_right_after_a_restart_of_the_master(cluster):
    """A worker that has not come back yet may be dead: it is awaited before one is let go for it."""
    c, _ = small_cluster(cluster, {"a": 1000}, mounts=0)
    c.workers[1].kill()
    c.master.restart()
    refused = c.cli("worker", "drain", c.workers[0].id, check=False, seconds=40)
    assert refused.code == 1, refused
    says(refused.err, "is the last one that is alive")


def test_a_drain_while_an_owner_is_dead(cluster):
    """It says who is waited for; it ends once that one is given up, and nothing is fetched again."""
    c, _ = small_cluster(cluster, {f"f{i:02d}": MIB for i in range(30)}, workers=3, mounts=0)
    c.load("/")
    leaver, dead, _ = c.workers
    number, gone = leaver.id, dead.id
    dead.kill()
    util.wait_until("it is missed", lambda: not dead.status()["alive"], 20)
    stuck = c.cli("worker", "drain", number, "--wait", check=False)
    assert stuck.code == 1, stuck
    says(stuck.err, f"tarn worker remove {gone} --force")
    refused = c.cli("worker", "remove", gone, check=False)
    assert refused.code == 1, refused
    says(refused.err, "is not alive")
    fetched = c.fetched_bytes()
    leaver.kill()
    util.wait_until("it is missed, too", lambda: not leaver.status()["alive"], 20)
    stuck = c.cli("worker", "drain", number, "--wait", check=False)
    assert stuck.code == 1, stuck
    says(stuck.err, f"worker {number}: is not alive, and goes on when it is back")
    c.cli("worker", "remove", gone, "--force")
    leaver.start()
    c.cli("worker", "drain", number, "--wait")
    assert c.fetched_bytes() == fetched


def test_a_drain_of_a_worker_that_is_coming_back(cluster):
    """It has 20 s for that."""
    c, _ = small_cluster(cluster, {f"f{i:02d}": MIB for i in range(10)}, mounts=0)
    c.load("/")
    leaver, number = c.workers[0], c.workers[0].id
    c.master.stop()
    leaver.kill()
    c.master.start()  # it has told this one of nothing that it moved
    with c.background("worker", "drain", number, "--wait") as waits:
        time.sleep(4)
        assert waits.poll() is None, waits.communicate()
        leaver.start()
        _, err = waits.communicate(timeout=60)
        assert waits.returncode == 0, err


def test_a_cancelled_load_tells_what_it_did(cluster):
    """Also of files behind one that had not come yet; its figures are those of its manifest."""
    c = cluster(start=False, mounts=0)
    content = Content({"a-large": 9 * MIB, **{f"f{i:02d}": 100_000 for i in range(20)}})
    content.put(c.store, BKT)
    c.start()
    c.store.fail("stall_headers", op="get", key="a-large")
    job = int(c.cli("load", "/", "--detach").out)
    util.wait_until("others are there", lambda: c.job(job)["files_done"] > 0)
    ended = c.json("job", "cancel", job)
    told = c.manifest(job)
    assert ended["state"] == "cancelled" and 0 < ended["files_done"] == len(told) < 21
    assert ended["bytes_done"] == sum(line["bytes"] for line in told) == 100_000 * len(told)
    assert all(line["state"] == "loaded" and line["path"].startswith("/f") for line in told)
    util.wait_until("workers tell", lambda: sum(w.held() for w in c.workers) >= ended["bytes_done"], 2)


def test_a_forced_load_while_the_store_is_away(cluster):
    """What is cached stays: it is dropped only once the store has answered for its name."""
    c, content = small_cluster(cluster, {"a/o": 3 * MIB, **{f"b{i:02d}": 1000 for i in range(40)}})
    assert c.load("/")["state"] == "succeeded"
    c.store.stop()
    failed = c.cli("load", "/", "--force", check=False, seconds=30)  # not one file after the other
    assert failed.code == 1, failed
    says(failed.err, "41 of 41 files failed")
    assert c.json("du")["cached_bytes"] == 3 * MIB + 40_000
    for mount in c.mounts:
        check_all(mount, content)
    c.store.start()
    before = c.fetched_bytes()
    util.wait_until("a load", lambda: c.cli("load", "/", "--force", check=False).code == 0, 40, 1)
    assert c.fetched_bytes() == before + 3 * MIB + 40_000


def test_a_forced_load_while_the_store_hiccups(cluster):
    """Neither a name that it could not answer for fails, nor one that is asked for meanwhile."""
    c, _ = small_cluster(cluster, {f"b{i:04d}": 100 for i in range(2000)}, mounts=0,
                         attach_args=("-o", "retries=1"))
    c.load("/")
    struck = [c.store.fail("status", op="head", key=f"b000{i}", times=2, code=503, error="SlowDown") for i in range(5)]
    assert c.load("/", "--force")["files_failed"] == 0
    assert {rule.struck for rule in struck} == {2}


def test_a_forced_load_of_a_store_that_lists_and_tells_no_name(cluster):
    """It is waited for once, not after each of its lists."""
    c, _ = small_cluster(cluster, {f"b{i:04d}": 100 for i in range(1000)}, mounts=0,
                         attach_args=("-o", "retries=1"))
    c.load("/")
    c.store.fail("status", op="head", code=503, error="SlowDown")
    assert c.cli("load", "/", "--force", check=False, seconds=45).code == 1
    assert c.json("job", "ls")[-1]["files_failed"] > 500  # the list may have told of some


def test_a_forced_load_of_a_name_that_the_store_cannot_tell(cluster):
    """It fails, and that alone, however many others are told meanwhile."""
    c, _ = small_cluster(cluster, {f"b{i:04d}": 100 for i in range(300)}, mounts=0,
                         attach_args=("-o", "retries=1", "--meta-ttl", "always"))
    c.load("/")
    c.store.fail("status", op="head", key="b0005", code=503, error="SlowDown")
    job = int(c.cli("load", "/", "--force", "--detach").out)
    util.wait_until("it ends", lambda: c.cli("load", "/b0009", "--force", check=False) and
                    c.job(job)["state"] == "failed", 40, 0.02)
    assert c.job(job)["files_failed"] == 1


def test_a_forced_load_of_a_slow_store(cluster):
    """A store that takes its time for a name is waited for."""
    c, _ = small_cluster(cluster, {"a": 1000, "b": 1000}, mounts=0)
    c.load("/")
    c.store.fail("stall_headers", op="head", key="b", times=1, seconds=10)
    assert c.load("/", "--force")["files_failed"] == 0
    assert c.fetched()["b"] == [(0, 1000)] * 2
