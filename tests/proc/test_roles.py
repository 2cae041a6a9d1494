# SPDX-License-Identifier: Apache-2.0
"""The servers of a cluster as processes: how master, worker and mount start, what they refuse, how
they end. What they do together is in test_cluster_*.py."""
import contextlib
import json
import os
import re
import signal
import subprocess
import time
import urllib.error
import urllib.request

import pytest

from tests.lib import util
from tests.lib.tarn import FSTYPE, Done, binary
from tests.lib.util import some_bytes

DONE, FAIL, USAGE, UNREACH, TIMEOUT, DENIED = range(6)


class Roles:
    """Servers of one test, on ports of their own."""

    def __init__(self, workdir):
        self.dir, self.processes = workdir, []
        self.port, self.http_port = util.free_port(), util.free_port()
        self.master = f"127.0.0.1:{self.port}"
        self.home = f"{workdir}/m"

    def env(self, **more):
        return {**os.environ, "TARN_MASTER": self.master, **more}

    def spawn(self, *args, log="log", env=None):
        with open(f"{self.dir}/{log}", "ab") as f:
            p = subprocess.Popen([binary(), *map(str, args)], stdin=subprocess.DEVNULL, stdout=f,
                                 stderr=f, env=env or self.env(), start_new_session=True)
        self.processes.append(p)
        return p

    def log(self, name="log"):
        with contextlib.suppress(FileNotFoundError):
            with open(f"{self.dir}/{name}", encoding="utf-8", errors="replace") as f:
                return f.read()
        return ""

    def serves(self, p, word, log="log", before=0):
        """Waits until it says that it serves."""

        def said():
            assert p.poll() is None, self.log(log)
            return f" {word}: ready: " in self.log(log)[before:]

        util.wait_until(f"tarn {word} serves", said, 30)
        return p

    def master_args(self, *args):
        return ["master", "--dir", self.home, "--listen", self.master, "--http-listen",
                f"127.0.0.1:{self.http_port}", *args]

    def start_master(self, *args, log="master"):
        before = len(self.log(log))
        return self.serves(self.spawn(*self.master_args(*args), log=log), "master", log, before)

    def start_master_again(self):
        master = self.processes[0]
        assert end(master) == DONE
        return self.start_master()

    def worker_args(self, *args, tier="w"):
        return ["worker", "--tier", f"SSD:{self.dir}/{tier}:64MiB", "--listen", "127.0.0.1:0",
                "--http-listen", "none", *args]

    def start_worker(self, *args, tier="w", log="worker"):
        before = len(self.log(log))
        p = self.spawn(*self.worker_args(*args, tier=tier), log=log)
        return self.serves(p, "worker", log, before)

    def run(self, *args, env=None, seconds=60):
        done = subprocess.run([binary(), *map(str, args)], stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=seconds, check=False,
                              env=env or self.env())
        return Done(done.returncode, done.stdout, done.stderr)

    def json(self, *args):
        done = self.run(*args, "--json")
        assert done.code == DONE, done
        return json.loads(done.out)

    def refused(self, code, *words, args):
        done = self.run(*args)
        assert done.code == code, done
        for word in words:
            assert word in done.err, (word, done.err)
        return done

    def close(self):
        for p in reversed(self.processes):
            util.end_group(p)
        util.remove_mount_records(p.pid for p in self.processes)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"/run/tarn/{self.port}.token")


@pytest.fixture
def roles(root, workdir):
    made = Roles(workdir)
    yield made
    made.close()


def end(p, seconds=20):
    p.terminate()
    return p.wait(seconds)


def read(path):
    with open(path, encoding="ascii") as f:
        return f.read().strip()


def ready(port):
    with contextlib.suppress(urllib.error.HTTPError, OSError):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as reply:
            return reply.status
    return 0


# ---- master ----

def test_master_makes_its_directory(roles):
    p = roles.start_master()
    assert os.stat(roles.home).st_mode & 0o777 == 0o700
    assert sorted(os.listdir(roles.home)) == ["FORMAT", "LOCK", "meta", "token"]
    assert os.stat(f"{roles.home}/token").st_mode & 0o777 == 0o600
    token = read(f"{roles.home}/token")
    assert len(token) >= 32 and read(f"/run/tarn/{roles.port}.token") == token
    status = roles.json("status")
    assert status["cluster_id"] in roles.log("master")
    assert roles.json("master", "ls") == [{"addr": roles.master, "role": "leader", "healthy": True}]
    assert ready(roles.http_port) == 200
    assert end(p) == DONE
    assert not os.path.exists(f"/run/tarn/{roles.port}.token")
    assert read(f"{roles.home}/token") == token


def test_master_keeps_what_it_knew(roles, workdir):
    """Also after a kill; and it answers again within a second."""
    served = f"{workdir}/served"
    util.write_tree(served, [("d/f", some_bytes(1000))])
    p = roles.start_master()
    cluster, token = roles.json("status")["cluster_id"], read(f"{roles.home}/token")
    assert roles.run("attach", f"file://{served}", "/x").code == DONE
    os.killpg(p.pid, signal.SIGKILL)
    p.wait()
    before = len(roles.log("master"))
    begun = time.monotonic()
    p = roles.spawn(*roles.master_args(), log="master")
    roles.serves(p, "master", "master", before)
    took = time.monotonic() - begun
    assert took < (1 if "release" in binary() else 5), took
    assert roles.json("status")["cluster_id"] == cluster
    assert read(f"/run/tarn/{roles.port}.token") == token
    assert [m["path"] for m in roles.json("mounts")] == ["/x"]
    assert roles.run("ls", "/x/d").out.split() == ["f"]
    assert end(p) == DONE


def test_master_init_prints_the_cluster(roles):
    done = roles.run("master", "--init", "--dir", roles.home)
    assert done.code == DONE and re.fullmatch(r"[0-9a-f-]{36}\n", done.out), done
    assert roles.run("master", "--init", "--dir", roles.home).out == done.out
    assert roles.json("master", "--init", "--dir", roles.home) == {"cluster_id": done.out.strip()}
    p = roles.start_master()
    assert roles.json("status")["cluster_id"] == done.out.strip()
    roles.refused(USAGE, roles.home, str(p.pid), args=["master", "--init", "--dir", roles.home])


def test_second_master_on_a_directory(roles):
    p = roles.start_master()
    roles.refused(USAGE, roles.home, str(p.pid),
                  args=["master", "--dir", roles.home, "--listen", "127.0.0.1:0", "--http-listen", "none"])
    assert roles.json("status")["cluster_id"]


@pytest.mark.parametrize("what", ["file", "format", "newer", "cache", "tier"])
def test_directory_of_something_else(roles, what):
    """Refused, and nothing in it is touched."""
    os.makedirs(roles.home)
    name, text = {"file": ("mine", "text"), "format": ("FORMAT", "a document\n"),
                  "newer": ("FORMAT", None), "cache": ("FORMAT", None), "tier": ("FORMAT", "tarn tier 1\n")}[what]
    if text is None:
        line = "tarn master 99" if what == "newer" else "tarn cache 1"
        text = f"{line} {util.xxh3(line.encode())}\n"
    with open(f"{roles.home}/{name}", "w", encoding="ascii") as f:
        f.write(text)
    if what == "format":
        with open(f"{roles.home}/other", "w", encoding="ascii"):
            pass
    before = sorted(os.listdir(roles.home))
    words = ["newer tarn"] if what == "newer" else ["master directory"]
    roles.refused(USAGE, roles.home, *words, args=roles.master_args())
    assert sorted(set(os.listdir(roles.home)) - {"LOCK"}) == before
    with open(f"{roles.home}/{name}", encoding="ascii") as f:
        assert f.read() == text


def test_master_needs_a_directory(roles):
    roles.refused(USAGE, "--dir", args=["master"])
    roles.refused(USAGE, "--peers", "not offered", args=["master", "--dir", roles.home, "--peers", "a:1"])
    roles.refused(USAGE, "--advertise", "not offered",
                  args=["master", "--dir", roles.home, "--advertise", "a:1"])
    roles.refused(USAGE, "not offered", args=["master", "add", "a:1"][:2])
    roles.refused(USAGE, "\"start\"", args=["master", "start"])
    roles.refused(USAGE, "master ls", args=["master", "--dir", roles.home, "--master", "a:1"])
    assert not os.path.exists(roles.home)


def test_ports_that_are_taken(roles, workdir):
    first = roles.start_master()
    other = f"{workdir}/m2"
    roles.refused(USAGE, "--listen", "in use", args=["master", "--dir", other, "--listen", roles.master])
    roles.refused(USAGE, f"--http-listen: 127.0.0.1:{roles.http_port}: the address is in use",
                  args=["master", "--dir", other, "--listen", "127.0.0.1:0", "--http-listen",
                        f"127.0.0.1:{roles.http_port}"])
    p = roles.spawn("master", "--dir", other, "--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0",
                    log="other")
    roles.serves(p, "master", "other")
    port = re.search(r"cluster \S+ at 127\.0\.0\.1:(\d+)", roles.log("other"))[1]
    assert roles.run("status", env=roles.env(TARN_MASTER=f"127.0.0.1:{port}")).code == DONE
    assert end(p) == DONE and first.poll() is None


def test_tokens(roles, workdir):
    token = f"{workdir}/token"
    p = roles.start_master("--token-file", token)
    assert os.stat(token).st_mode & 0o777 == 0o600
    text = read(token)
    assert len(text) >= 32 and not os.path.exists(f"{roles.home}/token")
    assert not os.path.exists(f"/run/tarn/{roles.port}.token")
    commands = f"; commands: TARN_MASTER={roles.master} TARN_TOKEN_FILE={token} tarn ...\n"
    util.wait_until("it tells how it is asked", lambda: commands in roles.log("master"), 10)
    roles.refused(DENIED, roles.master, "TARN_TOKEN_FILE", args=["status"])
    assert roles.run("status", "--token-file", token).code == DONE
    other = f"{workdir}/other"
    with open(os.open(other, os.O_WRONLY | os.O_CREAT, 0o600), "w", encoding="ascii") as f:
        f.write("0" * 64)
    roles.refused(DENIED, roles.master, other, args=["status", "--token-file", other])
    assert end(p) == DONE
    p = roles.start_master("--token-file", token)
    assert read(token) == text and roles.run("status", "--token-file", token).code == DONE
    assert end(p) == DONE
    os.chmod(token, 0o644)
    roles.refused(USAGE, "--token-file", "0600", args=roles.master_args("--token-file", token))


def test_a_port_that_is_not_the_masters(roles):
    roles.start_master()
    roles.refused(UNREACH, "is it the control port of a tarn server",
                  args=["status", "--master", f"127.0.0.1:{roles.http_port}"])
    roles.start_worker()
    worker = re.search(r"of cluster \S+ at (127\.0\.0\.1:\d+)", roles.log("worker"))[1]
    roles.refused(FAIL, f"{worker}: the peer does not know this call: is it the master, and as new as this?",
                  args=["status", "--master", worker, "--token-file", f"{roles.home}/token"])


def test_beyond_loopback_needs_a_word(roles, workdir):
    args = ["master", "--dir", roles.home, "--http-listen", "none", "--listen", f"0.0.0.0:{roles.port}"]
    roles.refused(USAGE, "--listen", "--token-file", "--insecure", args=args)
    roles.refused(USAGE, "--http-listen", "--insecure",
                  args=["master", "--dir", roles.home, "--http-listen", "0.0.0.0:0"])
    assert not os.path.exists(roles.home)
    for more in (["--insecure"], ["--token-file", f"{workdir}/token"]):
        p = roles.serves(roles.spawn(*args, *more, log=more[0]), "master", more[0])
        assert end(p) == DONE


def test_master_in_the_background(roles, workdir):
    pid_file, log = f"{workdir}/pid", f"{workdir}/d.log"
    done = roles.run(*roles.master_args("-d", "--pid-file", pid_file, "--log-file", log))
    assert done.code == DONE and done.out == "" and roles.master in done.err, done
    pid = int(read(pid_file))
    assert f"pid {pid}, log {log}\ntarn master: " in done.err, done
    try:
        assert roles.run("status").code == DONE
        os.rename(log, log + ".1")
        os.kill(pid, signal.SIGHUP)
        util.wait_until("a new log", lambda: os.path.exists(log), 10)
        done = roles.run(*roles.master_args("-d", "--log-file", log))
        assert done.code == USAGE and str(pid) in done.err, done
    finally:
        os.kill(pid, signal.SIGTERM)
        util.wait_until("its end", lambda: not util.alive(pid), 20)
    assert not os.path.exists(pid_file)
    assert "stopping: signal" in roles.log("d.log")


# ---- worker ----

def test_worker_checks_its_line(roles, workdir):
    tier = f"SSD:{workdir}/w:64MiB"
    roles.refused(USAGE, "--tier", args=["worker"])
    roles.refused(USAGE, "--tier: given 2 times, but one is allowed",
                  args=["worker", "--tier", tier, "--tier", f"HDD:{workdir}/v:64MiB"])
    told = roles.run("worker", "--help").out.partition("--tier")[2].partition("--advertise")[0]
    assert "One for each worker" in " ".join(told.split()) and "repeated" not in told, told
    roles.refused(USAGE, "MEM, SSD or HDD", args=["worker", "--tier", f"DISK:{workdir}/w:64MiB"])
    roles.refused(USAGE, "16 MiB", args=["worker", "--tier", f"SSD:{workdir}/w:1MiB"])
    roles.refused(USAGE, "--listen", "--insecure", args=["worker", "--tier", tier, "--listen", "0.0.0.0:0"])
    roles.refused(USAGE, "--listen 9390: must be HOST:PORT", args=["worker", "--tier", tier, "--listen", "9390"])
    roles.refused(USAGE, "drain", args=["worker", "drian", "1"])
    roles.refused(USAGE, "ID is missing", args=["worker", "drain"])
    roles.refused(USAGE, "is a number", args=["worker", "remove", "x"])
    roles.refused(USAGE, "--master", args=["worker", "--tier", tier, "--master", "nowhere,", "-d", "--log-file",
                                           f"{workdir}/l"])
    assert not os.path.exists(f"{workdir}/w")


def test_a_tier_that_the_disk_cannot_be(roles, workdir):
    """A directory below none is refused by name; a quota beyond its file system counts as that."""
    roles.start_master()
    roles.refused(USAGE, "--tier", f"{workdir}/none/w", "is not there",
                  args=["worker", "--tier", f"SSD:{workdir}/none/w:64MiB", "--listen", "127.0.0.1:0"])
    roles.serves(roles.spawn("worker", "--tier", f"SSD:{workdir}/w:1PiB", "--listen", "127.0.0.1:0",
                             "--http-listen", "none", log="worker"), "worker", "worker")
    assert "its file system can hold" in roles.log("worker") and "of the 1.0 PiB" in roles.log("worker")
    v = os.statvfs(workdir)
    worker = roles.json("worker", "ls")[0]
    assert 0 < worker["capacity_bytes"] <= v.f_blocks * v.f_frsize
    assert worker["weight"] == max(1, worker["capacity_bytes"] >> 30)


def test_a_worker_that_others_cannot_reach(roles, workdir):
    """It is alive and told apart; others stand in for it, and a load does not wait for it."""
    served(roles, workdir)
    roles.start_worker()
    roles.start_worker("--advertise", f"127.0.0.1:{util.free_port()}", tier="w2", log="worker2")
    job = roles.json("load", "/")
    assert (job["state"], job["files_done"]) == ("succeeded", 2)
    lost = max(roles.json("worker", "ls"), key=lambda w: w["id"])
    assert lost["alive"] and lost["unreached"]
    assert "NOT REACHED by the master at that address (--advertise)" in roles.run("status").out
    assert " unreached " in roles.run("worker", "ls").out
    assert sum(not w["unreached"] for w in roles.json("status")["workers"]) == 1


def test_load_beside_a_dead_worker(roles, workdir):
    """Who has been away for long is not waited for."""
    served(roles, workdir)
    roles.start_worker()
    dead = roles.start_worker(tier="w2", log="worker2")
    number = max(w["id"] for w in roles.json("worker", "ls"))
    os.killpg(dead.pid, signal.SIGKILL)
    dead.wait()

    def silent():
        return next(w for w in roles.json("worker", "ls") if w["id"] == number)["heard_ms"]

    util.wait_until("it is missed", lambda: silent() > 8500, 30)
    number_of = int(roles.run("load", "/", "--detach").out)
    said = []
    util.wait_until("the load", lambda: said.append(roles.json("job", "show", number_of)) or
                    said[-1]["state"] == "succeeded", 30, 0.05)
    assert {s["waits_for"] for s in said} == {None}
    alive = next(w["id"] for w in roles.json("worker", "ls") if w["alive"])
    roles.refused(FAIL, f"worker {alive} is the last one that is alive", args=["worker", "drain", alive])
    job = roles.json("load", "/", "--force", "--dry-run")
    assert "kind      load, a dry run" in roles.run("job", "show", job["id"]).out
    roles.start_master_again()
    roles.refused(FAIL, f"worker {number} at 127.0.0.1:", "was not heard of yet", args=["worker", "remove", number])


def test_load_while_nothing_is_attached(roles):
    """Without a worker, too: it would wait for one, and for nothing."""
    roles.start_master()
    roles.refused(FAIL, "no store is attached", args=["load", "/"])


def test_worker_without_a_master(roles, workdir):
    """In the background it gives up in time; in front it waits, and a signal ends that."""
    begun = time.monotonic()
    roles.refused(UNREACH, roles.master, "refused", f"{workdir}/l: its log, while it starts",
                  args=roles.worker_args("-d", "--timeout", "4s", "--log-file", f"{workdir}/l"))
    assert 3 < time.monotonic() - begun < 10
    assert not os.path.exists(f"{workdir}/w")
    p = roles.spawn(*roles.worker_args(), log="waits")
    util.wait_until("it waits", lambda: "waiting for a master" in roles.log("waits"), 20)
    assert p.poll() is None and end(p) == DONE
    assert not os.path.exists(f"{workdir}/w")


def test_worker_before_its_master(roles):
    """Its token does not exist yet, either."""
    p = roles.spawn(*roles.worker_args(), log="worker")
    util.wait_until("it waits", lambda: "waiting for a master" in roles.log("worker"), 20)
    roles.start_master()
    roles.serves(p, "worker", "worker")
    worker, = roles.json("worker", "ls")
    assert (worker["id"], worker["state"], worker["alive"]) == (1, "live", True)
    assert end(p) == DONE


def test_worker_with_a_wrong_token(roles, workdir):
    roles.start_master()
    token = f"{workdir}/wrong"
    with open(os.open(token, os.O_WRONLY | os.O_CREAT, 0o600), "w", encoding="ascii") as f:
        f.write("0" * 64)
    roles.refused(DENIED, roles.master, args=roles.worker_args("--token-file", token))
    roles.refused(USAGE, f"{workdir}/none", args=roles.worker_args("--token-file", f"{workdir}/none"))
    assert not os.path.exists(f"{workdir}/w")


def test_worker_keeps_its_number(roles, workdir):
    roles.start_master()
    http = util.free_port()
    args = ["--http-listen", f"127.0.0.1:{http}", "--host", "rack-1", "--weight", "7", "--socket",
            f"{workdir}/w.sock"]
    p = roles.start_worker(*args)
    worker, = roles.json("worker", "ls")
    assert (worker["id"], worker["host"], worker["weight"]) == (1, "rack-1", 7)
    assert worker["capacity_bytes"] == 64 << 20 and ready(http) == 200
    assert os.stat(f"{workdir}/w.sock").st_mode & 0o777 == 0o600
    status = roles.json("status")["workers"][0]
    assert status["addr"] == worker["addr"] and status["tiers"][0]["path"] == f"{workdir}/w"
    assert end(p) == DONE and not os.path.exists(f"{workdir}/w.sock")
    p = roles.start_worker()
    assert [(w["id"], w["state"]) for w in roles.json("worker", "ls")] == [(1, "live")]
    roles.refused(USAGE, f"{workdir}/w", args=roles.worker_args("--timeout", "5s"))  # one at a time
    assert end(p) == DONE


def test_an_address_is_one_workers(roles, workdir):
    """Whoever tells an address that another one has is told so; gone, it gives it away."""
    roles.start_master()
    here = f"127.0.0.1:{util.free_port()}"
    first = roles.start_worker("--advertise", here, tier="v", log="first")
    roles.refused(USAGE, here, "worker 1", "--listen", "--advertise",
                  args=roles.worker_args("--advertise", here))
    assert [w["id"] for w in roles.json("worker", "ls")] == [1]
    assert "ready" not in roles.log()
    assert end(first) == DONE
    roles.start_worker("--advertise", here)
    roles.refused(USAGE, here, "worker 2", args=roles.worker_args("--advertise", here, tier="v"))


@pytest.mark.parametrize("more, code", [((), USAGE), (("--listen", "127.0.0.1:0"), USAGE),
                                        (("--listen", "{}:0"), None),
                                        (("--listen", "0.0.0.0:0", "--advertise", "{}"), None)])
def test_a_loopback_address_is_not_told_over_the_network(root, network, workdir, more, code):
    """Two hosts with a worker each and no --listen would both be 127.0.0.1:7110."""
    host, port, token = network.host("m"), util.free_port(), f"{workdir}/token"
    other, address = network.host("w"), None
    address = f"{host.address}:{port}"
    with open(os.open(token, os.O_WRONLY | os.O_CREAT, 0o600), "w", encoding="ascii") as f:
        f.write("5" * 64)
    argv = [binary(), "worker", "--master", address, "--token-file", token, "--tier",
            f"SSD:{workdir}/w:64MiB", "--http-listen", "none",
            *[m.format(other.address) for m in more]]
    master = host.popen([binary(), "master", "--dir", f"{workdir}/m", "--listen", address,
                         "--token-file", token, "--http-listen", "none"])
    log = open(f"{workdir}/worker", "w+", encoding="utf-8")
    worker = other.popen(argv, stdout=log, stderr=log)

    def said():
        log.seek(0)
        return log.read()

    try:
        if code is None:
            util.wait_until("it serves", lambda: "ready: id=1" in said() or worker.poll() is not None, 30)
            assert f"addr={other.address}:" in said()
        else:
            assert worker.wait(timeout=30) == code, said()
            assert "127.0.0.1:" in said() and "--listen" in said() and "--advertise" in said()
            assert address in said()
    finally:
        util.end_group(worker)
        util.end_group(master)
        log.close()


def test_tier_of_another_cluster(roles, workdir):
    roles.start_master()
    end(roles.start_worker())
    other = Roles(f"{workdir}/other")
    os.mkdir(other.dir)
    try:
        other.start_master()
        args = ["worker", "--tier", f"SSD:{workdir}/w:64MiB", "--listen", "127.0.0.1:0", "--http-listen",
                "none"]
        other.refused(USAGE, f"{workdir}/w", "--replace", args=args)
        p = other.serves(other.spawn(*args, "--replace", log="worker"), "worker", "worker")
        assert [w["state"] for w in other.json("worker", "ls")] == ["live"]
        assert end(p) == DONE
    finally:
        other.close()


def test_drain_and_remove(roles):
    roles.start_master()
    first, second = (roles.start_worker(tier=t, log=f"{t}.log") for t in "ab")
    assert {w["id"]: w["state"] for w in roles.json("worker", "ls")} == {1: "live", 2: "live"}
    assert roles.run("worker", "drain", "1").code == DONE
    assert {w["id"]: w["state"] for w in roles.json("worker", "ls")} == {1: "draining", 2: "live"}
    assert roles.run("worker", "drain", "1", "--undo").code == DONE
    assert {w["id"]: w["state"] for w in roles.json("worker", "ls")} == {1: "live", 2: "live"}
    done = roles.run("worker", "drain", "1", "--wait")
    assert done.code == DONE and "drained" in done.out, done
    assert roles.run("worker", "remove", "1").code == DONE
    assert first.wait(20) != DONE and "removed" in roles.log("a.log")
    done = roles.run("worker", "drain", "9")
    assert done.code == FAIL and "9" in done.err, done
    assert second.poll() is None and end(second) == DONE


# ---- mount ----

def mount_args(workdir, *args):
    with contextlib.suppress(FileExistsError):  # also as a dead mount
        os.mkdir(f"{workdir}/mnt")
    return ["mount", f"{workdir}/mnt", "--http-listen", "none", *args]


def test_mount_without_a_master(roles, workdir):
    for more in ([], ["-d", "--log-file", f"{workdir}/l"]):
        begun = time.monotonic()
        roles.refused(UNREACH, roles.master, "no master within 1",
                      args=mount_args(workdir, "--timeout", "1s", *more))
        assert 0.5 < time.monotonic() - begun < 5
        assert not util.mounted(f"{workdir}/mnt")


def test_mount_before_its_master(roles, workdir):
    p = roles.spawn(*mount_args(workdir), log="mount")
    util.wait_until("it waits", lambda: "waiting for a master" in roles.log("mount"), 10)
    assert p.poll() is None
    roles.start_master()
    roles.serves(p, "mount", "mount")
    assert util.mounted(f"{workdir}/mnt") and end(p) == DONE
    roles.close()
    p = roles.spawn(*mount_args(workdir), log="again")
    util.wait_until("it waits", lambda: "waiting for a master" in roles.log("again"), 10)
    assert end(p, 3) == DONE and not util.mounted(f"{workdir}/mnt")


def test_mount_checks_its_line(roles, workdir):
    roles.refused(USAGE, "--strict", "not offered", args=mount_args(workdir, "--strict"))
    roles.refused(USAGE, "--no-read-only", args=mount_args(workdir, "--no-read-only"))
    roles.refused(USAGE, "-o rw", args=mount_args(workdir, "-o", "allow_other,rw"))
    roles.refused(USAGE, "-o noexec", args=mount_args(workdir, "-o", "nosuid,noexec"))
    taken = "ro,nosuid,nodev,noatime,relatime,nodiratime,lazytime,async,_netdev"  # as mount(8) passes them
    roles.refused(UNREACH, roles.master, args=mount_args(workdir, "-o", taken, "--timeout", "1s"))
    roles.refused(USAGE, "--path", args=mount_args(workdir, "--path", "/a/../b"))
    roles.refused(USAGE, "none", args=["mount", f"{workdir}/none"])
    roles.refused(USAGE, "--http-listen", args=["mount", f"{workdir}/mnt", "--http-listen", "0.0.0.0:0"])


def test_mount_with_a_wrong_token(roles, workdir):
    roles.start_master()
    token = f"{workdir}/wrong"
    with open(os.open(token, os.O_WRONLY | os.O_CREAT, 0o600), "w", encoding="ascii") as f:
        f.write("0" * 64)
    roles.refused(DENIED, roles.master, args=mount_args(workdir, "--token-file", token))


def served(roles, workdir, name="served"):
    util.write_tree(f"{workdir}/{name}", [("d/e/f", some_bytes(1000)), ("top", b"x")])
    roles.start_master()
    assert roles.run("attach", f"file://{workdir}/{name}", "/").code == DONE


def test_mount_shows_names(roles, workdir):
    served(roles, workdir)
    mnt = f"{workdir}/mnt"
    p = roles.serves(roles.spawn(*mount_args(workdir), log="mount"), "mount", "mount")
    assert util.mounted(mnt, FSTYPE)
    assert util.run("ls", mnt).stdout.split() == ["d", "top"]
    assert util.run("stat", "-c", "%s", f"{mnt}/d/e/f").stdout == "1000\n"
    session, = [s for s in roles.json("status")["sessions"] if s["mountpoint"] == mnt]
    assert session["pid"] == p.pid
    assert end(p) == DONE and not util.mounted(mnt)


def test_mount_of_a_directory(roles, workdir):
    served(roles, workdir)
    mnt = f"{workdir}/mnt"
    p = roles.serves(roles.spawn(*mount_args(workdir, "--path", "/d/e/"), log="mount"), "mount", "mount")
    assert util.run("ls", "-a", mnt).stdout.split() == [".", "..", "f"]
    assert util.run("stat", "-c", "%s", f"{mnt}/f").stdout == "1000\n"
    roles.refused(USAGE, f"below the mountpoint {mnt}; the path of the name space is /d/e/f\n",
                  args=["load", f"{mnt}/f"])
    roles.refused(USAGE, "the path of the name space is /d/e\n", args=["free", mnt])
    assert end(p) == DONE
    roles.refused(FAIL, "--path /d/none", args=mount_args(workdir, "--path", "/d/none"))
    roles.refused(FAIL, "--path /top", args=mount_args(workdir, "--path", "/top"))
    assert not util.mounted(mnt)


@pytest.mark.parametrize("above", ("", "/a/b"))
def test_a_mount_over_its_store(roles, workdir, above):
    """It is not asked for what it shows, nor for what lay below; the store is back once it is gone."""
    served(roles, workdir, f"served{above}")
    roles.start_worker()
    over, mnt = f"{workdir}/served", f"{workdir}/mnt"
    roles.serves(roles.spawn(*mount_args(workdir), log="mount"), "mount", "mount")
    p = roles.serves(roles.spawn("mount", over, "--http-listen", "none", log="over"), "mount", "over")
    done = roles.run("load", "/")
    assert done.code == FAIL and "a mount of tarn lies over the store: unmount it" in done.err, done
    assert util.run("cat", f"{mnt}/d/e/f", check=False, seconds=30).returncode != 0
    assert end(p) == DONE
    util.wait_until("the store answers", lambda: roles.run("load", "/").code == DONE, 30)
    assert util.run("cat", f"{mnt}/top", seconds=30).stdout == "x"


@pytest.mark.parametrize("before", (False, True))
def test_a_link_from_its_store_into_a_mount(roles, workdir, before):
    """Also where another file system was mounted there before, whose device number is given again."""
    served(roles, workdir)
    roles.start_worker()
    over, place = f"{workdir}/over", f"{workdir}/served"
    os.mkdir(over)
    os.rename(place, f"{workdir}/old")
    os.symlink(over, place)
    if before:
        util.run("mount", "-t", "tmpfs", "none", over)
        try:
            roles.run("doctor")  # asks it
        finally:
            util.run("umount", over)
    p = roles.serves(roles.spawn("mount", over, "--http-listen", "none", log="overlog"), "mount", "overlog")
    done = roles.run("load", "/")
    assert done.code == FAIL and "a mount of tarn lies over the store: unmount it" in done.err, done
    os.unlink(place)
    os.rename(f"{workdir}/old", place)
    if not before:  # else a file system is missed there
        util.wait_until("the store answers", lambda: roles.run("load", "/").code == DONE, 30)
    assert end(p) == DONE


def test_umount_waits_for_the_mount(roles, workdir):
    served(roles, workdir)
    mnt = f"{workdir}/mnt"
    for _ in range(3):
        p = roles.serves(roles.spawn(*mount_args(workdir), log=f"mount{_}"), "mount", f"mount{_}")
        assert os.path.exists(f"/run/tarn/{p.pid}.mount")
        assert roles.run("umount", mnt).code == DONE
        assert not util.alive(p.pid) or not p.wait(0.5)
        assert not util.mounted(mnt) and not os.path.exists(f"/run/tarn/{p.pid}.mount")
        assert p.wait(10) == DONE


def test_dead_mount_is_replaced(roles, workdir):
    served(roles, workdir)
    mnt = f"{workdir}/mnt"
    p = roles.serves(roles.spawn(*mount_args(workdir), log="first"), "mount", "first")
    record = f"/run/tarn/{p.pid}.mount"
    os.killpg(p.pid, signal.SIGKILL)
    p.wait()
    assert util.mounted(mnt, FSTYPE) and os.path.exists(record)
    p = roles.serves(roles.spawn(*mount_args(workdir), log="second"), "mount", "second")
    assert [m for m, t in util.mounts() if m == mnt] == [mnt]
    assert util.run("ls", mnt).stdout.split() == ["d", "top"]
    # What it replaced is not missed for an hour.
    util.wait_until("one is left", lambda: [s["pid"] for s in roles.json("status")["sessions"]
                                            if s["mountpoint"] == mnt] == [p.pid], 30)
    assert roles.run("umount", mnt).code == DONE
    assert p.wait(10) == DONE
    with contextlib.suppress(FileNotFoundError):
        os.unlink(record)


def test_mount_in_the_background(roles, workdir):
    served(roles, workdir)
    mnt = f"{workdir}/mnt"
    pid_file = f"{workdir}/pid"
    done = roles.run(*mount_args(workdir, "-d", "--pid-file", pid_file, "--log-file", f"{workdir}/l"))
    assert done.code == DONE and mnt in done.err, done
    pid = int(read(pid_file))
    try:
        assert util.run("ls", mnt).stdout.split() == ["d", "top"]
        assert roles.run("umount", mnt).code == DONE
        util.wait_until("its end", lambda: not util.alive(pid), 10)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)


def test_mount_sees_out_a_restart_of_the_master(roles, workdir):
    served(roles, workdir)
    mnt = f"{workdir}/mnt"
    p = roles.serves(roles.spawn(*mount_args(workdir), log="mount"), "mount", "mount")
    master = roles.processes[0]
    assert end(master) == DONE
    roles.start_master()
    assert util.run("ls", f"{mnt}/d/e", seconds=30).stdout == "f\n"
    assert end(p) == DONE


# ---- attach, detach, mounts ----

def test_attach_and_detach(roles, workdir):
    for name in ("one", "two"):
        util.write_tree(f"{workdir}/{name}", [(f"{name}.txt", name.encode())])
    roles.start_master()
    assert roles.json("mounts") == []
    assert roles.run("attach", f"file://{workdir}/one", "/", "--meta-ttl", "forever").code == DONE
    assert roles.run("attach", f"file://{workdir}/two", "/deep/two", "-o", "timeout=10s").code == DONE
    mounts = {m["path"]: m for m in roles.json("mounts")}
    assert set(mounts) == {"/", "/deep/two"}
    assert mounts["/"]["meta_ttl"] == "forever" and mounts["/deep/two"]["meta_ttl"] == "60s"
    assert mounts["/deep/two"]["ufs"] == f"file://{workdir}/two" and mounts["/"]["state"] == "up"
    assert roles.run("ls", "/deep/two").out.split() == ["two.txt"]
    text = roles.run("mounts").out
    assert re.search(rf"^/deep/two +file://{workdir}/two +60s ", text, re.M), text
    assert roles.run("attach", f"file://{workdir}/two", "/", "--no-check").code == FAIL  # taken
    assert roles.run("attach", f"file://{workdir}/one", "/", "--update", "--meta-ttl", "5s").code == DONE
    assert {m["path"]: m["meta_ttl"] for m in roles.json("mounts")}["/"] == "5s"
    assert roles.run("detach", "/deep/two").code == DONE
    assert [m["path"] for m in roles.json("mounts")] == ["/"]
    done = roles.run("detach", "/deep/two")
    assert done.code == FAIL and "/deep/two" in done.err, done


def test_directories_of_no_store_outlive_a_detach(roles, workdir):
    """Nothing has a say in what lies on the way to an attachment but the master."""
    roles.start_master()
    roles.start_worker()
    util.write_tree(f"{workdir}/s", [("f", b"x")])
    uri = f"file://{workdir}/s"
    for path in ("/a/b", "/a/b", "/x"):
        assert roles.run("attach", uri, path).code == DONE
        assert roles.run("ls", path).out.split() == ["f"]
        assert roles.run("detach", path).code == DONE
    for path in ("/", "/a"):
        done = roles.run("ls", path)
        assert done.code == (DONE if path == "/" else FAIL), done
        assert "down" not in done.err
    assert roles.run("attach", uri, "/a/c").code == DONE
    assert roles.run("ls", "/a").out.split() == ["c"]
    assert roles.run("ls", "/a/c").out.split() == ["f"]
    done = roles.run("ls", "/a/b")
    assert done.code == FAIL and "no such" in done.err, done
    assert roles.run("attach", uri, "/a/b").code == DONE
    assert roles.run("cat", "/a/b/f").code == DONE


def test_attach_checks_its_line(roles, workdir):
    """Before any master is asked."""
    uri = "s3://bucket/p"
    roles.refused(USAGE, "--write", "not offered", args=["attach", uri, "/", "--write", "back"])
    roles.refused(USAGE, "--strict", "not offered", args=["attach", uri, "/", "--strict"])
    roles.refused(USAGE, "--no-read-only", args=["attach", uri, "/", "--no-read-only"])
    roles.refused(USAGE, "bucket/p", "s3://", args=["attach", "bucket/p", "/"])
    roles.refused(USAGE, "endpoint", args=["attach", uri, "/", "-o", "endpont=http://x"])
    roles.refused(USAGE, "\"..\"", args=["attach", uri, "/a/../b"])
    roles.refused(USAGE, "secret-file", args=["attach", uri, "/", "-o", "secret-key=CANARY0123456789"])
    roles.refused(USAGE, "config file", args=["attach", uri, "/", "-o", "proxy=http://me:CANARY@127.0.0.1:1"])
    roles.refused(USAGE, f"{workdir}/none", args=["attach", uri, "/", "-o", f"key-file={workdir}/none"])
    roles.refused(UNREACH, roles.master, args=["attach", uri, "/"])
    roles.refused(UNREACH, roles.master, args=["detach", "/"])
    roles.refused(UNREACH, roles.master, args=["mounts"])
    for word in ("attach", "detach", "mounts", "worker", "master", "mount"):
        assert "CANARY" not in roles.run(word, "--help").out


def test_attach_sends_secrets_and_nobody_prints_them(roles, workdir, s3fault):
    s3fault.bucket("bkt")
    s3fault.put("bkt", "f", b"x")
    for name, text in (("key", "KEYID,1"), ("secret", "CANARY\\0123,456789")):
        with open(os.open(f"{workdir}/{name}", os.O_WRONLY | os.O_CREAT, 0o600), "w", encoding="ascii") as f:
            f.write(text + "\n")
    roles.start_master("--log-level", "debug")
    options = f"endpoint={s3fault.endpoint},key-file={workdir}/key,secret-file={workdir}/secret"
    done = roles.run("attach", "s3://bkt", "/", "-o", options)
    assert done.code == DONE, done
    sent = [r.headers.get("Authorization", "") for r in s3fault.requests()]
    assert any("KEYID,1/" in text for text in sent), sent
    said = done.out + done.err + roles.run("mounts", "--json").out + roles.run("status", "--json").out
    assert "CANARY" not in said + roles.log("master")
    assert f"key-file={workdir}/key" in roles.json("mounts")[0]["options"]
    assert "KEYID" not in said, "the file is shown, not what it holds"


def test_attach_takes_another_key(roles, workdir, s3fault):
    """An id in place of the file of another, and a file in place of an id."""
    s3fault.bucket("bkt")
    s3fault.put("bkt", "f", b"x")
    for name, text in (("key", "FIRST"), ("other", "THIRD"), ("secret", "CANARY")):
        with open(os.open(f"{workdir}/{name}", os.O_WRONLY | os.O_CREAT, 0o600), "w", encoding="ascii") as f:
            f.write(text + "\n")
    roles.start_master()
    more = f"endpoint={s3fault.endpoint},secret-file={workdir}/secret,"
    for update, option, key in ((), f"key-file={workdir}/key", "FIRST"), (("--update",), "access-key=SECOND", "SECOND"), \
            (("--update",), f"key-file={workdir}/other", "THIRD"):
        s3fault.forget_requests()
        done = roles.run("attach", "s3://bkt", "/", *update, "-o", more + option)
        assert done.code == DONE, done
        sent = [r.headers.get("Authorization", "") for r in s3fault.requests()]
        assert sent and all(f"={key}/" in text for text in sent if text), (key, sent)
        shown = [o for o in roles.json("mounts")[0]["options"] if o.startswith(("key-file=", "access-key="))]
        assert shown == [option], shown


def test_attach_says_what_failed(roles, workdir):
    roles.start_master()
    done = roles.run("attach", f"file://{workdir}/none", "/")
    assert done.code == UNREACH and f"{workdir}/none" in done.err, done
    done = roles.run("attach", "s3://b", "/", "-o", "endpoint=http://127.0.0.1:1,credentials=anonymous")
    assert done.code == UNREACH and "127.0.0.1:1" in done.err, done
    assert roles.json("mounts") == []
    assert roles.run("attach", f"file://{workdir}/none", "/", "--no-check").code == DONE


def refuses(code, error):
    def how(make, _):
        store = make()
        store.bucket("bkt")
        store.fail("status", code=code, error=error)
        return store.endpoint
    return how


def stalls(make, _):
    store = make()
    store.bucket("bkt")
    store.fail("stall_headers")
    return store.endpoint + ",timeout=1s,retries=0"


ATTACH_ERRORS = {  # how: (what it meets, exit code, words)
    "403": (refuses(403, "AccessDenied"), DENIED, ("AccessDenied",)),
    "signature": (refuses(403, "SignatureDoesNotMatch"), DENIED, ("SignatureDoesNotMatch",)),
    "no bucket": (lambda make, _: make().endpoint, UNREACH, ("NoSuchBucket",)),
    "name": (lambda *_: "http://store.invalid:9000", UNREACH, ("store.invalid", "resolve")),
    "certificate": (lambda make, tls: f"{make(tls='expired').endpoint},tls-ca={tls.ca}", UNREACH,
                    ("certificate", "expired")),
    "time": (stalls, TIMEOUT, ("no progress for 1.0s",)),
}


@pytest.mark.parametrize("how", ATTACH_ERRORS)
def test_attach_says_which_error_it_met(roles, s3fault_factory, certificates, how):
    """And leaves nothing attached."""
    store, code, words = ATTACH_ERRORS[how]
    roles.start_master()
    options = f"endpoint={store(s3fault_factory, certificates)},credentials=anonymous"
    done = roles.run("attach", "s3://bkt/some/where", "/there", "-o", options)
    assert done.code == code, done
    for word in ("s3://bkt/some/where", *words):
        assert word in done.err, (word, done.err)
    assert len(done.err.splitlines()) == 1 and roles.json("mounts") == [], done


# ---- metrics ----

def metrics(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as reply:
        return set(re.findall(r"^(tarn_\w+?)(?:\{| )", reply.read().decode(), re.M))


def test_each_role_has_its_metrics(roles, workdir):
    served(roles, workdir)
    worker, mount = util.free_port(), util.free_port()
    roles.start_worker("--http-listen", f"127.0.0.1:{worker}")
    p = roles.spawn(*mount_args(workdir), "--http-listen", f"127.0.0.1:{mount}", log="mount")
    roles.serves(p, "mount", "mount")
    of_master, of_worker, of_mount = metrics(roles.http_port), metrics(worker), metrics(mount)
    every = of_master & of_worker & of_mount
    assert {"tarn_process_resident_bytes", "tarn_start_time_seconds", "tarn_ufs_read_bytes_total"} <= every
    assert {"tarn_master_inodes", "tarn_raft_leader", "tarn_sessions"} <= of_master - of_worker - of_mount
    assert {"tarn_cache_used_bytes", "tarn_worker_settled"} <= of_worker - of_master - of_mount
    assert {"tarn_read_bytes_total", "tarn_fuse_requests_total"} <= of_mount - of_master - of_worker
    for port in (roles.http_port, worker, mount):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/version", timeout=5) as reply:
            assert "version" in reply.read().decode()


def test_a_worker_is_not_ready_before_it_is_registered(roles):
    http = util.free_port()
    p = roles.spawn(*roles.worker_args("--http-listen", f"127.0.0.1:{http}"), log="worker")
    util.wait_until("it waits", lambda: "waiting for a master" in roles.log("worker"), 20)
    assert ready(http) != 200
    roles.start_master()
    roles.serves(p, "worker", "worker")
    assert ready(http) == 200
    os.killpg(roles.processes[1].pid, signal.SIGKILL)
    assert p.poll() is None
