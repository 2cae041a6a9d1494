# SPDX-License-Identifier: Apache-2.0
"""Hosts for clusters in tests: network namespaces with addresses of their own, joined by a bridge.

    with Network() as network:
        a, b = network.host("a"), network.host("b")
        server = a.popen(["nc", "-l", a.address, "80"])
        a.partition()      # nothing in or out, until a.heal()

A host has a host name of its own too. Nothing of it is seen from the machine's own network: the
namespaces have no names, and each is held by a process that ends with this one, however it ends,
and then kills whatever runs inside. Only root may make them.

Faults of a host: partition, reset, loss, delay (jitter reorders), bandwidth; heal() ends them all.
Of processes: stop and go on (pause, go_on), Freezer, and a wall clock that is wrong (clock_shift).
"""
import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import tempfile

from tests.lib import util
from tests.lib.tarn import binary

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
IFACE = "eth0"

# Ends when its standard input does, and takes everything with it that runs in its namespace.
_HOLD = """
hostname "$0" && ip link set lo up && echo on && cat >/dev/null
while :; do
    left=0
    for p in /proc/[0-9]*; do
        if [ "${p#/proc/}" != $$ ] && [ "$p/ns/net" -ef /proc/$$/ns/net ]; then
            kill -9 "${p#/proc/}" && left=1
        fi
    done 2>/dev/null
    [ $left = 0 ] && break
done
"""


def rig_program(name):
    """A program of tests/lib, from the build that the tested binary is of."""
    path = os.path.join(os.path.dirname(os.path.realpath(binary())), "tests/lib", name)
    assert os.path.exists(path), f"{path}: build it first"
    return path


class Here:
    """The machine itself, with the methods of a Host that need no namespace."""

    name, address = "here", util.LOOPBACK

    def command(self, argv):
        return [str(a) for a in argv]

    def popen(self, argv, **kwargs):
        """Start a process in a session of its own; its pid is the process's."""
        kwargs = {"stdin": subprocess.DEVNULL, "start_new_session": True, **kwargs}
        return subprocess.Popen(self.command(argv), **kwargs)

    def run(self, *argv, **kwargs):
        """Run a command to its end, as util.run() does."""
        return util.run(*self.command(argv), **kwargs)

    @contextlib.contextmanager
    def inside(self):
        """What this thread connects to and listens on meanwhile, it does on this host."""
        yield self


class Host(Here):
    """One namespace. Made by Network.host(); every fault is of this host alone."""

    def __init__(self, name, address, port=None):
        """port: its end of the cable in the bridge's namespace."""
        self.name, self.address, self.port = name, address, port
        self.names = None     # what its programs find in /etc/hosts, once a file was given
        self.queue = None     # the process that delays
        self.shaped = False
        self.holder = subprocess.Popen(["unshare", "--net", "--uts", "sh", "-c", _HOLD, name],
                                       stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                       start_new_session=True)
        assert self.holder.stdout.readline() == b"on\n", f"{name}: no namespace"
        self.netns = os.open(f"/proc/{self.holder.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self.run("sh", "-c", "for f in /proc/sys/net/ipv6/conf/*/disable_ipv6; do echo 1 >$f; done")

    def command(self, argv):
        """Run by nsenter, which becomes the program: the pid stays. With names, in a mount namespace of
        its own: nobody else sees what it mounts but by /proc/PID/root."""
        ns = f"/proc/{self.holder.pid}/ns"
        own = ["unshare", "--mount", "--propagation", "slave", "sh", "-c",
               'mount --bind "$0" /etc/hosts && exec "$@"', self.names] if self.names else []
        return ["nsenter", f"--net={ns}/net", f"--uts={ns}/uts", "--", *own, *map(str, argv)]

    def readdress(self, address):
        """It has another address from now on, and the old one no more."""
        self.run("ip", "addr", "del", f"{self.address}/24", "dev", IFACE)
        self.run("ip", "addr", "add", f"{address}/24", "dev", IFACE)
        self.address = address

    @contextlib.contextmanager
    def inside(self):
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _setns(self.netns)
            yield self
        finally:
            _setns(before)
            os.close(before)

    def close(self):
        """Everything that runs here ends, and the namespace with it."""
        if self.netns < 0:
            return
        self._end_queue()
        self.holder.stdin.close()
        try:
            self.holder.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.holder.kill()
            self.holder.wait()
        self.holder.stdout.close()
        os.close(self.netns)
        self.netns = -1

    # ---- faults ----

    def _fault(self, *args):
        self._end_queue()
        self.run(rig_program("netfault"), IFACE, *args)

    def _end_queue(self):
        if self.queue:
            self.queue.kill()
            self.queue.wait()
            self.queue.stdout.close()
            self.queue = None

    def partition(self, *peer):
        """Nothing comes in and nothing goes out; with a peer, its address: of that host."""
        self._fault("partition", *peer)

    def reset(self, *peer):
        """Each TCP packet, in or out, is answered with a reset."""
        self._fault("reset", *peer)

    def loss(self, percent):
        """So many packets are lost on their way in, and as many on their way out."""
        self._fault("loss", percent)

    def delay(self, ms, jitter_ms=0, loss=0):
        """Packets come in so much later; jitter puts them out of order."""
        self._end_queue()
        self.queue = self.popen([rig_program("netfault"), IFACE, "delay", ms, jitter_ms, loss],
                                stdout=subprocess.PIPE)
        assert self.queue.stdout.readline() == b"on\n", f"{self.name}: no queue"

    def bandwidth(self, rate):
        """No more than that in either direction, as tc says it: "8gbit"; None ends it."""
        ends = [(self, IFACE)] + ([self.port] if self.port else [])
        for host, iface in ends:
            if self.shaped:
                host.run("tc", "qdisc", "del", "dev", iface, "root")
            if rate:
                host.run("tc", "qdisc", "add", "dev", iface, "root", "tbf", "rate", rate, "burst",
                         "1mb", "latency", "20ms")
        self.shaped = bool(rate)

    def heal(self):
        """No packet is touched any more. What bandwidth() set stays."""
        self._fault("clear")


class Network:
    """A bridge in a namespace of its own, with an address where test and stores can be reached."""

    def __init__(self, prefix="10.77.0"):
        self.prefix, self.hosts = prefix, []
        self.bridge = Host("bridge", f"{prefix}.1")
        try:
            self.bridge.run("ip", "link", "add", "br0", "type", "bridge", "forward_delay", "0")
            self.bridge.run("ip", "addr", "add", f"{self.bridge.address}/24", "dev", "br0")
            self.bridge.run("ip", "link", "set", "br0", "up")
        except BaseException:
            self.bridge.close()
            raise

    def host(self, name):
        number = len(self.hosts) + 2
        cable = f"p{number}"
        host = Host(name, f"{self.prefix}.{number}", (self.bridge, cable))
        self.hosts.append(host)
        self.bridge.run("ip", "link", "add", cable, "type", "veth", "peer", "name", IFACE, "netns",
                        host.holder.pid)
        self.bridge.run("ip", "link", "set", cable, "master", "br0", "up")
        host.run("ip", "addr", "add", f"{host.address}/24", "dev", IFACE)
        host.run("ip", "link", "set", IFACE, "up")
        with host.inside():
            util.wait_until(f"{name}: the bridge", self._answers, 10)
        return host

    def _answers(self):
        """A port without a listener refuses; before the cable is up nothing does."""
        with socket.socket() as s:
            s.settimeout(0.5)
            try:
                s.connect((self.bridge.address, 9))
            except ConnectionRefusedError:
                return True
            except OSError:
                return False
        return True

    def close(self):
        for host in reversed(self.hosts):
            host.close()
        self.hosts.clear()
        self.bridge.close()

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.close()


def _setns(fd):
    if _libc.setns(fd, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


# ---- faults of processes ----

def pause(pid):
    """SIGSTOP; returns when the process stands."""
    os.kill(pid, signal.SIGSTOP)
    util.wait_until(f"{pid} stands", lambda: _state(pid) in "Tt", 10)


def go_on(pid):
    os.kill(pid, signal.SIGCONT)


def _state(pid):
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as f:
        return f.read().rsplit(")", 1)[1].split()[0]


class Freezer:
    """Processes that hang in the kernel, as on a host that is stuck. By cgroup v2, mounted here for it: a kernel has it
    also where the host shows v1 alone."""

    def __init__(self, pid):
        self.pid = pid
        self.root = tempfile.mkdtemp(prefix="tarn-test-cgroup-")
        self.group = f"{self.root}/tarn-test-{os.getpid()}-{pid}"
        util.run("mount", "-t", "cgroup2", "none", self.root)
        self.home = self._home()
        self._remove_dead()
        os.mkdir(self.group)
        self._move(self.group)

    def _home(self):
        """The group that the process is of."""
        with open(f"/proc/{self.pid}/cgroup", encoding="ascii") as f:
            name = next(line[3:].strip() for line in f if line.startswith("0::"))
        return f"{self.root}{name}" if os.path.isdir(f"{self.root}{name}") else self.root

    def _remove_dead(self):
        """What sessions left that were killed: thawed, and removed where nothing is inside."""
        for name in os.listdir(self.root):
            parts = name.split("-")
            if name.startswith("tarn-test-") and not util.alive(int(parts[2])):
                with contextlib.suppress(OSError):
                    self._write(f"{self.root}/{name}/cgroup.freeze", 0)
                    os.rmdir(f"{self.root}/{name}")

    @staticmethod
    def _write(path, value):
        with open(path, "w", encoding="ascii") as f:
            f.write(str(value))

    def _move(self, group):
        self._write(f"{group}/cgroup.procs", self.pid)

    def frozen(self):
        with open(f"{self.group}/cgroup.events", encoding="ascii") as f:
            return "frozen 1" in f.read().splitlines()

    def freeze(self):
        self._write(f"{self.group}/cgroup.freeze", 1)
        util.wait_until(f"{self.pid} frozen", self.frozen, 10)

    def thaw(self):
        self._write(f"{self.group}/cgroup.freeze", 0)

    def close(self):
        self.thaw()
        with contextlib.suppress(OSError):  # it may have ended
            self._move(self.home)
        try:
            util.wait_until("an empty group", self._remove, 10)
        finally:
            util.unmount(self.root)
            os.rmdir(self.root)

    def _remove(self):
        try:
            os.rmdir(self.group)
        except OSError:
            return False
        return True


def clock_shift(seconds):
    """Environment of a process whose wall clock is off by so much."""
    return {"LD_PRELOAD": rig_program("libclockshift.so"), "TARN_CLOCK_SHIFT": str(seconds),
            "ASAN_OPTIONS": "verify_asan_link_order=0"}
