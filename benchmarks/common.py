# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks share: figures, fio, and the run of those that are asked for."""
import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)
from tests.lib import util  # noqa: E402  pylint: disable=wrong-import-position

BUILD = os.path.join(ROOT, "build/release")
RESULTS = []


def drop(*paths):
    """Gives up the pages that the kernel keeps of these files, or without any of all; not in fio's time, as its own --invalidate is."""
    os.sync()
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)
    if not paths:
        with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as f:
            f.write("3")


def report(name, value, unit, native=None, floor=None):
    """One row: a figure, its native counterpart, their ratio and the least that is asked for."""
    ratio = value / native if native else None
    RESULTS.append({"name": name, "value": value, "unit": unit, "native": native, "ratio": ratio, "floor": floor})
    cells = [f"{name:44}", f"{value:12,.1f} {unit:10}"]
    if native:
        cells += [f"native {native:12,.1f}", f"ratio {ratio:5.2f}"]
    if floor is not None:
        cells.append(f"(at least {floor})")
    print("  ".join(cells), flush=True)


def fio(path, size, *args):
    """MiB/s of one fio job that reads `path`, or what the arguments name."""
    out = subprocess.run(["fio", "--name=x", *([f"--filename={path}"] if path else []), f"--size={size}", "--readonly",
                          "--output-format=json", *args], capture_output=True, text=True, check=True).stdout
    return json.loads(out[out.index("{"):])["jobs"][0]["read"]["bw_bytes"] / 2**20


def rss_mib(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as f:
        return int(re.search(r"VmRSS:\s+(\d+) kB", f.read())[1]) / 1024


def write(path):
    """The figures, as JSON, if a file is named."""
    if path:
        with open(path, "w", encoding="utf-8") as f:
            json.dump({"results": RESULTS}, f, indent=1)


def main(doc, bench, names):
    """Runs the methods of bench(scratch, scale) that the command line names, or all of `names`."""
    parser = argparse.ArgumentParser(description=doc.split("\n", maxsplit=1)[0])
    parser.add_argument("--scale", type=float, default=1.0, help="size of the data relative to the full run")
    parser.add_argument("--only", nargs="*", choices=names, default=names)
    parser.add_argument("--json", help="file for the figures")
    args = parser.parse_args()
    os.environ.setdefault("TARN_BIN", f"{BUILD}/tarn")
    scratch = tempfile.mkdtemp(prefix="tarn-bench-", dir=os.environ.get("TARN_BENCH_DIR", "/var/tmp"))
    try:
        for name in args.only:
            print(f"== {name}: {getattr(bench, name).__doc__}", flush=True)
            getattr(bench(scratch, args.scale), name)()
    finally:
        util.unmount_below(scratch)
        shutil.rmtree(scratch, ignore_errors=True)
    write(args.json)
