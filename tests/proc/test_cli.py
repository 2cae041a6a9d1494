# SPDX-License-Identifier: Apache-2.0
"""The commands against a running `tarn local`: what they print, their JSON keys and exit codes."""
import contextlib
import json
import os
import pty
import re
import select
import shutil
import signal
import socket
import stat
import subprocess
import threading
import time

import pytest

from tests.lib import util
from tests.lib.tarn import binary
from tests.lib.util import some_bytes

DONE, FAIL, USAGE, UNREACH, TIMEOUT, DENIED = range(6)
MIB = 1 << 20

BIG = some_bytes(5 * MIB + 12345, "big")
FILES = {
    "big.bin": BIG,
    "empty": b"",
    "a-b": b"1",
    "train/x.tar": some_bytes(300_000, "x"),
    "train/y.tar": some_bytes(70_000, "y"),
    "train/labels.json": b"{}",
    "train/deep/er/z": b"zzz",
    "odd/new\nline": b"n",
    "odd/bell\x07": b"b",
    "odd/\u00e9 \u6f22": b"u",
}
JOB_KEYS = {"id", "kind", "state", "files_total", "files_done", "files_failed", "bytes_total",
            "bytes_done", "started_at", "finished_at", "error"}


def fill(directory):
    for path, data in FILES.items():
        full = os.path.join(directory, path)
        os.makedirs(os.path.dirname(full), exist_ok=True)
        with open(full, "wb") as f:
            f.write(data)
    with open(os.path.join(os.fsencode(directory), b"odd/\xff\xfe"), "wb") as f:
        f.write(b"raw")
    os.symlink("x.tar", os.path.join(directory, "train/link"))
    os.chmod(os.path.join(directory, "train/x.tar"), 0o600)


@pytest.fixture(scope="module")
def store(session_dir):
    path = os.path.join(session_dir, "cli-store")
    os.makedirs(path)
    fill(path)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def server(tarn, store):
    return tarn(f"file://{store}")


@pytest.fixture
def alone(workdir):
    """Runs `tarn ARGS...` where no server is; (code, out, err)."""
    def run(*args, env=None):
        master = f"127.0.0.1:{util.free_port()}"
        done = subprocess.run([binary(), *map(str, args)], stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=60, check=False, cwd=workdir,
                              env={**os.environ, "TARN_MASTER": master, **(env or {})})
        return done.returncode, done.stdout, done.stderr
    return run


def read(path):
    with open(path, "rb") as f:
        return f.read()


def lines(text):
    return [json.loads(line) for line in text.splitlines()]


def cat(server, *paths):
    done = subprocess.run([binary(), "cat", *paths], capture_output=True, timeout=60, check=False,
                          env={**server.env, "TARN_MASTER": server.master})
    return done.returncode, done.stdout


# ---- the program itself ----

def test_help_names_every_command(alone):
    code, out, _ = alone("--help")
    assert code == DONE
    assert alone("help") == (code, out, "")
    for command in ("local master worker mount umount attach detach mounts load free job wait status ls stat cat cp get du config doctor version "
                    "help").split():
        assert re.search(rf"^  {command} ", out, re.M), command
        code, text, err = alone("help", command)
        assert (code, err) == (DONE, "") and text.startswith(f"Usage: tarn {command}")
        assert alone(command, "--help") == (DONE, text, "")
    assert alone("help", "nothing")[0] == USAGE
    assert {"--completion", "--man"} <= set(re.findall(r"--\w+", alone("help", "help")[1]))
    summaries = dict(re.findall(r"^  (\w+) +(.*)$", out, re.M))
    assert "file:" in summaries["cp"] and "file:" not in summaries["get"]


def test_help_takes_nothing_from_the_environment(alone):
    plain = alone("help")
    assert alone("help", env={"TARN_MAN": "1", "TARN_COMPLETION": "bash"}) == plain


def test_flags_of_later_functions_are_not_there(alone):
    for command, flag in (("load", "--pin"), ("load", "--tier=SSD"),
                          ("load", "--atomic"), ("free", "--meta"), ("free", "--all"),
                          ("free", "--older-than=1d")):
        code, _, err = alone(command, "/x", flag)
        assert code == USAGE and "there is no flag" in err, (command, flag)


def test_unknown_things_name_the_nearest(alone):
    code, out, err = alone("statsu")
    assert (code, out) == (USAGE, "") and "`status`" in err
    code, _, err = alone("load", "/", "--filtr", "x")
    assert code == USAGE and "--filter" in err
    code, _, err = alone("job")
    assert code == USAGE and "a word is missing: ls, show, wait" in err
    code, _, err = alone("job", "canel", "1")
    assert code == USAGE and "must be ls, show, wait" in err and "cancel" in err
    code, _, err = alone("load", "/", "--parallel", "many")
    assert code == USAGE and "--parallel" in err and "many" in err
    code, _, err = alone("load", "/", "--bandwidth", "5")
    assert code == USAGE and "--bandwidth" in err


def test_bash_completion(alone, workdir):
    code, out, _ = alone("help", "--completion", "bash")
    assert code == DONE
    script = os.path.join(workdir, "tarn.bash")
    with open(script, "w", encoding="utf-8") as f:
        f.write(out)

    def complete(*words):
        line = " ".join(f"'{w}'" for w in words)
        text = (f"source {script}; COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _tarn; "
                "printf '%s\\n' \"${COMPREPLY[@]}\"")
        return util.run("bash", "-c", text).stdout.split()

    assert complete("tarn", "st") == ["status", "stat"]
    assert complete("tarn", "load", "--dr") == ["--dry-run"]
    assert complete("tarn", "job", "m") == ["manifest"]
    assert complete("tarn", "worker", "dr") == ["drain"]
    assert complete("tarn", "worker", "drain", "--und") == ["--undo"]
    assert complete("tarn", "mount", "--strict") == []  # not offered
    assert complete("tarn", "help", "--comp") == ["--completion"]
    assert complete("tarn", "help", "--m") == ["--man"]


def test_manual_pages(alone):
    """One per command, with each of its flags, and nothing that man(7) would take for a request."""
    for command in [None, *re.findall(r"^  (\w+) ", alone("help")[1], re.M)]:
        code, page, _ = alone("help", "--man", *([command] if command else []))
        assert code == DONE and page.startswith(f'.TH "tarn{"-" + command if command else ""}" 1 ')
        assert set(re.findall(r"^[.'](\w*)", page, re.M)) <= {"TH", "SH", "SS", "TP", "PP", "nf", "fi"}
        for flag in re.findall(r"^ +(?:-\w, )?--([a-z-]+)", alone("help", command)[1], re.M) if command else []:
            assert "\\-\\-" + flag.replace("-", "\\-") in page, (command, flag)
    assert alone("help", "--man", "nothing")[0] == USAGE


def test_no_server_is_said_at_once(alone):
    for args in (["status"], ["ls"], ["cat", "/x"], ["du"], ["stat", "/x"], ["job", "ls"],
                 ["load", "/x"], ["free", "/x"], ["get", "/x"]):
        start = time.monotonic()
        code, out, err = alone(*args)
        assert (code, out) == (UNREACH, ""), (args, err)
        assert "no tarn serves at 127.0.0.1" in err
        assert time.monotonic() - start < 5, args
    assert alone("status", "--master", "nowhere.invalid:1")[0] == UNREACH
    assert alone("status", "--master", "")[0] == USAGE
    for master in ("localhost", "1.2.3.4:99999", "::1"):
        code, _, err = alone("status", "--master", master)
        assert code == USAGE and f"--master {master}: must be HOST:PORT" in err, err


def test_a_server_that_says_nothing_times_out(alone):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        start = time.monotonic()
        code, _, err = alone("status", "--master", f"127.0.0.1:{s.getsockname()[1]}", "--timeout", "1s")
    assert code == TIMEOUT, err
    assert 0.8 < time.monotonic() - start < 10


def test_what_is_no_tarn_is_refused(alone):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()

        def answer():
            with contextlib.suppress(OSError):
                with s.accept()[0] as c:
                    c.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 100)
                    c.recv(1000)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        code, _, err = alone("status", "--master", f"127.0.0.1:{s.getsockname()[1]}")
        thread.join(10)
    assert code == UNREACH, err


def test_token_of_others(server, workdir):
    token = os.path.join(workdir, "token")
    with open(token, "w", encoding="ascii") as f:
        f.write("0" * 64)
    os.chmod(token, 0o600)
    for args in (["status"], ["ls"], ["load", "/"], ["cat", "/a-b"], ["job", "ls"]):
        done = server.cli(*args, "--token-file", token, check=False)
        assert (done.code, done.out) == (DENIED, ""), args
        assert "authentication failed" in done.err
        assert "0" * 16 not in done.err
    assert server.cli("ls", "--token-file", token + "-", check=False).code == USAGE
    os.chmod(token, 0o644)
    done = server.cli("ls", "--token-file", token, check=False)
    assert done.code == USAGE and "0600" in done.err


# ---- ls, stat, du ----

def test_ls(server):
    assert server.cli("ls").out == "a-b\nbig.bin\nempty\nodd\ntrain\n"
    assert server.cli("ls", "train/").out.split() == ["deep", "labels.json", "link", "x.tar", "y.tar"]
    assert server.cli("ls", "/a-b").out == "/a-b\n"
    long = server.cli("ls", "-l", "/train").out.splitlines()
    assert re.fullmatch(r"-rw------- +0 +0 +300000 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ x\.tar", long[3])
    assert long[0].startswith("drwxr-xr-x") and long[2].endswith(" link -> x.tar")
    assert server.cli("ls", "-R", "/train").out == \
        "/train:\ndeep\nlabels.json\nlink\nx.tar\ny.tar\n\n/train/deep:\ner\n\n/train/deep/er:\nz\n"


def test_ls_json(server):
    docs = lines(server.cli("ls", "-R", "/", "--json").out)
    assert [d["path"] for d in docs if d["path"].startswith("/train")] == \
        ["/train", "/train/deep", "/train/labels.json", "/train/link", "/train/x.tar", "/train/y.tar",
         "/train/deep/er", "/train/deep/er/z"]
    by_path = {d["path"]: d for d in docs}
    assert by_path["/train/x.tar"]["size"] == 300_000 and by_path["/train/x.tar"]["mode"] == "0600"
    assert by_path["/train"]["type"] == "directory" and by_path["/train/link"]["type"] == "symlink"
    assert by_path["/odd/new\nline"]["name"] == "new\nline"
    assert [d["name_hex"] for d in docs if "name_hex" in d] == ["fffe"]


def test_ls_escapes_on_a_terminal(server):
    out = on_terminal(server, "ls", "/odd")[1]
    assert "new\\x0aline\r\n" in out and "bell\\x07\r\n" in out and "\\xff\\xfe\r\n" in out
    assert "\u00e9 \u6f22\r\n" in out
    raw = subprocess.run([binary(), "ls", "/odd"], capture_output=True, timeout=30, check=True,
                         env={**server.env, "TARN_MASTER": server.master}).stdout
    assert b"bell\x07\n" in raw and b"\xff\xfe\n" in raw


def test_ls_of_nothing(server):
    for path in ("/nope", "/a-b/x", "/train/../x"):
        done = server.cli("ls", path, check=False)
        assert done.out == "" and path.split("/")[-1] in done.err, path
        assert done.code == (USAGE if ".." in path else FAIL), (path, done.err)


def test_ls_ends_when_nobody_reads(server):
    reader, writer = os.pipe()
    os.close(reader)
    with subprocess.Popen([binary(), "ls", "-R", "/"], stdout=writer, stderr=subprocess.PIPE,
                          env={**server.env, "TARN_MASTER": server.master}) as p:
        os.close(writer)
        err = p.stderr.read()
        assert p.wait(30) == -signal.SIGPIPE and err == b""


def test_ls_of_many(tarn, workdir):
    """More entries than one page; and, printed as they come, more than are sorted."""
    directory = os.path.join(workdir, "many")
    os.makedirs(directory)
    names = [f"{i:05d}" for i in range(3000)]
    for name in names:
        with open(os.path.join(directory, name), "wb"):
            pass
    server = tarn(f"file://{directory}")
    assert server.cli("ls").out.split() == names
    assert sorted(d["name"] for d in lines(server.cli("ls", "--json").out)) == names


def test_paths_under_a_mount(server):
    for args in (["ls"], ["stat"], ["cat"], ["load"], ["free"], ["get"]):
        done = server.cli(*args, server.path("train"), check=False)
        assert done.code == USAGE, args
        assert re.search(r"name space is /train$", done.err.strip()), done.err
    for word, found in ((".", "/train"), ("x.tar", "/train/x.tar"), ("./no", "/train/no")):
        done = subprocess.run([binary(), "load", word], cwd=server.path("train"), capture_output=True,
                              text=True, check=False, env={**server.env, "TARN_MASTER": server.master})
        assert done.returncode == USAGE and done.stderr.strip().endswith(f"name space is {found}"), done


def test_stat(server):
    before = server.json("stat", "/train/x.tar")
    assert {"path", "ino", "type", "size", "mode", "uid", "gid", "mtime", "version", "cached_bytes",
            "cached_ratio", "replicas", "pinned", "loaded", "workers"} <= before.keys()
    assert (before["type"], before["size"], before["mode"]) == ("file", 300_000, "0600")
    assert before["cached_bytes"] == 0 and before["loaded"] is False and before["workers"] == []
    assert before["pinned"] is False
    read(server.path("train/x.tar"))
    # A reader has its bytes before the cache has them.
    util.wait_until("the file", lambda: server.json("stat", "/train/x.tar")["loaded"], 10)
    after = server.json("stat", "/train/x.tar")
    assert after["cached_bytes"] == 300_000 and after["cached_ratio"] == 1.0
    assert after["loaded"] is True and after["replicas"] == 1 and len(after["workers"]) == 1
    assert after["ino"] == os.stat(server.path("train/x.tar")).st_ino
    assert server.json("stat", "/empty")["cached_ratio"] == 1.0
    assert server.json("stat", "/train")["type"] == "directory"
    assert server.json("stat", "/train/link")["type"] == "symlink"
    assert "cached   300000 bytes (100.0 %)" in server.cli("stat", "/train/x.tar").out
    assert server.cli("stat", check=False).code == USAGE
    assert server.cli("stat", "/nope", check=False).code == FAIL


def test_du(server):
    server.cli("load", "/")
    du = server.json("du", "/train")
    assert du["bytes"] == 300_000 + 70_000 + 2 + 3 and du["cached_bytes"] == du["bytes"]
    assert du["files"] == 5 and du["dirs"] == 2 and du["complete"] is True
    assert du["cached_files"] == 5  # of the link nothing is missing
    assert server.json("du") == {**server.json("du", "/"), "path": "/"}
    assert "cached" in server.cli("du", "/train").out


def test_wait_until_cached(server):
    late = server.cli("wait", "/train", "--until", "cached>=50%", "--timeout", "1s", check=False)
    assert late.code == TIMEOUT and "/train" in late.err and "bytes cached" in late.err
    waiting = subprocess.Popen([binary(), "wait", "/train", "--until", "cached>=95%", "--json"],
                               stdout=subprocess.PIPE, text=True,
                               env={**server.env, "TARN_MASTER": server.master})
    try:
        server.cli("load", "/train")
        out, _ = waiting.communicate(timeout=60)
    finally:
        waiting.kill()
        waiting.wait()
    assert waiting.returncode == DONE
    assert json.loads(out) == {"path": "/train", "bytes": 370_005, "cached_bytes": 370_005,
                               "complete": True, "reached": True, "cached_bytes_min": 370_005, "reason": None}
    server.cli("wait", "/train/x.tar")  # all of it, and it is there
    bad = server.cli("wait", "/train", "--until", "throughput", check=False)
    assert bad.code == USAGE and "cached>=PERCENT" in bad.err
    gone = server.cli("wait", "/no/such", check=False)
    assert gone.code == FAIL and "no such file" in gone.err


def test_status(server):
    read(server.path("big.bin"))
    st = server.json("status")
    assert {"cluster_id", "masters", "workers", "mounts", "cache", "reads", "jobs"} <= st.keys()
    assert st["masters"][0].keys() >= {"addr", "role", "healthy"}
    assert (st["masters"][0]["role"], st["masters"][0]["healthy"]) == ("leader", True)
    worker = st["workers"][0]
    assert worker.keys() >= {"id", "addr", "state", "tiers"} and worker["state"] == "live"
    assert worker["tiers"][0].keys() >= {"medium", "path", "capacity_bytes", "used_bytes"}
    assert st["mounts"][0].keys() >= {"path", "ufs", "files", "bytes", "complete"}
    assert st["mounts"][0]["path"] == "/" and st["mounts"][0]["ufs"] == server.uri
    assert st["cache"].keys() >= {"capacity_bytes", "used_bytes"}
    assert st["jobs"] == {"running": 0, "failed": 0}
    assert st["reads"].keys() >= {"local_bytes", "remote_bytes", "ufs_bytes", "hit_ratio"}
    for report in (server.json("status")["masters"], server.json("master", "ls")):
        assert [m["addr"] for m in report] == [server.master]
    nobody = f"127.0.0.1:{util.free_port()}"  # of several masters, the one that answers
    for args in (("status",), ("master", "ls")):
        found = server.json(*args, "--master", f"{nobody},{server.master}")
        found = found["masters"] if args == ("status",) else found
        assert [m["addr"] for m in found] == [server.master], found
    mount = next(s for s in st["sessions"] if s["mountpoint"] == server.mnt)
    assert mount.keys() >= {"kind", "host", "pid", "heard_ms", "on_partition_stale", "promises", "passthrough_opens"}
    assert mount["state"] == "live"

    def counted():
        reads = server.json("status")["reads"]
        return reads["local_bytes"] + reads["ufs_bytes"] == len(BIG) and reads["ufs_bytes"] > 0

    util.wait_until("the reads are counted", counted, 15)
    assert "jobs      0 running, 0 failed" in server.cli("status").out


# ---- cat, get, cp ----

def test_cat(server):
    assert cat(server, "/big.bin") == (DONE, BIG)
    assert cat(server, "/train/labels.json", "a-b", "/empty", "tarn:/train/deep/er/z") == (DONE, b"{}1zzz")
    code, out = cat(server, "/a-b", "/nope", "/train/labels.json")
    assert (code, out) == (FAIL, b"1")
    assert cat(server, "/train") == (FAIL, b"")
    assert cat(server, "/train/link") == (FAIL, b"")
    assert cat(server) == (USAGE, b"")


def test_cat_into_a_slow_or_closed_pipe(server):
    with subprocess.Popen([binary(), "cat", "/big.bin"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          env={**server.env, "TARN_MASTER": server.master}) as p:
        time.sleep(1)
        assert p.stdout.read() == BIG and p.wait(30) == 0
    with subprocess.Popen([binary(), "cat", "/big.bin"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          env={**server.env, "TARN_MASTER": server.master}) as p:
        p.stdout.read(1)
        p.stdout.close()
        err = p.stderr.read()
        assert p.wait(30) == -signal.SIGPIPE and err == b""


def test_get(server, workdir):
    out = os.path.join(workdir, "out")
    os.makedirs(out)
    server.cli("get", "/big.bin", out)
    assert read(f"{out}/big.bin") == BIG
    server.cli("get", "/train/x.tar", f"{out}/big.bin")  # replaces
    assert read(f"{out}/big.bin") == FILES["train/x.tar"]
    assert stat.S_IMODE(os.stat(f"{out}/big.bin").st_mode) == 0o600
    server.cli("get", "/empty", f"file:{out}/e")
    assert read(f"{out}/e") == b""
    assert server.cli("get", "/train/labels.json", "-").out == "{}"
    assert sorted(os.listdir(out)) == ["big.bin", "e"]
    done = subprocess.run([binary(), "get", "/a-b"], cwd=out, timeout=30, check=True, capture_output=True,
                          env={**server.env, "TARN_MASTER": server.master})
    assert done.stdout == b"" and read(f"{out}/a-b") == b"1"


def test_get_fails_without_a_trace(server, workdir):
    out = os.path.join(workdir, "out")
    os.makedirs(f"{out}/a-b")
    assert server.cli("get", "/nope", out, check=False).code == FAIL
    assert server.cli("get", "/train", out, check=False).code == FAIL  # needs -R
    assert server.cli("get", "/train/link", out, check=False).code == FAIL
    assert server.cli("get", "/a-b", f"{out}/no/such", check=False).code == FAIL
    assert server.cli("get", "/a-b", f"{out}/a-b/", check=False).code == DONE
    assert sorted(os.listdir(out)) == ["a-b"] and os.listdir(f"{out}/a-b") == ["a-b"]
    assert server.cli("get", "/a-b", out, check=False).code == FAIL  # a directory has that name
    assert os.listdir(out) == ["a-b"] and os.listdir(f"{out}/a-b") == ["a-b"]


def test_get_to_what_is_no_file(server, workdir):
    fifo = os.path.join(workdir, "fifo")
    os.mkfifo(fifo)
    got = []
    thread = threading.Thread(target=lambda: got.append(read(fifo)))
    thread.start()
    server.cli("get", "/train/y.tar", fifo)
    thread.join(10)
    assert got == [FILES["train/y.tar"]] and stat.S_ISFIFO(os.stat(fifo).st_mode)
    target, link = os.path.join(workdir, "target"), os.path.join(workdir, "link")
    os.symlink(target, link)
    with open(target, "wb"):
        pass
    server.cli("get", "/a-b", link)
    assert os.path.islink(link) and read(target) == b"1"


def test_get_a_tree(server, workdir, store):
    server.cli("get", "-R", "/", f"{workdir}/all")
    util.run("diff", "-r", "--no-dereference", store, f"{workdir}/all")
    os.makedirs(f"{workdir}/in")
    report = server.json("cp", "-R", "/train", f"file:{workdir}/in")
    assert report == {"files": 5, "dirs": 3, "bytes": 370_005, "failed": 0}
    util.run("diff", "-r", "--no-dereference", f"{store}/train", f"{workdir}/in/train")
    assert os.readlink(f"{workdir}/in/train/link") == "x.tar"
    server.cli("cp", "-r", "/train", f"file:{workdir}/in")  # again, over itself
    util.run("diff", "-r", "--no-dereference", f"{store}/train", f"{workdir}/in/train")


def test_get_does_not_follow_local_links(server, workdir):
    """A link that stands where a directory goes is an error, and nothing is written behind it."""
    os.makedirs(f"{workdir}/elsewhere")
    os.makedirs(f"{workdir}/in/train")
    os.symlink(f"{workdir}/elsewhere", f"{workdir}/in/train/deep")
    done = server.cli("get", "-R", "/train", f"{workdir}/in", check=False)
    assert done.code == FAIL and "deep" in done.err and "1 of" in done.err
    assert os.listdir(f"{workdir}/elsewhere") == []
    assert read(f"{workdir}/in/train/x.tar") == FILES["train/x.tar"]  # the others are there


def test_cp_directions(server, workdir):
    for args in (["file:/etc/hostname", "/x"], ["-", "/x"], ["/a-b", "/c"]):
        done = server.cli("cp", *args, check=False)
        assert done.code == FAIL and "read-only" in done.err, args
    done = server.cli("cp", "/a-b", f"{workdir}/x", check=False)
    assert done.code == FAIL and f"tarn get /a-b {workdir}/x (or tarn cp /a-b file:{workdir}/x)" in done.err
    assert "tarn get" not in server.cli("cp", "file:/a", "/b", check=False).err
    assert server.cli("cp", "file:/a", "file:/b", check=False).code == USAGE
    assert server.cli("cp", "/a-b", check=False).code == USAGE
    server.cli("cp", "/a-b", f"file://{workdir}/x")
    assert read(f"{workdir}/x") == b"1"


def test_interrupted_get_leaves_nothing(tarn, workdir):
    directory, out = f"{workdir}/src", f"{workdir}/out"
    os.makedirs(directory)
    os.makedirs(out)
    with open(f"{directory}/f", "wb") as f:
        f.truncate(2 << 30)
    server = tarn(f"file://{directory}", "--cache-size", "64MiB")
    with subprocess.Popen([binary(), "get", "/f", out], stderr=subprocess.PIPE, text=True,
                          env={**server.env, "TARN_MASTER": server.master}) as p:
        util.wait_until("bytes come", lambda: any(os.stat(f"{out}/{n}").st_size > MIB
                                                  for n in os.listdir(out)), 30)
        p.send_signal(signal.SIGINT)
        err = p.stderr.read()
        assert p.wait(20) == FAIL and "cancelled" in err
    assert os.listdir(out) == []


# ---- load, free, job ----

def test_load_and_free(server):
    done = server.cli("load", "/")
    assert re.match(r"loaded \d+ files, 5\.4 MiB in ", done.out) and done.err == ""
    assert re.search(rf" \(job \d+, {re.escape(server.uri)}\)\n$", done.out)
    assert server.json("stat", "/big.bin")["loaded"] is True
    whole = sum(map(len, FILES.values())) + len(b"raw")
    util.wait_until("the store's counter", lambda: server.metric("tarn_ufs_read_bytes_total") == whole, 5)
    assert read(server.path("big.bin")) == BIG
    server.cli("load", "/")  # everything is there
    time.sleep(0.5)  # counters show what was read up to a quarter of a second late
    assert server.metric("tarn_ufs_read_bytes_total") == whole
    job = server.json("load", "/train", "--force", "--verify")
    assert JOB_KEYS <= job.keys() and (job["kind"], job["state"]) == ("load", "succeeded")
    assert job["error"] is None and job["bytes_done"] == job["bytes_total"] == 370_005
    done = server.cli("free", "/train")
    assert done.out.startswith("freed ") and done.out.endswith(f", {server.uri})\n")
    assert server.json("du", "/train")["cached_bytes"] == 0
    assert server.json("stat", "/big.bin")["loaded"] is True
    assert server.json("free", "/")["kind"] == "free"
    assert server.json("du")["cached_bytes"] == 0


def test_load_selects(server):
    server.cli("load", "/train", "--filter", "*.tar", "--exclude", "y*")
    assert server.json("du")["cached_bytes"] == 300_000
    server.cli("free", "/")
    server.cli("load", "/train", "--no-recursive")
    assert server.json("stat", "/train/deep/er/z")["cached_bytes"] == 0
    server.cli("free", "/")
    server.cli("load", "/a-b", "/train/deep", "-R")
    assert server.json("du")["cached_bytes"] == 4
    server.cli("load", "/", "--meta")
    assert server.json("du")["cached_bytes"] == 4
    server.cli("free", "/", "--filter", "z")
    assert server.json("du")["cached_bytes"] == 1


def test_load_dry_run(server):
    server.cli("ls", "-R", "/train")
    out = server.cli("load", "/train", "--dry-run").out
    assert "/train/x.tar\n" in out and out.endswith(
        f"would load 4 files, 361.3 KiB; 1 other needs nothing ({server.uri})\n")
    assert server.json("du")["cached_bytes"] == 0
    server.cli("load", "/train")
    out = server.cli("free", "/train", "--dry-run").out
    assert "would free 4 files, 361.3 KiB" in out
    assert server.json("du", "/train")["cached_bytes"] == 370_005


def test_an_empty_path_is_not_everything(server):
    """As a variable gives that is not set."""
    server.cli("load", "/a-b")
    for command in ("free", "load", "ls", "stat", "du", "cat", "get"):
        for path in ("", "tarn:"):
            done = server.cli(command, path, check=False)
            assert (done.code, done.out) == (USAGE, "") and "empty" in done.err, (command, path)
    assert server.json("du")["cached_bytes"] == 1


def test_globs_that_match_nothing(server):
    for command, what in (("load", "file"), ("free", "cached file")):
        for flags in ([], ["--dry-run"], ["--json"]):
            done = server.cli(command, "/", "--filter", "*.parquet", *flags)
            assert done.err == f"tarn {command}: warning: no {what} matches --filter\n", flags
        for flags, why in ((["--exclude", "*"], "is left by --exclude"),
                           (["--filter", "*", "--exclude", "*"], "that matches --filter is left by --exclude")):
            assert server.cli(command, "/", *flags).err == f"tarn {command}: warning: no {what} {why}\n"
    for _ in range(2):  # the second time it is there already
        assert server.cli("load", "/", "--filter", "a-b").err == ""
        assert server.cli("load", "/", "--filter", "a-b", "--dry-run").err == ""
    assert server.cli("load", "/odd").err == server.cli("free", "/odd").err == ""
    assert server.cli("free", "/", "--filter", "a-b", "--dry-run").err == ""
    assert server.cli("free", "/", "--filter", "a-b").err == ""
    assert "no cached file matches --filter" in server.cli("free", "/", "--filter", "a-b").err
    assert server.cli("free", "/").err == ""  # without a glob nothing can be misspelt


def test_globs_that_are_none(server):
    for flag in ("--filter", "--exclude"):
        for glob in ("", "x" * 1025):
            done = server.cli("load", "/", flag, glob, check=False)
            assert done.code == USAGE and flag in done.err
    assert server.json("job", "ls") == []


def test_load_what_is_not_there(server):
    done = server.cli("load", "/a-b", "/nope", check=False)
    assert done.code == FAIL and done.out == ""
    assert "  /nope: no such file or directory" in done.err and "tarn job manifest " in done.err
    assert server.json("stat", "/a-b")["loaded"] is True  # the others are loaded
    done = server.cli("load", "/nope", "--json", check=False)
    job = json.loads(done.out)
    assert done.code == FAIL and (job["state"], job["files_failed"]) == ("failed", 1) and job["error"]


def test_load_lists(server, workdir):
    path = os.path.join(workdir, "list")
    with open(path, "w", encoding="utf-8") as f:
        f.write("# an epoch\ntrain/x.tar\n\n./train/deep\n/a-b\nbig.bin\t0\t1048576\n")
    job = server.json("load", "-f", path)
    assert job["state"] == "succeeded"
    assert server.json("stat", "/train/x.tar")["loaded"] and server.json("stat", "/train/deep/er/z")["loaded"]
    assert MIB <= server.json("stat", "/big.bin")["cached_bytes"] < len(BIG)
    server.cli("free", "/")
    server.cli("load", "/train", "-f", "-", stdin="x.tar\nlabels.json\r\n")
    assert server.json("du")["cached_bytes"] == 300_002
    server.cli("free", "-f", "-", stdin="/train/x.tar\n")
    assert server.json("du")["cached_bytes"] == 2
    done = server.cli("load", "-f", "-", stdin="/a-b\n/gone\n", check=False)
    assert done.code == FAIL and "/gone" in done.err


def test_load_lists_of_the_name_space(tarn, workdir):
    directory = os.path.join(workdir, "src")
    os.makedirs(f"{directory}/lists")
    for i in range(50):
        with open(f"{directory}/f{i}", "wb") as f:
            f.write(bytes(1000))
    with open(f"{directory}/lists/epoch1.txt", "w", encoding="ascii") as f:
        f.write("".join(f"/f{i}\n" for i in range(0, 50, 2)))
    server = tarn(f"file://{directory}")
    assert server.json("load", "-f", "tarn:/lists/epoch1.txt")["files_done"] == 25
    assert server.json("stat", "/f2")["loaded"] and not server.json("stat", "/f3")["loaded"]
    assert server.cli("load", "-f", "tarn:/lists", check=False).code == USAGE
    assert server.cli("load", "-f", "tarn:/lists/none", check=False).code == FAIL


def test_load_long_lists(server):
    """So long that it goes in several calls; every entry counts."""
    entries = "".join(f"/train/x.tar\t{i % 290_000}\t10\n" for i in range(20_000))
    job = server.json("load", "-f", "-", stdin=entries)
    assert job["state"] == "succeeded"
    entries += "/gone\n"
    done = server.cli("load", "-f", "-", "--json", stdin=entries, check=False)
    assert done.code == FAIL and json.loads(done.out)["files_failed"] == 1


@pytest.mark.parametrize("line, what", [
    ("a\t1", "PATH<tab>OFFSET<tab>LENGTH"), ("a\tx\t1", "offset"), ("a\t0\t0", "length"), ("../a", '".."'),
    ("x" * 9000, "too long"), ("a\0b", "NUL"),
])
def test_malformed_lists(server, workdir, line, what):
    path = os.path.join(workdir, "list")
    for before in ("ok\n", "/a-b\n" * 20_000):  # also when parts of it were sent
        with open(path, "w", encoding="utf-8") as f:
            f.write(f"{before}{line}\n")
        done = server.cli("load", "-f", path, check=False)
        assert done.code == USAGE and done.out == ""
        assert f"{path}:{before.count(chr(10)) + 1}: " in done.err and what in done.err
    assert all(j["state"] == "cancelled" for j in server.json("job", "ls"))
    assert server.json("du")["cached_bytes"] == 0


def test_lists_that_cannot_be_used(server, workdir):
    assert server.cli("load", "-f", f"{workdir}/none", check=False).code == USAGE
    done = server.cli("load", "-f", "-", stdin="# nothing\n", check=False)
    assert done.code == USAGE and "(standard input)" in done.err
    assert server.cli("load", "/a", "/b", "-f", "-", stdin="a\n", check=False).code == USAGE
    done = server.cli("load", "-f", "-", stdin=f"# c\n{server.path('a-b')}\n", check=False)
    assert done.code == USAGE and "name space is /a-b" in done.err and ":2:" in done.err
    for before in ("/a-b\n", "/a-b\n" * 20_000):  # any line, also when parts of the list were sent
        for command in ("load", "free"):
            done = server.cli(command, "-f", "-", stdin=f"{before}{server.path('train/x.tar')}\n/empty\n", check=False)
            assert done.code == USAGE and done.out == ""
            assert re.search(r"name space is /train/x\.tar$", done.err.strip()), done.err
            assert f":{before.count(chr(10)) + 1}: " in done.err
    assert all(j["state"] == "cancelled" for j in server.json("job", "ls"))
    server.cli("load", "-f", "-", stdin=f"/a-b\n{server.mnt}-b/x\n", check=False)  # no more than its beginning
    assert server.json("stat", "/a-b")["loaded"] is True
    assert server.cli("load", check=False).code == USAGE


def test_load_does_not_fit(tarn, store):
    server = tarn(f"file://{store}", "--cache-size", "16MiB")
    before = server.json("status")["cache"]["used_bytes"]
    big = os.path.join(store, "huge")
    with open(big, "wb") as f:
        f.truncate(64 * MIB)
    try:
        done = server.cli("load", "/huge", check=False)
        assert done.code == FAIL and "missing" in done.err, done.err
        assert server.json("status")["cache"]["used_bytes"] < before + 8 * MIB
    finally:
        os.remove(big)


def test_detach_wait_show(server):
    job_id = server.cli("load", "/", "--detach").out.strip()
    assert job_id.isdigit()
    assert server.cli("job", "wait", job_id).out.startswith("loaded ")
    shown = server.json("job", "show", job_id)
    assert JOB_KEYS <= shown.keys() and shown["id"] == int(job_id) and shown["state"] == "succeeded"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", shown["finished_at"])
    assert f"id        {job_id}\n" in server.cli("job", "show", job_id).out
    detached = server.json("load", "/nope", "--detach")
    assert JOB_KEYS <= detached.keys()
    assert server.cli("job", "wait", detached["id"], check=False).code == FAIL
    listed = server.json("job", "ls")
    assert [j["id"] for j in listed] == [int(job_id), detached["id"]]
    assert [JOB_KEYS <= j.keys() for j in listed] == [True, True]
    assert job_id in server.cli("job", "ls").out
    assert server.json("status")["jobs"]["failed"] == 1


def test_manifest(server):
    job = server.json("load", "/train", "/gone", check=False)
    docs = lines(server.cli("job", "manifest", job["id"], "--json").out)
    keys = {"path", "bytes", "state", "replicas", "checksum", "worker", "error"}
    assert all(keys <= d.keys() for d in docs)
    by_path = {d["path"]: d for d in docs}
    assert by_path["/train/x.tar"]["bytes"] == 300_000 and by_path["/train/x.tar"]["error"] is None
    assert by_path["/train/x.tar"]["replicas"] == 1
    assert by_path["/gone"]["error"] and by_path["/gone"]["state"] == "failed"
    text = server.cli("job", "manifest", job["id"]).out
    assert "/train/x.tar\n" in text and "/gone: " in text


def test_manifest_of_many(tarn, workdir):
    """Several pages, each line once and in order."""
    directory = os.path.join(workdir, "many")
    os.makedirs(directory)
    for i in range(2500):
        with open(f"{directory}/{i:04d}", "wb") as f:
            f.write(b"x")
    server = tarn(f"file://{directory}")
    job = server.json("load", "/", "--quiet")
    paths = [d["path"] for d in lines(server.cli("job", "manifest", job["id"], "--json").out)]
    assert sorted(paths) == [f"/{i:04d}" for i in range(2500)]


def test_jobs_that_are_not_there(server):
    for verb in ("show", "wait", "cancel", "manifest"):
        done = server.cli("job", verb, "12345", check=False)
        assert done.code == FAIL and "no such job" in done.err, verb
        assert server.cli("job", verb, check=False).code == USAGE
        assert server.cli("job", verb, "x1", check=False).code == USAGE
    assert server.cli("job", "ls", "1", check=False).code == USAGE
    assert server.json("job", "ls") == [] and server.cli("job", "ls").out == ""


def test_cancel(server):
    job_id = server.cli("load", "/big.bin", "--bandwidth", "100KiB/s", "--detach").out.strip()
    assert server.json("job", "cancel", job_id)["state"] == "cancelled"
    done = server.cli("job", "wait", job_id, check=False)
    assert done.code == FAIL and "was cancelled" in done.err
    assert server.json("job", "cancel", job_id)["state"] == "cancelled"  # again: nothing happens
    done = server.cli("job", "cancel", server.json("load", "/a-b")["id"])
    assert "had succeeded before: nothing was cancelled" in done.err and "state     succeeded" in done.out
    code, _, err = server.cli("job", check=False)
    assert code == USAGE and "a word is missing: ls, show" in err


def test_retry(tarn, store):
    """The same paths and flags; what is cached is left out."""
    server = tarn(f"file://{store}", "--meta-ttl", "1s")
    late = os.path.join(store, "late")
    first = server.json("load", "/late", "/a-b", check=False)
    assert first["state"] == "failed" and first["files_failed"] == 1
    with open(late, "wb") as f:
        f.write(b"here")
    try:
        util.wait_until("the name", lambda: server.cli("stat", "/late", check=False).code == DONE, 20)
        job = server.json("job", "retry", first["id"])
        assert job["id"] > first["id"] and job["state"] == "succeeded" and job["files_done"] == 2
        assert server.json("stat", "/late")["loaded"] is True
        text = server.cli("job", "retry", server.json("free", "/late")["id"])
        assert text.out.startswith("freed ")
        listed = server.json("load", "-f", "-", stdin="/a-b\n")
        done = server.cli("job", "retry", listed["id"], check=False)
        assert done.code == FAIL and "list" in done.err
    finally:
        os.remove(late)
    slow = server.cli("load", "/big.bin", "--bandwidth", "200KiB/s", "--detach").out.strip()
    done = server.cli("job", "retry", slow, check=False)
    assert done.code == FAIL and "has not ended" in done.err
    server.cli("job", "cancel", slow)
    assert server.cli("job", "retry", "12345", check=False).code == FAIL


def start_slow_load(server, *args, master=None):
    process = subprocess.Popen([binary(), "load", "/big.bin", "--bandwidth", "200KiB/s", *args],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               env={**server.env, "TARN_MASTER": master or server.master})
    jobs = util.wait_until("the job runs", lambda: [j for j in server.json("job", "ls")
                                                    if j["state"] == "running"], 20)
    util.wait_until("its wait for the job", lambda: util.has_thread(process.pid, "signals"), 20)
    return process, jobs[-1]["id"]


@pytest.mark.parametrize("by", ("address", "name"))
def test_interrupt_cancels_the_job(server, by):
    """Also where a name was looked up, by threads that are not ours."""
    master = server.master if by == "address" else server.master.replace("127.0.0.1", "localhost")
    process, job_id = start_slow_load(server, master=master)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == FAIL and out == ""
    assert f"cancelling job {job_id}" in err and "was cancelled" in err
    assert server.json("job", "show", job_id)["state"] == "cancelled"


def test_interrupted_wait_leaves_the_job(server):
    job_id = server.cli("load", "/big.bin", "--bandwidth", "200KiB/s", "--detach").out.strip()
    with subprocess.Popen([binary(), "job", "wait", job_id], stdout=subprocess.PIPE,
                          env={**server.env, "TARN_MASTER": server.master}) as p:
        time.sleep(1)
        p.send_signal(signal.SIGINT)
        assert p.wait(10) == -signal.SIGINT
    assert server.json("job", "show", job_id)["state"] in ("running", "planned")
    server.cli("job", "cancel", job_id)


def test_the_server_goes_away_meanwhile(server):
    process, job_id = start_slow_load(server, "--timeout", "2s")
    server.kill()
    _, err = process.communicate(timeout=60)
    assert process.returncode == UNREACH and str(job_id) in err


def on_terminal(server, *args, seconds=60):
    """Run a command whose three streams are a terminal; (exit code, what it showed)."""
    master, slave = pty.openpty()
    process = subprocess.Popen([binary(), *args], stdin=slave, stdout=slave, stderr=slave,
                               env={**server.env, "TARN_MASTER": server.master}, start_new_session=True)
    os.close(slave)
    out, end = b"", time.monotonic() + seconds
    while time.monotonic() < end:
        if not select.select([master], [], [], 1)[0]:
            continue
        try:
            data = os.read(master, 65536)
        except OSError:  # the other end is closed
            break
        out += data
    os.close(master)
    return process.wait(10), out.decode("utf-8", "replace")


def test_progress_on_a_terminal(server):
    code, out = on_terminal(server, "load", "/", "--bandwidth", "4MiB/s", "--force")
    assert code == DONE
    assert re.search(r"\rload  \[[#.]+\] +\d+%  \d+/\d+ files  ", out), out
    assert out.rstrip().splitlines()[-1].split("\x1b[K")[-1].startswith("loaded ")
    code, out = on_terminal(server, "load", "/", "--force", "--quiet")
    assert code == DONE and "[" not in out


def test_no_bar_where_there_is_no_terminal(server):
    done = server.cli("load", "/", "--bandwidth", "4MiB/s")
    assert done.err == "" and "\r" not in done.out


# ---- config, doctor ----

def test_config_sources(alone, workdir):
    path = os.path.join(workdir, "tarn.yaml")
    with open(path, "w", encoding="utf-8") as f:
        f.write("cache-size: 1GiB\nmeta-ttl: forever\nremote:\n  timeout: 5s\nload:\n  parallel: 4\n")
    code, out, err = alone("config", "--config", path, "--json", "--evict-low", "50%",
                           env={"TARN_CACHE_SIZE": "2GiB", "TARN_MASTER": "h:1"})
    assert code == DONE, err
    got = {p["key"]: p for p in json.loads(out)["parameters"]}
    assert got["cache-size"]["value"] == "2GiB" and got["cache-size"]["source"] == "env TARN_CACHE_SIZE"
    assert got["meta-ttl"]["value"] == "forever" and got["meta-ttl"]["source"].startswith(f"file {path}")
    assert got["timeout"]["value"] == "5s" and got["master"]["source"] == "env TARN_MASTER"
    assert got["evict-low"]["source"] == "flag --evict-low" and got["listen"]["source"] == "default"
    assert "meta-ttl: forever  # file " in alone("config", "--config", path)[1]


def test_config_of_a_role(alone, workdir):
    """What a start of that role would see, wherever on the line it is named."""
    path = os.path.join(workdir, "tarn.yaml")
    with open(path, "w", encoding="utf-8") as f:
        f.write("worker: {weight: 7}\nmount: {host: here}\nlisten: {listen: '127.0.0.1:2'}\n")

    def shown(*args):
        code, out, err = alone("config", "--json", *args)
        assert code == DONE, err
        return {(p["table"], p["key"]): p for p in json.loads(out)["parameters"]
                if p["key"] not in ("http-listen", "master")}  # other ports each time

    rows = {}
    for role in ("local", "master", "worker", "mount"):
        rows[role] = shown(role, "--config", path)
        assert shown("--config", path, role) == rows[role]
        assert {role, "common", "remote", "server"} <= {table for table, _ in rows[role]}
    assert shown("--config", path) == rows["local"]
    weight = rows["worker"][("worker", "weight")]
    assert weight["value"] == 7 and weight["source"].startswith(f"file {path}")
    assert not any(table == "worker" for table, _ in rows["master"])
    assert ("master", "dir") in rows["master"] and ("listen", "listen") in rows["master"]
    assert rows["mount"][("mount", "host")]["value"] == "here"
    assert ("listen", "listen") not in rows["mount"] and ("fuse", "passthrough") in rows["mount"]
    code, out, err = alone("config", "worker", "--weight", "3", "--config", path)
    assert code == DONE and "weight: 3  # flag --weight" in out, err
    for args, what in ((["foo"], "local, master, worker or mount"), (["worker", "mount"], "mount"),
                       (["master", "--weight", "3"], "--weight")):
        code, out, err = alone("config", *args)
        assert (code, out) == (USAGE, "") and what in err, err


def test_config_files_are_checked(alone, workdir):
    path = os.path.join(workdir, "tarn.yaml")
    for text, what in (("cache-sice: 1GiB\n", "cache-size"), ("cache-size: lots\n", "lots"),
                       ("[", ""), ("log-level: loud\n", "debug, info, warn, error")):
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        code, out, err = alone("config", "--config", path)
        assert (code, out) == (USAGE, "") and what in err and path in err, (text, err)
    assert alone("config", "--config", path + "-")[0] != DONE
    assert alone("config", env={"TARN_CACHE_SIZE": "lots"})[0] == USAGE


def test_config_keys_that_mean_several_things(alone, workdir):
    path = os.path.join(workdir, "tarn.yaml")
    for key, owners in (("timeout", ("remote", "ufs")), ("token-file", ("remote", "ufs")),
                        ("recursive", ("load", "free", "ls", "cp"))):
        with open(path, "w", encoding="utf-8") as f:
            f.write(f"{key}: 5s\n")
        for args in (["config"], ["ls"], ["umount", "/"]):
            code, out, err = alone(*args, "--config", path)
            assert (code, out) == (USAGE, "") and path in err and key in err, err
            assert all(re.search(rf"\b{o}\b", err) for o in owners), err
    with open(path, "w", encoding="utf-8") as f:
        f.write("ufs: {timeout: 7s}\nremote: {timeout: 5s}\numount: {lazy: true}\n")
    code, out, err = alone("config", "--config", path, "--json")
    assert code == DONE, err
    got = {(p["table"], p["key"]): p["value"] for p in json.loads(out)["parameters"]}
    assert got[("ufs", "timeout")] == "7s" and got[("remote", "timeout")] == "5s"


def test_store_options_are_not_read_from_the_environment(alone):
    """TARN_TIMEOUT is that of commands; the docs say so too."""
    code, out, _ = alone("config", "--json", env={"TARN_SECRET_KEY": "hunter2hunter2", "TARN_TIMEOUT": "5s"})
    assert code == DONE and "hunter2" not in out
    assert [p["table"] for p in json.loads(out)["parameters"] if p["key"] == "timeout"] == ["remote"]
    with open(os.path.join(os.path.dirname(__file__), "../../docs/config.md"), encoding="utf-8") as f:
        assert "TARN_SECRET_KEY" not in f.read()


def test_what_a_line_is_to_say_itself(alone, workdir):
    """Neither a variable nor a file arms a command; and a word takes no flag of another one."""
    path = os.path.join(workdir, "tarn.yaml")
    for section, key in (("load", "force"), ("worker", "force"), ("worker", "undo"), ("worker", "wait"),
                         ("master", "init"), ("attach", "update")):
        with open(path, "w", encoding="utf-8") as f:
            f.write(f"{section}: {{{key}: true}}\n")
        code, out, err = alone("config", "--config", path)
        assert (code, out) == (USAGE, "") and f"{section}.{key}" in err, err
    env = {f"TARN_{key}": "true" for key in ("FORCE", "UNDO", "WAIT", "INIT", "UPDATE", "ADVERTISE")}
    for role in ("master", "worker"):
        code, out, err = alone("config", role, "--json", env=env)
        assert code == DONE, err
        shown = {p["key"]: p["source"] for p in json.loads(out)["parameters"]}
        keys = {"master": ("init",), "worker": ("force", "undo", "wait")}[role]
        assert {shown[k] for k in keys if k in shown} <= {"default"}, shown
    code, _, err = alone("master", env=env)
    assert code == USAGE and "--dir is needed" in err, err
    tier = f"SSD:{workdir}/w:64MiB"
    for args, what in ((["worker", "--tier", tier, "--undo"], "--undo"),
                       (["worker", "--tier", tier, "--wait"], "--wait"),
                       (["worker", "--tier", tier, "--force"], "--force"),
                       (["worker", "ls", "--undo"], "ls: takes no --undo"),
                       (["worker", "ls", "--tier", tier], "--tier"),
                       (["worker", "remove", "1", "--wait"], "remove: takes no --wait"),
                       (["worker", "drain", "1", "-d"], "drain: takes no -d"),
                       (["master", "ls", "--dir", "/x"], "ls: takes no --dir"),
                       (["master", "ls", "--listen", "127.0.0.1:0"], "--listen")):
        code, out, err = alone(*args)
        assert (code, out) == (USAGE, "") and what in err, (args, err)
    assert not os.path.exists(f"{workdir}/w")
    for args in (["worker", "ls"], ["worker", "drain", "1", "--force"], ["master", "ls", "--timeout", "1s"]):
        assert alone(*args, env=env)[0] == UNREACH, args
    assert "drain, remove: also the last worker" in " ".join(alone("worker", "--help")[1].split())


def test_config_hides_secrets(alone, workdir):
    path = os.path.join(workdir, "tarn.yaml")
    with open(path, "w", encoding="utf-8") as f:
        f.write('option: ["access-key=AKID,secret-key=hunter2hunter2"]\n')
    os.chmod(path, 0o600)
    for args in ([], ["--json"]):
        code, out, err = alone("config", "--config", path, *args)
        assert code == DONE, err
        assert "hunter2" not in out + err and "(set)" in out and "AKID" in out


def doctor(done):
    docs = json.loads(done[1])
    assert all(d.keys() >= {"check", "state", "text", "mend"} for d in docs)
    assert all(d["state"] in ("ok", "warn", "fail") for d in docs)
    assert all(d["mend"] for d in docs if d["state"] != "ok")
    assert done[0] == (FAIL if any(d["state"] == "fail" for d in docs) else DONE)
    return {d["check"]: d for d in docs}


def test_doctor_of_a_host(alone):
    checks = doctor(alone("doctor", "--json"))
    assert {"fuse-device", "fusermount3", "passthrough", "io_uring", "open-files", "clock", "cache-room",
            "port", "server"} <= checks.keys()
    assert checks["server"]["state"] == "fail"  # named by TARN_MASTER, and not there
    text = alone("doctor")[1].splitlines()
    assert all(re.match(r"(ok|warn|fail)  |  +mend: ", line) for line in text)
    # Another's on this machine may be at work just now.
    util.wait_until("the end of its directory",
                    lambda: not [d for d in os.listdir("/tmp") if d.startswith("tarn-doctor")], 20)


def test_doctor_of_limits(workdir):
    done = subprocess.run(["bash", "-c", f"ulimit -n 200; exec {binary()} doctor --json"], capture_output=True,
                          text=True, timeout=60, check=False, cwd=workdir)
    checks = doctor((done.returncode, done.stdout))
    assert checks["open-files"]["state"] == "fail" and "200" in checks["open-files"]["text"]


def test_doctor_of_a_server(server, workdir):
    done = server.cli("doctor", "--json", check=False)
    checks = doctor((done.code, done.out))
    assert checks["server"]["state"] == "ok" and checks["store"]["state"] == "ok"
    assert server.uri in checks["store"]["text"] and checks["cache"]["state"] == "ok"
    token = os.path.join(workdir, "token")
    with open(token, "w", encoding="ascii") as f:
        f.write("0" * 64)
    os.chmod(token, 0o600)
    done = server.cli("doctor", "--json", "--token-file", token, check=False)
    assert doctor((done.code, done.out))["server"]["state"] == "fail" and done.code == FAIL


# ---- umount, version ----

def test_umount(server):
    code = subprocess.run([binary(), "umount", server.mnt], timeout=30, check=False).returncode
    assert code == DONE and not util.mounted(server.mnt)
    assert server.process.wait(20) == 0
    server.process = None
    assert subprocess.run([binary(), "umount", server.mnt], timeout=30, check=False,
                          capture_output=True).returncode != DONE


def test_version(alone):
    code, out, _ = alone("version", "--json")
    assert code == DONE and json.loads(out).keys() >= {"version", "protocol"}
    assert alone("--version")[1] == alone("version")[1]
