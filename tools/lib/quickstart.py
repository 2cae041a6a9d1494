#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What tools/quickstart does once the binary is built; see there."""
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import namedtuple

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
RELEASE = os.path.join(ROOT, "build/release")
TARN = os.path.join(RELEASE, "tarn")
READERS = 8
SAMPLE_BYTES = 1_600_000_000   # what make_dataset writes by default, about
ROOM_BYTES = 1 << 30           # left over on the disk
MIB = 1 << 20
Epoch = namedtuple("Epoch", "files bytes seconds wrong")


class Failed(Exception):
    """The message for the user; code is the exit code."""

    def __init__(self, message, code=1):
        super().__init__(message)
        self.code = code


def say(text):
    print(f"quickstart: {text}", flush=True)


def cache_home():
    if os.getuid() == 0:
        return "/var/cache/tarn"
    return os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "tarn")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def is_mounted(path):
    with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as f:
        return any(line.split(" ")[1].replace("\\040", " ") == path for line in f)


# ---- the sample ----

def make_sample(home):
    """Make the data set once; returns (its directory, its manifest)."""
    data, manifest = os.path.join(home, "sample/data"), os.path.join(home, "sample/MANIFEST")
    if os.path.exists(manifest):
        say(f"using the sample data set in {data}")
        return data, manifest
    os.makedirs(os.path.dirname(data), exist_ok=True)
    shutil.rmtree(data, ignore_errors=True)  # an attempt that was broken off
    check_room(home, 2 * SAMPLE_BYTES)
    say(f"making a sample data set once: 10,000 small files and 2 large ones, in {data}")
    started = time.monotonic()
    if subprocess.run([f"{RELEASE}/benchmarks/make_dataset", data, manifest], check=False).returncode:
        raise Failed(f"{data}: the sample data set could not be made")
    say(f"made in {time.monotonic() - started:.1f} s")
    return data, manifest


def check_room(home, needed):
    st = os.statvfs(home)
    free = st.f_bavail * st.f_frsize
    if free < needed + ROOM_BYTES:
        raise Failed(f"{home}: {free / 1e9:.1f} GB free, {(needed + ROOM_BYTES) / 1e9:.1f} GB needed "
                     "(another place: XDG_CACHE_HOME, as a user other than root)")


def drop_page_cache():
    """Let the next reads come from the disk; only root can."""
    if os.getuid() == 0:
        os.sync()
        with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as f:
            f.write("3\n")


def read_epoch(root, manifest, seed):
    done = subprocess.run([f"{RELEASE}/benchmarks/epoch_reader", "-t", str(READERS), "-s", str(seed),
                           root, manifest], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode not in (0, 1) or not done.stdout:
        raise Failed(f"{root}: the epoch could not be read")
    found = json.loads(done.stdout)
    return Epoch(found["files"], found["bytes"], found["seconds"],
                 found["mismatches"] + found["errors"])


# ---- the server ----

class Server:
    """`tarn local -d` with ports and a cache directory of its own."""

    def __init__(self, uri, mountpoint, cache):
        self.uri, self.mountpoint, self.cache = uri, mountpoint, cache
        self.master, self.http = (f"127.0.0.1:{free_port()}" for _ in range(2))
        self.log = os.path.join(os.path.dirname(cache), "tarn.log")
        self.pid_file = os.path.join(os.path.dirname(cache), "tarn.pid")
        os.environ["TARN_MASTER"] = self.master

    def start(self):
        shutil.rmtree(self.cache, ignore_errors=True)
        os.makedirs(self.mountpoint, exist_ok=True)
        run_tarn("local", self.uri, self.mountpoint, "--cache-dir", self.cache, "--listen",
                 self.master, "--http-listen", self.http, "--log-file", self.log,
                 "--pid-file", self.pid_file, "-d")

    def store_bytes(self):
        """Bytes that it has asked of the store so far."""
        with urllib.request.urlopen(f"http://{self.http}/metrics", timeout=10) as reply:
            text = reply.read().decode()
        values = re.findall(r"^tarn_ufs_read_bytes_total(?:\{[^}]*\})? (\S+)$", text, re.M)
        if not values:
            raise Failed(f"http://{self.http}/metrics: no tarn_ufs_read_bytes_total")
        return int(sum(map(float, values)))

    def stop(self):
        """Unmount and see the daemon end; what it does not do in time is done without it."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if is_mounted(self.mountpoint):
            try:
                subprocess.run([TARN, "umount", self.mountpoint], timeout=30, check=False)
            except subprocess.TimeoutExpired:
                pass
        if is_mounted(self.mountpoint):
            lazily = ["umount", "-l"] if os.getuid() == 0 else ["fusermount3", "-u", "-z"]
            subprocess.run([*lazily, self.mountpoint], timeout=30, check=False)
        for sig in (None, signal.SIGTERM, signal.SIGKILL):
            pid = self.pid()
            if pid and sig:
                os.kill(pid, sig)
            end = time.monotonic() + 10
            while self.pid() and time.monotonic() < end:
                time.sleep(0.05)
        shutil.rmtree(self.cache, ignore_errors=True)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def pid(self):
        """The daemon's, while it lives."""
        try:
            with open(self.pid_file, encoding="ascii") as f:
                pid = int(f.read())
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                return pid if self.mountpoint.encode() in f.read() else None
        except (OSError, ValueError):
            return None


def run_tarn(*args):
    code = subprocess.run([TARN, *args], stdin=subprocess.DEVNULL, check=False).returncode
    if code != 0:
        raise Failed(f"tarn {' '.join(args)}: exit {code}", code if 0 < code < 6 else 1)


# ---- the demonstration ----

def best_of_two(root, manifest):
    """Two epochs in different orders: the faster time, every wrong file."""
    first, second = (read_epoch(root, manifest, seed) for seed in (2, 3))
    better = min(first, second, key=lambda e: e.seconds)
    return better._replace(wrong=first.wrong + second.wrong)


def demonstrate(mountpoint):
    home = cache_home()
    os.makedirs(home, exist_ok=True)
    data, manifest = make_sample(home)
    work = os.path.join(home, "quickstart")
    os.makedirs(work, exist_ok=True)
    check_room(home, SAMPLE_BYTES)
    mountpoint = os.path.abspath(mountpoint or os.path.join(work, "mnt"))
    server = Server(f"file://{data}", mountpoint, os.path.join(work, "cache"))
    say(f"reading it natively, {READERS} readers")
    native = best_of_two(data, manifest)
    try:
        say(f"tarn local file://{data} {mountpoint} -d")
        server.start()
        drop_page_cache()
        say("an epoch through the mount, with an empty cache")
        cold = read_epoch(mountpoint, manifest, 1)
        cold_bytes = server.store_bytes()
        say("tarn load /")
        run_tarn("load", "/")
        load_bytes = server.store_bytes() - cold_bytes
        say("an epoch through the mount, with a warm cache")
        warm = best_of_two(mountpoint, manifest)
        warm_bytes = server.store_bytes() - cold_bytes - load_bytes
    finally:
        server.stop()
    print_table(native, [("cold (empty cache)", cold, cold_bytes), ("load /", None, load_bytes),
                         ("warm", warm, warm_bytes)])
    if native.wrong + cold.wrong + warm.wrong:
        raise Failed("some files had wrong bytes or could not be read; see above")
    if is_mounted(mountpoint):
        raise Failed(f"{mountpoint}: still mounted")
    print_next()


def print_table(native, rows):
    print(f"\n{native.files:,} files, {native.bytes / MIB:,.0f} MiB, {READERS} readers, "
          "each byte compared\n")
    print(f"{'epoch':<20}{'seconds':>9}{'files/s':>10}{'MiB/s':>9}{'of native':>11}"
          f"{'MiB from store':>16}{'wrong':>7}")
    for name, epoch, asked in [("native", native, None), *rows]:
        store = "-" if asked is None else f"{asked / MIB:,.0f}"
        if epoch is None:
            print(f"{name:<20}{'':>9}{'':>10}{'':>9}{'':>11}{store:>16}")
            continue
        print(f"{name:<20}{epoch.seconds:>9.2f}{epoch.files / epoch.seconds:>10,.0f}"
              f"{epoch.bytes / epoch.seconds / MIB:>9,.0f}{native.seconds / epoch.seconds:>10.0%} "
              f"{store:>16}{epoch.wrong:>7}")


def print_next():
    print("""
Next, with a store of yours:
  tools/quickstart s3://BUCKET/PREFIX /mnt/data -- -o endpoint=https://STORE:PORT
or by hand:
  build/release/tarn local s3://BUCKET/PREFIX /mnt/data -d     serve it
  build/release/tarn load /                                    warm it
  build/release/tarn status                                    see it
  build/release/tarn umount /mnt/data                          end it""")


# ---- a store of the user's ----

def serve(uri, mountpoint, flags):
    default = "/mnt/tarn" if os.getuid() == 0 else os.path.expanduser("~/tarn")
    mountpoint = os.path.abspath(mountpoint or default)
    os.makedirs(mountpoint, exist_ok=True)
    run_tarn("local", uri, mountpoint, *flags, "-d")
    tarn = os.path.relpath(TARN)
    print(f"""
{uri} is at {mountpoint} and stays there. Next:
  ls {mountpoint}
  {tarn} load /              warm all of it; or a directory: {tarn} load /train
  {tarn} status              what is cached, who reads
  {tarn} umount {mountpoint}""")


def main():
    args, flags = sys.argv[1:], []
    if "--" in args:
        cut = args.index("--")
        args, flags = args[:cut], args[cut + 1:]
    if len(args) > 2 or (flags and not args) or any(a.startswith("-") for a in args):
        raise Failed("usage: tools/quickstart [UFS_URI [MOUNTPOINT]] [-- FLAGS]", 2)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if args:
        serve(args[0], args[1] if len(args) > 1 else None, flags)
    else:
        demonstrate(None)


try:
    main()
except Failed as e:
    print(f"quickstart: {e}", file=sys.stderr)
    sys.exit(e.code)
except KeyboardInterrupt:
    print("quickstart: interrupted; unmounted and cleaned up", file=sys.stderr)
    sys.exit(130)
