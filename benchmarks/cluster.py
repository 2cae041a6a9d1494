#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""benchmarks/cluster.py [--scale F] [--only NAME...] [--json FILE] - what a cluster costs, beside the bare network.

Master, workers, mounts and store each have a network namespace, joined by a bridge (tests/lib/netns.py). Reads over the network are
compared with iperf3 between the same two hosts in the same run. Root, fio, iperf3, the release build; scratch as for run.py.
"""
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

from common import ROOT, drop, fio, main, report, rss_mib

from tests.lib import frames, util  # pylint: disable=wrong-import-order
from tests.lib.cluster import BKT, MIB, Cluster  # pylint: disable=wrong-import-order
from tests.lib.netns import Network  # pylint: disable=wrong-import-order
from tests.lib.verify import Content, Readers  # pylint: disable=wrong-import-order

WIRE = "8gbit"
STREAMS = 8
FLOORS = {(WIRE, 1): 0.9, (WIRE, STREAMS): 0.95, (None, 1): 0.25, (None, STREAMS): 0.35}  # of iperf3


def iperf(server, client, streams):
    """MiB/s from one host to the other."""
    with contextlib.ExitStack() as stack:
        listener = server.popen(["iperf3", "-s", "-1"], stdout=subprocess.DEVNULL)
        stack.callback(util.end_group, listener)
        util.wait_until("iperf3", lambda: ":5201" in server.run("ss", "-ltn").stdout, 10)
        out = client.run("iperf3", "-c", server.address, "-P", streams, "-t", 5, "-R", "-J", seconds=60).stdout
    return json.loads(out)["end"]["sum_received"]["bits_per_second"] / 8 / MIB


class Bench:
    def __init__(self, scratch, scale):
        self.dir, self.scale = scratch, scale
        self.size = max(64, int(1024 * scale)) * MIB

    @contextlib.contextmanager
    def cluster(self, sizes, **kwargs):
        """A cluster on hosts of its own, with everything loaded."""
        with Network() as network:
            directory = tempfile.mkdtemp(dir=self.dir)
            c = Cluster(directory, network=network, quota="64GiB", worker_args=["--copies", "never"], **kwargs)
            content = Content(sizes)
            content.put(c.store, BKT)
            try:
                c.start()
                c.cli("load", "/", seconds=900)
                os.sync()
                yield c, content
            finally:
                c.close()
                shutil.rmtree(directory, ignore_errors=True)

    def sizes(self):
        """What read() reads."""
        return {"big": self.size, **{f"s{i}": self.size // STREAMS for i in range(STREAMS)}}

    def read(self, mount, streams, everywhere=False):
        """MiB/s of the mount, of one file or of STREAMS; its pages are dropped before, `everywhere`: the worker's too."""
        names = ["big"] if streams == 1 else [f"s{i}" for i in range(STREAMS)]
        drop(*([] if everywhere else [mount.path(name) for name in names]))
        args = ["--rw=read", "--bs=1M", "--ioengine=psync", f"--numjobs={streams}", "--group_reporting", "--invalidate=0"]
        if streams == 1:
            return fio(mount.path("big"), self.size, *args)
        return fio("", self.size // STREAMS, f"--directory={mount.mnt}", "--filename_format=s$jobnum", *args)

    def remote(self):
        """Reads from a worker on another host: from its pages, against iperf3; then from its disk, against the disk."""
        with self.cluster(self.sizes(), workers=1, mounts=1) as (c, _):
            server, client = c.workers[0].host, c.mounts[0].host
            self.read(c.mounts[0], 1)
            for rate in (None, WIRE):
                for host in (server, client):
                    host.bandwidth(rate)
                for streams in (1, STREAMS):
                    native = iperf(server, client, streams)
                    value = max(self.read(c.mounts[0], streams) for _ in range(3))
                    report(f"remote read, {rate or 'no limit'}, {streams} stream{'s' * (streams > 1)}", value, "MiB/s", native,
                           FLOORS[rate, streams])
            disk = self.disk(c.workers[0])
            for streams in (1, STREAMS):
                value = max(self.read(c.mounts[0], streams, everywhere=True) for _ in range(3))
                report(f"the same, {WIRE}, {streams} stream{'s' * (streams > 1)}, its disk", value, "MiB/s", disk)

    def disk(self, worker):
        """MiB/s that the worker's disk gives, with eight requests of 1 MiB at a time."""
        path = os.path.join(worker.dir, "fio")
        with open(path, "wb") as f:
            for _ in range(self.size // MIB):
                f.write(os.urandom(MIB))
        value = fio(path, self.size, "--rw=read", "--bs=1M", "--ioengine=libaio", "--iodepth=8", "--direct=1")
        os.unlink(path)
        return value

    def second(self):
        """A second worker adds bandwidth or leaves it as it is."""
        found = {}
        for workers in (1, 2):
            with self.cluster(self.sizes(), workers=workers, mounts=1) as (c, _):
                for part in (*c.workers, *c.mounts):
                    part.host.bandwidth(WIRE)
                self.read(c.mounts[0], 1)
                for streams in (1, STREAMS):
                    found[workers, streams] = max(self.read(c.mounts[0], streams) for _ in range(3))
        for streams in (1, STREAMS):
            report(f"two workers beside one, {streams} stream{'s' * (streams > 1)}", found[2, streams], "MiB/s", found[1, streams],
                   0.95)

    def settle(self, mount):
        """Reads until TCP has forgotten how the way was before: BBR believes in a round trip for 10 s."""
        end = time.monotonic() + 12
        while time.monotonic() < end:
            self.read(mount, STREAMS)

    def delay(self):
        """5 ms on the way beside 0 ms, both through the same queue."""
        with self.cluster(self.sizes(), workers=1, mounts=1) as (c, _):
            self.read(c.mounts[0], 1)
            found = {}
            for ms in (0, 5):
                c.mounts[0].host.delay(ms)
                self.settle(c.mounts[0])
                found[ms] = {n: self.read(c.mounts[0], n) for n in (1, STREAMS)}
                found[ms]["random"] = fio(c.mounts[0].path("big"), self.size, "--rw=randread", "--bs=64k", "--ioengine=psync",
                                          "--numjobs=8", "--group_reporting", "--runtime=5", "--time_based", "--invalidate=1")
            for n in (1, STREAMS):
                report(f"sequential with 5 ms, {n} stream{'s' * (n > 1)}", found[5][n], "MiB/s", found[0][n], 0.9)
            report("random 64 KiB with 5 ms, 8 jobs", found[5]["random"], "MiB/s", found[0]["random"])

    def mount(self):
        """From the start of `tarn mount` until it answers."""
        with self.cluster({"f": 1000}, workers=1, mounts=1) as (c, _):
            times = []
            part = c.mounts[0]
            for _ in range(10):
                part.stop()
                begun = time.monotonic()
                part.spawn()
                while not os.path.exists(part.path("f")):
                    time.sleep(0.001)
                times.append((time.monotonic() - begun) * 1000)
                part.wait_ready()
            report("tarn mount until it is usable, median of 10", statistics.median(times), "ms", floor="below 200")
            report("  the longest", max(times), "ms")

    def sessions(self):
        """A thousand mounts that do nothing."""
        with self.cluster({"f": 1000}, workers=1, mounts=1) as (c, _):
            before = rss_mib(c.master.pid)
            crowd = c.master.host.popen([sys.executable, f"{ROOT}/tests/lib/crowd.py", c.address, c.token_file, "session", 1000],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            try:
                assert crowd.stdout.readline() == "on\n"
                used, begun = c.master.cpu_seconds(), time.monotonic()
                time.sleep(20)
                share = (c.master.cpu_seconds() - used) / (time.monotonic() - begun)
                report("1,000 idle sessions: the master's memory", rss_mib(c.master.pid) - before, "MiB", floor="below 200")
                report("  its processor", share * 100, "% of one", floor="below 5")
                crowd.stdin.close()
                assert crowd.stdout.read().split() == ["cut", "0"], "they did not stay"
            finally:
                crowd.stdin.close()
                crowd.wait(timeout=30)

    def invalidate(self):
        """A hundred sessions hear of a change; from the report of it, with the question to the store, to the last."""
        with self.cluster({"f": 1000}, workers=1, mounts=1) as (c, _):
            crowd = c.master.host.popen([sys.executable, f"{ROOT}/tests/lib/crowd.py", c.address, c.token_file, "hear", 100],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            try:
                assert crowd.stdout.readline() == "on\n"
                told, shown = zip(*(self.change(c, number, crowd) for number in range(10)))
            finally:
                crowd.stdin.close()
                crowd.wait(timeout=30)
            report("a change is known to 100 sessions, median of 10", statistics.median(told), "ms", floor="below 50")
            report("  the longest", max(told), "ms")
            report("  until another is shown the new version, median", statistics.median(shown), "ms")

    @staticmethod
    def change(c, number, crowd):
        """Milliseconds until all of a crowd have heard of another /f, and until a question about it is answered."""
        c.store.put(BKT, "f", f"version {number}".encode())
        with frames.Connection(c.master.host, c.address, frames.token_of(c.token_file)) as connection:
            attr = frames.parse(frames.parse(connection.call(frames.RESOLVE, {1: "/f"}).body)[1][0])
            begun = time.monotonic()
            assert connection.call(frames.CHANGED, {1: ("fixed64", attr[1][0]), 2: attr[2][0]}).status == 0
            again = frames.parse(frames.parse(connection.call(frames.RESOLVE, {1: "/f"}).body)[1][0])
            shown = time.monotonic()
        assert again[2] != attr[2], "it is the same version"
        word, at = crowd.stdout.readline().split()
        assert word == "heard"
        return (float(at) - begun) * 1000, (shown - begun) * 1000

    def drain(self):
        """A worker is drained at a rate: how near that is, and what readers feel."""
        rate = 100 * MIB
        sizes = {f"f{i:04d}": 8 * MIB for i in range(max(16, int(128 * self.scale)))}
        with self.cluster(sizes, workers=3, mounts=1, master_args=["--move-rate", f"{rate}/s"]) as (c, content):
            with Readers(c.mounts[0].mnt, content, threads=4, kinds=("whole",)) as readers:
                leaver = c.workers[0]
                share = leaver.ufs_bytes()
                time.sleep(3)
                with Pace(readers) as before:
                    time.sleep(share / rate)
                with Pace(readers) as during:
                    c.cli("worker", "drain", leaver.id, "--wait", seconds=900)
            readers.check(10, errors=0)
            report("drain at 100 MiB/s", share / during.took / MIB, "MiB/s", rate / MIB)
            report("  readers meanwhile", during.rate, "MiB/s", before.rate, 0.8)


class Pace:
    """With it: `rate`, the MiB/s that all readers together got meanwhile; `took` seconds."""

    def __init__(self, readers):
        self.readers, self.took, self.rate = readers, 0.0, 0.0

    def __enter__(self):
        self.bytes, self.begun = self.readers.read_bytes(), time.monotonic()
        return self

    def __exit__(self, *_):
        self.took = time.monotonic() - self.begun
        self.rate = (self.readers.read_bytes() - self.bytes) / self.took / MIB


ALL = ("remote", "second", "delay", "mount", "sessions", "invalidate", "drain")


if __name__ == "__main__":
    main(__doc__, Bench, ALL)
