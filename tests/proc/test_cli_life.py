# SPDX-License-Identifier: Apache-2.0
"""How `tarn local` begins and ends: signals, pid files, the background, umount; and what commands do
when it ends while they wait."""
import contextlib
import os
import signal
import subprocess
import time

import pytest

from tests.lib import local, util
from tests.lib.local import check_refused, says
from tests.lib.tarn import FSTYPE, binary
from tests.lib.util import some_bytes

DONE, FAIL, USAGE, UNREACH, TIMEOUT, DENIED = range(6)
BKT = "bkt"


@pytest.fixture
def served(workdir):
    root = os.path.join(workdir, "served")
    util.write_tree(root, [("d/f", some_bytes(10_000)), ("big", some_bytes(6 << 20))])
    return root


@contextlib.contextmanager
def running(*args, **kwargs):
    """A process that is gone behind the block, also when a check in it failed."""
    with subprocess.Popen(*args, **kwargs) as p:
        try:
            yield p
        finally:
            p.kill()


# ---- signals ----

@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_stopped_while_starting(tarn, s3fault, sig):
    """The first attach waits for the store; a signal meanwhile is a clean end."""
    s3fault.put(BKT, "f", b"x")
    s3fault.fail("stall_headers", seconds=2, times=1)
    server = tarn(f"s3://{BKT}", *local.fault_options(s3fault), start=False)
    process = server.spawn()
    util.wait_until("a question to the store", s3fault.requests, 10)
    process.send_signal(sig)
    assert process.wait(15) == DONE, server.log_tail()
    server.process = None
    assert not util.mounted(server.mnt)
    says(server.log_tail(), "stopped while starting")
    assert not os.path.exists(f"/run/tarn/{server.port}.token")


def test_stopped_while_a_store_does_not_answer(tarn, s3fault):
    """At once, not when the attach gives up."""
    s3fault.fail("stall_headers")
    server = tarn(f"s3://{BKT}", *local.fault_options(s3fault), start=False)
    process = server.spawn()
    util.wait_until("a question to the store", s3fault.requests, 10)
    begun = time.monotonic()
    process.terminate()
    assert process.wait(15) == DONE and time.monotonic() - begun < 4, server.log_tail()
    server.process = None
    says(server.log_tail(), "stopped while starting")


def test_stopped_at_any_moment_of_the_start(tarn, served):
    """Also between the mount and the word that it is ready."""
    server = tarn(f"file://{served}", start=False)
    for i in range(12):
        process = server.spawn()
        if i % 3 == 0:
            util.wait_until("the mount", lambda: util.mounted(server.mnt, FSTYPE), 20, step=0.001)
        else:
            util.wait_until("the cache", lambda: os.path.exists(f"{server.cache}/FORMAT"), 20)
            time.sleep(0.01 * i)  # the moment of the signal
        process.terminate()
        # before anything is made, the signal's own way to end a process
        assert process.wait(20) in (DONE, -signal.SIGTERM), server.log_tail()
        server.process = None
        assert not util.mounted(server.mnt)
    server.start()
    assert server.stop() == DONE


def test_stopped_between_mount_and_ready(tarn, served):
    server = tarn(f"file://{served}", start=False)
    for _ in range(5):
        process = server.spawn()
        util.wait_until("the mount", lambda: util.mounted(server.mnt, FSTYPE), 20, step=0.0005)
        process.terminate()
        assert process.wait(20) == DONE, server.log_tail()
        server.process = None
        assert not util.mounted(server.mnt)


def test_a_signal_of_others_changes_nothing(tarn, served):
    server = tarn(f"file://{served}")
    server.process.send_signal(signal.SIGUSR2)
    time.sleep(0.3)  # it is to be dealt with first
    assert server.answers() and server.process.poll() is None
    assert server.stop() == DONE


# ---- the background ----

def test_background_stopped_while_starting(tarn, s3fault):
    """Who waits for the background hears that it does not serve."""
    s3fault.put(BKT, "f", b"x")
    s3fault.fail("stall_headers", seconds=2, times=1)
    server = tarn(f"s3://{BKT}", *local.fault_options(s3fault), start=False)
    with running([*server.command(), "-d"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                 stderr=subprocess.PIPE, text=True, env=server.env) as p:
        util.wait_until("a question to the store", s3fault.requests, 10)
        child, = [pid for pid in local.processes_with(server.cache) if pid != p.pid]
        os.kill(child, signal.SIGTERM)
        _, err = p.communicate(timeout=20)
        assert p.returncode == FAIL
        says(err, "stopped while starting")
    util.wait_until("the end", lambda: not util.alive(child), 10)
    assert not util.mounted(server.mnt)


def test_interrupted_start_in_the_background_leaves_nothing(tarn, s3fault):
    s3fault.put(BKT, "f", b"x")
    s3fault.fail("stall_headers", seconds=2, times=1)
    server = tarn(f"s3://{BKT}", *local.fault_options(s3fault), start=False)
    with running([*server.command(), "-d"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                 stderr=subprocess.PIPE, text=True, env=server.env) as p:
        util.wait_until("a question to the store", s3fault.requests, 10)
        child, = [pid for pid in local.processes_with(server.cache) if pid != p.pid]
        p.send_signal(signal.SIGINT)
        assert p.wait(10) == -signal.SIGINT
    util.wait_until("the end", lambda: not util.alive(child), 20)
    assert not util.mounted(server.mnt)


def test_a_failed_start_leaves_the_pid_file_of_another(tarn, served, workdir):
    pid_file = f"{workdir}/tarn.pid"
    first = tarn(f"file://{served}", "--pid-file", pid_file)
    second = tarn(f"file://{served}", "--pid-file", pid_file, start=False)
    second.master = first.master  # its port is taken
    check_refused(second, USAGE, "--listen", "in use")
    with open(pid_file, encoding="ascii") as f:
        assert int(f.read()) == first.process.pid
    assert first.stop() == DONE
    assert not os.path.exists(pid_file)


@pytest.mark.parametrize("flag", ["--pid-file", "--log-file"])
def test_files_that_cannot_be_made(tarn, served, workdir, flag):
    for path, why in ((f"{workdir}/no/such", "no such file"), (workdir, "directory")):
        server = tarn(f"file://{served}", flag, path, start=False)
        check_refused(server, USAGE, flag, path, why)


def test_closed_streams_do_not_become_files(tarn, served):
    """What is said would go into the cache."""
    server = tarn(f"file://{served}", prefix=["bash", "-c", "exec \"$@\" <&- >&- 2>&-", "-"], start=False)
    server.spawn()
    util.wait_until("the mount", server.answers, 30)  # it cannot say so
    for fd in (0, 1, 2):
        assert os.readlink(f"/proc/{server.process.pid}/fd/{fd}") == "/dev/null"
    assert local.listed(server) == ["big", "d"]
    done = subprocess.run(["bash", "-c", "exec \"$@\" >&-", "-", binary(), "ls", "/"], check=False, text=True,
                          env=server.cli_env(), stderr=subprocess.PIPE, timeout=30)
    assert done.returncode == FAIL and "standard output" in done.stderr
    assert server.stop() == DONE


# ---- umount ----

def test_umount_returns_when_the_server_has_ended(tarn, served):
    """So that its cache can be used at once."""
    server, other = tarn(f"file://{served}"), tarn(f"file://{served}")
    for _ in range(3):
        server.cli("umount", server.mnt + "/")
        ended = not util.alive(server.process.pid)
        assert server.process.wait(20) == DONE
        server.process = None
        assert ended, "it had not ended yet"
        server.start()
    assert other.answers()
    assert server.cli("umount", "--lazy", server.mnt).code == DONE
    assert server.process.wait(20) == DONE
    server.process = None


# ---- commands whose server ends ----

def start_waiting(server, *args):
    process = subprocess.Popen([binary(), *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               env=server.cli_env())
    util.wait_until("the job runs", lambda: [j for j in server.json("job", "ls")
                                             if j["state"] == "running"], 20)
    util.wait_until("its wait for the job", lambda: util.has_thread(process.pid, "signals"), 20)
    return process


def test_load_ends_soon_after_its_server(tarn, served):
    """With the default deadlines, not those."""
    server = tarn(f"file://{served}")
    process = start_waiting(server, "load", "/big", "--bandwidth", "200KiB/s")
    begun = time.monotonic()
    server.kill()
    out, err = process.communicate(timeout=60)
    assert time.monotonic() - begun < 10
    assert process.returncode == UNREACH and out == ""
    says(err, server.master, "went away", "tarn job wait ")


def test_load_whose_server_is_started_anew(tarn, served):
    """It is another process with another token: said as that, not as a lack of permission."""
    server = tarn(f"file://{served}")
    process = start_waiting(server, "load", "/big", "--bandwidth", "200KiB/s")
    server.kill()
    server.start()
    _, err = process.communicate(timeout=60)
    assert process.returncode == UNREACH
    says(err, server.master, ("anew", "went away"), "tarn job wait ")
    job = server.json("job", "ls")[0]
    assert job["state"] in ("running", "succeeded")
    server.cli("job", "cancel", job["id"], check=False)


def test_get_ends_soon_after_its_server(tarn, workdir):
    root, out = f"{workdir}/src", f"{workdir}/out"
    os.makedirs(root)
    os.makedirs(out)
    with open(f"{root}/f", "wb") as f:
        f.truncate(4 << 30)
    server = tarn(f"file://{root}", "--cache-size", "64MiB")
    with running([binary(), "get", "/f", out], stderr=subprocess.PIPE, text=True,
                 env=server.cli_env()) as p:
        util.wait_until("bytes come", lambda: any(os.stat(f"{out}/{n}").st_size > (1 << 20)
                                                  for n in os.listdir(out)), 30)
        begun = time.monotonic()
        server.kill()
        err = p.stderr.read()
        assert p.wait(60) == UNREACH and time.monotonic() - begun < 10
    says(err, "/f", "went away")
    assert os.listdir(out) == []


def test_interrupt_of_a_call_under_way(tarn, s3fault, workdir):
    """Ctrl-C does not wait for a listing."""
    for name in ("a/f", "b/f"):
        s3fault.put(BKT, name, b"x")
    server = tarn(f"s3://{BKT}", *local.fault_options(s3fault))
    s3fault.forget_requests()
    s3fault.fail("stall_headers", seconds=20, op="list")
    with running([binary(), "get", "-R", "/", f"{workdir}/out"], stderr=subprocess.PIPE, text=True,
                 env=server.cli_env()) as p:
        util.wait_until("a question to the store", s3fault.requests, 10)
        time.sleep(0.2)  # the call waits for its answer
        begun = time.monotonic()
        p.send_signal(signal.SIGINT)
        err = p.stderr.read()
        assert p.wait(15) == FAIL and "cancelled" in err
        assert time.monotonic() - begun < 5
    s3fault.heal()


def test_interrupt_while_a_pipe_has_no_reader(tarn, served, workdir):
    fifo = f"{workdir}/fifo"
    os.mkfifo(fifo)
    server = tarn(f"file://{served}")
    with running([binary(), "get", "/d/f", fifo], stderr=subprocess.DEVNULL,
                 env=server.cli_env()) as p:
        util.wait_until("its session", lambda: any(s["kind"] == "cli" and s["pid"] == p.pid for s in
                                                   server.json("status")["sessions"]), 10)
        time.sleep(0.5)  # it waits for a reader now
        p.send_signal(signal.SIGINT)
        assert p.wait(10) == -signal.SIGINT


# ---- what they read ----

def test_reads_of_commands_count(tarn, served, workdir):
    server = tarn(f"file://{served}")

    def reads():
        return server.json("status")["reads"]

    size = 6 << 20
    assert server.json("status")["reads"]["hit_ratio"] is None
    server.cli("get", "/big", f"{workdir}/a")
    first = reads()
    assert first["ufs_bytes"] + first["local_bytes"] + first["remote_bytes"] == size
    assert first["ufs_bytes"] > 0
    # A reader has its bytes before the cache has them.
    util.wait_until("the file", lambda: server.json("du", "/big")["cached_bytes"] == size, 10)
    for i in range(3):
        server.cli("get", "/big", f"{workdir}/b")
    last = reads()
    assert last["remote_bytes"] - first["remote_bytes"] == 3 * size
    assert last["ufs_bytes"] == first["ufs_bytes"] and 0.7 < last["hit_ratio"] <= 1


# ---- several on one machine ----

def start_in_background(server, *args):
    """As a user starts it; its code, and what it says."""
    done = subprocess.run([binary(), "local", server.uri, server.mnt, "--cache-dir", server.cache, "-d",
                           "--http-listen", "none", *args], stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=60, check=False, env=server.env)
    return done.returncode, done.stderr


def test_a_start_says_how_commands_find_it(tarn, served):
    """At another port than the one where they look without a word."""
    server = tarn(f"file://{served}", start=False)
    code, err = start_in_background(server, "--listen", server.master)
    try:
        assert code == 0 and err.endswith(f"; commands: TARN_MASTER={server.master} tarn ...\n")
    finally:
        server.cli("umount", server.mnt)


def test_the_holder_of_a_cache_directory_is_named(tarn, served):
    first, second = tarn(f"file://{served}"), tarn(f"file://{served}", start=False)
    second.cache = first.cache
    code, err = start_in_background(second, "--listen", second.master)
    assert code == 2 and f"another tarn (pid {first.process.pid}) uses it" in err, err
    assert "tarn umount" in err and "--cache-dir" in err
