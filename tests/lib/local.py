# SPDX-License-Identifier: Apache-2.0
"""What tests of `tarn local` share: options of stores, starts that must fail, the cache's room."""
import fcntl
import hashlib
import os
import subprocess
import tempfile
import time
from collections import namedtuple
from contextlib import contextmanager

from tests.lib import util
from tests.lib.tarn import Done, binary

Refused = namedtuple("Refused", "code text seconds")
NOBODY = 65534


def sha(data):
    return hashlib.sha256(data).hexdigest()


def fault_options(store, **more):
    """Flags for a scripted store; fault_options(store, timeout="2s", retries=1)."""
    pairs = {"endpoint": store.endpoint, "credentials": "anonymous", **more}
    return _flags(pairs)


def swift_options(store, directory, access_key=None, secret=None, **more):
    """Flags for a Swift; the secret goes into a file of `directory`."""
    secret_file = os.path.join(str(directory), "secret")
    with open(secret_file, "w", encoding="ascii") as f:
        f.write(secret or store.secret_key)
    os.chmod(secret_file, 0o600)
    pairs = {"endpoint": store.endpoint, "access-key": access_key or store.access_key,
             "secret-file": secret_file, **more}
    return _flags(pairs)


def _flags(pairs):
    return ["-o", ",".join(f"{k.replace('_', '-')}={v}" for k, v in pairs.items())]


def command(*args, seconds=20, env=None, **kwargs):
    """Run `tarn ARGS...` without a server; Done(code, out, err)."""
    done = subprocess.run([binary(), *map(str, args)], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=seconds, check=False,
                          env={**os.environ, **(env or {})}, **kwargs)
    return Done(done.returncode, done.stdout, done.stderr)


def refused(server, seconds=12):
    """Start a server that must not come up: how it ended, and what it said."""
    mounts_before = count_mounts(server.mnt)
    begun = time.monotonic()
    process = server.spawn()
    try:
        code = process.wait(timeout=seconds)
    except subprocess.TimeoutExpired as e:
        raise AssertionError(f"no answer within {seconds} s\n{server.log_tail()}") from e
    server.process = None
    took = time.monotonic() - begun
    assert count_mounts(server.mnt) == mounts_before, "it changed the mountpoint"
    return Refused(code, server.log_tail(), took)


def check_refused(server, code, *words, seconds=12):
    """The same, with the exit code and the words that must be said, in any case."""
    got = refused(server, seconds)
    assert got.code == code, f"exit {got.code}, expected {code}\n{got.text}"
    says(got.text, *words)
    return got


def says(text, *words):
    """Each word is there; a tuple of words: one of them."""
    for word in words:
        wanted = word if isinstance(word, tuple) else (word,)
        assert any(w.lower() in text.lower() for w in wanted), f"no {word!r} in:\n{text}"


@contextmanager
def alone(what):
    """For what a machine has once: the sessions of tests that run on it at a time take turns."""
    with open(f"{tempfile.gettempdir()}/tarn-test-{what}-{os.getuid()}", "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def count_mounts(path):
    return sum(m == os.path.realpath(path) for m, _ in util.mounts())


def below(root):
    """Every path below root, folders first."""
    for folder, dirs, names in os.walk(root):
        for name in dirs + names:
            yield os.path.join(folder, name)


def snapshot(root):
    """{path: content} of everything below root, to see that nothing was touched."""
    found = {}
    for path in below(root):
        found[path] = (sha(open(path, "rb").read()) if os.path.isfile(path) and
                       not os.path.islink(path) else "-")
    return found


def room(root):
    """Bytes on the disk of everything below root. Files that go meanwhile do not count."""
    total = 0
    for path in below(root):
        try:
            total += os.lstat(path).st_blocks * 512
        except FileNotFoundError:
            pass
    return total


def processes_with(text):
    """Ids of processes with this text in their command line, but for ours."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                if os.fsencode(text) in f.read() and int(pid) != os.getpid():
                    found.append(int(pid))
        except (FileNotFoundError, ProcessLookupError):
            pass
    return found


def listed(server, path=""):
    """Names of a directory of the mount, asked by another process."""
    done = util.run("ls", "-1A", server.path(path) if path else server.mnt, seconds=60)
    return done.stdout.splitlines()
