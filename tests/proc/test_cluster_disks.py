# SPDX-License-Identifier: Apache-2.0
"""Workers whose cache fails under them: they are told apart from healthy ones, own nothing any more,
and nobody reads a wrong byte, waits for ever or is told that something was handed over."""
import shutil
import time

import pytest

from tests.lib import util
from tests.lib.cluster import BKT, MIB
from tests.lib.local import says
from tests.lib.verify import Content
from tests.proc.test_cluster_basic import check_all, small_cluster, warm


def lose(worker):
    """Its directory goes; it owns nothing from then on."""
    shutil.rmtree(f"{worker.dir}/data")
    util.wait_until("it owns nothing", lambda: worker.status()["weight"] == 0)


def test_a_worker_whose_directory_was_removed(cluster):
    c, content = small_cluster(cluster)
    warm(c, content)
    lame, other = c.workers
    lose(lame)
    assert [t["offline"] for t in lame.status()["tiers"]] == [True]
    assert lame.http_status("/readyz") == 503 and other.http_status("/readyz") == 200
    says(lame.http("/readyz")[1], "its cache directory failed")
    says(c.cli("status").out, f"{lame.dir}: ", "OFFLINE: the directory failed")
    says(c.cli("worker", "ls").out, " OFFLINE ")
    says(c.cli("doctor", check=False).out, f"{lame.dir} failed and is not used any more")
    for mount in c.mounts:
        check_all(mount, content)
    c.load("/")
    before = c.fetched_bytes()
    for mount in c.mounts:
        check_all(mount, content)
    assert c.fetched_bytes() == before
    lame.restart()
    util.wait_until("it has its share again", lambda: lame.status()["weight"] > 0)
    assert lame.http_status("/readyz") == 200
    c.load("/", "--force")
    util.wait_until("it holds bytes again", lambda: lame.held() > 0)


def test_what_cannot_be_done_with_it(cluster):
    """It is nobody that bytes could be handed to, or from, and no second place for a replica."""
    c, content = small_cluster(cluster, mounts=0)
    warm(c, content)
    lame, other = c.workers
    lose(lame)
    refused = c.cli("worker", "drain", other.id, check=False)
    assert refused.code == 1, refused
    says(refused.err, f"worker {other.id} is the last one")
    few = c.cli("load", "/", "--replicas", "2", check=False)
    assert few.code == 1, few
    says(few.err, "2 replicas need as many workers, there is 1")
    stuck = c.cli("worker", "drain", lame.id, "--wait", check=False, seconds=20)
    assert stuck.code == 1, stuck
    says(stuck.err, "its cache failed", f"tarn worker remove {lame.id} --force")
    assert " drained " not in c.cli("worker", "ls").out
    kept = c.cli("worker", "remove", lame.id, check=False)
    assert kept.code == 1, kept
    c.cli("worker", "remove", lame.id, "--force")


def test_a_disk_that_goes_after_the_draining(cluster):
    """What was handed over is handed over."""
    c, content = small_cluster(cluster, mounts=0)
    warm(c, content)
    leaver = c.workers[0]
    number = leaver.id
    c.cli("worker", "drain", number, "--wait")
    shutil.rmtree(f"{leaver.dir}/data")
    util.wait_until("it is known", lambda: leaver.status()["tiers"][0]["offline"])
    util.wait_until("it counts as drained", lambda: " drained " in c.cli("worker", "ls").out, 10)
    c.cli("worker", "remove", number)


def test_a_disk_that_goes_after_what_it_had_handed_over_was_lost(cluster):
    """It has again what nobody else has, until its disk goes, too: that is not drained."""
    c, content = small_cluster(cluster, workers=3, mounts=0)
    warm(c, content)
    leaver, owner = c.workers[:2]
    number = leaver.id
    c.cli("worker", "drain", number, "--wait")
    owner.kill()
    util.wait_until("it has something left", lambda: leaver.status()["left_bytes"] > 0, 20)
    shutil.rmtree(f"{leaver.dir}/data")
    util.wait_until("it is known", lambda: leaver.status()["tiers"][0]["offline"])
    for _ in range(16):  # longer than a worker rests after it has not handed over all
        assert " drained " not in c.cli("worker", "ls").out
        time.sleep(0.5)
    refused = c.cli("worker", "remove", number, check=False)
    assert refused.code == 1, refused


def test_a_load_while_a_cache_fails(cluster):
    """Others take over what it was to have: nothing of the load fails."""
    c = cluster(start=False, mounts=1)
    content = Content({f"f{i:03d}": 200_000 for i in range(100)})
    content.put(c.store, BKT)
    c.start()
    job = int(c.cli("load", "/", "--bandwidth", "4MiB/s", "--detach").out)
    util.wait_until("it runs", lambda: 10 < c.job(job)["files_done"] < 90)
    lose(c.workers[0])
    assert c.json("job", "wait", job)["state"] == "succeeded"
    check_all(c.mounts[0], content)


@pytest.mark.parametrize("direct", ((), ("--no-direct",)))
def test_all_caches_failed(cluster, direct):
    """Reads go on from the store; a load says what it waits for, and goes on when it can."""
    c, content = small_cluster(cluster, {"a": 3 * MIB, "b": 1000}, mounts=1, attach_args=direct)
    c.load("/")
    for worker in c.workers:
        lose(worker)
    check_all(c.mounts[0], content)
    job = int(c.cli("load", "/", "--detach").out)
    util.wait_until("it waits", lambda: c.job(job)["waits_for"])
    says(c.job(job)["waits_for"], "no worker that owns anything is alive")
    tried = c.cli("load", "/", "--dry-run", check=False, seconds=20)
    assert tried.code == 1, tried
    says(tried.err, "no worker that owns anything is alive")
    c.workers[0].restart()
    assert c.json("job", "wait", job)["state"] == "succeeded"
