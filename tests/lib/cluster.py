# SPDX-License-Identifier: Apache-2.0
"""A cluster of real processes: a master, workers, mounts and a store, on one host or on one each.

    cluster = Cluster(directory, workers=2, mounts=2).start()
    cluster.content.put(cluster.store, BKT)...
    cluster.workers[0].kill(); cluster.workers[0].start()

Each part is started with the same arguments again, so that it is what it was. Waiting is for
conditions: readiness, a mount that answers, what `tarn status` says. Whatever happens, close() ends
every process that was started and takes every mount away.
"""
import contextlib
import http.client
import json
import os
import secrets
import signal
import subprocess

from tests.lib import netns, util
from tests.lib.local import fault_options, swift_options
from tests.lib.netns import Here
from tests.lib.s3fault import S3Fault
from tests.lib.swift import Swift
from tests.lib.tarn import FSTYPE, Done, binary, parse_metrics

BKT = "data"
MIB = 1 << 20
SEGMENT = 64 * MIB


class Part:
    """One process of the cluster; its host, its log, its HTTP address."""

    def __init__(self, cluster, host, name, argv, env=None):
        self.cluster, self.host, self.name = cluster, host, name
        self.http_port = util.free_port()
        self.argv = [binary(), *map(str, argv), "--token-file", cluster.token_file, "--http-listen",
                     f"{util.LOOPBACK}:{self.http_port}"]
        self.env = {"UBSAN_OPTIONS": "print_stacktrace=1", **os.environ, **(env or {})}
        self.log = f"{cluster.dir}/{name}.log"
        self.process = None
        self.pids = []  # that it has had

    def spawn(self, *more):
        """Start it and do not wait."""
        assert self.process is None, f"{self.name} runs already"
        with open(self.log, "ab") as log:
            self.process = self.host.popen([*self.argv, *more], stdout=log, stderr=log, env=self.env)
        self.pids.append(self.process.pid)
        return self.process

    def start(self, *more, seconds=30):
        self.spawn(*more)
        self.wait_ready(seconds)
        return self

    def wait_ready(self, seconds=30):
        try:
            util.wait_until(f"{self.name}: ready", self.ready, seconds)
        except TimeoutError as e:
            raise AssertionError(f"{e}\n{self.log_tail()}") from e

    def ready(self):
        assert self.process.poll() is None, \
            f"{self.name} ended with {self.process.returncode} at its start:\n{self.log_tail()}"
        return self.http_status("/readyz") == 200

    @property
    def pid(self):
        return self.process.pid

    # ---- ends ----

    def stop(self, seconds=30):
        """SIGTERM; returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout=seconds)
        self.process = None
        return code

    def kill(self):
        """kill -9."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process = None

    def restart(self):
        if self.process:
            self.stop()
        return self.start()

    def pause(self):
        netns.pause(self.pid)

    def go_on(self):
        netns.go_on(self.pid)

    def close(self):
        if self.process:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGCONT)
            util.end_group(self.process)
            self.process = None
        util.remove_mount_records(self.pids)

    # ---- what it says ----

    def http(self, path, seconds=10):
        """(status, text) of its HTTP listener."""
        connection = http.client.HTTPConnection(util.LOOPBACK, self.http_port, timeout=seconds)
        with contextlib.closing(connection), self.host.inside():
            connection.request("GET", path)
            reply = connection.getresponse()
            return reply.status, reply.read().decode()

    def http_status(self, path):
        try:
            return self.http(path, 2)[0]
        except (OSError, http.client.HTTPException):
            return None

    def metric(self, name, **labels):
        """The sum of the samples of name that carry these labels; 0 where there is none."""
        wanted = set(labels.items())
        return sum(v for (n, have), v in parse_metrics(self.http("/metrics")[1]).items()
                   if n == name and wanted <= have)

    def rss(self):
        """Bytes of memory that it has resident."""
        with open(f"/proc/{self.pid}/status", encoding="ascii") as f:
            return next(int(line.split()[1]) * 1024 for line in f if line.startswith("VmRSS:"))

    def cpu_seconds(self):
        with open(f"/proc/{self.pid}/stat", encoding="utf-8", errors="replace") as f:
            fields = f.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def log_tail(self, lines=30):
        try:
            with open(self.log, encoding="utf-8", errors="replace") as f:
                return f"--- {self.name}\n" + "".join(f.readlines()[-lines:])
        except FileNotFoundError:
            return f"--- {self.name}: no log\n"


class Worker(Part):
    """One worker with one tier; `dir` is who it is."""

    def __init__(self, cluster, host, number, quota, args):
        self.port = util.free_port()
        self.addr = f"{host.address}:{self.port}"
        self.dir = f"{cluster.dir}/tier{number}"
        os.makedirs(self.dir, exist_ok=True)
        super().__init__(cluster, host, f"worker{number}",
                         ["worker", "--master", cluster.address, "--tier", f"SSD:{self.dir}:{quota}",
                          "--listen", self.addr, "--host", f"host-{number}", *args])

    def status(self):
        """Its entry in `tarn status`, or None."""
        return next((w for w in self.cluster.status()["workers"] if w["addr"] == self.addr), None)

    @property
    def id(self):
        return self.status()["id"]

    def held(self):
        """Bytes of files that it has, as it told last: it tells three times per lease."""
        return sum(t["data_bytes"] for t in self.status()["tiers"])

    def ufs_bytes(self):
        """Bytes that it has read from stores since its start."""
        return self.metric("tarn_ufs_read_bytes_total")


class Mount(Part):
    def __init__(self, cluster, host, number, args):
        self.mnt = f"{cluster.dir}/mnt{number}"
        os.makedirs(self.mnt, exist_ok=True)
        super().__init__(cluster, host, f"mount{number}",
                         ["mount", self.mnt, "--master", cluster.address, "--host",
                          f"client-{number}", *args])

    def ready(self):
        assert self.process.poll() is None, \
            f"{self.name} ended with {self.process.returncode} at its start:\n{self.log_tail()}"
        return util.mounted(self.mnt, FSTYPE) and self.answers() and \
            self.http_status("/readyz") == 200

    def answers(self, seconds=5):
        """Asked from another process: a mount that hangs must not hang the test."""
        try:
            done = util.run("stat", "-f", "-c", "%T", self.mnt, seconds=seconds, check=False)
            return done.returncode == 0 and done.stdout.startswith("fuse")
        except subprocess.TimeoutExpired:
            return False

    def path(self, *parts):
        return os.path.join(self.mnt, *parts)

    def read(self, path, seconds=60):
        """All bytes of a file, read by another process, past the kernel's cache."""
        done = subprocess.run(["dd", f"if={self.path(path)}", "bs=1M", "iflag=direct", "status=none"],
                              capture_output=True, timeout=seconds, check=False)
        if done.returncode != 0:
            raise OSError(f"{path}: {done.stderr.decode()}")
        return done.stdout

    def close(self):
        super().close()
        util.unmount(self.mnt)


class Cluster:
    """start() returns when all parts are ready, the store is attached and every worker is live.

    network: a tests.lib.netns.Network, with a host for each part; without it all are here. The store
    is an S3Fault, whose objects and log are in this process, or a Swift; fetched() and its kin are of
    the first. `args` of kinds of parts: master_args, worker_args, mount_args.
    """

    def __init__(self, directory, network=None, workers=2, mounts=2, quota="2GiB", master_args=(),
                 worker_args=(), mount_args=(), store=None, attach_args=(), attach=True):
        self.dir, self.network = str(directory), network
        self.quota, self.worker_args, self.mount_args = quota, list(worker_args), list(mount_args)
        self.attach_args, self.attaches = list(attach_args), attach
        os.makedirs(self.dir, exist_ok=True)
        self.token_file = f"{self.dir}/token"
        with open(os.open(self.token_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w",
                  encoding="ascii") as f:
            f.write(secrets.token_hex(32))
        self.store = store or S3Fault(host=self.host("store"))
        master_host = self.host("master")
        self.port = util.free_port()
        self.address = f"{master_host.address}:{self.port}"
        self.master_dir = f"{self.dir}/master"
        self.master = Part(self, master_host, "master", ["master", "--dir", self.master_dir, "--listen",
                                                         self.address, *master_args])
        self.workers, self.mounts = [], []
        self.made = 0  # workers, also those that a test has taken out
        for _ in range(workers):
            self.add_worker()
        for _ in range(mounts):
            self.add_mount()

    def host(self, name):
        return self.network.host(name) if self.network else Here()

    def add_worker(self, *args, quota=None):
        """One more, not started."""
        number, self.made = self.made, self.made + 1
        self.workers.append(Worker(self, self.host(f"worker{number}"), number, quota or self.quota,
                                   [*self.worker_args, *args]))
        return self.workers[-1]

    def add_mount(self, *args):
        number = len(self.mounts)
        self.mounts.append(Mount(self, self.host(f"mount{number}"), number, [*self.mount_args, *args]))
        return self.mounts[-1]

    def start(self):
        if self.store.server is None:
            self.store.start()
        self.store.bucket(BKT)
        self.master.start()
        for worker in self.workers:
            worker.spawn()
        for worker in self.workers:
            worker.wait_ready()
        if self.workers:
            self.wait_states({w: "live" for w in self.workers})
        if self.attaches:
            self.attach("/")
        for mount in self.mounts:
            mount.spawn()
        for mount in self.mounts:
            mount.wait_ready()
        return self

    def close(self):
        for part in reversed(self.parts()):
            part.close()
        self.store.stop()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"/run/tarn/{self.port}.token")

    def parts(self):
        return [self.master, *self.workers, *self.mounts]

    def logs(self, lines=30):
        return "\n".join(p.log_tail(lines) for p in self.parts())

    # ---- commands ----

    def cli_env(self):
        return {**os.environ, "TARN_MASTER": self.address, "TARN_TOKEN_FILE": self.token_file}

    def cli(self, *args, check=True, seconds=120, stdin=None, env=None):
        """Run `tarn ARGS...` on the master's host; Done(code, out, err)."""
        done = subprocess.run(self.master.host.command([binary(), *args]), input=stdin,
                              capture_output=True, text=True, timeout=seconds, check=False,
                              env={**self.cli_env(), **(env or {})})
        if check and done.returncode != 0:
            raise AssertionError(f"tarn {' '.join(map(str, args))}: exit {done.returncode}\n"
                                 f"{done.stdout}{done.stderr}\n{self.logs()}")
        return Done(done.returncode, done.stdout, done.stderr)

    def background(self, *args):
        """A command that goes on beside the test: a Popen with .stdout and .stderr as pipes."""
        return self.master.host.popen([binary(), *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                      text=True, env=self.cli_env())

    def json(self, *args, **kwargs):
        return json.loads(self.cli(*args, "--json", **kwargs).out)

    def status(self):
        return self.json("status")

    def job(self, number):
        return self.json("job", "show", number)

    def manifest(self, number):
        return [json.loads(line) for line in
                self.cli("job", "manifest", number, "--json").out.splitlines() if line]

    def attach(self, path, bucket=BKT, *more, check=True, env=None):
        options = (swift_options(self.store, self.dir) if isinstance(self.store, Swift) else
                   fault_options(self.store))
        return self.cli("attach", f"s3://{bucket}", path, *options, *self.attach_args, *more, check=check, env=env)

    def states(self):
        """{address: state} as `tarn status` has them."""
        return {w["addr"]: w["state"] for w in self.status()["workers"]}

    def attached(self):
        """[path] of the attachments."""
        return sorted(m["path"] for m in self.status()["mounts"])

    def wait_states(self, wanted, seconds=30):
        """wanted: {worker: state}; None: it is not in the list."""
        util.wait_until(f"states {[(w.name, s) for w, s in wanted.items()]}",
                        lambda: all(self.states().get(w.addr) == s for w, s in wanted.items()), seconds,
                        0.1)

    # ---- data ----

    def load(self, *args):
        """A load that ends well: its job as `job show` has it."""
        self.cli("load", *args)
        return self.json("job", "ls")[-1]

    def fetched(self, bucket=BKT):
        """{key: [(first, length) of each GET that sent bytes]} from the store's log."""
        found = {}
        for r in self.store.requests("get"):
            if r.bucket == bucket and r.key and r.status in (200, 206) and r.sent:
                found.setdefault(r.key, []).append(range_of(r))
        return found

    def fetched_bytes(self, bucket=BKT):
        return sum(n for ranges in self.fetched(bucket).values() for _, n in ranges)

    def fetched_twice(self, bucket=BKT):
        """{key: bytes that were sent more than once}"""
        found = {}
        for key, ranges in self.fetched(bucket).items():
            again, upto = 0, 0
            for first, length in sorted(ranges):
                again += max(0, min(upto, first + length) - first)
                upto = max(upto, first + length)
            if again:
                found[key] = again
        return found

    def fetched_although_there(self, margin=1.0, bucket=BKT):
        """[(key, first, length, seconds since)] of GETs for bytes whose fetch had ended so long
        before that a worker had them: what is asked for twice at one time nobody had yet."""
        found, done = [], {}
        for r in sorted(self.store.requests("get"), key=lambda r: r.time):
            if r.bucket != bucket or not r.key or r.status not in (200, 206) or not r.sent:
                continue
            first, length = range_of(r)
            since = [r.time - ended for f, n, ended in done.setdefault(r.key, [])
                     if f < first + length and first < f + n and r.time - ended > margin]
            if since:
                found.append((r.key, first, length, round(max(since), 2)))
            done[r.key].append((first, length, r.ended or float("inf")))
        return found

    @contextlib.contextmanager
    def no_fetches(self, what):
        """Fails if a byte of an object is asked of the store meanwhile."""
        before = len(self.store.requests("get"))
        yield
        more = [(r.key, range_of(r)) for r in self.store.requests("get")[before:] if r.key]
        assert not more, f"{what}: the store was asked for {len(more)} ranges: {more[:5]}"


def range_of(request):
    """(first, length) of what a GET sent."""
    text = {k.lower(): v for k, v in request.headers.items()}.get("range")
    first = int(text[6:].split("-", 1)[0]) if text else 0
    return first, request.sent
