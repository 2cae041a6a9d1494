# SPDX-License-Identifier: Apache-2.0
"""The rigs of clusters themselves: hosts are apart, and each of their faults bites and ends."""
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from tests.lib import netns, util
from tests.lib.netns import Freezer
from tests.lib.tarn import ROOT

PORT = 4000
OUTSIDE = os.readlink("/proc/thread-self/ns/net")


@pytest.fixture
def pair(network):
    """Two hosts, the second with an echo server (UDP and TCP) on PORT."""
    a, b = network.host("a"), network.host("b")
    echo = Echo(b)
    yield a, b
    echo.close()


class Echo:
    """Answers on one host; the sockets stay in its namespace whatever thread uses them."""

    def __init__(self, host):
        with host.inside():
            self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self.udp.bind((host.address, PORT))
            self.tcp = socket.create_server((host.address, PORT))
        for target in (self._serve_udp, self._serve_tcp):
            threading.Thread(target=target, daemon=True).start()

    def _serve_udp(self):
        try:
            while True:
                data, who = self.udp.recvfrom(2000)
                if not data:
                    return  # shut down
                try:
                    self.udp.sendto(data, who)
                except OSError:
                    pass  # the host may not send now
        except OSError:
            pass

    def _serve_tcp(self):
        try:
            while True:
                connection = self.tcp.accept()[0]
                threading.Thread(target=self._serve_one, args=(connection,), daemon=True).start()
        except OSError:
            pass

    @staticmethod
    def _serve_one(connection):
        try:
            with connection:
                while data := connection.recv(1 << 16):
                    connection.sendall(data)
        except OSError:
            pass

    def close(self):
        for s in (self.udp, self.tcp):
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            s.close()


def pings(source, target, count=100, wait=0.5):
    """Datagrams there and back: the order in which they came, and the milliseconds of the quickest."""
    with source.inside():
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    order, times, sent = [], [], {}
    with s:
        s.settimeout(wait)
        for i in range(count):
            sent[i] = time.monotonic()
            try:
                s.sendto(b"%d" % i, (target.address, PORT))
            except PermissionError:
                pass  # nothing may go out
            time.sleep(0.0005)
        try:
            while len(order) < count:
                order.append(int(s.recv(100)))
                times.append((time.monotonic() - sent[order[-1]]) * 1000)
        except TimeoutError:
            pass
    return order, min(times, default=None)


def connect(source, target, timeout=5):
    with source.inside():
        return socket.create_connection((target.address, PORT), timeout)


def say(connection, data=b"hello"):
    connection.sendall(data)
    got = b""
    while len(got) < len(data):
        piece = connection.recv(1 << 16)
        assert piece, "closed"
        got += piece
    return got


def test_hosts_are_apart_and_reach_each_other(pair, network):
    a, b = pair
    assert a.run("hostname").stdout == "a\n" and b.run("hostname").stdout == "b\n"
    assert a.address != b.address and a.address in a.run("ip", "-4", "addr").stdout
    assert sorted(pings(a, b)[0]) == list(range(100))
    assert os.readlink("/proc/thread-self/ns/net") == OUTSIDE
    assert network.prefix not in util.run("ip", "-4", "addr").stdout  # nothing of it is out here
    assert say(connect(network.bridge, b)) == b"hello"
    process = a.popen(["sleep", "1000"])
    there = os.readlink(f"/proc/{a.holder.pid}/ns/net")
    util.wait_until("it is inside", lambda: os.readlink(f"/proc/{process.pid}/ns/net") == there, 5)
    network.close()
    assert process.wait(timeout=5) == -signal.SIGKILL


def test_a_session_that_dies_leaves_nothing(root):
    code = """
        import os
        from tests.lib.netns import Network
        host = Network().host("a")
        child = host.popen(["sleep", "1000"])
        print(host.holder.pid, child.pid, flush=True)
        os._exit(1)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, check=False,
                          capture_output=True, text=True, timeout=60, env=dict(os.environ))
    pids = [int(p) for p in done.stdout.split()]
    assert len(pids) == 2, done.stderr
    util.wait_until("their end", lambda: not any(util.alive(p) for p in pids), 10)


def test_partition_is_silent_in_both_directions_and_ends(pair):
    a, b = pair
    kept = connect(a, b)
    assert say(kept) == b"hello"
    for cut in (a, b):
        cut.partition()
        assert pings(a, b)[0] == [] and pings(b, b)[0] != []
        with pytest.raises(TimeoutError):
            connect(a, b, 0.5)
        cut.heal()
        util.wait_until("datagrams", lambda: len(pings(a, b, 5)[0]) == 5, 10)
    kept.settimeout(20)
    assert say(kept) == b"hello"


def test_partition_from_one_peer(pair, network):
    a, b = pair
    third = network.host("third")
    b.partition(a.address)
    assert pings(a, b)[0] == [] and len(pings(third, b)[0]) == 100
    b.heal()
    assert len(pings(a, b)[0]) == 100


def test_reset_ends_connections_and_refuses_new_ones(pair):
    a, b = pair
    for cut in (a, b):
        kept = connect(a, b)
        assert say(kept) == b"hello"
        cut.reset()
        with pytest.raises(ConnectionResetError):
            say(kept)
        begun = time.monotonic()
        with pytest.raises(ConnectionError):
            connect(a, b)
        assert time.monotonic() - begun < 2
        cut.heal()
        assert say(connect(a, b)) == b"hello"


def test_loss_loses_about_as_much_as_it_says(pair):
    a, b = pair
    a.loss(20)
    came = sum(len(pings(a, b, 100, 0.1)[0]) for _ in range(10))
    assert 500 < came < 780  # 64 % come through both ways; the bounds are 9 standard deviations off
    assert say(connect(a, b, 20), b"x" * 200_000) == b"x" * 200_000
    a.heal()
    assert len(pings(a, b)[0]) == 100


def test_delay_and_order(pair):
    a, b = pair
    b.delay(30)
    order, quickest = pings(a, b)
    assert order == list(range(100)) and quickest >= 30
    b.delay(30, 20)
    order, quickest = pings(a, b)
    assert sorted(order) == list(range(100)) and order != sorted(order) and quickest >= 10
    assert say(connect(a, b, 20), b"x" * 500_000) == b"x" * 500_000
    b.delay(0, 0, 50)
    assert 10 < len(pings(a, b)[0]) < 90
    b.heal()
    assert len(pings(a, b)[0]) == 100


def test_bandwidth(pair):
    a, b = pair
    data = b"x" * (4 << 20)
    connection = connect(a, b, 30)
    a.bandwidth("20mbit")
    begun = time.monotonic()
    sender = threading.Thread(target=connection.sendall, args=(data,))
    sender.start()
    got = 0
    while got < len(data):
        got += len(connection.recv(1 << 16))
    sender.join()
    assert time.monotonic() - begun > 0.8  # 32 Mbit, of which 8 Mbit are let through in one go
    assert a.run("tc", "qdisc", "show", "dev", netns.IFACE).stdout.startswith("qdisc tbf")
    a.bandwidth(None)
    assert "tbf" not in a.run("tc", "qdisc", "show", "dev", netns.IFACE).stdout


def test_a_store_on_a_host(network, s3fault_factory):
    """It listens there and nowhere else, and what happens to that host happens to it."""
    store = s3fault_factory(host=network.host("store"))
    client = network.host("client")
    store.put("bkt", "k", b"x" * 50_000)

    def get(seconds=10):
        return client.run("curl", "-s", "-m", seconds, "-o", "/dev/null", "-w", "%{http_code} %{size_download}",
                          f"{store.endpoint}/bkt/k", check=False).stdout

    assert get() == "200 50000" and store.endpoint.split("//")[1].startswith(store.host.address)
    store.host.partition()
    assert get(1) == "000 0"
    store.host.heal()
    assert get() == "200 50000"
    store.stop()
    assert get() == "000 0"
    store.start()
    assert get() == "200 50000" and [r.sent for r in store.requests("get")] == [50_000] * 3


# ---- processes ----

COUNTER = ["sh", "-c", "i=0; while :; do i=$((i+1)); echo $i; sleep 0.01; done"]


def counts(process, seconds):
    """Lines that a process printed within a time."""
    os.set_blocking(process.stdout.fileno(), False)
    end, lines = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        lines += (process.stdout.read() or b"").count(b"\n")
        time.sleep(0.01)
    return lines


@pytest.fixture
def counter():
    process = subprocess.Popen(COUNTER, stdout=subprocess.PIPE, start_new_session=True, bufsize=0)
    yield process
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()


def test_pause_and_go_on(counter):
    assert counts(counter, 0.3) > 0
    netns.pause(counter.pid)
    counts(counter, 0.1)
    assert counts(counter, 0.3) == 0
    netns.go_on(counter.pid)
    assert counts(counter, 0.5) > 0


def test_freezer(root, counter):
    freezer = Freezer(counter.pid)
    try:
        freezer.freeze()
        counts(counter, 0.1)
        assert counts(counter, 0.3) == 0
        freezer.thaw()
        assert counts(counter, 0.5) > 0
    finally:
        freezer.close()
    assert not os.path.exists(freezer.root)


def test_clock_shift():
    code = "import time; print(time.time(), time.monotonic())"

    def clocks(shift):
        env = {**os.environ, **netns.clock_shift(shift)}
        return [float(n) for n in util.run("/usr/bin/python3", "-c", code, env=env).stdout.split()]

    for shift in (600, -600):
        wall, monotonic = clocks(shift)
        assert abs(wall - time.time() - shift) < 30 and abs(monotonic - time.monotonic()) < 30
    assert abs(int(util.run("date", "+%s", env={**os.environ, **netns.clock_shift(600)}).stdout) -
               time.time() - 600) < 30
