# SPDX-License-Identifier: Apache-2.0
"""Small things that every process test needs: ports, deadlines, checksums, trees, clean mounts."""
import ctypes
import ctypes.util
import fcntl
import hashlib
import os
import random
import signal
import socket
import subprocess
import tempfile
import time

LOOPBACK = "127.0.0.1"
_PORTS = range(20000, 32000)  # below those that the kernel gives to connections and to port 0
_given_ports = set()
_port_locks = []


def free_port():
    """A loopback TCP port that nobody listens on and that this session has not given out yet.

    It stays this session's: others of this user on the machine find its byte of a file locked.
    """
    if not _port_locks:
        _port_locks.append(open(f"{tempfile.gettempdir()}/tarn-test-ports-{os.getuid()}", "ab"))
    while True:
        port = random.SystemRandom().choice(_PORTS)
        if port in _given_ports:
            continue
        try:
            fcntl.lockf(_port_locks[0], fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
            with socket.socket() as s:
                s.bind((LOOPBACK, port))
        except OSError:
            continue  # another's
        _given_ports.add(port)
        return port


def give_ports_back():
    """Those that free_port() gave may be given to others: for runs that would use up all there are."""
    _given_ports.clear()
    if _port_locks:
        fcntl.lockf(_port_locks[0], fcntl.LOCK_UN)


def wait_until(what, probe, seconds=30.0, step=0.02):
    """Call probe() until it is true and return what it gave; after the deadline fail, naming it."""
    end = time.monotonic() + seconds
    while True:
        value = probe()
        if value:
            return value
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {seconds} s")
        time.sleep(step)


def listens(port, host=LOOPBACK):
    with socket.socket() as s:
        s.settimeout(1)
        return s.connect_ex((host, port)) == 0


def run(*argv, seconds=60, check=True, **kwargs):
    """Run a command to its end; its output is text in .stdout and .stderr."""
    done = subprocess.run([str(a) for a in argv], stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=seconds, check=False, **kwargs)
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, argv))}: exit {done.returncode}\n"
                             f"{done.stdout}{done.stderr}")
    return done


def alive(pid):
    """True while pid is a process that is not a zombie."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as f:
            return f.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def has_thread(pid, name):
    """True while a process has a thread of that name."""
    for task in os.listdir(f"/proc/{pid}/task"):
        try:
            with open(f"/proc/{pid}/task/{task}/comm", encoding="utf-8", errors="replace") as f:
                if f.read().strip() == name:
                    return True
        except (FileNotFoundError, ProcessLookupError):
            pass
    return False


def end_group(process, seconds=5.0):
    """End a process that we started in a session of its own, with all that it started."""
    for sig in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sig)
        except ProcessLookupError:
            pass
        try:
            process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            continue
        if sig == signal.SIGKILL:
            return
    process.wait(timeout=seconds)


# ---- checksums ----

def sha256_file(path):
    h = hashlib.sha256()
    with open(path, "rb", buffering=0) as f:
        while block := f.read(1 << 20):
            h.update(block)
    return h.hexdigest()


class _Xxh3:
    def __init__(self):
        self.lib = ctypes.CDLL(ctypes.util.find_library("xxhash") or "libxxhash.so.0")
        self.lib.XXH3_64bits.restype = ctypes.c_uint64
        self.lib.XXH3_64bits.argtypes = [ctypes.c_char_p, ctypes.c_size_t]


_xxh3 = None


def xxh3(data):
    """XXH3-64 of bytes, in 16 hex digits, as manifests have it."""
    global _xxh3
    if _xxh3 is None:
        _xxh3 = _Xxh3()
    return f"{_xxh3.lib.XXH3_64bits(data, len(data)):016x}"


# ---- data ----

def some_bytes(size, seed=0):
    """The same bytes for the same size and seed; no two seeds share a block."""
    return random.Random(f"{seed}").randbytes(size)


def tree_items(files, min_size=100, max_size=20000, dirs=10, seed=1):
    """Yield (path, bytes) of a small data set: files spread over directories."""
    rng = random.Random(seed)
    for i in range(files):
        size = rng.randint(min_size, max_size)
        yield f"d{i % dirs:03d}/f{i:06d}.bin", some_bytes(size, f"{seed}/{i}")


def write_tree(root, items):
    """Write (path, bytes) pairs below root; returns {path: sha256}."""
    sums = {}
    for path, data in items:
        full = os.path.join(root, path)
        os.makedirs(os.path.dirname(full), exist_ok=True)
        with open(full, "wb") as f:
            f.write(data)
        sums[path] = hashlib.sha256(data).hexdigest()
    return sums


def write_manifest(path, items):
    """The manifest that epoch_reader reads, for (path, bytes) pairs."""
    with open(path, "w", encoding="utf-8") as f:
        for name, data in items:
            f.write(f"{xxh3(data)}  {name}\n")


# ---- mounts ----

def mounts():
    """[(mountpoint, file system type)] in the order of mounting."""
    with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as f:
        rows = [line.split(" ") for line in f]
    unescape = (lambda s: s.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\"))
    return [(unescape(row[1]), row[2]) for row in rows]


def mounted(path, fstype=None):
    return any(m == str(path) and fstype in (None, t) for m, t in mounts())


def unmount(path):
    """Detach whatever is mounted on path, however often, even when its server is dead."""
    for _ in range(16):
        if not mounted(path):
            return
        subprocess.run(["umount", "-l", str(path)], stdin=subprocess.DEVNULL, capture_output=True,
                       timeout=20, check=False)
    raise AssertionError(f"{path}: still mounted")


def remove_mount_records(pids):
    """What mounts of root that were killed left in the run directory (tools/mount_record.c)."""
    for pid in pids:
        if not alive(pid):
            try:
                os.unlink(f"/run/tarn/{pid}.mount")
            except FileNotFoundError:
                pass


def unmount_below(root):
    """Detach every mount below root, the last one first."""
    prefix = os.path.realpath(root) + "/"
    for path, _ in reversed(mounts()):
        if path.startswith(prefix):
            unmount(path)


def drop_page_cache():
    """Makes the next reads of files come from the disk; only root may."""
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as f:
        f.write("3\n")
