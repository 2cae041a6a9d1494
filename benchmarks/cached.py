#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""benchmarks/cached.py [--dirs N] [--files N] [--loaded N] [--workers N] [--callers N] - what it costs to ask how much is cached.

A master, WORKERS and a mount on this machine, a store of DIRS x FILES objects of 4 KiB that are all known by name, LOADED
directories of which are cached. Measured: `tarn du / --json`, alone and from CALLERS at once, the polls of a `tarn wait`,
beside them `tarn stat` of one file and a reader that opens a cached file of the mount after the other, each once; processor
and memory of master and workers. Root (for the mount), the release build.
"""
import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import threading
import time

from common import BUILD, ROOT, report, write

from tests.lib import util  # pylint: disable=wrong-import-order
from tests.lib.cluster import MIB, Cluster  # pylint: disable=wrong-import-order

SIZE = 4096


class Beside:
    """Something done over and over while something else goes on: how long each took."""

    def __init__(self, do):
        self.do, self.ms, self.over, self.failure = do, [], threading.Event(), None
        self.thread = threading.Thread(target=self.run)

    def run(self):
        try:
            while not self.over.is_set():
                begun = time.monotonic()
                self.do()
                self.ms.append((time.monotonic() - begun) * 1000)
        except Exception as e:  # of this thread: raised where it is joined
            self.failure = e

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()
        if self.failure:
            raise self.failure

    def report(self, title):
        self.ms.sort()
        report(f"{title}: median", statistics.median(self.ms), "ms")
        report("  p99", self.ms[min(len(self.ms) - 1, int(len(self.ms) * 0.99))], "ms")
        report("  most", self.ms[-1], "ms")


class Bench:
    def __init__(self, cluster, args):
        self.c, self.args, self.count = cluster, args, args.dirs * args.files
        self.file = f"/d{args.dirs - 1:04d}/f{args.files - 1:08d}.bin"
        self.next = 0  # of the files that are cached: what the reader opens

    def stat(self):
        self.c.cli("stat", self.file)

    def read(self):
        d, f = divmod(self.next, self.args.files)
        self.next = (self.next + 1) % (self.args.loaded * self.args.files)
        with open(self.c.mounts[0].path(f"d{d:04d}/f{f:08d}.bin"), "rb") as file:
            assert len(file.read()) == SIZE
        time.sleep(0.001)

    def list(self):
        begun = time.monotonic()
        for d in range(self.args.dirs):
            subprocess.run([os.environ["TARN_BIN"], "ls", f"/d{d:04d}"], stdout=subprocess.DEVNULL, check=True,
                           env=self.c.cli_env())
        report(f"{self.count} names listed", time.monotonic() - begun, "s")

    def load(self):
        begun = time.monotonic()
        for d in range(self.args.loaded):
            self.c.cli("load", f"/d{d:04d}", seconds=1800)
        report(f"{self.args.loaded * self.args.files} files loaded", time.monotonic() - begun, "s")

    def costs(self):
        return [p.cpu_seconds() for p in (self.c.master, *self.c.workers)]

    def du(self, title, callers=1):
        before, peak, over = self.costs(), [], threading.Event()

        def watch():
            while not over.wait(0.02):
                peak.append(self.c.master.rss())
        rss, watcher = self.c.master.rss(), threading.Thread(target=watch)
        watcher.start()
        try:
            begun = time.monotonic()
            calls = [self.c.background("du", "/", "--json", "--timeout", "10m") for _ in range(callers)]
            answers = [json.loads(call.communicate(timeout=600)[0]) for call in calls]
            took = time.monotonic() - begun
        finally:
            over.set()
            watcher.join()
        spent = [b - a for a, b in zip(before, self.costs())]
        assert all(a["files"] == answers[0]["files"] for a in answers), answers
        report(title, took, "s")
        report("  processor: master", spent[0], "s")
        report("  processor: workers together", sum(spent[1:]), "s")
        report("  memory of the master: growth at most", (max(peak or [rss]) - rss) / MIB, "MiB")
        return answers[0]

    def beside(self, title, wait):
        """The two who feel it, while `wait` goes on."""
        for name, do in (("stat of one file", self.stat), ("open and read of a cached file", self.read)):
            with Beside(do) as beside:
                wait()
            beside.report(f"{name}, {title}")

    def du_once(self):
        self.c.json("du", "/", "--timeout", "10m", seconds=600)

    def du_for(self, seconds=5):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.du_once()

    def run(self):
        self.list()
        self.load()
        self.beside("alone", lambda: time.sleep(3))
        for _ in range(2):
            du = self.du(f"tarn du / --json, {self.count} files")
        wanted = self.args.loaded * self.args.files
        assert du["files"] == self.count and du["cached_files"] == wanted, du
        self.du(f"the same, {self.args.callers} callers", callers=self.args.callers)
        self.beside("beside one du after the other", self.du_for)
        before, begun = self.costs(), time.monotonic()
        self.c.cli("wait", "/", "--until", "cached>=100%", "--timeout", "30s", check=False)
        spent, took = [b - a for a, b in zip(before, self.costs())], time.monotonic() - begun
        report("tarn wait for 30 s: the master's processor", 100 * spent[0] / took, "% of one")
        report("  the workers' together", 100 * sum(spent[1:]) / took, "% of one")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--dirs", type=int, default=10)
    parser.add_argument("--files", type=int, default=10000, help="of a directory")
    parser.add_argument("--loaded", type=int, default=1, help="directories that are cached")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--callers", type=int, default=8, help="that ask at once")
    parser.add_argument("--json", help="file for the figures")
    args = parser.parse_args()
    os.environ.setdefault("TARN_BIN", f"{BUILD}/tarn")
    with contextlib.ExitStack() as stack:
        scratch = tempfile.mkdtemp(prefix="tarn-bench-", dir=os.environ.get("TARN_BENCH_DIR", "/var/tmp"))
        stack.callback(shutil.rmtree, scratch, ignore_errors=True)
        port = util.free_port()
        store = subprocess.Popen(["/usr/bin/python3", f"{ROOT}/benchmarks/list_store.py", str(port), str(args.dirs),
                                  str(args.files), str(SIZE)], start_new_session=True)
        stack.callback(util.end_group, store)
        cluster = Cluster(scratch, workers=args.workers, mounts=1, quota="64GiB", attach=False)
        stack.callback(cluster.close)
        util.wait_until("the store", lambda: util.listens(port))
        cluster.start()
        cluster.cli("attach", "s3://b", "/", "-o", f"endpoint=http://127.0.0.1:{port},credentials=anonymous",
                    "--meta-ttl", "forever")
        Bench(cluster, args).run()
    write(args.json)


if __name__ == "__main__":
    main()
