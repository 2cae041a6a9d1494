# SPDX-License-Identifier: Apache-2.0
"""Host names that resolve late, or to another address than before: each part has an /etc/hosts that the
test writes, and asks for names anew."""
import os
import subprocess

import pytest

from tests.lib import util
from tests.lib.cluster import BKT
from tests.lib.tarn import FSTYPE
from tests.lib.verify import Content

MASTER, WORKER = "master.test", "worker.test"


class Names:
    """The hosts file of all hosts; written in place, since it is bound where they look."""

    def __init__(self, path):
        self.path, self.known = path, {"localhost": util.LOOPBACK}
        self.write()

    def write(self):
        with open(self.path, "w", encoding="ascii") as f:
            f.writelines(f"{address} {name}\n" for name, address in self.known.items())

    def set(self, name, address):
        self.known[name] = address
        self.write()


def mounted_there(mount):
    """In its own namespace."""
    with open(f"/proc/{mount.pid}/mounts", encoding="utf-8") as f:
        return any(line.split()[1:3] == [mount.mnt, FSTYPE] for line in f)


def reads(mount, content, path, seconds=40):
    """Whether a file is read through the mount as it should be; asked from another process."""
    try:
        done = subprocess.run(["dd", f"if=/proc/{mount.pid}/root{mount.path(path)}", "bs=1M", "iflag=direct",
                               "status=none"], capture_output=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0 and content.wrong(path, 1, 0, done.stdout) is None and \
        len(done.stdout) == content.sizes[path]


@pytest.fixture
def named(cluster, network, workdir):
    """(cluster, names, content): one worker, which is told and known by name, and a mount; not started."""
    names = Names(os.path.join(workdir, "hosts"))
    c = cluster(start=False, network=network, workers=1, mounts=1, master_args=["--lease", "2s"],
                attach_args=["--no-direct"])
    worker, mount = c.workers[0], c.mounts[0]
    for part in c.parts():
        part.host.names = names.path
        part.argv = [f"{MASTER}:{c.port}" if arg == c.address else arg for arg in part.argv]
    c.master.argv[c.master.argv.index("--listen") + 1] = c.address
    worker.argv += ["--advertise", WORKER]
    worker.addr = f"{WORKER}:{worker.port}"
    content = Content({f"f{i}": 200_000 for i in range(4)})
    content.put(c.store, BKT)
    c.store.start()
    c.master.start()
    yield c, names, content
    worker.close()
    mount.close()


def test_names_that_resolve_late_and_move(named):
    c, names, content = named
    worker, mount = c.workers[0], c.mounts[0]
    worker.spawn()
    util.wait_until("it waits", lambda: "waiting for a master" in worker.log_tail(), 20)
    assert worker.http_status("/readyz") != 200 and worker.status() is None
    names.set(MASTER, c.master.host.address)
    worker.wait_ready()
    c.wait_states({worker: "live"})
    c.attach("/")
    mount.spawn()
    util.wait_until("the mount", lambda: mounted_there(mount) and mount.http_status("/readyz") == 200, 20)

    # The worker's own name is nobody's yet.
    assert not reads(mount, content, "f0", 3), "it was read without a worker"
    names.set(WORKER, worker.host.address)
    for path in ("f0", "f1"):
        util.wait_until(f"{path}: by its name", lambda p=path: reads(mount, content, p), 40, 0.2)
    assert c.load("/")["state"] == "succeeded"

    # The same worker at another address, where it is started anew; by its name it is where it was.
    number, before = worker.id, worker.host.address
    worker.kill()
    worker.host.readdress("10.77.0.200")
    worker.argv[worker.argv.index("--listen") + 1] = f"{worker.host.address}:{worker.port}"
    worker.start()
    names.set(WORKER, worker.host.address)
    assert worker.host.address != before
    with c.no_fetches("what it had"):
        for path in content.sizes:
            util.wait_until(f"{path}: at its other address", lambda p=path: reads(mount, content, p), 40, 0.2)
    assert worker.id == number and c.states() == {worker.addr: "live"}
    assert worker.metric("tarn_worker_sent_bytes_total", source="cache") >= sum(content.sizes.values())
    c.cli("free", "/")
    assert c.load("/")["state"] == "succeeded", "the master finds it too"
