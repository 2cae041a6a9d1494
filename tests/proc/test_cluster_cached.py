# SPDX-License-Identifier: Apache-2.0
"""What `du`, `stat` and `wait` say is cached: the truth, or that it is not known. Never a number that is too small as if
it were all there is, while workers are dead, frozen, away or handing over, and while the master was started anew."""
import json
import threading
import time

import pytest

from tests.lib import util
from tests.lib.cluster import BKT
from tests.lib.local import says
from tests.lib.verify import Content

FILES = {f"d{i % 3}/f{i:03d}": 50_000 + 997 * i for i in range(60)}
TOTAL = sum(FILES.values())
ASKED_S = 3  # a worker is waited for so long
SLACK_S = 4  # of a slow machine
TIMEOUT = 4  # exit code


@pytest.fixture
def loaded(cluster):
    """Three workers, each with a share of FILES: (cluster, content)"""
    content = Content(FILES)
    c = cluster(start=False, workers=3, mounts=0)
    content.put(c.store, BKT)
    c.start()
    assert c.load("/")["state"] == "succeeded"
    assert all(w.ufs_bytes() > 0 for w in c.workers)
    exact(c)
    return c, content


def exact(c, path="/", total=TOTAL):
    """Everything is cached, and that is known."""
    du = c.json("du", path)
    assert (du["cached_bytes"], du["cached_files"], du["partial"], du["reason"]) == (total, du["files"], False, None), du
    assert du["cached_bytes_min"] == total


def unknown(c, worker, path="/"):
    """What is cached is unknown, by whose fault, and that is said soon; returns the du."""
    begun = time.monotonic()
    du = c.json("du", path)
    took = time.monotonic() - begun
    assert took < ASKED_S + SLACK_S, took
    assert du["cached_bytes"] is None and du["cached_files"] is None and du["partial"] is True, du
    assert worker.addr in du["reason"]
    assert 0 <= du["cached_bytes_min"] < du["bytes"] == TOTAL
    stat = c.json("stat", path)
    assert stat["cached_bytes"] is None and stat["cached_ratio"] is None and stat["loaded"] is None, stat
    assert worker.addr in stat["reason"]
    text = c.cli("du", path).out
    says(text, "cached: unknown, at least")
    says(text, worker.addr)
    text = c.cli("stat", path).out
    says(text, "cached   unknown, at least")
    assert "%" not in text
    return du


def files_of(c, worker):
    """(a file that this worker has, one that it has not)"""
    number = worker.id
    mine = {path: number in c.json("stat", f"/{path}")["workers"] for path in FILES}
    return next(p for p, has in mine.items() if has), next(p for p, has in mine.items() if not has)


# ---- workers ----

def test_a_worker_that_was_killed(loaded):
    c, _ = loaded
    victim = c.workers[1]
    his, other = files_of(c, victim)
    victim.kill()
    for _ in range(2):  # the connection breaks; it is known to be away
        du = unknown(c, victim)
        assert du["cached_bytes_min"] > 0
        c.wait_states({victim: "live"})  # by registration: it may come back with its bytes
        util.wait_until("it is missed", lambda: "is away" in c.json("du")["reason"], 10, 0.1)
    cache = c.status()["cache"]
    assert cache["used_bytes"] is cache["capacity_bytes"] is None and cache["used_bytes_min"] > 0, cache
    assert victim.addr in cache["reason"]
    says(c.cli("status").out, "when last heard of")
    stat = c.json("stat", f"/{his}")
    assert (stat["cached_bytes"], stat["cached_ratio"], stat["replicas"], stat["loaded"]) == (None,) * 4, stat
    assert stat["cached_bytes_min"] == 0
    stat = c.json("stat", f"/{other}")  # all of it was found without him
    assert (stat["cached_bytes"], stat["cached_ratio"], stat["loaded"]) == (FILES[other], 1.0, True), stat
    assert stat["replicas"] is None, "he may have another copy"
    exact(c, f"/{other}", FILES[other])
    victim.start()
    c.wait_states({w: "live" for w in c.workers})
    util.wait_until("it is known again", lambda: not c.json("du")["partial"], 10, 0.1)
    exact(c)
    assert c.status()["cache"]["used_bytes"] > 0 and c.status()["cache"]["reason"] is None


def test_a_worker_that_is_frozen(loaded):
    c, _ = loaded
    victim = c.workers[2]
    victim.pause()
    unknown(c, victim)
    said = c.json("du")["reason"]
    assert "did not answer" in said or "is away" in said, said
    util.wait_until("its lease is over", lambda: "is away" in c.json("du")["reason"], 20, 0.2)
    begun = time.monotonic()
    unknown(c, victim)
    assert time.monotonic() - begun < ASKED_S + SLACK_S, "it is waited for although it is known to be away"
    victim.go_on()
    util.wait_until("it is known again", lambda: not c.json("du")["partial"], 30, 0.2)
    exact(c)


def test_many_batches_wait_once_for_a_worker_that_is_frozen(cluster):
    """Of 20,000 files: five questions to each worker."""
    c = cluster(start=False, workers=2, mounts=0)
    content = Content({f"n/f{i:05d}": 10 for i in range(20_000)})
    content.put(c.store, BKT)
    c.start()
    c.cli("ls", "/n")
    assert c.json("du")["files"] == 20_000
    c.workers[0].pause()
    begun = time.monotonic()
    du = c.json("du")
    took = time.monotonic() - begun
    assert du["cached_bytes"] is None and du["files"] == 20_000 and took < ASKED_S + SLACK_S, (du, took)


def test_a_worker_that_drains_and_goes(loaded):
    """While its bytes change hands they are all there: asked over and over, none is missed."""
    c, _ = loaded
    leaver = c.workers[0]
    number = leaver.id
    said, over = [], threading.Event()

    def ask():
        while not over.is_set():
            said.append(c.json("du"))
    asker = threading.Thread(target=ask)
    asker.start()
    try:
        c.cli("worker", "drain", number, "--wait", seconds=100)
    finally:
        over.set()
        asker.join()
    assert said and all(du["cached_bytes"] == TOTAL for du in said), [du for du in said if du["cached_bytes"] != TOTAL]
    exact(c)
    leaver.stop()
    c.cli("worker", "remove", number)
    util.wait_until("nobody misses it", lambda: not c.json("du")["partial"], 10, 0.1)
    exact(c)


def test_a_worker_that_is_removed_with_its_bytes(loaded):
    """Whoever is declared gone has nothing: what is left is the truth."""
    c, _ = loaded
    victim = c.workers[0]
    number, share = victim.id, unknown_share(c, victim)
    victim.kill()
    unknown(c, victim)
    c.cli("worker", "remove", number, "--force")
    util.wait_until("nobody misses it", lambda: not c.json("du")["partial"], 20, 0.2)
    du = c.json("du")
    assert du["cached_bytes"] == TOTAL - share and du["reason"] is None
    assert c.json("stat", "/")["cached_ratio"] == pytest.approx((TOTAL - share) / TOTAL)


def unknown_share(c, worker):
    """Bytes that only this worker has."""
    number = worker.id
    return sum(size for path, size in FILES.items() if c.json("stat", f"/{path}")["workers"] == [number])


# ---- the master ----

def test_a_master_that_was_started_anew(loaded):
    """Until the workers are back nothing is claimed of what they have."""
    c, _ = loaded
    for worker in c.workers:
        worker.pause()
    c.master.kill()
    c.master.start()
    du = c.json("du")
    assert (du["files"], du["bytes"], du["cached_bytes"], du["cached_bytes_min"]) == (len(FILES), TOTAL, None, 0), du
    says(du["reason"], "and 2 more")
    cache = c.status()["cache"]
    assert cache["used_bytes"] is cache["capacity_bytes"] is None, cache
    c.workers[0].go_on()
    util.wait_until("one is back", lambda: "and 1 more" in c.json("du")["reason"], 20, 0.1)
    for worker in c.workers[1:]:
        worker.go_on()
    util.wait_until("all are back", lambda: not c.json("du")["partial"], 20, 0.1)
    exact(c)


# ---- wait ----

def test_wait_goes_on_without_workers_and_master(loaded):
    """It ends when enough is there, not when enough could be: through a worker's death and a new master."""
    c, _ = loaded
    victim = c.workers[0]
    victim.kill()
    wait = c.background("wait", "/", "--until", "cached>=100%", "--timeout", "100s", "--json")
    try:
        time.sleep(1)
        assert wait.poll() is None
        c.master.kill()
        time.sleep(1)
        c.master.start()
        util.wait_until("the others", lambda: "more" not in (c.json("du")["reason"] or "more"), 20, 0.1)
        time.sleep(1)
        assert wait.poll() is None, wait.communicate()
        victim.start()
        out, err = wait.communicate(timeout=60)
    finally:
        wait.kill()
        wait.wait()
    assert wait.returncode == 0, err
    said = json.loads(out)
    assert said["reached"] is True and said["cached_bytes"] == said["cached_bytes_min"] == TOTAL, said


def test_wait_ends_at_its_own_limit(loaded):
    """A worker that hangs is missed then, and named."""
    c, _ = loaded
    victim = c.workers[1]
    victim.pause()
    begun = time.monotonic()
    done = c.cli("wait", "/", "--timeout", "4s", "--json", check=False)
    assert done.code == TIMEOUT and 3.5 < time.monotonic() - begun < 4 + ASKED_S + SLACK_S, done
    said = json.loads(done.out)
    assert said["reached"] is False and said["cached_bytes"] is None and victim.addr in said["reason"], said
    says(done.err, "at least")
    says(done.err, victim.addr)
    begun = time.monotonic()
    done = c.cli("wait", "/", "--until", "cached>=10%", "--timeout", "30s")
    assert time.monotonic() - begun < ASKED_S + SLACK_S, "enough was found without it"


@pytest.mark.parametrize("gone", ["frozen", "killed"])
def test_wait_ends_at_its_own_limit_without_a_master(loaded, gone):
    c, _ = loaded
    c.workers[1].kill()
    begun = time.monotonic()
    wait = c.background("wait", "/", "--timeout", "4s", "--json")
    try:
        time.sleep(1)
        assert wait.poll() is None
        if gone == "frozen":
            c.master.pause()
        else:
            c.master.kill()
        out, err = wait.communicate(timeout=30)
    finally:
        wait.kill()
        wait.wait()
    assert wait.returncode == TIMEOUT, err
    says(err, "when last heard of, at least")
    assert 3.5 < time.monotonic() - begun < 4 + SLACK_S
    said = json.loads(out)
    assert said["reached"] is False and said["cached_bytes"] is None, said
    silence, _, before = said["reason"].partition("; before that, ")
    assert c.workers[1].addr in before and c.workers[1].addr not in silence, said
    says(err, silence.split(": ")[-1])


# ---- what counts ----

def test_copies_count_once_and_paths_each(cluster):
    """Two replicas of everything, and a second attachment of the same bucket: the same objects under other names."""
    content = Content(FILES)
    c = cluster(start=False, workers=3, mounts=0, attach=False)
    content.put(c.store, BKT)
    c.start()
    c.attach("/a")
    c.attach("/b")
    c.cli("load", "/a", "--replicas", "2")
    assert sum(w.metric("tarn_cache_used_bytes") for w in c.workers) >= 2 * TOTAL
    exact(c, "/a")
    path = next(iter(FILES))
    stat = c.json("stat", f"/a/{path}")
    assert (stat["cached_bytes"], stat["replicas"], len(stat["workers"])) == (FILES[path], 2, 2)
    c.cli("ls", "/b")
    with c.no_fetches("the other name"):
        assert c.load("/b")["state"] == "succeeded"
    exact(c, "/b")
    exact(c, "/", 2 * TOTAL)
    c.workers[0].kill()  # the other copies are all there is to know
    exact(c, "/", 2 * TOTAL)
    stat = c.json("stat", f"/a/{path}")
    assert (stat["cached_bytes"], stat["loaded"], stat["replicas"]) == (FILES[path], True, None)


def test_who_asks_together_is_answered_right(loaded):
    """One sum serves several callers (tests/unit/master/svc/test_reports.c): it is everybody's answer all the same."""
    c, _ = loaded
    calls = [c.background("du", "/", "--json") for _ in range(12)]
    said = [json.loads(call.communicate(timeout=60)[0]) for call in calls]
    assert all(call.returncode == 0 for call in calls) and all(du["cached_bytes"] == TOTAL for du in said)
    assert c.json("du", "/d0")["cached_bytes"] == sum(n for p, n in FILES.items() if p.startswith("d0/"))
