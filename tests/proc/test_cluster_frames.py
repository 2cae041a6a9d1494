# SPDX-License-Identifier: Apache-2.0
"""What strangers and broken peers say to the ports of a master and of a worker: refused, bounded,
and no trouble for others."""
import contextlib
import os
import secrets
import struct
import subprocess
import sys
import time

import pytest

from tests.lib import frames, util
from tests.lib.cluster import BKT
from tests.lib.frames import Connection
from tests.lib.local import NOBODY
from tests.lib.tarn import ROOT, binary
from tests.lib.verify import Content

AUTH_REQUIRED, AUTH_BAD, CAP_BAD, CAP_EXPIRED, VERSION = 1060, 1061, 1062, 1063, 1051
ROLES = ("master", "worker")


@pytest.fixture
def served(cluster):
    """(cluster, content) of one worker with everything cached."""
    content = Content({"f": 300_000, "g": 5000})
    c = cluster(start=False, workers=1, mounts=1)
    content.put(c.store, BKT)
    c.start()
    c.load("/")
    return c, content


def target(c, role):
    """(part, address, token) of a listener."""
    part = c.master if role == "master" else c.workers[0]
    return part, c.address if role == "master" else part.addr, frames.token_of(c.token_file)


def locator(c, path):
    """The encoded Locator of a path, and a capability, as a mount gets them."""
    _, address, token = target(c, "master")
    with Connection(c.master.host, address, token) as k:
        session = k.call(frames.SESSION_OPEN, {1: "mount", 2: "/test", 3: "test", 4: os.getpid()})
        assert session.status == 0
        capability = frames.parse(session.body)[2][0]
        attr = k.call(frames.RESOLVE, {1: path}, capability)
        assert attr.status == 0
        ino = frames.parse(frames.parse(attr.body)[1][0])[1][0]
        located = k.call(frames.LOCATE, {1: ("fixed64", ino)}, capability)
        assert located.status == 0
        return frames.parse(located.body)[1][0], capability


def read(k, where, capability, length=4096):
    return k.call(frames.READ, {1: where, 2: 0, 3: length}, capability)


def good_call(c, role, content):
    """A function that makes one call of a good client and checks its answer."""
    part, address, token = target(c, role)
    where, capability = locator(c, "/f")
    k = Connection(part.host, address, token)
    assert k.welcome.status == 0

    def call():
        if role == "master":
            assert k.call(frames.RESOLVE, {1: "/f"}, capability).status == 0
        else:
            got = read(k, where, capability)
            assert got.status == 0 and got.payload[:4096] == content.data("f", 1, 0, 4096)

    call()
    return k, call


def p99(call, count=400):
    times = []
    for _ in range(count):
        begun = time.monotonic()
        call()
        times.append(time.monotonic() - begun)
    return sorted(times)[int(count * 0.99)]


def bad_frames():
    """{name: bytes} that end a connection which is through the handshake."""
    body = frames.message({1: "/f"})
    good = frames.frame(frames.REQUEST, 1, frames.RESOLVE, body)
    flipped = bytearray(good)
    flipped[20] ^= 1
    wrong_sum = bytearray(good)
    wrong_sum[-1] ^= 1
    return {
        "another magic": frames.frame(frames.REQUEST, 1, frames.RESOLVE, body, magic=0x12345678),
        "a flipped bit in the header": bytes(flipped),
        "a flipped bit in the body": bytes(wrong_sum),
        "another version": frames.frame(frames.REQUEST, 1, frames.RESOLVE, body, version=99),
        "an unknown type": frames.frame(77, 1, frames.RESOLVE, body),
        "a body over the limit": frames.header(frames.REQUEST, 1, frames.RESOLVE, lengths=((1 << 20) + 1, 0, 0)),
        "a payload over the limit": frames.header(frames.REQUEST, 1, frames.READ, lengths=(0, (8 << 20) + 1, 0)),
        "meta over the limit": frames.header(frames.REQUEST, 1, frames.READ, lengths=(0, 0, 4097)),
        "lengths of all ones": frames.header(frames.REQUEST, 1, frames.READ, lengths=(0xffffffff,) * 3),
        "a welcome from a client": frames.frame(frames.WELCOME, 1),
        "noise": secrets.token_bytes(500),
    }


def test_what_is_no_frame_ends_that_connection_only(served):
    c, content = served
    good = {role: good_call(c, role, content) for role in ROLES}
    memory = {role: target(c, role)[0].rss() for role in ROLES}
    with contextlib.ExitStack() as stack:
        talking = []
        for role in ROLES:
            part, address, token = target(c, role)
            for name, data in bad_frames().items():
                for shaken in (True, False):
                    k = stack.enter_context(Connection(part.host, address, token if shaken else None))
                    k.send(data)
                    talking.append((f"{role}: {name}, {'after' if shaken else 'before'} the handshake", k))
                good[role][1]()
        for name, k in talking:  # one that was told why has a moment to go by itself
            assert k.ended(15), f"{name}: the connection goes on"
    for role in ROLES:
        part = target(c, role)[0]
        assert part.rss() - memory[role] < 64 << 20, "it took memory for what was only announced"
        assert util.alive(part.pid)
        good[role][0].close()


@pytest.mark.parametrize("role", ROLES)
def test_truncated_frames(served, role):
    c, content = served
    part, address, token = target(c, role)
    good, call = good_call(c, role, content)
    data = frames.frame(frames.REQUEST, 1, frames.RESOLVE, frames.message({1: "/f"}), b"x" * 5000)
    for length in (1, 4, 55, 56, 57, 60, len(data) - 1):
        with Connection(part.host, address, token) as k:
            k.send(data[:length])
    call()
    assert util.alive(part.pid)
    good.close()


def test_a_handshake_cannot_be_replayed(served):
    c, _ = served
    with contextlib.ExitStack() as stack:
        replayed, naked = [], []
        for role in ROLES:
            part, address, token = target(c, role)
            with Connection(part.host, address, token) as k:
                k.call(frames.STATUS)
                hello, proof = k.handshake[0], k.handshake[1]
                request = frames.frame(frames.REQUEST, 1, frames.STATUS, meta=frames.message({1: 0, 2: 0}))
            k = stack.enter_context(Connection(part.host, address))
            k.send(hello)
            k.receive(frames.CHALLENGE)
            k.send(proof + request)
            assert k.receive(frames.WELCOME).status == AUTH_BAD, role
            replayed.append(k)
            k = stack.enter_context(Connection(part.host, address))  # no handshake at all
            k.send(request)
            naked.append(k)
        for k in replayed:  # those that were told why have a moment to go by themselves
            with pytest.raises((frames.Closed, TimeoutError)):
                k.receive(frames.RESPONSE)
        for k in naked:
            assert k.ended()


def test_versions_and_tokens_that_do_not_fit(served):
    c, _ = served
    with contextlib.ExitStack() as stack:
        talking = []
        for role in ROLES:
            part, address, token = target(c, role)
            for wrong in (b"", b"x", token[:-1], token + b"x", secrets.token_hex(32).encode()):
                with Connection(part.host, address, wrong) as k:
                    assert k.welcome.status == AUTH_BAD, (role, wrong)
            k = stack.enter_context(Connection(part.host, address))
            k.send(frames.frame(frames.HELLO, body=frames.message({1: 50, 2: 60, 4: os.urandom(32)})))
            with contextlib.suppress(frames.Closed):
                assert k.receive().status == VERSION, role
            talking.append(k)
        for k in talking:
            assert k.ended(40)


def test_a_capability_that_was_altered_opens_nothing(served):
    c, content = served
    part, address, token = target(c, "worker")
    where, capability = locator(c, "/f")
    with Connection(part.host, address, token) as k:
        got = read(k, where, capability)
        assert got.status == 0 and got.payload[:4096] == content.data("f", 1, 0, 4096)
        for at in range(len(capability)):
            altered = bytearray(capability)
            altered[at] ^= 1
            got = read(k, where, bytes(altered))
            assert got.status != 0 and not got.payload, f"byte {at} may be another"
        for wrong in (None, b"", b"\x0a\x00", capability[:-1], capability[1:]):
            got = read(k, where, wrong)
            assert got.status != 0 and not got.payload, wrong
        assert read(k, where, capability).status == 0


def test_the_capability_of_another_cluster_opens_nothing(served, cluster):
    c, _ = served
    other = cluster(workers=1, mounts=0)
    Content({"f": 1000}).put(other.store, BKT)
    _, theirs = locator(other, "/f")
    part, address, token = target(c, "worker")
    where, ours = locator(c, "/f")
    with Connection(part.host, address, token) as k:
        assert read(k, where, theirs).status in (CAP_BAD, CAP_EXPIRED)
        assert read(k, where, ours).status == 0


def test_another_user_gets_nowhere(served, workdir):
    c, _ = served
    guess = os.path.join(workdir, "guess")
    with open(os.open(guess, os.O_WRONLY | os.O_CREAT, 0o600), "w", encoding="ascii") as f:
        f.write(secrets.token_hex(32))
    os.chown(guess, NOBODY, NOBODY)
    home = os.path.join(workdir, "home")
    os.makedirs(f"{home}/mnt")
    for path in (home, f"{home}/mnt"):
        os.chown(path, NOBODY, NOBODY)
    commands = [["status"], ["ls", "/"], ["cat", "/f"], ["worker", "ls"], ["worker", "drain", "1"], ["mounts"],
                ["detach", "/"], ["attach", "s3://x", "/x"], ["load", "/"],
                ["worker", "--tier", f"SSD:{home}/tier:1GiB", "--listen", "127.0.0.1:0"],
                ["mount", f"{home}/mnt"]]
    for command in commands:
        for token in (guess, c.token_file):
            done = subprocess.run(
                ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", binary(), *command,
                 "--master", c.address, "--token-file", token], stdin=subprocess.DEVNULL, cwd="/",
                capture_output=True, text=True, timeout=30, check=False,
                env={"HOME": home, "PATH": os.environ["PATH"]})
            assert done.returncode == 5, f"{command} with {token}: {done}"
    assert len(c.status()["workers"]) == 1 and c.attached() == ["/"]
    assert os.listdir(f"{home}/mnt") == []


class Crowd:
    """Clients beside the test: a process of tests/lib/crowd.py."""

    def __init__(self, c, address, mode, count):
        self.mode, self.cut = mode, None
        self.process = subprocess.Popen(
            [sys.executable, os.path.join(ROOT, "tests/lib/crowd.py"), address, c.token_file, mode, str(count)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)

    def __enter__(self):
        if self.process.stdout.readline() != "on\n":
            self.__exit__()
            raise AssertionError(f"{self.mode}: the crowd did not come together")
        return self

    def wait_cut(self):
        """Returns when the server has ended one."""
        assert self.process.stdout.readline().startswith("cut "), f"{self.mode}: the crowd has ended"

    def leave(self):
        """They go; returns how many the server had ended before."""
        self.process.stdin.close()
        last = self.process.stdout.readlines()[-1].split()
        assert self.process.wait(timeout=30) == 0 and last[0] == "cut", (self.mode, last)
        return int(last[1])

    def __exit__(self, *_):
        util.end_group(self.process)
        self.process.stdin.close()
        self.process.stdout.close()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("role", ROLES)
def test_a_crowd_does_not_slow_a_good_client(served, role):
    """10,000 that idle, who are kept, and 500 that send a byte per second or say nothing, who are cut."""
    c, content = served
    part, address, _ = target(c, role)
    good, call = good_call(c, role, content)
    alone = p99(call)
    memory = part.rss()
    with Crowd(c, address, "slow", 300) as slow, Crowd(c, address, "strange", 200) as strange, \
            Crowd(c, address, "idle", 10_000) as idle:
        assert open_sockets(part) >= 10_000
        p99(call, 50)  # what accepting them still costs
        beside = p99(call)
        assert beside <= 3 * max(alone, 0.005), f"{alone * 1e3:.1f} ms alone, {beside * 1e3:.1f} ms beside"
        each = (part.rss() - memory) / 10_500
        assert each < 64 << 10, f"{each:.0f} bytes of memory per connection"
        if role == "worker":
            assert content.wrong("f", 1, 0, c.mounts[0].read("f")) is None
        assert c.states()
        strange.wait_cut()
        if role == "master":  # the time that a frame has is half a minute, and the same at each port
            slow.wait_cut()
        assert open_sockets(part) >= 10_000
        assert idle.leave() == 0, "who answers was cut"
    util.wait_until("its end of them", lambda: open_sockets(part) < 1000, 60, 0.2)
    call()
    good.close()


def open_sockets(part):
    found = 0
    for fd in os.listdir(f"/proc/{part.pid}/fd"):
        with contextlib.suppress(OSError):
            found += os.readlink(f"/proc/{part.pid}/fd/{fd}").startswith("socket:")
    return found


def test_requests_without_sense(served):
    """Bodies of other messages, garbage, numbers of no call: answered with an error, and only that."""
    c, content = served
    for role in ROLES:
        part, address, token = target(c, role)
        good, call = good_call(c, role, content)
        _, capability = locator(c, "/f")
        with Connection(part.host, address, token) as k:
            for method in (*range(0, 120), 200, 201, 202, 0xffffffff):
                for body in (b"", b"\xff" * 40, struct.pack("<Q", 1) * 20):
                    if (method, body) in HARMLESS or method in (81, 82):
                        continue
                    k.next_id += 1
                    k.send(frames.frame(frames.REQUEST, k.next_id, method, body,
                                        meta=frames.message({1: 0, 2: 0, 4: capability})))
                    k.receive(frames.RESPONSE, k.next_id)
        call()
        good.close()
        assert util.alive(part.pid)
    assert len(c.status()["workers"]) == 1 and c.attached() == ["/"]
    assert content.wrong("g", 1, 0, c.mounts[0].read("g")) is None


# An empty request that is a good one, and starts something.
HARMLESS = {(70, b""), (75, b"")}
