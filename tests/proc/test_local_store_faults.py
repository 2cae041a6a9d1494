# SPDX-License-Identifier: Apache-2.0
"""tarn local before a store that is slow, down, changing or lying.

A read gives the right bytes of one version, or EIO; nothing wrong is kept; nothing hangs.
"""
import ctypes
import errno
import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time

import pytest

from tests.lib import local, sums, util
from tests.lib.local import sha
from tests.lib.tarn import binary

BKT = "bkt"
MIB = 1 << 20
SMALL = util.some_bytes(300_000, "small")
BIG = util.some_bytes(5 * MIB + 12345, "big")
FILES = {"d/small": SMALL, "d/big": BIG}
RIGHT = {name: sha(data) for name, data in FILES.items()}


@pytest.fixture
def store(s3fault):
    for name, data in FILES.items():
        s3fault.put(BKT, name, data)
    return s3fault


def start(tarn, store, *args, **options):
    options = {"timeout": "1s", "retries": "1", **options}
    return tarn(f"s3://{BKT}", *local.fault_options(store, **options), *args)


def read(server, names=FILES, seconds=40):
    """{name: SHA-256 or error} of names, past the kernel's pages."""
    return sums.read(server.mnt, names, threads=2, seconds=seconds)


def check_right_or_eio(got):
    wrong = {n: s for n, s in got.items() if s not in (RIGHT[n], "EIO")}
    assert not wrong, f"neither the right bytes nor EIO: {wrong}"


def cached(server, name):
    return server.json("stat", f"/{name}")["cached_bytes"]


def check_kept(server, store):
    """With the store gone: what is there is right, and what counts as cached is there."""
    counted = {name: cached(server, name) for name in FILES}
    store.stop()
    got = read(server)
    check_right_or_eio(got)
    for name, data in FILES.items():
        assert counted[name] <= len(data)
        if counted[name] == len(data):
            assert got[name] == RIGHT[name], f"{name} counts as cached and is not there"
    store.start()


FAULTS = {
    "short body": ("short_body", {"cut": 1}),
    "half a body": ("short_body", {"cut": 150_000}),
    "no body": ("short_body", {"cut": 300_000}),
    "length too great": ("wrong_length", {"delta": 5}),
    "length too small": ("wrong_length", {"delta": -5}),
    "500": ("status", {"code": 500, "error": "InternalError"}),
    "503": ("status", {"code": 503, "error": "SlowDown"}),
    "stall before headers": ("stall_headers", {}),
    "stall at once in the body": ("stall_body", {"after": 0}),
    "stall in the body": ("stall_body", {"after": 100_000}),
    "reset": ("reset", {}),
    "reset in the body": ("reset", {"after": 100_000}),
    "wrong Content-Range": ("wrong_range", {"shift": 100}),
    "Range ignored": ("ignore_range", {}),
    "no Content-Range": ("no_content_range", {}),
    "no length": ("no_length", {}),
    "wrong ETag": ("wrong_etag", {"etag": "feed"}),
    "no ETag": ("no_etag", {}),
    "redirect": ("redirect", {"location": "http://127.0.0.1:1/x"}),
    "redirect for ever": ("redirect", {"location": "/bkt/d/small", "code": 301}),
    "a page instead": ("body", {"data": b"<html>please log in</html>", "code": 200}),
    "nothing instead": ("body", {"data": b"", "code": 200}),
    "zeros instead": ("body", {"data": bytes(300_000), "code": 206}),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_fault(tarn, store, fault):
    kind, args = FAULTS[fault]
    server = start(tarn, store)
    local.listed(server, "d")
    rule = store.fail(kind, op="get", **args)
    check_right_or_eio(read(server))
    assert rule.struck, "the fault did not happen"
    check_kept(server, store)
    store.heal()
    got = util.wait_until("right bytes after the fault", lambda: (r := read(server)) == RIGHT and r,
                          15)
    assert got == RIGHT
    check_kept(server, store)


@pytest.mark.parametrize("code, error", [(500, "InternalError"), (503, "SlowDown"),
                                         (429, "TooManyRequests")])
def test_errors_that_pass(tarn, store, code, error):
    """n failures in a row are less than the retries: nobody sees them."""
    server = start(tarn, store, retries="5", timeout="10s")
    local.listed(server, "d")
    rules = [store.fail("status", op="get", key="d/small", times=3, code=code, error=error),
             store.fail("short_body", op="get", key="d/big", times=1, cut=7)]
    assert read(server) == RIGHT
    assert [rule.struck for rule in rules] == [3, 1]


def test_listing_that_fails_once(tarn, store):
    server = start(tarn, store, retries="3")
    store.fail("status", op="list", times=2, code=503)
    assert local.listed(server, "d") == ["big", "small"]


LIST_FAULTS = {
    "cut XML": ("body", {"data": b"<ListBucketResult><Contents><Key>d/x</Key>"}),
    "no XML": ("body", {"data": b"hello"}),
    "empty": ("body", {"data": b""}),
    "another document": ("body", {"data": b"<html><body>log in</body></html>"}),
    "no token": ("no_token", {}),
    "the same token": ("same_token", {}),
    "500": ("status", {"code": 500, "error": "InternalError"}),
    "stall": ("stall_headers", {}),
    "short": ("short_body", {"cut": 40}),
}


@pytest.mark.parametrize("fault", LIST_FAULTS)
def test_listing_fault(tarn, store, fault):
    kind, args = LIST_FAULTS[fault]
    server = start(tarn, store)
    rule = store.fail(kind, op="list", **args)
    begun = time.monotonic()
    done = util.run("ls", "-1", server.path("d"), seconds=45, check=False)
    took = time.monotonic() - begun
    assert rule.struck, "the fault did not happen"
    assert done.returncode != 0, f"a directory that could not be listed is shown: {done.stdout!r}"
    assert "Input/output error" in done.stderr
    assert took < 35
    store.heal()
    util.wait_until(
        "the listing",
        lambda: util.run("ls", "-1", server.path("d"), check=False).stdout == "big\nsmall\n", 20)
    assert read(server) == RIGHT


def test_credentials_do_not_follow_a_redirect(tarn, store, s3fault_factory, workdir):
    other = s3fault_factory()
    other.put(BKT, "d/small", bytes(len(SMALL)))
    secret = os.path.join(workdir, "secret")
    with open(secret, "w", encoding="ascii") as f:
        f.write("secret-of-the-first")
    server = tarn(
        f"s3://{BKT}", "-o", f"endpoint={store.endpoint},access-key=ak,secret-file={secret},"
        "timeout=2s,retries=1")
    local.listed(server, "d")
    rule = store.fail("redirect", op="get", location=f"{other.endpoint}/{BKT}/d/small")
    check_right_or_eio(read(server, ["d/small"]))
    assert rule.struck
    assert not any("authorization" in {k.lower() for k in r.headers} for r in other.requests())


# ---- objects that change ----

LONG = util.some_bytes(20 * MIB, "long")
LONG_NEW = util.some_bytes(20 * MIB, "new")


@pytest.mark.parametrize("honest", [True, False], ids=["If-Match", "If-Match ignored"])
@pytest.mark.parametrize("change", ["size", "time", "ETag", "ETag that is no MD5"])
def test_object_changes_while_it_is_read(tarn, store, honest, change):
    new = LONG_NEW if change != "size" else LONG_NEW[:-MIB]
    etags = ("0123-2", "4567-2") if "no MD5" in change else (None, None)
    now = int(time.time())
    store.put(BKT, "d/long", LONG, etag=etags[0], mtime=now - 5 if change == "time" else now)
    server = start(tarn, store, "--meta-ttl", "1s")
    if not honest:
        store.fail("ignore_if_match")
    fd = os.open(server.path("d/long"), os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)  # no read-ahead: later ranges are unread
        assert os.pread(fd, 64 << 10, 0) == LONG[:64 << 10]
        store.put(BKT, "d/long", new, etag=etags[1], mtime=now)
        eio = 0
        for offset in range(0, len(LONG), MIB):
            try:
                got = os.pread(fd, 256 << 10, offset)
            except OSError as e:
                assert e.errno == errno.EIO
                eio += 1
                continue
            assert got == LONG[offset:offset + (256 << 10)], f"mixed at {offset}"
        assert eio, "it had all been read before the change: this test showed nothing"
        assert os.pread(fd, 64 << 10, 0) == LONG[:64 << 10], "what was cached is gone"
        util.wait_until("the new version",
                        lambda: sums.read(server.mnt, ["d/long"], keep=True)["d/long"] == sha(new),
                        15, step=0.2)
    finally:
        os.close(fd)


@pytest.mark.parametrize("skip", [1, 2, 3])
def test_object_changes_between_two_ranges(tarn, store, skip):
    """The change happens between two requests of one reader."""
    store.put(BKT, "d/long", LONG)
    server = start(tarn, store, "--meta-ttl", "1s")
    local.listed(server, "d")
    rule = store.fail("change", op="get", key="d/long", skip=skip, times=1, data=LONG_NEW)
    got = sums.read(server.mnt, ["d/long"])["d/long"]
    assert rule.struck and got in (sha(LONG), sha(LONG_NEW), "EIO")
    util.wait_until("the new version", lambda: sums.read(server.mnt, ["d/long"])["d/long"] ==
                    sha(LONG_NEW), 15, step=0.2)


def test_object_goes_while_it_is_read(tarn, store):
    server = start(tarn, store, "--meta-ttl", "1s")
    with open(server.path("d/small"), "rb") as f:
        store.delete(BKT, "d/small")
        try:
            assert f.read() == SMALL
        except OSError as e:
            assert e.errno == errno.EIO
        util.wait_until("the end of the name", lambda: not os.path.exists(server.path("d/small")),
                        15, step=0.2)
    assert local.listed(server, "d") == ["big"]


# ---- a store that hangs ----

READERS = 500
_STALLED = """
import os, sys, threading
opened, ended = [], []
def one(i):
    try:
        fd = os.open(f"{sys.argv[1]}/s/{i:04d}", os.O_RDONLY)
        opened.append(i)
        os.read(fd, 65536)
    except OSError:
        pass
    ended.append(i)
threading.stack_size(256 << 10)
threads = [threading.Thread(target=one, args=(i,)) for i in range(int(sys.argv[2]))]
for t in threads: t.start()
import time
end = time.monotonic() + 60
while len(opened) < len(threads) and time.monotonic() < end: time.sleep(0.01)
print(len(opened), len(ended), flush=True)
sys.stdin.readline()
print(len(opened), len(ended), flush=True)
for t in threads: t.join()
"""


@pytest.fixture
def stalled(tarn, store):
    """A server with 500 reads of as many files under way that nobody answers."""
    for i in range(READERS):
        store.put(BKT, f"s/{i:04d}", b"x" * 1000)
    for i in range(100):
        store.put(BKT, f"k/{i:03d}", b"y" * 10)
    server = start(tarn, store, timeout="120s")
    assert len(local.listed(server, "s")) == READERS
    server.cli("ls", "/k")  # known to the master; the kernel has not seen them
    rule = store.fail("stall_headers", op="get")
    child = subprocess.Popen([sys.executable, "-c", _STALLED, server.mnt, str(READERS)],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                             start_new_session=True)
    try:
        assert child.stdout.readline().split() == [str(READERS), "0"]
        util.wait_until("stalled requests", lambda: rule.struck >= 8, 20)
        yield server, child
    finally:
        util.end_group(child)
        child.stdin.close()
        child.stdout.close()


def milliseconds(call, arguments):
    found = []
    for argument in arguments:
        begun = time.perf_counter()
        call(argument)
        found.append((time.perf_counter() - begun) * 1000)
    return sorted(found)


def check_quick(what, times):
    p95 = times[int(len(times) * 0.95)]
    assert statistics.median(times) < 50, f"{what}: {times}"
    assert p95 < 250, f"{what}: {times}"


def test_known_names_answer_while_reads_are_stalled(stalled):
    server, child = stalled
    check_quick("stat", milliseconds(os.stat, [server.path(f"k/{i:03d}") for i in range(50)]))
    check_quick("statfs", milliseconds(os.statvfs, [server.mnt] * 50))
    check_quick("listing", milliseconds(os.listdir, [server.path("k")] * 20))
    begun = time.monotonic()
    assert server.json("status")["mounts"][0]["path"] == "/"
    assert time.monotonic() - begun < 5
    child.stdin.write("\n")
    child.stdin.flush()
    assert child.stdout.readline().split() == [str(READERS),
                                               "0"], "the reads were not stalled all the time"


@pytest.mark.parametrize("way", ["SIGTERM", "umount --lazy"])
def test_ends_while_reads_are_stalled(stalled, way):
    server, child = stalled
    process, begun = server.process, time.monotonic()
    if way == "SIGTERM":
        process.send_signal(signal.SIGTERM)
    else:
        server.cli("umount", "--lazy", server.mnt, seconds=15)
        assert not util.mounted(server.mnt) and time.monotonic() - begun < 5
        os.killpg(child.pid, signal.SIGKILL)  # open files are served until they are closed
    try:
        code = process.wait(timeout=15)
    except subprocess.TimeoutExpired:
        pytest.fail(f"it runs after {time.monotonic() - begun:.0f} s\n{server.log_tail()}")
    server.process = None
    assert code == 0
    assert not util.mounted(server.mnt)
    if way == "SIGTERM":
        child.stdin.write("\n")
        child.stdin.flush()
        assert child.wait(timeout=10) == 0, "the readers got errors"


# ---- a store that is down ----

def errors(call, *args):
    """The name of the error, or None."""
    try:
        call(*args)
    except OSError as e:
        return errno.errorcode[e.errno]
    return None


def test_old_metadata_is_in_force_while_the_store_is_down(tarn, store):
    store.put(BKT, "never/seen/x", b"x")
    server = start(tarn, store, "--meta-ttl", "1s")
    assert local.listed(server, "d") == ["big", "small"]
    assert read(server) == RIGHT
    store.stop()
    end = time.monotonic() + 4
    while time.monotonic() < end:  # past the trust in what is known, and past the first failure
        begun = time.monotonic()
        assert local.listed(server, "d") == ["big", "small"]
        assert os.stat(server.path("d/small")).st_size == len(SMALL)
        assert time.monotonic() - begun < 2.5
    times = milliseconds(os.stat, [server.path("d/big"), server.path("d/small")] * 20)
    assert statistics.median(times) < 50, times
    assert read(server) == RIGHT, "cached bytes need no store"
    assert errors(os.stat, server.path("d/unknown")) == "EIO"
    assert errors(os.stat, server.path("unknown")) == "EIO"
    assert errors(os.stat, server.path("never/seen/x")) == "EIO"
    assert errors(os.listdir, server.path("never/seen")) == "EIO"
    mount = server.json("status")["mounts"][0]
    assert mount["files"] >= 2
    store.put(BKT, "d/new", b"new")
    store.start()
    util.wait_until("the new name", lambda: errors(os.stat, server.path("d/new")) is None, 20,
                    step=0.1)
    util.wait_until("the listing", lambda: local.listed(server, "d") == ["big", "new", "small"], 20,
                    step=0.1)
    assert errors(os.stat, server.path("d/unknown")) == "ENOENT"
    assert os.stat(server.path("never/seen/x")).st_size == 1


def test_start_without_the_store(tarn, store):
    server = start(tarn, store)
    assert local.listed(server, "d") == ["big", "small"]
    assert read(server) == RIGHT
    times = [os.stat(server.path(name)).st_mtime_ns for name in ("", "d")]
    assert server.stop() == 0
    store.stop()
    time.sleep(0.05)  # another start would have another time
    begun = time.monotonic()
    server.start()
    assert time.monotonic() - begun < 5
    assert local.listed(server, "d") == ["big", "small"]
    assert read(server) == RIGHT
    assert [os.stat(server.path(name)).st_mtime_ns for name in ("", "d")] == times


def test_deny_is_an_answer(tarn, store):
    """A 403 is obeyed: names that were known are not shown from memory."""
    server = start(tarn, store, "--meta-ttl", "1s")
    local.listed(server, "d")
    store.fail("status", code=403, error="AccessDenied")
    util.wait_until("the denial", lambda: errors(os.listdir, server.path("d")) in ("EACCES", "EIO"),
                    15, step=0.1)
    store.heal()
    util.wait_until("the listing", lambda: errors(os.listdir, server.path("d")) is None, 15,
                    step=0.1)
    assert read(server) == RIGHT


def test_error_names_store_object_and_reason(tarn, store):
    server = start(tarn, store)
    local.listed(server, "d")
    store.fail("status", op="get", code=500, error="InternalError")
    assert read(server, ["d/small"]) == {"d/small": "EIO"}
    log = util.wait_until("the log", lambda: "d/small" in server.log_tail() and server.log_tail(),
                          5)
    local.says(log, "d/small", "500", BKT)


# ---- a proxy ----

class ConnectProxy:
    """An HTTP proxy that knows CONNECT."""

    def __init__(self):
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.tunnels = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        with client:
            head = b""
            while b"\r\n\r\n" not in head:
                if not (data := client.recv(65536)):
                    return
                head += data
            assert head.startswith(b"CONNECT "), head
            self.tunnels.append(client)
            host, port = head.split()[1].decode().rsplit(":", 1)
            with socket.create_connection((host, int(port))) as other:
                client.sendall(b"HTTP/1.1 200 Connection established\r\n"
                               b"Content-Type: text/html\r\n\r\n")
                back = threading.Thread(target=self._copy, args=(other, client), daemon=True)
                back.start()
                self._copy(client, other)
                back.join()

    @staticmethod
    def _copy(source, sink):
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def cut(self):
        """Ends all tunnels; returns how many there were."""
        tunnels, self.tunnels = self.tunnels, []
        for client in tunnels:
            try:
                client.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it has ended already
        return len(tunnels)

    def close(self):
        self.socket.close()
        self.cut()


def test_tls_through_a_proxy(tarn, s3fault_factory, certificates):
    """The proxy's answer to CONNECT is not taken for the store's."""
    store = s3fault_factory(tls="good")
    for name, data in FILES.items():
        store.put(BKT, name, data)
    proxy = ConnectProxy()
    try:
        server = start(tarn, store, **{"tls-ca": certificates.ca, "proxy": proxy.url})
        assert local.listed(server, "d") == ["big", "small"]
        assert proxy.cut() > 0
        assert read(server) == RIGHT  # GET is the first request of its tunnel
        assert proxy.cut() > 0
        store.fail("status", code=403, error="AccessDenied")
        assert errors(os.stat, server.path("unknown")) == "EACCES"
    finally:
        proxy.close()


# ---- a directory that is not there for a while ----

@pytest.fixture
def bound(root, workdir):
    """A directory, and where it is mounted."""
    source, target = f"{workdir}/source", f"{workdir}/target"
    util.write_tree(source, FILES.items())
    os.makedirs(target)
    util.run("mount", "--bind", source, target)
    yield source, target
    util.unmount(target)


def test_served_file_system_is_unmounted(tarn, bound):
    """The empty directory below is not shown as if all files had been removed."""
    source, target = bound
    server = tarn(f"file://{target}", "--meta-ttl", "1s", "-o", "timeout=2s,retries=1")
    assert local.listed(server, "d") == ["big", "small"]
    assert read(server) == RIGHT
    util.run("umount", "-l", target)
    end = time.monotonic() + 3
    while time.monotonic() < end:
        assert local.listed(server, "d") == ["big", "small"]
        time.sleep(0.1)
    assert read(server) == RIGHT, "what is cached stays in force"
    assert errors(os.stat, server.path("unknown")) == "EIO"
    util.write_tree(source, [("d/new", b"new")])
    util.run("mount", "--bind", source, target)
    util.wait_until("the listing", lambda: local.listed(server, "d") == ["big", "new", "small"], 20,
                    step=0.1)
    assert errors(os.stat, server.path("unknown")) == "ENOENT"


def die(target):
    """Mounts a file system whose server is dead."""
    fd = os.open("/dev/fuse", os.O_RDWR)
    try:
        options = f"fd={fd},rootmode=40000,user_id=0,group_id=0".encode()
        libc = ctypes.CDLL(None, use_errno=True)
        rc = libc.mount(b"dead", os.fsencode(target), b"fuse", 0, options)
        assert rc == 0, os.strerror(ctypes.get_errno())
    finally:
        os.close(fd)


def test_dead_mount_in_a_served_directory(tarn, root, workdir):
    """Its name is left out; its directory stays readable."""
    served = f"{workdir}/served"
    util.write_tree(served, FILES.items())
    os.makedirs(f"{served}/d/dead")
    die(f"{served}/d/dead")
    try:
        assert errors(os.stat, f"{served}/d/dead") == "ENOTCONN"
        server = tarn(f"file://{served}", "-o", "timeout=2s,retries=1")
        assert local.listed(server, "d") == ["big", "small"]
        assert read(server) == RIGHT
        server.close()
    finally:
        util.unmount(f"{served}/d/dead")


def freeze(server):
    """SIGSTOP, in force in all threads: the kernel waits for ever for a request they still take."""
    pid = server.process.pid
    os.killpg(pid, signal.SIGSTOP)

    def stopped():
        states = []
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/stat", encoding="utf-8", errors="replace") as f:
                states.append(f.read().rsplit(")", 1)[1].split()[0])
        return set(states) == {"T"}

    util.wait_until("the stop of all threads", stopped, 10)


def test_served_file_system_hangs(tarn, workdir):
    """A dead file server costs those who ask it their timeout, and nobody else anything."""
    source = f"{workdir}/source"
    util.write_tree(source, FILES.items())
    util.write_tree(f"{source}/u", [(f"{i:02d}", b"u" * 10_000) for i in range(40)])
    nas = tarn(f"file://{source}")
    server = tarn(f"file://{nas.mnt}", "-o", "timeout=1s,retries=1")
    names = [f"u/{name}" for name in local.listed(server, "u")]
    assert len(names) == 40
    assert local.listed(server, "d") == ["big", "small"]
    assert read(server) == RIGHT
    server.restart()  # what is cached must be checked before it is given out
    freeze(nas)
    try:
        begun = time.monotonic()
        assert set(sums.read(server.mnt, names, threads=40).values()) == {"EIO"}
        assert time.monotonic() - begun < 25
        begun = time.monotonic()
        assert read(server) == RIGHT
        assert sorted(os.listdir(server.path("d"))) == ["big", "small"]
        assert time.monotonic() - begun < 5, "what is cached waits for the file server"
    finally:
        os.killpg(nas.process.pid, signal.SIGCONT)
    util.wait_until("files", lambda: set(sums.read(server.mnt, names, threads=40).values()) ==
                    {sha(b"u" * 10_000)}, 20)
    freeze(nas)
    try:
        assert errors(os.stat, server.path("unknown")) == "EIO"
        assert server.stop() == 0
    finally:
        os.killpg(nas.process.pid, signal.SIGCONT)


def test_file_server_is_gone_at_the_start(tarn, root, workdir):
    """What is known and cached of a directory is there though its file system died."""
    target = f"{workdir}/target"
    os.makedirs(target)
    source = f"{workdir}/source"
    util.write_tree(source, FILES.items())
    util.run("mount", "--bind", source, target)
    server = tarn(f"file://{target}", "-o", "timeout=1s,retries=1")
    try:
        assert local.listed(server, "d") == ["big", "small"]
        assert read(server) == RIGHT
        assert server.stop() == 0
        util.unmount(target)
        die(target)
        server.start()
        assert local.listed(server, "d") == ["big", "small"]
        assert read(server) == RIGHT
        assert errors(os.stat, server.path("unknown")) == "EIO"
        assert server.stop() == 0
    finally:
        util.unmount(target)


def test_file_server_hangs_at_the_start(tarn, workdir):
    """Not even the name of the directory can be asked for: what is known is there, or a reason."""
    source = f"{workdir}/source"
    util.write_tree(f"{source}/s", FILES.items())
    nas = tarn(f"file://{source}")
    served = f"file://{nas.mnt}/s"
    server = tarn(served, "-o", "timeout=1s,retries=1")
    assert local.listed(server, "d") == ["big", "small"]
    assert read(server) == RIGHT
    assert server.stop() == 0
    nas.restart()  # the kernel knows nothing of it now
    freeze(nas)
    try:
        begun = time.monotonic()
        server.start()
        assert local.listed(server, "d") == ["big", "small"]
        assert read(server) == RIGHT
        assert errors(os.stat, server.path("unknown")) == "EIO"
        assert server.stop() == 0
        assert time.monotonic() - begun < 40
        begun = time.monotonic()
        os.makedirs(f"{workdir}/other")
        done = util.run(binary(), "local", served, f"{workdir}/other", "--cache-dir",
                        f"{workdir}/other-cache", "-o", "timeout=1s,retries=1", check=False)
        assert (done.returncode, served in done.stderr) == (4, True), done.stderr
        assert time.monotonic() - begun < 40
    finally:
        os.killpg(nas.process.pid, signal.SIGCONT)


def test_times_of_files(tarn, workdir):
    """1970 is a time like any other."""
    served = f"{workdir}/served"
    util.write_tree(served, FILES.items())
    os.utime(f"{served}/d/small", (0, 0))
    os.utime(f"{served}/d/big", ns=(0, -1_500_000_000))
    os.utime(f"{served}/d", (0, 0))
    server = tarn(f"file://{served}")
    for name in ("d", "d/small", "d/big"):
        want, got = os.stat(f"{served}/{name}"), os.stat(server.path(name))
        assert (name, got.st_mtime_ns) == (name, want.st_mtime_ns)
