# SPDX-License-Identifier: Apache-2.0
"""What a cluster of hosts must show: a large load that loses a worker and the master on its way, who is
said to be there, a replaced object in two mounts, and a real object store behind all of it."""
import contextlib
import hashlib
import os
import time

import pytest

from tests.lib import local, sums, util
from tests.lib.cluster import BKT, MIB
from tests.lib.rereader import Rereader
from tests.lib.verify import Content, Readers

OBJECTS = int(os.environ.get("TARN_OBJECTS", "4000"))
PATIENCE = 180 + OBJECTS // 20  # seconds: on a busy machine Swift serves no more than 30 a second


# ---- a real store behind a cluster ----

class Objects:
    """Objects whose bytes can be computed: {key: size}; no two have the same bytes."""

    def __init__(self, sizes):
        self.sizes = sizes

    @staticmethod
    def data(key, size):
        return util.some_bytes(size, key)

    def items(self):
        return ((key, self.data(key, size)) for key, size in self.sizes.items())

    def describe(self, digest):
        """{key: digest of its bytes}"""
        return {key: digest(data) for key, data in self.items()}


def md5(data):
    return hashlib.md5(data).hexdigest()


def small_objects(count):
    return Objects({f"d{i % 40:02d}/o{i:06d}": 100 + 7919 * i % 6007 for i in range(count)})


def swift_cluster(cluster, network, swift, objects, **kwargs):
    """Started, with the objects in its store."""
    swift.bucket(BKT)
    assert swift.seed(BKT, objects.items()) == len(objects.sizes)
    return cluster(network=network, store=swift, **kwargs)


def object_gets(swift):
    return sum(1 for r in swift.requests("GET", BKT) if r["key"])


def found_below(mount):
    """Every file of a mount, as find sees it."""
    done = util.run("find", mount.mnt, "-type", "f", "-printf", "%P\\n")
    return sorted(done.stdout.splitlines())


def in_the_middle(c, number, least=1):
    """The job, once so many files are done; some but not all of them are, or nothing was tried."""
    job = util.wait_until(f"{least} files are done", lambda: (
        lambda j: j if j["files_done"] >= least else None)(c.job(number)), PATIENCE, 0.25)
    assert job["state"] == "running" and 0 < job["files_done"] < len_of(job), f"nothing was in flight: {job}"
    return job["files_done"]


def len_of(job):
    assert job["files_total"] in (0, OBJECTS), job  # 0: not all is listed yet
    return OBJECTS


@pytest.mark.timeout(3 * PATIENCE)
def test_load_of_many_objects(root, network, loopfs, swift_factory, cluster):
    """A load of 4,000 objects (TARN_OBJECTS=20000: of so many) goes on without a worker, through a
    restart of the master, and to its end; what it says it loaded is what the store has."""
    fs = loopfs("ext4", "3G", make_options=("-O", "^has_journal", "-N", "300000"))
    swift = swift_factory(network.host("store"), fs.path)
    objects = small_objects(OBJECTS)
    c = swift_cluster(cluster, network, swift, objects, workers=3)
    begun = time.monotonic()
    load = c.background("load", "/")
    try:
        number = util.wait_until("the job", lambda: c.json("job", "ls"), 30)[0]["id"]
        at = [in_the_middle(c, number, OBJECTS // 10)]
        victim = c.workers[1]
        victim.kill()
        at.append(in_the_middle(c, number))
        at.append(in_the_middle(c, number, OBJECTS // 3))
        c.master.kill()
        c.master.start()
        at.append(in_the_middle(c, number))
        at.append(in_the_middle(c, number, at[-1] + OBJECTS // 20))
        victim.start()
        said = load.communicate(timeout=PATIENCE)
    finally:
        util.end_group(load)
    took = time.monotonic() - begun
    assert load.returncode == 0, said
    job = c.job(number)
    assert (job["state"], job["files_failed"]) == ("succeeded", 0), job
    assert job["files_done"] == job["files_total"] == OBJECTS, job
    assert job["bytes_done"] == job["bytes_total"] == sum(objects.sizes.values()), job
    c.wait_states({w: "live" for w in c.workers})
    loaded = check_manifest(c, number, swift, objects)
    assert loaded >= at[1], "what was noted before the master was killed is loaded"
    gets = object_gets(swift)
    print(f"{OBJECTS} objects, {sum(objects.sizes.values())} bytes in {took:.1f} s; files done at the faults "
          f"{at}; {loaded} loaded, {OBJECTS - loaded} present; {gets} GETs")
    check_trees(c, swift, objects)
    assert object_gets(swift) == gets, "something that was loaded was fetched again"


def check_manifest(c, number, swift, objects):
    """One line for each object that a listing of the store has. What a worker had fetched when the
    master was killed, before the master had noted it, is `present` when the job goes on."""
    listed = swift.client.list(BKT)
    assert {e.key: e.etag for e in listed} == objects.describe(md5)
    lines = c.manifest(number)
    assert len(lines) == len(listed) == OBJECTS
    assert {line["path"]: line["bytes"] for line in lines} == {"/" + e.key: e.size for e in listed}
    odd = [line for line in lines if line["state"] not in ("loaded", "present") or line["error"] or
           line["checksum"] != "etag" or line["replicas"] < 1 or not line["worker"]]
    assert not odd, f"{len(odd)}: {odd[:5]}"
    return sum(line["state"] == "loaded" for line in lines)


def check_trees(c, swift, objects):
    """All names and bytes, through one mount; then, without the store, through both."""
    want = objects.describe(local.sha)
    assert found_below(c.mounts[0]) == sorted(want)
    assert sums.read(c.mounts[0].mnt, want, threads=4, seconds=PATIENCE) == want
    swift.stop()
    for mount in reversed(c.mounts):
        assert found_below(mount) == sorted(want)
        assert sums.read(mount.mnt, want, threads=4, seconds=PATIENCE) == want


def test_swift_behind_a_cluster(root, network, swift_factory, cluster):
    swift = swift_factory(network.host("store"))
    objects = Objects({**{f"d{i % 3}/f{i:02d}": 1000 * i for i in range(40)}, "big": 9 * MIB + 5})
    c = swift_cluster(cluster, network, swift, objects)
    want = objects.describe(local.sha)
    for mount in c.mounts:
        assert found_below(mount) == sorted(want)
        assert sums.read(mount.mnt, want, threads=4) == want
        assert sorted(os.listdir(mount.mnt)) == ["big", "d0", "d1", "d2"]
    c.cli("load", "/", "--replicas", "2")
    lines = c.manifest(c.json("job", "ls")[-1]["id"])
    assert {line["path"][1:]: line["bytes"] for line in lines} == objects.sizes
    assert all(line["replicas"] == 2 for line in lines if line["bytes"]), lines
    gets = object_gets(swift)
    c.workers[0].kill()
    swift.stop()
    for mount in c.mounts:
        assert found_below(mount) == sorted(want)
        assert sums.read(mount.mnt, want, threads=4) == want
    assert object_gets(swift) == gets


# ---- who is there ----

FILES = {f"d{i % 4}/f{i:03d}": 100_000 + 7919 * i for i in range(60)}
LEASE = 10.0  # seconds: the default of --lease
GONE = 5.0    # until a broken connection counts: a second, and time to be scheduled


def network_cluster(cluster, network, sizes, **kwargs):
    """With all of it loaded, each byte once: (cluster, content)"""
    content = Content(sizes)
    c = cluster(start=False, network=network, **kwargs)
    content.put(c.store, BKT)
    c.start()
    assert c.load("/")["state"] == "succeeded"
    assert c.fetched_bytes() == sum(sizes.values()) and c.fetched_twice() == {}
    return c, content


def check_all(c, content):
    for mount in c.mounts:
        for path in content.sizes:
            said = content.wrong(path, content.versions[path], 0, mount.read(path))
            assert said is None, said
            assert os.stat(mount.path(path)).st_size == content.sizes[path]


def seen(c, worker):
    """(state, alive) of a worker, where status and `worker ls` agree."""
    rows = [next(((w["state"], w["alive"]) for w in found if w["addr"] == worker.addr), None)
            for found in (c.status()["workers"], c.json("worker", "ls"))]
    return rows[0] if rows[0] == rows[1] else (f"status {rows[0]}, worker ls {rows[1]}", None)


def wait_seen(c, worker, wanted, seconds):
    util.wait_until(f"{worker.name} {wanted}", lambda: seen(c, worker) == wanted, seconds, 0.05)


def share(c, worker):
    """{path: bytes} of what a worker has, as the manifest of a load says that fetches nothing."""
    with c.no_fetches("a load of what is there"):
        number, own = c.load("/")["id"], worker.id
    lines = c.manifest(number)
    assert all(line["replicas"] == 1 for line in lines), "more than one has it"
    return {line["path"][1:]: line["bytes"] for line in lines if line["worker"] == own}


def test_status_while_a_worker_is_killed_returns_is_drained_removed(root, network, cluster):
    c, content = network_cluster(cluster, network, FILES, workers=3)
    lost, leaver = c.workers[0], c.workers[1]
    assert all(seen(c, w) == ("live", True) for w in c.workers)
    with Readers(c.mounts[0].mnt, content, threads=3, deadline=30, kinds=("open", "names")) as readers:
        readers.wait_open()
        assert readers.catch(lost.kill) > 0
        wait_seen(c, lost, ("live", False), GONE)  # a member still: --worker-lost is minutes
        readers.wait_each(5)
        lost.start()
        wait_seen(c, lost, ("live", True), LEASE)
        readers.wait_each(5)
    readers.check(50, errors=0)
    with c.no_fetches("after it has returned"):
        check_all(c, content)
    drain(c, content, leaver)


def drain(c, content, leaver):
    """What it has goes to the others, and it with it."""
    others = [w for w in c.workers if w is not leaver]
    with c.no_fetches("the drain"):
        waiting = c.background("worker", "drain", leaver.id, "--wait")
        try:
            wait_seen(c, leaver, ("draining", True), LEASE)
            assert waiting.wait(timeout=60) == 0, waiting.communicate()
        finally:
            util.end_group(waiting)
        assert seen(c, leaver) == ("draining", True) and leaver.status()["left_bytes"] == 0
        util.wait_until("the others have all of it", lambda: sum(w.held() for w in others) >=
                        sum(content.sizes.values()), LEASE, 0.1)
        c.cli("worker", "remove", leaver.id)
        wait_seen(c, leaver, ("removed", False), GONE)
        assert leaver.process.wait(timeout=30) is not None
        leaver.process = None
        check_all(c, content)


def test_what_a_lost_worker_had_is_all_that_is_fetched_again(root, network, cluster):
    c, content = network_cluster(cluster, network, FILES, workers=3)
    lost = c.workers[2]
    had, number = share(c, lost), lost.id
    assert 0 < len(had) < len(FILES), "it has nothing, or everything"
    util.wait_until("it has told what it has", lambda: lost.held() == sum(had.values()), LEASE, 0.1)
    lost.kill()
    wait_seen(c, lost, ("live", False), GONE)
    refused = c.cli("worker", "remove", number, check=False)
    assert refused.code == 1, refused
    local.says(refused.err, f"{sum(had.values()) / MIB:.1f} MiB would be fetched from the store again")
    assert seen(c, lost) == ("live", False), "what only it has was given up without a word"
    c.store.forget_requests()
    c.cli("worker", "remove", number, "--force")
    wait_seen(c, lost, ("removed", False), GONE)
    check_all(c, content)
    assert {key: sum(n for _, n in ranges) for key, ranges in c.fetched().items()} == had
    with c.no_fetches("once more"):
        check_all(c, content)


# ---- what changes in the store ----

TTL = 3.0
SLACK = 2.0  # of a machine that is busy with other things; less than another TTL


def replace(c, key, data, number, known):
    """Another version; times of the store differ, so that nothing is taken for what it was."""
    known[local.sha(data)] = number
    c.store.put(BKT, key, data, mtime=int(time.time()) - 1000 + 10 * number)
    return time.monotonic()


def test_replaced_object_in_two_mounts(root, network, cluster):
    """The same length, a longer one, a shorter one. An open sees one version; nobody opens an older one
    than somebody was shown before (docs/decisions/0005), nor one that is older than the TTL."""
    sizes = (3 * MIB + 17, 3 * MIB + 17, 5 * MIB + 1, MIB + 5)
    versions = [util.some_bytes(size, f"version {i}") for i, size in enumerate(sizes)]
    c = cluster(start=False, network=network, attach_args=["--meta-ttl", f"{TTL:.0f}s"])
    known, replaced = {}, []
    replace(c, "o", versions[0], 0, known)
    c.start()
    c.cli("load", "/")
    with contextlib.ExitStack() as stack:
        readers = [stack.enter_context(Rereader(mount.path("o"), pause, keep)) for mount in c.mounts
                   for pause, keep in ((0, False), (0.1, False), (0.3, True))]
        time.sleep(1)
        for number, data in enumerate(versions[1:], 1):
            replaced.append(replace(c, "o", data, number, known))
            time.sleep(TTL + SLACK + 0.5)
    passes = [p for r in readers for p in r.passes]
    wrong = [p for p in passes if p.sha not in known]
    assert not wrong, f"{len(wrong)} of {len(passes)} are of no version: {wrong[:5]}"
    assert all(p.size == len(versions[known[p.sha]]) for p in passes), "a length of another version"
    for mine in (readers[:3], readers[3:]):
        assert all(any(p.begun < at < p.ended for r in mine for p in r.passes) for at in replaced), \
            "no read was under way when it was replaced"
        for reader in mine:
            check_times(reader, known, replaced)
    check_order(passes, known)
    print(f"{len(passes)} passes, {[len(r.passes) for r in readers]} of each reader")


def check_times(reader, known, replaced):
    """It read each version, and none beyond its time or before."""
    assert {known[p.sha] for p in reader.passes} == set(range(len(replaced) + 1))
    for number, at in enumerate(replaced, 1):
        late = [p for p in reader.passes if p.begun > at + TTL + SLACK and known[p.sha] < number]
        assert not late, f"version {number - 1} was opened {late[0].begun - at:.2f} s after it was replaced"
        early = [p for p in reader.passes if p.ended < at and known[p.sha] >= number]
        assert not early, "bytes that were nowhere yet"


def check_order(passes, known):
    """No open that began after another had answered is of an older version than that."""
    answers = sorted((p.opened, known[p.sha]) for p in passes)
    newest, upto = -1, 0
    for p in sorted(passes, key=lambda p: p.begun):
        while upto < len(answers) and answers[upto][0] < p.begun:
            newest = max(newest, answers[upto][1])
            upto += 1
        assert known[p.sha] >= newest, f"version {known[p.sha]} was opened when {newest} had been shown"
