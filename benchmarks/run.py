#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""benchmarks/run.py [--scale F] [--only NAME...] [--json FILE] - what Tarn costs, as ratios to the same bytes without it.

Each figure is measured in this run beside its native counterpart on the same disk: the page cache is dropped before each warm figure unless
its name says page cache. Needs root (mounts, dropping caches), fio, nginx, curl, and the release build. Scratch: TARN_BENCH_DIR or a
folder below /var/tmp, removed at the end.
"""
import json
import os
import shutil
import subprocess
import time

from common import BUILD, ROOT, drop, fio, main, report, rss_mib

from tests.lib import nginx, tarn, util  # pylint: disable=wrong-import-order


def epoch(root, manifest, threads=8, seed=1):
    out = subprocess.run([f"{BUILD}/benchmarks/epoch_reader", "-t", str(threads), "-s", str(seed), root, manifest],
                         capture_output=True, text=True, check=True).stdout
    return json.loads(out)


class Bench:
    def __init__(self, scratch, scale):
        self.dir, self.scale = scratch, scale

    def sub(self, name):
        path = os.path.join(self.dir, name)
        os.makedirs(path, exist_ok=True)
        return path

    def big_file(self):
        """A file of random bytes on the disk: 2 GiB at scale 1."""
        path = os.path.join(self.sub("src/bucket"), "big.bin")
        size = int(2 * 2**30 * self.scale) // 2**22 * 2**22
        if not os.path.exists(path):
            subprocess.run(["dd", "if=/dev/urandom", f"of={path}", "bs=4M", f"count={size // 2**22}", "status=none"], check=True)
        return path, size

    def dataset(self):
        root = os.path.join(self.dir, "set")
        manifest = os.path.join(root, "MANIFEST")
        if not os.path.exists(manifest):
            files = int(10000 * self.scale)
            subprocess.run([f"{BUILD}/benchmarks/make_dataset", "-f", str(files), "-d", "100", "-m", "110KiB", "-M",
                            "110KiB", "-n", "0", root, manifest], check=True)
        return root, manifest

    def sequential(self):
        path, size = self.big_file()
        t = tarn.Tarn(self.sub("seq"), f"file://{os.path.dirname(path)}", "--cache-size", "20GiB").start()
        try:
            t.cli("load", "/", seconds=600)
            mnt = f"{t.mnt}/big.bin"
            direct = ("--rw=read", "--bs=1M", "--direct=1", "--ioengine=libaio", "--iodepth=8")
            drop()
            native = fio(path, size, *direct)
            drop()
            report("warm sequential 1 MiB, O_DIRECT depth 8", fio(mnt, size, *direct), "MiB/s", native, 0.25)
            plain = ("--rw=read", "--bs=1M", "--ioengine=psync", "--invalidate=0")
            half = min(size, 2**30)
            for f in (path, mnt):
                fio(f, half, *plain)
            native = max(fio(path, half, *plain) for _ in range(3))
            report("warm sequential 1 MiB, page cache", max(fio(mnt, half, *plain) for _ in range(3)), "MiB/s", native, 0.9)
            drop()
            native = fio(path, size, "--rw=randread", "--bs=4k", "--direct=1", "--ioengine=libaio", "--iodepth=32", "--runtime=5",
                         "--time_based")
            report("warm random 4 KiB, O_DIRECT depth 32", fio(mnt, size, "--rw=randread", "--bs=4k", "--direct=1", "--ioengine=libaio",
                                                              "--iodepth=32", "--runtime=5", "--time_based"), "MiB/s", native)
        finally:
            t.close()

    def epochs(self):
        root, manifest = self.dataset()
        t = tarn.Tarn(self.sub("epoch"), f"file://{root}", "--cache-size", "20GiB").start()
        try:
            report("idle RSS", rss_mib(t.process.pid), "MiB", floor="below 60")
            t.cli("load", "/", seconds=600)
            drop()
            native = epoch(root, manifest)
            drop()
            before = t.json("status")["mounts"][0]["ufs_requests"]
            warm = epoch(t.mnt, manifest)
            after = t.json("status")["mounts"][0]["ufs_requests"]
            assert warm["mismatches"] == 0 and warm["errors"] == 0, warm
            report("warm epoch, 110 KiB files, 8 readers", warm["files"] / warm["seconds"], "files/s", native["files"] / native["seconds"], 0.4)
            report("store requests of that epoch", after - before, "requests", floor="0")
            native, warm = epoch(root, manifest), epoch(t.mnt, manifest)
            report("warm epoch, page cache", warm["files"] / warm["seconds"], "files/s", native["files"] / native["seconds"])
            report("RSS after the epoch", rss_mib(t.process.pid), "MiB", floor="below 200")
        finally:
            t.close()

    def cold_curl(self, store, size):
        """MiB/s of eight ranged GETs at a time, written to files on the same disk."""
        part, args = size // 8, ["curl", "-s", "-Z", "--parallel-max", "8"]
        for i in range(8):
            args += ["-r", f"{i * part}-{(i + 1) * part - 1}", "-o", f"{self.sub('raw')}/{i}", f"{store.endpoint}/bucket/big.bin"]
        drop()
        start = time.monotonic()
        subprocess.run(args, check=True, stderr=subprocess.DEVNULL)
        speed = size / 2**20 / (time.monotonic() - start)
        shutil.rmtree(self.sub("raw"))
        return speed

    def cold_tarn(self, store, size, act):
        t = tarn.Tarn(self.sub("cold"), "s3://bucket", "-o", f"endpoint={store.endpoint},credentials=anonymous",
                      "--cache-size", "20GiB").start()
        try:
            drop()
            start = time.monotonic()
            act(t)
            return size / 2**20 / (time.monotonic() - start)
        finally:
            t.close()
            shutil.rmtree(t.dir)

    def cold(self):
        """The best of three rounds each: memory that a virtual machine touches first after a drop costs extra, now and then."""
        path, size = self.big_file()
        os.environ.update(AWS_ACCESS_KEY_ID="any", AWS_SECRET_ACCESS_KEY="any")
        store = nginx.Nginx(self.sub("nginx"), os.path.dirname(os.path.dirname(path)), s3=True, workers=1).start()
        curl, read, load = [], [], []
        try:
            for _ in range(3):
                curl.append(self.cold_curl(store, size))
                read.append(self.cold_tarn(store, size, self.cold_read))
                load.append(self.cold_tarn(store, size, self.cold_load))
        finally:
            store.stop()
        report("cold sequential read, dd 1 MiB", max(read), "MiB/s", max(curl), 0.5)
        report("tarn load of one large file", max(load), "MiB/s", max(curl), 0.8)

    @staticmethod
    def cold_read(t):
        subprocess.run(["dd", f"if={t.mnt}/big.bin", "of=/dev/null", "bs=1M", "status=none"], check=True)

    @staticmethod
    def cold_load(t):
        t.cli("load", "/big.bin", seconds=600)

    def names(self):
        for title, dirs, files in (("100,000 objects in one directory", 1, int(100000 * self.scale)),
                                   ("1,000,000 objects in 1,000 directories", 1000, int(1000 * self.scale))):
            port = util.free_port()
            store = subprocess.Popen(["/usr/bin/python3", os.path.join(ROOT, "benchmarks/list_store.py"), str(port), str(dirs), str(files)],
                                     start_new_session=True)
            try:
                util.wait_until("the list store", lambda: util.listens(port))  # pylint: disable=cell-var-from-loop
                self.find(title, f"http://127.0.0.1:{port}", dirs * files)
            finally:
                util.end_group(store)

    def find(self, title, endpoint, count):
        t = tarn.Tarn(self.sub("find"), "s3://b", "-o", f"endpoint={endpoint},credentials=anonymous", "--meta-ttl", "forever")
        start = time.monotonic()
        t.start()
        try:
            report(f"ready, {title}", time.monotonic() - start, "s", floor="below 2")
            requests = sum(json.loads(subprocess.run(["curl", "-s", f"{endpoint}/counts"], capture_output=True, check=True).stdout).values())
            report("  store requests until ready", requests, "requests", floor="at most 3")
            for when in ("cold", "warm"):
                start = time.monotonic()
                found = subprocess.run(f"find {t.mnt} -type f | wc -l", shell=True, capture_output=True, check=True).stdout
                assert int(found) == count, (int(found), count)
                report(f"  find, {when}", count / (time.monotonic() - start), "entries/s", floor=30000 if when == "cold" else None)
            report("  RSS afterwards", rss_mib(t.process.pid), "MiB", floor="below 400")
        finally:
            t.close()
            shutil.rmtree(t.dir)

    def restart(self):
        """A cache of 100,000 files, and how soon it serves again."""
        count = int(100000 * self.scale)
        src = self.sub("many")
        for i in range(count):
            folder = f"{src}/d{i // 1000:03d}"
            if i % 1000 == 0:
                os.makedirs(folder, exist_ok=True)
            with open(f"{folder}/f{i:06d}", "wb") as f:
                f.write(i.to_bytes(8, "little") * 64)
        t = tarn.Tarn(self.sub("restart"), f"file://{src}", "--cache-size", "8GiB").start()
        try:
            start = time.monotonic()
            t.cli("load", "/", seconds=900)
            report("load of small files (512 B)", count / (time.monotonic() - start), "files/s")
            t.kill()
            util.unmount(t.mnt)
            drop()
            start = time.monotonic()
            t.start()
            report("warm restart after kill -9, until it serves", time.monotonic() - start, "s", floor="below 1")
        finally:
            t.close()


ALL = ("sequential", "epochs", "cold", "names", "restart")


if __name__ == "__main__":
    main(__doc__, Bench, ALL)
