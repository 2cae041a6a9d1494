# SPDX-License-Identifier: Apache-2.0
"""A real S3 server for tests: OpenStack Swift with s3api and tempauth, on loopback, state thrown away.

Several may run at a time, each in its own directory with ports of its own. kill() and stall() make
it a store that is down or hangs; restart() brings it back with all that it held. seed() fills a
bucket with thousands of objects in seconds, by Swift's own classes but past its servers. Every
request is logged as its client saw it: requests(), and served() for sums per object.
"""
import collections
import json
import os
import pwd
import signal
import subprocess
import sys
import time

from tests.lib import util
from tests.lib.netns import Here
from tests.lib.s3 import S3

HERE = os.path.dirname(os.path.abspath(__file__))
SERVERS = ("account", "container", "object", "proxy")
ACCESS_KEY, SECRET_KEY, ACCOUNT = "test:tester", "sekritsekrit", "AUTH_test"
OTHER_ACCESS_KEY, OTHER_SECRET_KEY = "test2:alt", "sekritalt"

_SWIFT_CONF = """[swift-hash]
swift_hash_path_suffix = tarn
swift_hash_path_prefix = tests
[storage-policy:0]
name = gold
default = yes
[swift-constraints]
max_object_name_length = 1024
"""
_DEFAULT = """[DEFAULT]
bind_ip = {address}
bind_port = {port}
workers = 0
user = {user}
swift_dir = {dir}/etc
devices = {dir}/srv
mount_check = false
log_address = /dev/null
fallocate_reserve = 0
disable_fallocate = true
"""
# On a busy machine a server may take long, and what was put is to be in the next listing all the same.
_PATIENCE = """conn_timeout = 20
node_timeout = 60
"""
_STORAGE = """[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
container_update_timeout = 60
""" + _PATIENCE
_FILTERS = ("catch_errors", "listing_formats", "bulk", "slo", "dlo", "copy", "symlink")
_PROXY = """[pipeline:main]
pipeline = access catch_errors cache listing_formats bulk s3api tempauth slo dlo versioned_writes symlink copy proxy-server
[app:proxy-server]
use = egg:swift#proxy
allow_account_management = true
account_autocreate = true
error_suppression_limit = 1000000
""" + _PATIENCE + """[filter:access]
paste.filter_factory = swift_access:filter_factory
log_path = {dir}/access.log
[filter:s3api]
use = egg:swift#s3api
s3_acl = false
check_bucket_owner = false
location = us-east-1
allow_multipart_uploads = true
min_segment_size = 5242880
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = sekritsekrit .admin
user_test2_alt = sekritalt .admin
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:{memcached}
[filter:versioned_writes]
use = egg:swift#versioned_writes
allow_object_versioning = true
""" + "".join(f"[filter:{name}]\nuse = egg:swift#{name}\n" for name in _FILTERS)


class Swift:
    def __init__(self, directory, host=None):
        """host: of tests.lib.netns, where all of it runs; its front listens on that host's address."""
        self.dir, self.host = str(directory), host or Here()
        self.ports = {kind: util.free_port() for kind in SERVERS + ("memcached",)}
        self.endpoint = f"http://{self.host.address}:{self.ports['proxy']}"
        self.access_key, self.secret_key = ACCESS_KEY, SECRET_KEY
        self.client = S3(self.endpoint, ACCESS_KEY, SECRET_KEY, host=self.host)
        self.processes = {}
        self.stalled = []
        self._write_files()

    def _write_files(self):
        for sub in ("etc", "srv/d1", "cache"):
            os.makedirs(f"{self.dir}/{sub}")
        values = {"dir": self.dir, "user": pwd.getpwuid(os.getuid()).pw_name,
                  "memcached": self.ports["memcached"]}
        self._write("etc/swift.conf", _SWIFT_CONF)
        for kind in SERVERS:
            text = _DEFAULT + (_PROXY if kind == "proxy" else _STORAGE)
            self._write(f"etc/{kind}-server.conf",
                        text.format(kind=kind, port=self.ports[kind], address=self._address(kind),
                                    **values))
        util.run(*self._command("rings", *(self.ports[k] for k in SERVERS[:3])))

    def _address(self, kind):
        return self.host.address if kind == "proxy" else util.LOOPBACK

    def _write(self, name, text):
        with open(f"{self.dir}/{name}", "w", encoding="utf-8") as f:
            f.write(text)

    def _command(self, role, *args):
        return [sys.executable, f"{HERE}/swiftd/server.py", role, self.dir, *map(str, args)]

    def _spawn(self, name, command):
        with open(f"{self.dir}/{name}.log", "ab") as log:
            self.processes[name] = self.host.popen(command, stdout=log, stderr=log)

    def start(self):
        user = ["-u", "root"] if os.getuid() == 0 else []
        self._spawn("memcached", ["memcached", *user, "-l", util.LOOPBACK, "-U", "0", "-m", "32",
                                  "-p", str(self.ports["memcached"])])
        # The front last: what it asks of servers that are not there yet, it does not ask for a minute.
        for kinds in (SERVERS[:3], SERVERS[3:]):
            for kind in kinds:
                self._spawn(kind, self._command(kind))
            for kind in kinds:
                util.wait_until(f"swift {kind}", lambda kind=kind: self._ready(kind), seconds=60)
        return self

    def _ready(self, kind):
        if self.processes[kind].poll() is not None:
            with open(f"{self.dir}/{kind}.log", encoding="utf-8", errors="replace") as f:
                raise AssertionError(f"swift {kind} ended at its start:\n{f.read()[-2000:]}")
        with self.host.inside():
            return util.listens(self.ports[kind], self._address(kind))

    def stop(self):
        self.go_on()
        for process in self.processes.values():
            util.end_group(process)
        self.processes.clear()

    def kill(self):
        """kill -9 of all its processes: connections are refused from now on."""
        for process in self.processes.values():
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.processes.clear()
        self.stalled.clear()

    def restart(self):
        self.stop()
        return self.start()

    def stall(self):
        """Freeze the front: connections are accepted by the kernel and nothing answers."""
        self.stalled = [self.processes["proxy"]]
        os.killpg(self.stalled[0].pid, signal.SIGSTOP)

    def go_on(self):
        for process in self.stalled:
            os.killpg(process.pid, signal.SIGCONT)
        self.stalled = []

    @property
    def server(self):
        """None while it does not run, as of the scripted store."""
        return self.processes or None

    def bucket(self, name):
        """There is one of that name from now on."""
        reply = self.client.request("PUT", name)
        assert reply.status in (200, 409), reply

    def seed(self, bucket, items):
        """Store (key, bytes) pairs past the servers, for data sets; returns how many."""
        command = self._command("seed", ACCOUNT, bucket)
        with open(f"{self.dir}/seed.log", "ab") as log, subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log) as child:
            for key, data in items:
                child.stdin.write(json.dumps({"key": key, "size": len(data)}).encode() + b"\n")
                child.stdin.write(data)
            child.stdin.close()
            count = child.stdout.read()
        assert child.returncode == 0, f"seeding failed: {self.dir}/seed.log"
        return int(count)

    # ---- what it was asked ----

    def _log(self):
        """(finished requests, how many are under way)"""
        try:
            with open(f"{self.dir}/access.log", encoding="utf-8") as f:
                rows = [json.loads(line) for line in f if line.endswith("\n")]
        except FileNotFoundError:
            return [], 0
        ended = [row for row in rows if "id" in row]
        begun = {row["begins"] for row in rows if "begins" in row}
        return ended, len(begun - {row["id"] for row in ended})

    def requests(self, method=None, bucket=None):
        """The requests so far, oldest first; each a dict, with `key` where an object was meant.

        Those whose reply is just going out are waited for, a moment.
        """
        end = time.monotonic() + 2
        rows, under_way = self._log()
        while under_way and time.monotonic() < end:
            time.sleep(0.01)
            rows, under_way = self._log()
        for row in rows:
            _, row["bucket"], *key = row["path"].split("/", 2)
            row["key"] = key[0] if key else ""
        return [r for r in rows if method in (None, r["method"]) and bucket in (None, r["bucket"])]

    def forget_requests(self):
        with open(f"{self.dir}/access.log", "a", encoding="utf-8") as f:
            f.truncate(0)

    def served(self, bucket):
        """{key: (GET requests, bytes sent)}"""
        sums = collections.defaultdict(lambda: (0, 0))
        for row in self.requests("GET", bucket):
            if row["key"]:
                count, sent = sums[row["key"]]
                sums[row["key"]] = (count + 1, sent + row["sent"])
        return dict(sums)
