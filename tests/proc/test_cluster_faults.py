# SPDX-License-Identifier: Apache-2.0
"""Each part of a cluster x each fault, with each part on a host of its own (tests/lib/faults.py).
Many rounds of it with seeds: tests/fault_rounds.py."""
import os
import random
import time

import pytest

from tests.lib import faults, util
from tests.lib.cluster import BKT
from tests.lib.verify import Content, Readers

SEED = os.environ.get("TARN_SEED", "1")


@pytest.mark.parametrize("fault", faults.FAULTS)
@pytest.mark.parametrize("target", faults.TARGETS)
def test_fault(root, workdir, target, fault):
    result = faults.run_cell(workdir, target, fault, SEED,
                             lambda cell: print(cell.result, cell.cluster.logs(), sep="\n"))
    print(faults.HEADER, result.row(), f"TARN_SEED={SEED}", sep="\n")


def test_clocks_that_are_wrong(cluster, network):
    """Ten minutes off on one worker and one mount: leases and capabilities hold all the same."""
    from tests.lib.netns import clock_shift
    c = cluster(start=False, network=network)
    content = Content({f"f{i}": 200_000 for i in range(10)})
    content.put(c.store, BKT)
    c.workers[0].env.update(clock_shift(600))
    c.mounts[0].env.update(clock_shift(-600))
    c.start()
    for mount in c.mounts:
        for path in content.sizes:
            assert content.wrong(path, 1, 0, mount.read(path)) is None
    assert all(s == "live" for s in c.states().values())


@pytest.mark.timeout(300)
def test_membership_changes_while_reads_and_loads_go_on(cluster):
    """50 changes at random: added, drained, taken back, killed, started. What a live worker has is
    never fetched again, and no byte is wrong."""
    rng = random.Random(f"members/{SEED}")
    sizes = {f"d{i % 6}/f{i:03d}": 60_000 + 9001 * i for i in range(60)}
    content = Content(sizes)
    c = cluster(start=False, workers=4)
    content.put(c.store, BKT)
    c.start()
    draining, down = set(), set()
    with Readers(c.mounts[0].mnt, content, threads=3, deadline=30) as one, \
            Readers(c.mounts[1].mnt, content, threads=3, deadline=30, kinds=("whole",)) as two:
        for step in range(50):
            change_members(c, rng, draining, down)
            if step % 5 == 0:
                c.cli("load", f"/d{rng.randrange(6)}")
            one.wait_calls(20)
            two.wait_calls(3)
        for worker in list(down):
            worker.start()
        for worker in list(draining):
            c.cli("worker", "drain", worker.id, "--undo")
        c.wait_states({w: "live" for w in c.workers})
        one.wait_each(5)
        two.wait_each(5)
    one.check(1000, errors=0)
    two.check(100, errors=0)
    assert c.load("/")["state"] == "succeeded"
    again = c.fetched_twice()
    # Killed at most one at a time, each with its disk: only what nobody alive had may come twice.
    assert not again, f"TARN_SEED={SEED}: fetched twice: {again}"


def change_members(c, rng, draining, down):
    """One change; at least two workers stay that own and live. Workers are stopped in order, so that
    the next change finds what they had with them when they come back."""
    free = [w for w in c.workers if w not in draining and w not in down]
    choice = rng.random()
    if down and choice < 0.4:
        worker = rng.choice(sorted(down, key=lambda w: w.name))
        worker.start()
        down.remove(worker)
    elif draining and choice < 0.6:
        worker = rng.choice(sorted(draining, key=lambda w: w.name))
        c.cli("worker", "drain", worker.id, "--undo")
        draining.remove(worker)
    elif len(free) > 2:
        worker = rng.choice(free)
        c.cli("worker", "drain", worker.id)
        draining.add(worker)
    elif down:
        worker = down.pop()
        worker.start()
    else:
        worker = c.workers[rng.randrange(len(c.workers))]
        worker.restart()
    util.wait_until("the members are told", c.states, 10)
    time.sleep(rng.random() * 0.05)
