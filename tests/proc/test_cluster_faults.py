# SPDX-License-Identifier: Apache-2.0
"""Each part of a cluster x each fault, with each part on a host of its own (tests/lib/faults.py).
Many rounds of it with seeds: tests/fault_rounds.py."""
import datetime
import errno
import itertools
import os
import random
import re
import subprocess
import threading
import time

import pytest

from tests.lib import faults, util
from tests.lib.cluster import BKT
from tests.lib.netns import clock_shift
from tests.lib.verify import Content, Readers

SEED = os.environ.get("TARN_SEED", "1")


@pytest.mark.parametrize("fault", faults.FAULTS)
@pytest.mark.parametrize("target", faults.TARGETS)
def test_fault(root, workdir, target, fault):
    result = faults.run_cell(workdir, target, fault, SEED,
                             lambda cell: print(cell.result, cell.cluster.logs(), sep="\n"))
    print(faults.HEADER, result.row(), f"TARN_SEED={SEED}", sep="\n")


def clock_of(part):
    """What it takes for the time, by the last line of its log."""
    with open(part.log, encoding="utf-8") as f:
        stamps = [m.group(0) for m in map(re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d").match, f) if m]
    return datetime.datetime.fromisoformat(stamps[-1] + "+00:00").timestamp()


@pytest.mark.parametrize("wrong", ({"worker0": 600, "mount0": -600}, {"master": 600}), ids=("parts", "master"))
def test_clocks_that_are_wrong(cluster, network, wrong):
    """Ten minutes off: leases and capabilities hold all the same. All bytes come from the one worker."""
    c = cluster(start=False, network=network, workers=1, master_args=["--lease", "1s"],
                attach_args=["--no-direct"])
    content = Content({f"f{i}": 200_000 for i in range(10)})
    content.put(c.store, BKT)
    for part in c.parts():
        part.env.update(clock_shift(wrong[part.name]) if part.name in wrong else {})
    begun = time.time()
    c.start()
    for part in c.parts():
        off = clock_of(part) - wrong.get(part.name, 0)
        assert begun - 2 < off < time.time() + 2, f"{part.name}: its clock is off by {off - begun:.0f} s more"
    until, passes = time.monotonic() + 3, 0  # past a lease, twice
    while time.monotonic() < until:
        passes += 1
        for mount in c.mounts:
            for path in content.sizes:
                assert content.wrong(path, 1, 0, mount.read(path)) is None
    sent = c.workers[0].metric("tarn_worker_sent_bytes_total")
    assert sent >= 2 * passes * sum(content.sizes.values()), "others have sent them"
    assert c.fetched_bytes() == sum(content.sizes.values())
    assert all((w["state"], w["alive"]) == ("live", True) for w in c.status()["workers"])
    assert {s["state"] for s in c.status()["sessions"] if s["mountpoint"]} == {"live"}
    for part in c.parts():
        assert "cut off" not in part.log_tail(1000), part.name


def size_of(path):
    """Or the error, as a negative number."""
    try:
        return os.stat(path).st_size
    except OSError as e:
        return -e.errno


class Watch(threading.Thread):
    """Asks for the size of a file again and again; calls: [(begun, ended, size or error)]."""

    def __init__(self, path):
        super().__init__(daemon=True)
        self.path, self.calls, self.ended = path, [], threading.Event()
        self.begun = time.monotonic()  # of the call that is under way
        self.start()

    def run(self):
        while not self.ended.wait(0.02):
            self.begun = time.monotonic()
            said = size_of(self.path)
            self.calls.append((self.begun, time.monotonic(), said))

    def close(self):
        self.ended.set()
        self.join(30)
        assert not self.is_alive(), f"{self.path}: a call does not end"

    def said(self, size):
        """[(begun, ended)] of the calls that ended with it."""
        return [call[:2] for call in list(self.calls) if call[2] == size]


def all_told(c):
    """Whether the master has noted that no change is left that somebody may not know."""
    with open(c.master.log, encoding="utf-8") as f:
        told = [line for line in f if " told: " in line]
    return bool(told) and "known to all" in told[-1] and "not known" not in told[-1]


def test_a_change_that_not_all_know_waits_over_a_restart(cluster, network):
    """The master waits for a mount that is cut off, and is killed. The next one shows the new version
    to nobody while that mount, whose lease runs on, shows the old one; and to all after a lease."""
    lease, slack, old, new = 10, 6, 1000, 2000
    c = cluster(start=False, network=network, workers=1, master_args=["--log-level", "debug"])
    for name in ("o", "other"):
        c.store.put(BKT, name, b"o" * old)
    c.start()
    cut_off, asks = c.mounts
    assert os.stat(cut_off.path("o")).st_size == old
    util.wait_until("what the attach changed is known to all", lambda: all_told(c), 20, 0.05)
    cut_off.host.partition()
    c.store.put(BKT, "o", b"n" * new)
    watches = [Watch(cut_off.path("o")), Watch(asks.path("o"))]
    reader = subprocess.Popen(["cat", asks.path("o")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                              start_new_session=True)
    try:
        # The worker meets another object; from then on nobody is told of the name.
        util.wait_until("an answer that waits", lambda: time.monotonic() - watches[1].begun > 1, 5, 0.05)
        c.master.kill()
        c.master.start()
        begun = time.monotonic()
        assert os.stat(asks.path("other")).st_size == old, "what has not changed"
        assert time.monotonic() - begun < lease / 2
        util.wait_until("the new version", lambda: watches[1].said(new), lease + slack, 0.05)
        time.sleep(1)
    finally:
        cut_off.host.heal()
        try:
            for watch in watches:
                watch.close()
            reader.wait(timeout=30)
        finally:
            util.end_group(reader)
    said = [size for size, _ in itertools.groupby(call[2] for call in watches[1].calls)]
    assert said in ([new], [old, new]), "an error, or an older version that came back"
    shown = watches[1].said(new)[0][1]
    believed = max(call[0] for call in watches[0].said(old))
    assert believed > begun, "the mount that was cut off believed nothing: nothing was tried"
    assert believed < shown, f"the old version was shown {believed - shown:.2f} s after the new one"
    util.wait_until("the new version at the mount that was cut off",
                    lambda: size_of(cut_off.path("o")) == new, 20, 0.1)


CUT_OFF = {  # --on-partition: what is believed of a name that is trusted for a minute, and of one for ever
    "fail": (False, False),
    "stale": (True, True),
    "auto": (False, True),
}


def session_of(c, mount):
    """Its entry in `tarn status`."""
    return next(s for s in c.status()["sessions"] if s["pid"] == mount.pid)


def test_what_a_mount_that_is_cut_off_believes(cluster, network):
    """Both objects are replaced meanwhile: the old one or an error, as --on-partition says; never the
    new one, which all have when they can be reached again."""
    old, new = 1000, 2000
    c = cluster(start=False, network=network, workers=1, mounts=0, master_args=["--lease", "1s"])
    c.store.put(BKT, "o", b"o" * old)
    c.store.bucket("ever")
    c.store.put("ever", "o", b"o" * old)
    mounts = {said: c.add_mount("--on-partition", said) for said in CUT_OFF}
    asks = c.add_mount()
    c.start()
    c.attach("/ever", "ever", "--meta-ttl", "forever")
    for mount in c.mounts:
        util.wait_until(f"{mount.name}: both", lambda m=mount: [
            size_of(m.path(p)) for p in ("o", "ever/o")] == [old, old], 10, 0.05)
        assert session_of(c, mount)["state"] == "live"
    for mount in mounts.values():
        mount.host.partition()
    util.wait_until("they are known to be cut off", lambda: all(
        session_of(c, m)["state"] == "cut off" for m in mounts.values()), 10, 0.1)
    text = c.cli("status").out
    for said, mount in mounts.items():
        session = session_of(c, mount)
        assert session["heard_ms"] >= 1000 and session["on_partition_stale"] == (said == "stale")
        line = next(x for x in text.splitlines() if f"(pid {mount.pid})" in x)
        assert ": cut off, heard of " in line and ("with what it knew" in line) == (said == "stale"), line
    c.store.put(BKT, "o", b"n" * new)
    c.store.put("ever", "o", b"n" * new)
    for path in ("o", "ever/o"):
        util.run("cat", asks.path(path), check=False)  # the worker meets another object
        util.wait_until(f"the new {path}", lambda p=path: size_of(asks.path(p)) == new, 10, 0.05)
    for said, mount in mounts.items():
        want = [old if believed else -errno.EIO for believed in CUT_OFF[said]]
        assert [size_of(mount.path(p)) for p in ("o", "ever/o")] == want, said
    for mount in mounts.values():
        mount.host.heal()
    for said, mount in mounts.items():
        for path in ("o", "ever/o"):
            util.wait_until(f"{said}: the new {path}", lambda m=mount, p=path: size_of(m.path(p)) == new, 20, 0.1)
            assert mount.read(path) == b"n" * new, said
        assert session_of(c, mount)["state"] == "live"
    assert "cut off" not in c.cli("status").out


@pytest.mark.timeout(300)
def test_membership_changes_while_reads_and_loads_go_on(cluster):
    """50 changes at random: added, drained, taken back, removed. All workers live all the time, so
    nothing is ever fetched a second time; and no byte is wrong."""
    rng = random.Random(f"members/{SEED}")
    content = Content({f"d{i % 6}/f{i:03d}": 60_000 + 9001 * i for i in range(60)})
    c = cluster(start=False, workers=4)
    content.put(c.store, BKT)
    c.start()
    draining, made = [], []
    with Readers(c.mounts[0].mnt, content, threads=3, deadline=30) as one, \
            Readers(c.mounts[1].mnt, content, threads=3, deadline=30, kinds=("whole",)) as two:
        for step in range(50):
            made.append(change_members(c, rng, draining))
            if step % 5 == 0:
                c.cli("load", f"/d{rng.randrange(6)}")
            one.wait_calls(20)
            two.wait_calls(3)
        if "remove" not in made:  # at random it may never be the one that has nothing left
            leaver = c.workers[-1]
            c.cli("worker", "drain", leaver.id, "--wait")
            c.cli("worker", "remove", leaver.id)
            leave(c, draining, leaver)
            made.append("remove")
        while draining:
            c.cli("worker", "drain", draining.pop().id, "--undo")
        c.wait_states({w: "live" for w in c.workers})
        one.wait_each(5)
        two.wait_each(5)
    one.check(1000, errors=0)
    two.check(100, errors=0)
    assert c.load("/")["state"] == "succeeded"
    again = c.fetched_although_there()
    assert not again, f"TARN_SEED={SEED}: {again}; {made}"
    assert {"add", "drain", "undo", "remove"} <= set(made), f"too tame: {made}"


def leave(c, draining, worker):
    """One that was removed ends by itself, and is no part any more."""
    assert worker.process.wait(timeout=30) is not None
    worker.process = None
    worker.close()
    c.workers.remove(worker)
    if worker in draining:
        draining.remove(worker)


def change_members(c, rng, draining):
    """One change; returns which. At least two workers own."""
    owners = [w for w in c.workers if w not in draining]
    choice = rng.choice(("add", "drain", "drain", "undo", "undo", "remove"))
    if choice == "add" and len(c.workers) < 7:
        worker = c.add_worker().start()
        c.wait_states({worker: "live"})
        return "add"
    if choice == "undo" and draining:
        c.cli("worker", "drain", draining.pop(rng.randrange(len(draining))).id, "--undo")
        return "undo"
    if choice == "remove" and draining and len(c.workers) > 4:
        worker = draining[rng.randrange(len(draining))]
        if c.cli("worker", "remove", worker.id, check=False).code == 0:  # else it still has bytes
            leave(c, draining, worker)
            return "remove"
    if len(owners) > 2:
        draining.append(rng.choice(owners))
        c.cli("worker", "drain", draining[-1].id)
        return "drain"
    c.cli("worker", "drain", draining.pop(0).id, "--undo")
    return "undo"
