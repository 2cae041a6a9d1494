# SPDX-License-Identifier: Apache-2.0
"""The table of faults: each part of a cluster x each thing that happens to it, under readers on two
mounts and a running load. tests/proc/test_cluster_faults.py runs it once, tests/fault_rounds.py many
times with seeds.

What must hold in each cell: the fault met calls under way and a running load, and was met itself where
that is not certain (Cell.trace); no wrong byte; no call longer than its deadline; errors only where the
part's loss cannot be hidden; afterwards everything goes on by itself and the load is done.

What a fault is:
    kill        kill -9; of the store: its port refuses and open connections end
    stop        SIGSTOP, or the freezer of cgroups, as the seed has it; of the store: it takes requests and answers none
    partition, reset, loss     of the part's host
    disk-full   nothing is left where a master has its directory, a worker its tier, a mount its log, and
                what is freed is taken; the store has none: it answers 503 SlowDown to everything
The store is a scripted one, in the process of the test. In REAL it is a Swift, and the faults are
kill -9 of all its processes and SIGSTOP of its front: outside CI, for the time that its start takes.
"""
import os
import random
import threading
import time
from dataclasses import dataclass, field

from tests.lib import util
from tests.lib.cluster import BKT, Cluster
from tests.lib.netns import Freezer, Network
from tests.lib.swift import Swift
from tests.lib.verify import Content, Readers

TARGETS = ("master", "worker", "mount", "store")
FAULTS = ("kill", "stop", "partition", "reset", "loss", "disk-full")
REAL = (("swift", "kill"), ("swift", "stop"))
LONG = 12.0       # seconds that a part stands still or is cut off: longer than a lease
SHORT = 2.5       # of the other faults
DEADLINE = 32.0   # of a call: the default timeout of a store or a peer, and time to be scheduled
PAUSE = 0.0       # seconds between two calls of a reader
MARGIN = 2.0      # seconds that the load lasts longer than the fault: more where the machine is overloaded
THAW = 1.0        # within which calls end that a stopped mount held
RESUME = 40.0     # within which every reader goes on after a fault
DISK = "64M"      # of the parts whose disk fills up

READ = {f"r{i % 5}/f{i:02d}": 50_000 + 61_001 * i for i in range(24)}
BAD = "bad"       # an object that the store refuses to everyone: reading it is an error, and logged
MANY = 8000       # names that are long: more than the journal has taken room for
MORE = {f"x/o{i:02d}": 500_000 for i in range(20)}  # loaded while a worker's disk is full
LOAD = {f"l/o{i:03d}": 100_000 + 1009 * i for i in range(100)}


class Filler:
    """Takes all room of a file system that there is, or will be, until it is closed."""

    def __init__(self, path):
        self.path, self.ended = path, threading.Event()
        self.file = open(path, "ab", buffering=0)
        self._fill()
        self.thread = threading.Thread(target=self._go_on, daemon=True)
        self.thread.start()

    def _fill(self):
        for size in (65536, 4096, 1):
            try:
                while True:
                    self.file.write(b"\n" * size)
            except OSError:
                pass

    def _go_on(self):
        while not self.ended.wait(0.005):
            self._fill()

    def close(self):
        self.ended.set()
        self.thread.join()
        self.file.close()


@dataclass
class Result:
    """What one cell saw."""
    target: str
    fault: str
    seed: str
    met: int = 0                  # calls that were under way when the fault began
    held: int = 0                 # calls that were under way for a second or more at its end
    calls: int = 0
    longest: float = 0.0          # seconds of the longest call
    errors: dict = field(default_factory=dict)
    resumed: float = 0.0          # seconds from the fault's end until every reader went on
    job: str = ""
    seconds: float = 0.0
    failure: str = ""

    def row(self):
        errors = " ".join(f"{n}x{name}" for name, n in sorted(self.errors.items())) or "-"
        return (f"{self.target:7} {self.fault:10} {self.met:5} {self.held:5} {self.calls:7} {self.longest:8.2f} "
                f"{self.resumed:8.2f} {self.job:10} {self.seconds:7.1f}  {errors}"
                f"{'  FAILED' if self.failure else ''}")


HEADER = (f"{'target':7} {'fault':10} {'met':>5} {'held':>5} {'calls':>7} {'longest':>8} {'resumed':>8} {'load':10} "
          f"{'seconds':>7}  errors")


class Cell:
    """One target, one fault, one cluster of its own."""

    def __init__(self, directory, network, target, fault, seed=1):
        self.target, self.fault, self.seed = target, fault, seed
        self.rng = random.Random(f"{seed}/{target}/{fault}")
        self.result = Result(target, fault, str(seed))
        self.disk = self.rule = self.filler = self.freezer = None
        self.lines = 0        # bytes of a mount's log when its disk was full
        self.content = Content({**READ, **LOAD, **MORE})
        store = Swift(f"{directory}/swift", network.host("store")) if target == "swift" else None
        # The same share for both, also where the disk of one is small.
        self.cluster = Cluster(directory, network=network, store=store, worker_args=("--weight", "1"))
        self.part = {"master": self.cluster.master, "worker": self.cluster.workers[0],
                     "mount": self.cluster.mounts[0]}.get(target, self.cluster.store)
        if fault == "disk-full" and target != "store":
            self._small_disk()

    def _fill_store(self):
        if self.target != "swift":
            self.content.put(self.cluster.store, BKT)
            if (self.target, self.fault) == ("mount", "disk-full"):
                self.cluster.store.put(BKT, BAD, b"x")
                self.cluster.store.fail("status", op="get", key=BAD, code=403, error="AccessDenied")
            if (self.target, self.fault) == ("master", "disk-full"):
                for i in range(MANY):
                    self.cluster.store.put(BKT, f"many/{i:06d}{'x' * 230}", b"")
            return
        self.part.start().bucket(BKT)
        self.part.seed(BKT, ((path, self.content.data(path)) for path in self.content.sizes))

    def _small_disk(self):
        """What this part writes to gets a file system of its own."""
        if self.target == "mount":
            self.disk = f"{self.cluster.dir}/log-of-mount"
            self.part.log = f"{self.disk}/log"
        else:
            self.disk = self.part.dir if self.target == "worker" else self.cluster.master_dir
        os.makedirs(self.disk, exist_ok=True)
        util.run("mount", "-t", "tmpfs", "-o", f"size={DISK},mode=755", "tmpfs", self.disk)

    def close(self):
        if self.filler:
            self.filler.close()
        if self.freezer:
            self.freezer.close()
        self.cluster.close()
        if self.disk:
            util.unmount(self.disk)

    # ---- the faults ----

    def begin(self):
        host = self.part.host
        if self.fault in ("partition", "reset"):
            getattr(host, self.fault)()
        elif self.fault == "loss":
            host.loss(20)
        elif self.target == "store":
            self._store_fault()
        elif self.fault == "kill":
            self.part.kill()
        elif self.fault == "stop":
            self._stop()
        else:
            self._fill()

    def _stop(self):
        if self.target == "swift":
            self.part.stall()
        elif self.rng.random() < 0.5:
            self.freezer = Freezer(self.part.pid)
            self.freezer.freeze()
        else:
            self.part.pause()

    def _store_fault(self):
        if self.fault == "kill":
            self.part.stop()
        elif self.fault == "stop":
            self.rule = self.part.fail("stall_headers")
        else:
            self.rule = self.part.fail("status", code=503, error="SlowDown")

    def _fill(self):
        self.filler = Filler(f"{self.disk}/filler")
        if self.target == "mount":  # what is left of the page that it writes to
            Filler(self.part.log).close()
            self.lines = os.path.getsize(self.part.log)

    def end(self):
        if self.fault in ("partition", "reset", "loss"):
            self.part.host.heal()
        elif self.target == "store":
            if self.fault == "kill":
                self.part.start()
            else:
                self.part.heal()
        elif self.fault == "kill":
            self.part.restart() if self.target == "swift" else self.part.start()
        elif self.fault == "stop":
            self._go_on()
        else:
            self.filler.close()
            os.unlink(self.filler.path)

    def _go_on(self):
        if self.freezer:
            self.freezer.close()
            self.freezer = None
        else:
            self.part.go_on()

    # ---- that it struck ----

    def want(self):
        """What makes a part need the disk while it is full: names beyond the room of the journal, and
        errors that are logged, and what a worker has not got yet."""
        if (self.target, self.fault) == ("worker", "disk-full"):
            self.cluster.cli("load", "/x", check=False)
        if (self.target, self.fault) == ("master", "disk-full"):
            done = self.cluster.cli("ls", "/many", check=False)
            assert done.code == 1, f"a listing found room: {done.out[:200]}"
        if (self.target, self.fault) == ("mount", "disk-full"):
            self.read_bad()

    def read_bad(self):
        """An error, of which a mount logs one line per second."""
        try:
            self.part.read(BAD)
        except OSError:
            return True
        raise AssertionError(f"{BAD} was read")

    def trace(self):
        """Asked before the fault ends: whether it was met, where it might have passed unseen."""
        workers = self.cluster.workers
        if self.rule:
            util.wait_until("somebody asks the store", lambda: self.rule.struck > 0, MARGIN)
        elif (self.target, self.fault) == ("swift", "stop"):
            util.wait_until("somebody waits for the store", lambda: any(
                w.metric("tarn_ufs_requests_running") for w in workers), MARGIN)
        elif self.target in ("store", "swift") and self.fault == "kill":
            util.wait_until("somebody is refused", lambda: any(
                w.metric("tarn_ufs_requests_total", status="no_answer") for w in workers), MARGIN)
        elif self.fault == "disk-full":
            getattr(self, f"_trace_full_{self.target}")()

    def _trace_full_worker(self):
        """It kept nothing, or made room: faster than what fills the disk, if all went well."""
        util.wait_until("it has no room", lambda: self.part.metric("tarn_cache_uncached_bytes_total") > 0 or
                        self.part.metric("tarn_cache_evicted_bytes_total", medium="SSD") > 0, MARGIN)

    def _trace_full_master(self):
        assert "no space for the key-value store" in self.part.log_tail(), "there was room"

    def _trace_full_mount(self):
        assert self.read_bad() and os.path.getsize(self.part.log) == self.lines, "there was room"

    def _after(self):
        """What the full disk had prevented goes on."""
        if (self.target, self.fault) == ("master", "disk-full"):
            assert len(self.cluster.cli("ls", "/many").out.splitlines()) == MANY
        if (self.target, self.fault) == ("mount", "disk-full"):
            util.wait_until("lines in the log", lambda: self.read_bad() and
                            os.path.getsize(self.part.log) > self.lines, 10, 0.1)

    # ---- the story ----

    def run(self):
        """Raises AssertionError where the cell does not hold; the Result is filled in either way."""
        begun = time.monotonic()
        try:
            self._run()
        except Exception as e:
            self.result.failure = f"{type(e).__name__}: {e}"
            raise
        finally:
            self.result.seconds = time.monotonic() - begun
        return self.result

    def _run(self):
        self._fill_store()
        c = self.cluster.start()
        for top in sorted({p.split("/")[0] for p in READ}):
            c.cli("load", f"/{top}")
        readers = [Readers(m.mnt, self.content, threads=4, deadline=DEADLINE, paths=READ,
                           seed=f"{self.seed}/{i}", kinds=("open", "names", "open", "whole"), pause=PAUSE)
                   for i, m in enumerate(c.mounts)]
        try:
            job = self._load_and_strike(c, readers)
        finally:
            for r in readers:
                r.close()
            self._note(readers)
        for r in readers:
            r.check(50)
        self._after()
        util.wait_until("the load's end", lambda: c.job(job)["state"] != "running", 90, 0.1)
        self._load_is_told(c, job)

    def _load_and_strike(self, c, readers):
        """Returns the number of the load's job, which lasts longer than the fault."""
        for r in readers:
            r.wait_open()
            r.wait_each(3)
        readers[0].wait_calls(self.rng.randrange(1, 200))
        rate = sum(LOAD.values()) / (self.length() + MARGIN)
        job = c.cli("load", "/l", "--detach", "--bandwidth", f"{int(rate)}/s").out.strip()
        util.wait_until("the load is under way", lambda: c.job(job)["files_done"] > 0 or
                        c.job(job)["bytes_done"] > 0, 30, 0.02)
        state = c.job(job)["state"]
        assert state == "running", f"the load was {state}: nothing was tried"
        self.result.met = readers[0].catch(self.begin)
        begun = time.monotonic()
        self.want()
        time.sleep(max(0, begun + self.length() - time.monotonic()))
        self.trace()
        held = readers[0].under_way()
        ended = time.monotonic()
        self.result.held = sum(1 for r in readers for s in r.slots if 0 < s.load()[0] < ended - 1)
        self.end()
        if (self.target, self.fault) == ("mount", "stop"):
            assert len(held) == readers[0].threads, "a stopped mount has answered"
            util.wait_until("the end of the calls that the stopped mount held", lambda: not any(
                readers[0].slots[i].load()[1] == call for i, call in held.items()), THAW, 0.005)
        for r in readers:
            r.wait_each(3, RESUME)
        self.result.resumed = time.monotonic() - ended
        self._steady(readers)
        return job

    def length(self):
        """Seconds that the fault lasts."""
        return LONG if self.fault in ("stop", "partition") else SHORT

    def _steady(self, readers):
        """No more errors: a reader that met the last ones of the fault may have to try once more."""
        def quiet():
            before = sum(r.errors_total() for r in readers)
            for r in readers:
                r.wait_each(5, RESUME)
            return sum(r.errors_total() for r in readers) == before
        util.wait_until("reads without errors", quiet, RESUME, 0)
        self._judge_errors(readers)

    def _judge_errors(self, readers):
        for i, r in enumerate(readers):
            if self.target == "mount" and i == 0:
                allowed = {"kill": {"ENOTCONN", "ECONNABORTED", "ESTALE", "EIO", "EBADF"}}.get(
                    self.fault, {"EIO", "ETIMEDOUT"})
                kinds = ("open", "names", "whole")
            elif self.target == "master" and self.fault in ("stop", "partition"):
                # Its lease ends: what names are worth then is the mount's --on-partition.
                allowed, kinds = {"EIO", "ETIMEDOUT"}, ("names", "whole")
            else:
                allowed, kinds = set(), ()
            for kind in r.kinds:
                bad = [e for e in r.errors(kind) if kind not in kinds or e[0] not in allowed]
                assert not bad, f"mount {i}, {kind}: {len(bad)} errors, {bad[:3]}\n{r.report()}"
        if (self.target, self.fault) == ("mount", "kill"):
            assert any(e[0] == "ENOTCONN" for e in readers[0].errors()), "the mount was not killed"

    def _load_is_told(self, c, job):
        """Done; or, where the store was away or there was no room for bytes or for what the job notes,
        failed by name, and done when it is asked again."""
        self.result.job = c.job(job)["state"]
        if self.result.job != "succeeded":
            may_fail = self.target in ("store", "swift") or (self.fault == "disk-full" and self.target != "mount")
            assert may_fail and self.result.job == "failed", c.job(job)
            bad = [line for line in c.manifest(job) if line["error"]]
            assert len(bad) == c.job(job)["files_failed"] > 0, "a failure without a name"
            if self.fault == "disk-full" and self.target == "worker":  # for two seconds it gives what it fetched
                util.wait_until("a load that has room", lambda: c.cli("load", "/l", check=False).code == 0, 10, 0.5)
            else:
                c.cli("load", "/l")
        told = job if self.result.job == "succeeded" else c.json("job", "ls")[-1]["id"]
        lines = {line["path"].lstrip("/"): line for line in c.manifest(told)}
        assert {p: line["bytes"] for p, line in lines.items()} == LOAD
        assert not any(line["error"] for line in lines.values())
        for path in random.Random(self.seed).sample(sorted(LOAD), 10):
            assert self.content.wrong(path, 1, 0, c.mounts[1].read(path)) is None

    def _note(self, readers):
        self.result.calls = sum(r.calls() for r in readers)
        self.result.longest = max(r.longest() for r in readers)
        for r in readers:
            for name, _, _ in r.errors():
                self.result.errors[name] = self.result.errors.get(name, 0) + 1


def run_cell(directory, target, fault, seed=1, on_failure=None):
    """A cell from nothing to nothing; on_failure(cell) sees it before it is taken down."""
    with Network() as network:
        cell = Cell(directory, network, target, fault, seed)
        try:
            return cell.run()
        except Exception:
            if on_failure:
                on_failure(cell)
            raise
        finally:
            cell.close()
