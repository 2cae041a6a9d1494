# SPDX-License-Identifier: Apache-2.0
"""Loopback is not a permission, and secrets stay where they are."""
import errno
import glob
import os
import resource
import secrets
import shutil
import socket
import stat
import subprocess
import urllib.error

import pytest

from tests.lib import local, util
from tests.lib.local import NOBODY, check_refused
from tests.lib.tarn import binary

# Of this run: another on this machine has its own in its processes.
CANARY = f"C4N4RY-s3cr3t-k3y-n0b0dy-5ees-m3-{secrets.token_hex(8)}"
BKT = "bkt"


@pytest.fixture
def served(workdir):
    root = os.path.join(workdir, "served")
    util.write_tree(root, [("d/f", b"private bytes"), ("d/g", b"more")])
    return root


def as_nobody(server, *args, home="/nonexistent", extra=()):
    env = {"TARN_MASTER": server.master, "HOME": home, "PATH": os.environ["PATH"]}
    return subprocess.run([
        "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups",
        binary(), *args, *extra
    ], stdin=subprocess.DEVNULL, capture_output=True, text=True, env=env, timeout=30, check=False)


def token_file(server):
    return f"/run/tarn/{server.port}.token"


COMMANDS = [("status",), ("stat", "/d/f"), ("du", "/"), ("ls", "/"), ("cat", "/d/f"), ("load", "/"),
            ("free", "/"), ("job", "ls")]


@pytest.mark.parametrize("guess", [False, True], ids=["no token", "guessed token"])
def test_another_user_is_refused(root, tarn, served, workdir, guess):
    server = tarn(f"file://{served}")
    extra = ()
    if guess:
        path = os.path.join(workdir, "guess")
        with open(path, "w", encoding="ascii") as f:
            f.write(secrets.token_hex(32) + "\n")
        os.chmod(path, 0o600)
        os.chown(path, NOBODY, NOBODY)
        extra = ("--token-file", path)
    for command in COMMANDS:
        done = as_nobody(server, *command, extra=extra)
        assert done.returncode == 5, f"{command}: {done}"
        assert not done.stdout and "private" not in done.stderr
    assert server.json("stat", "/d/f")["cached_bytes"] == 0, "one of them did something"
    assert as_nobody(server, "umount", server.mnt).returncode != 0
    assert util.mounted(server.mnt)


def test_another_user_cannot_use_our_token_file(root, tarn, served):
    server = tarn(f"file://{served}")
    done = as_nobody(server, "status", extra=("--token-file", token_file(server)))
    assert done.returncode == 5 and token_file(server) in done.stderr


def test_another_user_cannot_use_the_mount(root, tarn, served):
    server = tarn(f"file://{served}")
    done = subprocess.run([
        "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "cat",
        server.path("d/f")
    ], capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode != 0 and not done.stdout


def test_another_user_with_allow_other_gets_what_modes_say(root, tarn, served):
    os.chmod(f"{served}/d/f", 0o600)
    server = tarn(f"file://{served}", "--allow-other")
    for name, allowed in (("d/f", False), ("d/g", True)):
        with open(server.path(name), "rb") as f:  # in the kernel's cache by now
            f.read()
        done = subprocess.run([
            "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "cat",
            server.path(name)
        ], capture_output=True, text=True, timeout=20, check=False)
        assert (done.returncode == 0) == allowed, name


def test_another_user_cannot_see_the_cache(root, tarn, served):
    server = tarn(f"file://{served}")
    with open(server.path("d/f"), "rb") as f:
        f.read()
    # A reader has its bytes before the cache has them.
    util.wait_until("the file", lambda: server.json("stat", "/d/f")["loaded"], 10)
    for path in local.below(server.cache):
        if os.path.dirname(path) == server.cache:
            continue
        try:
            mode = os.lstat(path).st_mode
        except FileNotFoundError:
            continue  # it was of a moment
        assert stat.S_ISDIR(mode) or not mode & 0o022, path
    done = subprocess.run([
        "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "grep", "-r",
        "private bytes", server.cache
    ], capture_output=True, text=True, timeout=20, check=False)
    assert not done.stdout


def test_careless_umask(root, tarn, served):
    """And a cache directory that others may look into, but a private store."""
    os.chmod(f"{served}/d/f", 0o600)
    server = tarn(f"file://{served}", prefix=["bash", "-c", "umask 0; exec \"$@\"", "-"], start=False)
    os.mkdir(server.cache, 0o755)
    server.start()
    with open(server.path("d/f"), "rb") as f:
        f.read()
    # A reader has its bytes before the cache has them.
    util.wait_until("the file", lambda: server.json("stat", "/d/f")["loaded"], 10)
    for path in local.below(server.cache):
        if os.path.dirname(path) == server.cache:
            assert not os.lstat(path).st_mode & 0o022, path
    done = subprocess.run([
        "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "grep", "-rE",
        "private bytes|d/f", server.cache
    ], capture_output=True, text=True, timeout=20, check=False)
    assert not done.stdout


def test_token_file(root, tarn, served):
    server = tarn(f"file://{served}")
    st = os.stat(token_file(server))
    assert stat.S_IMODE(st.st_mode) == 0o600 and st.st_uid == 0
    with open(token_file(server), encoding="ascii") as f:
        first = f.read().strip()
    assert len(first) >= 32
    assert server.stop() == 0
    assert not os.path.exists(token_file(server))
    server.start()
    with open(token_file(server), encoding="ascii") as f:
        assert f.read().strip() != first
    server.kill()
    server.start()
    assert server.cli("status").code == 0


def test_token_of_a_service(root, tarn, served, workdir):
    """It ran without the runtime directory that its user's shell has."""
    server = tarn(f"file://{served}")
    user = server.port  # that of no other run of this test on this machine
    place, run = f"/tmp/tarn-{user}", os.path.join(workdir, "run")
    os.mkdir(run)
    os.chown(run, user, user)
    made = not os.path.exists(place)
    os.makedirs(place, mode=0o700, exist_ok=True)
    copy = f"{place}/{server.port}.token"
    shutil.copyfile(token_file(server), copy)
    os.chmod(copy, 0o600)
    try:
        for owner, code in ((user, 0), (0, 5)):  # a directory of another user is none
            os.chown(place, owner, owner)
            os.chown(copy, user, user)
            done = subprocess.run([
                "setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups",
                binary(), "status"
            ], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=False,
                                  env={"TARN_MASTER": server.master, "XDG_RUNTIME_DIR": run})
            assert done.returncode == code, done
    finally:
        os.unlink(copy)
        if made:
            os.rmdir(place)


def test_wrong_and_careless_token_files(tarn, served, workdir):
    server = tarn(f"file://{served}")
    path = os.path.join(workdir, "token")
    with open(path, "w", encoding="ascii") as f:
        f.write("0" * 64)
    os.chmod(path, 0o600)
    done = server.cli("status", "--token-file", path, check=False)
    assert done.code == 5
    os.chmod(path, 0o644)
    done = server.cli("status", "--token-file", path, check=False)
    assert done.code in (2, 5) and path in done.err
    done = server.cli("status", "--token-file", f"{workdir}/none", check=False)
    assert done.code != 0 and f"{workdir}/none" in done.err


def test_noise_at_the_control_port(tarn, served):
    """Whatever a stranger sends: no answer of use, no crash, no memory."""
    server = tarn(f"file://{served}")
    noises = [
        b"", b"GET / HTTP/1.1\r\n\r\n", b"\0" * 100, b"\xff" * 100_000,
        os.urandom(65536), b"TARN" * 1000
    ]
    before = server.metric("tarn_process_resident_bytes")
    for noise in noises * 20:
        with socket.create_connection((util.LOOPBACK, server.port), timeout=10) as s:
            try:
                s.sendall(noise)
                s.shutdown(socket.SHUT_WR)
                while got := s.recv(65536):
                    assert b"private" not in got and b"d/f" not in got
            except OSError as e:
                # The server may hang up at any moment: ENOTCONN is shutdown() after its reset.
                gone = (errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN)
                assert e.errno in gone, e
    silent = [
        socket.create_connection((util.LOOPBACK, server.port), timeout=10) for _ in range(200)
    ]
    assert server.json("status")["cluster_id"]
    for s in silent:
        s.close()
    assert server.process.poll() is None
    util.wait_until("a metric", lambda: server.metric("tarn_process_resident_bytes") < before +
                    (64 << 20), 5)


# ---- secrets ----

def canary_start(tarn, store, workdir, way):
    env = {
        "AWS_ACCESS_KEY_ID": "",
        "AWS_SECRET_ACCESS_KEY": "",
        "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent"
    }
    flags = ["--log-level", "debug"]
    options = f"endpoint={store.endpoint},access-key=ak,timeout=1s,retries=1"
    secret = os.path.join(workdir, "secret")
    if way == "environment":
        env.update({"AWS_ACCESS_KEY_ID": "ak", "AWS_SECRET_ACCESS_KEY": CANARY})
        options = options.replace("access-key=ak,", "")
    elif way == "config file":
        config = os.path.join(workdir, "tarn.yaml")
        with open(config, "w", encoding="ascii") as f:
            f.write(f"secret-key: {CANARY}\n")
        os.chmod(config, 0o600)
        flags += ["--config", config]
    else:
        with open(secret, "w", encoding="ascii") as f:
            f.write(CANARY + "\n")
        os.chmod(secret, 0o600)
        options += f",secret-file={secret}"
    return tarn(f"s3://{BKT}", "-o", options, *flags, env=env)


@pytest.mark.parametrize("way", ["secret-file", "environment", "config file"])
def test_secret_is_nowhere(tarn, s3fault, workdir, way):
    for name in ("d/f", "d/g", "d/h"):
        s3fault.put(BKT, name, name.encode())
    server = canary_start(tarn, s3fault, workdir, way)
    assert local.listed(server, "d") == ["f", "g", "h"]
    assert util.run("cat", server.path("d/f")).stdout == "d/f"
    s3fault.fail("status", code=403, error="SignatureDoesNotMatch")
    assert util.run("cat", server.path("d/g"), check=False).returncode != 0
    s3fault.heal()
    s3fault.fail("status", code=500)
    assert util.run("cat", server.path("d/h"), seconds=30, check=False).returncode != 0
    said = [server.log_tail(100_000), server.http("/metrics")]
    for command in (("status", "--json"), ("status", ), ("stat", "/d/f",
                                                         "--json"), ("stat", "/none"), ("config", ),
                    ("config", "--json"), ("load", "/"), ("job", "ls", "--json")):
        done = server.cli(*command, check=False)
        said += [done.out, done.err]
    for path in ("/", "/version", "/api/v1/", "/config"):
        try:
            said.append(server.http(path))
        except urllib.error.HTTPError as e:
            said.append(e.read().decode())
    for text in said:
        assert CANARY not in text
    assert not local.processes_with(CANARY)
    for request in s3fault.requests():
        assert CANARY not in str(request)
    assert any("authorization" in {k.lower() for k in r.headers} for r in s3fault.requests())
    assert server.stop() == 0
    for path in local.below(server.cache):
        if os.path.isfile(path):
            with open(path, "rb") as f:
                assert CANARY.encode() not in f.read(), path
    assert CANARY not in server.log_tail(100_000)


def test_secret_in_config_output(tarn, s3fault, workdir):
    """`tarn config` with the very configuration that holds the secret."""
    config = os.path.join(workdir, "tarn.yaml")
    with open(config, "w", encoding="ascii") as f:
        f.write(f"secret-key: {CANARY}\ncache-size: 64MiB\n")
    os.chmod(config, 0o600)
    done = local.command("config", "--config", config)
    assert done.code == 0 and "64MiB" in done.out and config in done.out
    assert CANARY not in done.out + done.err
    assert "secret-key" in done.out, "it is said that it is set, and where"


def test_secret_in_a_readable_config_file(tarn, s3fault, workdir):
    config = os.path.join(workdir, "tarn.yaml")
    with open(config, "w", encoding="ascii") as f:
        f.write(f"secret-key: {CANARY}\n")
    os.chmod(config, 0o644)
    server = tarn(f"s3://{BKT}", "-o", f"endpoint={s3fault.endpoint},access-key=ak", "--config",
                  config, start=False)
    got = check_refused(server, 2, config, "0600")
    assert CANARY not in got.text


def test_secret_in_errors_of_a_failed_start(tarn, s3fault, workdir):
    s3fault.put(BKT, "f", b"x")
    s3fault.fail("status", code=403, error="SignatureDoesNotMatch")
    secret = os.path.join(workdir, "secret")
    with open(secret, "w", encoding="ascii") as f:
        f.write(CANARY)
    os.chmod(secret, 0o600)
    server = tarn(f"s3://{BKT}", "--log-level", "debug", "-o",
                  f"endpoint={s3fault.endpoint},access-key=ak,secret-file={secret}", start=False)
    got = check_refused(server, 5, f"s3://{BKT}")
    assert CANARY not in got.text


def test_user_info_of_a_uri_is_not_shown(tarn, s3fault, workdir):
    url = s3fault.endpoint.replace("http://", f"http://user:{CANARY}@")
    s3fault.put(BKT, "f", b"x")
    server = tarn(f"s3://{BKT}", "-o", f"endpoint={url},credentials=anonymous", start=False)
    process = server.spawn()
    try:
        util.wait_until("an end or a mount",
                        lambda: process.poll() is not None or util.mounted(server.mnt), 15)
        if process.poll() is None:
            said = server.cli("status", "--json").out + server.http("/metrics")
            assert CANARY not in said
        assert CANARY not in server.log_tail(10_000)
    finally:
        server.close()


def test_password_of_a_proxy(tarn, s3fault, workdir):
    """It is no secret by its key, but by its form: not on a command line, not in what is printed."""
    config = os.path.join(workdir, "tarn.yaml")
    with open(config, "w", encoding="ascii") as f:
        f.write(f"ufs:\n  proxy: http://me:{CANARY}@127.0.0.1:1\n")
    os.chmod(config, 0o600)
    for flags in ((), ("--json", )):
        done = local.command("config", "--config", config, *flags)
        assert done.code == 0 and "http://(set)@127.0.0.1:1" in done.out
        assert CANARY not in done.out + done.err
    server = tarn(f"s3://{BKT}", "-o", f"endpoint={s3fault.endpoint},credentials=anonymous",
                  "--config", config, "--log-level", "debug", start=False)
    got = local.refused(server)
    assert got.code == 3 and CANARY not in got.text


def test_a_token_of_the_cluster_is_no_token_of_the_store(tarn, s3fault, workdir):
    """One key at the top of a file for both would give the cluster's secret to a store."""
    token, config = os.path.join(workdir, "token"), os.path.join(workdir, "tarn.yaml")
    with open(token, "w", encoding="ascii") as f:
        f.write(CANARY)
    os.chmod(token, 0o600)
    s3fault.put(BKT, "f", b"x")
    with open(config, "w", encoding="ascii") as f:
        f.write(f"token-file: {token}\n")
    server = tarn(f"s3://{BKT}", "-o", f"endpoint={s3fault.endpoint},credentials=anonymous",
                  "--config", config, start=False)
    check_refused(server, 2, config, "token-file", "remote", "ufs")
    with open(config, "w", encoding="ascii") as f:
        f.write(f"remote:\n  token-file: {token}\n")
    server.start()
    assert local.listed(server) == ["f"]
    assert not any(CANARY in str(r) for r in s3fault.requests())


def test_names_cannot_steer_a_terminal(tarn, served):
    """Also in errors."""
    util.write_tree(served, [("\x1b]0;owned\x07/f", b"x")])
    server = tarn(f"file://{served}")
    for args in (("cat", "/\x1b]0;owned\x07"), ("stat", "/\x1b]0;owned\x07/none"),
                 ("load", "/\x1b]0;owned\x07/none")):
        done = server.cli(*args, check=False)
        assert done.code == 1 and "\x1b" not in done.out + done.err
        assert "\\x1b]0;owned\\x07" in done.err


def test_no_core_dumps(root, tarn, served):
    """Although whoever starts it allows them."""
    server = tarn(f"file://{served}", prefix=["prlimit", "--core=unlimited:unlimited"])
    pid = server.process.pid
    assert resource.prlimit(pid, resource.RLIMIT_CORE)[0] == 0
    with open(f"/proc/{pid}/coredump_filter", encoding="ascii"):
        pass
    assert not glob.glob(f"{server.dir}/core*")
