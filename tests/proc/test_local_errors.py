# SPDX-License-Identifier: Apache-2.0
"""tarn local when something is wrong: it says what, where and why, at once, and changes nothing."""
import os
import re
import socket
import struct
import subprocess

import pytest

from tests.lib import local, util
from tests.lib.local import check_refused, says
from tests.lib.tarn import FSTYPE, binary

BKT = "bkt"
DATA = util.some_bytes(10_000)
ONE_FILE = {"d/f": DATA}


@pytest.fixture
def served(workdir):
    """A directory to serve."""
    root = os.path.join(workdir, "served")
    util.write_tree(root, ONE_FILE.items())
    return root


@pytest.fixture
def store(s3fault):
    s3fault.put(BKT, "d/f", DATA)
    return s3fault


def s3(store_, tarn, *args, bucket=BKT, **options):
    return tarn(f"s3://{bucket}", *local.fault_options(store_, **options), *args, start=False)


def works(server):
    with open(server.start().path("d/f"), "rb") as f:
        assert f.read() == DATA


# ---- the store ----

@pytest.mark.parametrize("key, secret, cause",
                         [(None, "wrong-secret", ("signature", "key")),
                          ("nobody:at-all", "wrong-secret", ("signature", "key", "denie"))])
def test_wrong_key(tarn, swift, bucket, workdir, key, secret, cause):
    flags = local.swift_options(swift, workdir, access_key=key, secret=secret)
    got = check_refused(tarn(f"s3://{bucket}", *flags, start=False), 5, f"s3://{bucket}", cause)
    assert secret not in got.text


def test_no_credentials(tarn, store, workdir):
    env = {"HOME": workdir, "AWS_SHARED_CREDENTIALS_FILE": f"{workdir}/none",
           "AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}
    server = tarn(f"s3://{BKT}", "-o", f"endpoint={store.endpoint}", env=env, start=False)
    check_refused(server, 5, f"s3://{BKT}", "credentials")


def test_denied(tarn, store):
    store.fail("status", code=403, error="AccessDenied")
    check_refused(s3(store, tarn), 5, f"s3://{BKT}", ("denied", "denies"))


def test_wrong_bucket(tarn, swift, workdir):
    flags = local.swift_options(swift, workdir)
    check_refused(tarn("s3://no-such-bucket", *flags, start=False), 3, "s3://no-such-bucket",
                  "bucket")


def test_empty_prefix(tarn, store):
    server = tarn(f"s3://{BKT}/no/such/prefix", *local.fault_options(store), start=False)
    got = local.refused(server)
    assert got.code != 0
    says(got.text, f"s3://{BKT}/no/such/prefix")
    store.put("other", "x", b"x")
    works_without_check = tarn(f"s3://{BKT}/no/such/prefix", *local.fault_options(store),
                               "--no-check")
    assert local.listed(works_without_check) == []


def test_wrong_directory(tarn, workdir):
    check_refused(tarn(f"file://{workdir}/none", start=False), 3, f"{workdir}/none",
                  "no such")


def test_unreachable_endpoint(tarn, store):
    store.stop()
    check_refused(s3(store, tarn), 3, f"s3://{BKT}", f":{store.port}", "refused")


def test_endpoint_that_never_answers(tarn, store):
    store.fail("stall_headers")
    got = local.refused(s3(store, tarn))
    assert got.code in (3, 4)
    says(got.text, f"s3://{BKT}", ("answer", "progress", "timed out", "deadline", "within"))


def test_name_that_does_not_resolve(tarn):
    flags = ("-o", "endpoint=http://no-such-store.invalid:9000,credentials=anonymous")
    check_refused(tarn(f"s3://{BKT}", *flags, start=False), 3, f"s3://{BKT}",
                  "no-such-store.invalid", "resolve")


def test_https_to_a_plain_endpoint(tarn, store):
    server = s3(store, tarn, endpoint=store.endpoint.replace("http:", "https:"))
    check_refused(server, 3, f"s3://{BKT}", ("TLS", "SSL"))


def test_http_to_a_tls_endpoint(tarn, s3fault_factory):
    store = s3fault_factory(tls="good")
    server = s3(store, tarn, endpoint=store.endpoint.replace("https:", "http:"))
    check_refused(server, 3, f"s3://{BKT}", f":{store.port}")


@pytest.mark.parametrize("kind, cause", [
    ("good", ("issuer", "self-signed", "self signed", "authority")),
    ("self-signed", ("self-signed", "self signed")), ("expired", "expired"),
    ("wrong-host", ("match", "host"))])
def test_certificates(tarn, s3fault_factory, certificates, kind, cause):
    store = s3fault_factory(tls=kind)
    store.put(BKT, "d/f", DATA)
    ca = {} if kind == "good" else {"tls-ca": certificates.ca}
    check_refused(s3(store, tarn, **ca), 3, f"s3://{BKT}", "certificate", cause)
    works(s3(store, tarn, **{"tls-verify": "false"}))
    if kind == "good":
        works(s3(store, tarn, **{"tls-ca": certificates.ca}))


def test_tls_ca_that_is_not_there(tarn, s3fault_factory, workdir):
    store = s3fault_factory(tls="good")
    got = local.refused(s3(store, tarn, **{"tls-ca": f"{workdir}/none.pem"}))
    assert got.code in (2, 3)
    says(got.text, f"{workdir}/none.pem")


# ---- the mountpoint ----

def test_mountpoint_is_a_file(tarn, served):
    server = tarn(f"file://{served}", start=False)
    os.rmdir(server.mnt)
    with open(server.mnt, "w", encoding="ascii") as f:
        f.write("mine")
    check_refused(server, 2, server.mnt, "not a directory")
    with open(server.mnt, encoding="ascii") as f:
        assert f.read() == "mine"


def test_mountpoint_is_missing(tarn, served):
    server = tarn(f"file://{served}", start=False)
    os.rmdir(server.mnt)
    check_refused(server, 2, server.mnt, ("no such", "not exist"))
    assert not os.path.exists(server.mnt)


def test_mountpoint_is_a_live_mount(tarn, served):
    first = tarn(f"file://{served}")
    second = tarn(f"file://{served}", start=False)
    second.mnt = first.mnt
    check_refused(second, 2, first.mnt, ("in use", "mounted", "busy"))
    assert local.count_mounts(first.mnt) == 1
    with open(first.path("d/f"), "rb") as f:
        assert f.read() == DATA


def test_mountpoint_of_a_dead_mount_is_replaced(tarn, served):
    server = tarn(f"file://{served}")
    for _ in range(3):
        server.kill()
        assert local.count_mounts(server.mnt) == 1 and not server.answers()
        works(server)
        assert local.count_mounts(server.mnt) == 1


def test_dead_mount_of_another_cache_is_replaced(tarn, served):
    first, second = tarn(f"file://{served}"), tarn(f"file://{served}", start=False)
    first.kill()
    second.mnt = first.mnt
    works(second)
    assert local.count_mounts(first.mnt) == 1


@pytest.mark.parametrize("how", ["inside", "same", "around", "symlink"])
def test_mountpoint_and_served_directory_overlap(tarn, workdir, served, how):
    os.makedirs(f"{served}/mnt")
    os.symlink(f"{served}/mnt", f"{workdir}/link")
    server = tarn(f"file://{served}", start=False)
    server.mnt = {"inside": f"{served}/mnt", "same": served, "around": workdir,
                  "symlink": f"{workdir}/link"}[how]
    check_refused(server, 2, server.mnt if how != "symlink" else "mnt", served, "served")


# ---- the cache directory ----

@pytest.mark.parametrize("how", ["inside", "same", "symlink"])
def test_cache_inside_the_served_directory(tarn, workdir, served, how):
    os.symlink(served, f"{workdir}/link")
    server = tarn(f"file://{served}", start=False)
    server.cache = {"inside": f"{served}/new/cache", "same": served,
                    "symlink": f"{workdir}/link/cache"}[how]
    before = local.snapshot(served)
    check_refused(server, 2, server.cache, "served", served)
    assert local.snapshot(served) == before


@pytest.mark.parametrize("how", ["inside", "below what is made", "symlink", "around"])
def test_cache_and_mountpoint_overlap(tarn, workdir, served, how):
    """Its files would be reached through the mount itself, and nothing would answer."""
    server = tarn(f"file://{served}", start=False)
    os.symlink(server.mnt, f"{workdir}/link")
    server.cache = {"inside": f"{server.mnt}/cache", "below what is made": f"{server.mnt}/a/b/c",
                    "symlink": f"{workdir}/link/cache", "around": server.dir}[how]
    before = sorted(os.listdir(server.mnt))
    check_refused(server, 2, server.cache, "mountpoint", server.mnt)
    assert sorted(os.listdir(server.mnt)) == before


@pytest.mark.parametrize("flag", ["--pid-file", "--log-file"])
def test_files_below_the_mountpoint(tarn, served, flag):
    server = tarn(f"file://{served}", start=False)
    server.args = [flag, f"{server.mnt}/x"]
    check_refused(server, 2, flag, f"{server.mnt}/x", "mountpoint")
    assert os.listdir(server.mnt) == []


@pytest.mark.parametrize("key", ["key-file", "secret-file", "token-file", "tls-ca", "HOME"])
def test_keys_below_the_mountpoint(tarn, store, key):
    """They are read again when they change."""
    server = tarn(f"s3://{BKT}", "-o", f"endpoint={store.endpoint}", start=False)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SHARED_CREDENTIALS_FILE"):
        server.env.pop(name, None)
    if key == "HOME":
        server.env["HOME"] = server.mnt
        check_refused(server, 2, f"{server.mnt}/.aws/credentials", "mountpoint")
    else:
        with open(f"{server.mnt}/x", "w", encoding="ascii") as f:
            f.write("xxx")
        server.args[-1] += f",{key}={server.mnt}/x"
        check_refused(server, 2, key, f"{server.mnt}/x", "mountpoint")


@pytest.mark.parametrize("where", ["cache", "new/cache", "./cache", "../served/cache"])
def test_relative_cache_inside_the_served_directory(tarn, served, where):
    server = tarn(f"file://{served}", start=False)
    server.cache = where
    server.prefix = ["env", "-C", served]
    before = local.snapshot(served)
    check_refused(server, 2, where, "served", served)
    assert local.snapshot(served) == before and not os.path.exists(f"{served}/new")


def test_relative_cache(tarn, workdir, served):
    server = tarn(f"file://{served}", start=False)
    server.cache = "of/mine"
    server.prefix = ["env", "-C", workdir]
    works(server)
    assert os.path.exists(f"{workdir}/of/mine/FORMAT")


def test_cache_without_a_home(root, tarn, served):
    """Not below /tmp, where others may make the directories above it."""
    server = tarn(f"file://{served}", start=False)
    as_nobody(server)
    server.prefix += ["env", "-u", "HOME", "-u", "XDG_CACHE_HOME"]
    command = server.command()
    at = command.index("--cache-dir")
    server.command = lambda: command[:at] + command[at + 2:]
    check_refused(server, 2, "--cache-dir", "HOME")


def test_cache_in_use(tarn, served):
    first, second = tarn(f"file://{served}"), tarn(f"file://{served}", start=False)
    second.cache = first.cache
    check_refused(second, 2, first.cache, ("in use", "uses"))
    with open(first.path("d/f"), "rb") as f:
        assert f.read() == DATA


def newer_cache_format(cache):
    line = "tarn cache 999 and more"
    with open(f"{cache}/FORMAT", "w", encoding="ascii") as f:
        f.write(f"{line} {util.xxh3(line.encode())}\n")


def newer_tier_format(cache):
    with open(f"{cache}/tier0/FORMAT", "rb") as f:
        head = bytearray(f.read())
    head[8:12] = struct.pack("<I", 2)
    head[-8:] = struct.pack("<Q", int(util.xxh3(bytes(head[:-8])), 16))
    with open(f"{cache}/tier0/FORMAT", "wb") as f:
        f.write(head)


@pytest.mark.parametrize("make_newer, part", [(newer_cache_format, ""),
                                              (newer_tier_format, "/tier0")])
def test_cache_of_a_newer_format(tarn, served, make_newer, part):
    server = tarn(f"file://{served}")
    works_once = server.path("d/f")
    assert util.sha256_file(works_once) == local.sha(DATA)
    assert server.stop() == 0
    make_newer(server.cache)
    before = local.snapshot(server.cache + part)
    check_refused(server, 2, server.cache + part, "newer")
    assert local.snapshot(server.cache + part) == before


def test_cache_of_another_uri(tarn, workdir, served):
    other = os.path.join(workdir, "other")
    util.write_tree(other, [("x", b"x")])
    server = tarn(f"file://{served}")
    assert util.sha256_file(server.path("d/f")) == local.sha(DATA)
    assert server.stop() == 0
    server.uri = f"file://{other}"
    check_refused(server, 2, server.cache, f"file://{other}", f"file://{served}")
    server.uri = f"file://{served}"
    works(server)
    assert server.json("stat", "/d/f")["cached_bytes"] == len(DATA)


def as_nobody(server):
    server.prefix = [
        "setpriv", f"--reuid={local.NOBODY}", f"--regid={local.NOBODY}", "--clear-groups"
    ]
    os.chown(server.mnt, local.NOBODY, local.NOBODY)
    os.chmod(server.dir, 0o755)


@pytest.mark.parametrize("mode", [0o700, 0o755, 0o777])
def test_cache_that_cannot_be_written(root, tarn, served, mode):
    server = tarn(f"file://{served}", start=False)
    as_nobody(server)
    os.makedirs(server.cache)
    os.chmod(server.cache, mode)
    check_refused(server, 5, server.cache, ("permission denied", "must belong", "not permitted"))
    assert os.listdir(server.cache) == []


def test_cache_below_a_place_that_cannot_be_written(root, tarn, served):
    server = tarn(f"file://{served}", start=False)
    as_nobody(server)
    check_refused(server, 5, server.cache, "permission denied")


def test_cache_is_a_file(tarn, served):
    server = tarn(f"file://{served}", start=False)
    with open(server.cache, "w", encoding="ascii") as f:
        f.write("mine")
    got = local.refused(server)
    assert got.code in (1, 2)
    says(got.text, server.cache, ("not a directory", "exists"))
    with open(server.cache, encoding="ascii") as f:
        assert f.read() == "mine"


def test_cache_with_foreign_files(tarn, served):
    server = tarn(f"file://{served}", start=False)
    util.write_tree(server.cache, [("thesis/chapter1", b"do not lose")])
    before = local.snapshot(server.cache)
    check_refused(server, 2, server.cache, "not empty")
    after = local.snapshot(server.cache)
    after.pop(f"{server.cache}/LOCK", None)
    assert after == before


# ---- the command line ----

@pytest.mark.parametrize("args, words", [
    (("--cache-sise", "1GiB"), ("--cache-sise", "--cache-size")),
    (("--cache-size", "10Q"), ("--cache-size", "10Q", "KiB")),
    (("--cache-size", "-5"), ("--cache-size", "-5")),
    (("--cache-size", "1KiB"), ("--cache-size", "1KiB", "16MiB")),
    (("--cache-size",), ("--cache-size",)),
    (("--meta-ttl", "5x"), ("--meta-ttl", "5x", "60s", "forever", "always")),
    (("--meta-ttl", "later"), ("--meta-ttl", "later", "forever", "always")),
    (("--log-level", "loud"), ("--log-level", "loud", "debug", "info", "warn", "error")),
    (("--evict-high", "250%"), ("--evict-high", "250%", "percentage")),
    (("--evict-high", "5%"), ("--evict-high", "5%", "10%")),
    (("--evict-high", "90%"), ("evict-low", "95.00%", "evict-high", "90.00%")),
    (("--evict-low", "99%"), ("evict-low", "99.00%", "evict-high", "98.00%")),
    (("--no-read-only",), ("read-only", "changes")),
    (("-o", "proxy=http://me:CANARY@127.0.0.1:1"), ("proxy", "command line", "config file")),
    (("-o", "endpoin=http://x"), ("endpoin:", "mean endpoint")),
    (("-o", "timeout=soon"), ("timeout", "soon", "30s")),
    (("-o", "tls-verify=maybe"), ("tls-verify", "maybe", "true", "false")),
    (("-o", "retries=1000"), ("retries", "1000", "20")),
    (("-o", "endpoint"), ("endpoint",)),
    (("-x",), ("-x",)),
    (("one-too-many",), ("one-too-many",)),
])
def test_usage(tarn, served, args, words):
    server = tarn(f"file://{served}", *args, start=False)
    check_refused(server, 2, *words, seconds=5)
    assert not os.path.exists(server.cache)


def test_usage_without_arguments():
    for args in ((), ("local",), ("local", "file:///"), ("no-such-command",)):
        done = local.command(*args)
        assert done.code == 2 and not done.out, args
    says(done.err, "no-such-command")


def test_unknown_kind_of_store(tarn):
    check_refused(tarn("gopher://x/y", start=False), 2, "gopher", "s3://", "file://")
    check_refused(tarn("no-uri-at-all", start=False), 2, "no-uri-at-all")
    check_refused(tarn("s3://", start=False), 2, "s3://")


def test_usage_in_the_environment_and_the_file(tarn, served, workdir):
    server = tarn(f"file://{served}", env={"TARN_CACHE_SIZE": "10Q"}, start=False)
    check_refused(server, 2, "TARN_CACHE_SIZE", "10Q")
    config = f"{workdir}/c.yaml"
    for text, words in (("no-such-key: 1\n", ("no-such-key",)), ("cache-size: 10Q\n", ("10Q",)),
                        ("[\n", ())):
        with open(config, "w", encoding="ascii") as f:
            f.write(text)
        server = tarn(f"file://{served}", "--config", config, start=False)
        check_refused(server, 2, config, *words)
    server = tarn(f"file://{served}", "--config", f"{workdir}/none.yaml", start=False)
    check_refused(server, 2, f"{workdir}/none.yaml")


@pytest.mark.parametrize("key, way", [("secret-key", "secret-file"),
                                      ("session-token", "token-file")])
def test_secrets_on_the_command_line(tarn, store, key, way):
    for value in (f"access-key=a,{key}=CANARY-CANARY", f"{key}=CANARY-CANARY"):
        got = check_refused(s3(store, tarn, "-o", value), 2, key, way)
        assert "CANARY" not in got.text
    assert not store.requests()


def test_paths_under_a_mountpoint(tarn, served):
    server = tarn(f"file://{served}")
    for command in (("stat",), ("du",), ("ls",), ("load",), ("free",)):
        done = server.cli(*command, server.path("d/f"), check=False)
        assert done.code == 2, f"{command}: {done}"
        says(done.err, server.path("d/f"))
        assert re.search(r"(?<![\w/])/d/f\b", done.err), f"{command}: {done.err}"
    done = server.cli("stat", server.mnt, check=False)
    assert done.code == 2 and re.search(r"(?<![\w/])/(?![\w/])", done.err), done.err
    assert server.json("stat", "/d/f")["size"] == len(DATA)


def test_commands_without_a_server(workdir):
    port = util.free_port()
    done = local.command("status", "--master", f"127.0.0.1:{port}")
    assert done.code == 3
    says(done.err, f"127.0.0.1:{port}")
    done = local.command("umount", workdir)
    assert done.code != 0
    says(done.err, workdir)


def test_path_that_is_not_there(tarn, served):
    server = tarn(f"file://{served}")
    for command in ("stat", "du", "ls"):
        done = server.cli(command, "/d/none", check=False)
        assert done.code == 1 and not done.out, f"{command}: {done}"
        says(done.err, "/d/none", "no such")


# ---- the background ----

def daemon(server, *args, seconds=20):
    """`tarn local -d`: Done, as soon as it returns and nobody holds its streams."""
    done = subprocess.run([*server.command(), "-d", *args], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=seconds, check=False)
    return done


def test_background_tells_why_it_failed(tarn, store):
    store.stop()
    server = s3(store, tarn)
    done = daemon(server)
    assert done.returncode == 3
    says(done.stderr, f"s3://{BKT}", "refused")
    assert not util.mounted(server.mnt) and not local.processes_with(server.cache)


def test_background_tells_of_a_cache_in_use(tarn, served):
    first, second = tarn(f"file://{served}"), tarn(f"file://{served}", start=False)
    second.cache = first.cache
    done = daemon(second)
    assert done.returncode == 2
    says(done.stderr, first.cache, ("in use", "uses"))


# ---- ports ----

@pytest.fixture
def taken():
    with socket.socket() as s:
        s.bind((util.LOOPBACK, 0))
        s.listen()
        yield f"127.0.0.1:{s.getsockname()[1]}"


@pytest.mark.parametrize("flag", ["--listen", "--http-listen"])
def test_port_that_is_taken(tarn, served, taken, flag):
    server = tarn(f"file://{served}", start=False)
    command = server.command()
    command[command.index(flag) + 1] = taken
    server.command = lambda: command
    check_refused(server, 2, flag, taken, "in use")


@pytest.mark.parametrize("address", ["127.0.0.1:99999", "127.0.0.1", "300.1.1.1:7100", ":::1"])
def test_port_that_is_none(tarn, served, address):
    server = tarn(f"file://{served}", start=False)
    command = server.command()
    command[command.index("--listen") + 1] = address
    server.command = lambda: command
    check_refused(server, 2, "--listen", address)


@pytest.mark.parametrize("flag", ["--listen", "--http-listen"])
@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "127.example.org", "localhost.example.org",
                                  "[::ffff:0.0.0.0]"])
def test_listening_to_the_world_needs_a_word(tarn, served, flag, host):
    server = tarn(f"file://{served}", start=False)
    command = server.command()
    command[command.index(flag) + 1] = f"{host}:{server.port}"
    server.command = lambda: command
    check_refused(server, 2, flag, host, "--insecure")


def test_all_of_127_is_loopback(tarn, served):
    server = tarn(f"file://{served}", start=False)
    command = server.command()
    command[command.index("--listen") + 1] = f"127.0.0.2:{server.port}"
    server.command = lambda: command
    works(server)


def default_ports(server):
    command = [binary(), "local", server.uri, server.mnt, "--cache-dir", server.cache]
    server.command = lambda: command


def printed_ports(text):
    ports = [int(p) for p in re.findall(r"127\.0\.0\.1:(\d+)", text)]
    assert len(ports) >= 2, f"no ports in:\n{text}"
    return ports


@pytest.fixture
def default_ports_alone():
    """Else another session of this test gives them up in the middle of ours."""
    with local.alone("default-ports"):
        yield


@pytest.mark.parametrize("background", [False, True])
def test_default_ports_that_are_taken(default_ports_alone, tarn, served, background):
    held = []
    for port in (7100, 7101):
        s = socket.socket()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.append(s)
        try:
            s.bind((util.LOOPBACK, port))
            s.listen()
        except OSError:
            pass  # somebody else holds it: as good
    server = tarn(f"file://{served}", start=False)
    default_ports(server)
    try:
        if background:
            done = daemon(server, "--pid-file", f"{server.dir}/pid")
            text = done.stderr + done.stdout
            assert done.returncode == 0, text
        else:
            server.start()
            text = util.wait_until("the ports", lambda: "127.0.0.1:" in server.log_tail() and
                                   server.log_tail(), 10)
        ports = printed_ports(text)
        assert 7100 not in ports and 7101 not in ports
        assert all(util.listens(p) for p in ports)
        assert local.command("status", "--master", f"127.0.0.1:{ports[0]}").code == 0
    finally:
        for s in held:
            s.close()
        if background and os.path.exists(f"{server.dir}/pid"):
            with open(f"{server.dir}/pid", encoding="ascii") as f:
                pid = int(f.read())
            os.kill(pid, 15)
            util.wait_until("the end", lambda: not util.alive(pid), 20)
    assert not background or not util.mounted(server.mnt, FSTYPE)
