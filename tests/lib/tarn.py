# SPDX-License-Identifier: Apache-2.0
"""Running the tarn binary in tests: servers that are always cleaned up, and commands.

TARN_BIN names the binary; tools/run-tests sets it to the release build.
"""
import contextlib
import json
import os
import re
import signal
import subprocess
import urllib.request
from collections import namedtuple

from tests.lib import util

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
FSTYPE = "fuse.tarncache"
Done = namedtuple("Done", "code out err")
_SAMPLE = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$")


def binary():
    return os.environ.get("TARN_BIN") or os.path.join(ROOT, "build/release/tarn")


def parse_metrics(text):
    """{(name, frozenset of (label, value)): number} of the Prometheus text format."""
    found = {}
    for line in text.splitlines():
        match = _SAMPLE.match(line)
        if match:
            labels = re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', match[2] or "")
            found[(match[1], frozenset(labels))] = float(match[3])
    return found


class Tarn:
    """One `tarn local` (or another long-running subcommand) and the commands sent to it.

    start() returns when the mount answers and it says that all of it is there. Whatever happens,
    close() ends the processes and takes the mount away; the fixture in conftest.py calls it.
    """

    def __init__(self, directory, uri, *args, env=None, prefix=()):
        """directory: for cache, mountpoint and log; args: more flags; prefix: strace and the like."""
        self.dir, self.uri, self.args = str(directory), str(uri), [str(a) for a in args]
        self.prefix = list(prefix)
        self.env = {**os.environ, **(env or {})}
        self.mnt, self.cache = f"{self.dir}/mnt", f"{self.dir}/cache"
        self.log = f"{self.dir}/tarn.log"
        self.port, self.http_port = util.free_port(), util.free_port()
        self.master = f"127.0.0.1:{self.port}"
        self.process = None
        self.pids = []  # that it has had
        self.log_before = 0  # bytes of earlier starts
        os.makedirs(self.mnt, exist_ok=True)

    def command(self):
        return [*self.prefix, binary(), "local", self.uri, self.mnt, "--cache-dir", self.cache,
                "--listen", self.master, "--http-listen", f"127.0.0.1:{self.http_port}", *self.args]

    def start(self, seconds=30):
        self.spawn()
        try:
            util.wait_until(f"mount of {self.uri}", self._ready, seconds)
        except TimeoutError as e:
            raise AssertionError(f"{e}\n{self.log_tail()}") from e
        return self

    def spawn(self):
        """Start it and do not wait, for starts that are to fail."""
        assert self.process is None, "it runs already"
        with open(self.log, "ab") as log:
            self.log_before = log.tell()
            self.process = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=log, env=self.env, start_new_session=True)
        self.pids.append(self.process.pid)
        return self.process

    def _ready(self):
        if self.process.poll() is not None:
            raise AssertionError(f"tarn local ended with {self.process.returncode} at its start:\n"
                                 f"{self.log_tail()}")
        # Asked from another process: a mount that hangs must not hang the test.
        return self._says_so() and util.mounted(self.mnt, FSTYPE) and self.answers()

    def _says_so(self):
        """The mount answers before the metrics do, and before the pid file is written."""
        with open(self.log, "rb") as log:
            log.seek(self.log_before)
            return b" (control " in log.read()

    def answers(self, seconds=5):
        """The mount does, not the directory below it where a dead mount has just been taken away."""
        try:
            done = util.run("stat", "-f", "-c", "%T", self.mnt, seconds=seconds, check=False)
            return done.returncode == 0 and done.stdout.startswith("fuse")
        except subprocess.TimeoutExpired:
            return False

    def log_tail(self, lines=40):
        try:
            with open(self.log, encoding="utf-8", errors="replace") as f:
                return "".join(f.readlines()[-lines:])
        except FileNotFoundError:
            return "(no log)"

    # ---- ends ----

    def stop(self, seconds=20):
        """SIGTERM; returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout=seconds)
        self.process = None
        return code

    def kill(self):
        """kill -9 of everything that start() made, as a crash of the host's memory would."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process = None

    def restart(self):
        """Again on the same cache directory; the mount that a kill left is the binary's to replace."""
        if self.process:
            self.stop()
        return self.start()

    def close(self):
        if self.process:
            util.end_group(self.process)
            self.process = None
        util.unmount(self.mnt)
        util.remove_mount_records(self.pids)
        for place in ("/run/tarn", self.env.get("XDG_RUNTIME_DIR", "/nonexistent") + "/tarn"):
            with contextlib.suppress(FileNotFoundError):  # what a killed one left
                os.unlink(f"{place}/{self.port}.token")

    # ---- what it says ----

    def cli_command(self, *args):
        return [binary(), *map(str, args)]

    def cli_env(self):
        """The environment in which commands find this server."""
        return {**self.env, "TARN_MASTER": self.master}

    def cli(self, *args, check=True, seconds=120, stdin=None):
        """Run `tarn ARGS...` against this server; Done(code, out, err)."""
        done = subprocess.run(self.cli_command(*args), input=stdin, capture_output=True, text=True,
                              timeout=seconds, env=self.cli_env(), check=False)
        if check and done.returncode != 0:
            raise AssertionError(f"tarn {' '.join(map(str, args))}: exit {done.returncode}\n"
                                 f"{done.stdout}{done.stderr}\n{self.log_tail()}")
        return Done(done.returncode, done.stdout, done.stderr)

    def json(self, *args, **kwargs):
        """The document that `tarn ARGS... --json` prints."""
        return json.loads(self.cli(*args, "--json", **kwargs).out)

    def http(self, path):
        url = f"http://127.0.0.1:{self.http_port}{path}"
        with urllib.request.urlopen(url, timeout=10) as reply:
            return reply.read().decode()

    def metrics(self):
        return parse_metrics(self.http("/metrics"))

    def metric(self, name, **labels):
        """The sum of the samples of name that carry these labels; 0 where there is none."""
        wanted = set(labels.items())
        return sum(v for (n, have), v in self.metrics().items() if n == name and wanted <= have)

    def path(self, *parts):
        return os.path.join(self.mnt, *parts)
