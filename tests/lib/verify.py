#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Readers that compare every byte they get, while faults happen below them.

Content: each 4 KiB of a file begin with its path's hash, its version and its offset, and go on with
bytes that depend on path and version. So any range can be checked without the rest, and bytes of
another version, file or place are not only wrong but say where they belong.

    content = Content({"a/b": 5 << 20})         # path: bytes
    content.put(store, BKT)
    with Readers(mnt, content, threads=4, deadline=30) as readers:
        readers.wait_calls(100)
        met = readers.catch(worker.kill)        # how many calls were under way; none is an error
        ...
    readers.check()                             # no wrong byte, no call over its deadline

The readers are a process of their own (this file as a program), so that neither the interpreter's
lock nor a hung mount keeps the test. What each thread does stands in a file that both have mapped.
"""
import errno
import hashlib
import json
import mmap
import os
import random
import struct
import subprocess
import sys
import threading
import time

if __name__ == "__main__":  # as the program of the readers
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__)))))

from tests.lib.s3objects import Object

BLOCK = 4096
_HEAD = struct.Struct("<16sQQ")       # path's hash, version, offset
_SLOT = struct.Struct("<dQQQQd")      # see Slot
_ERRORS = 64                          # kept per thread: (errno, when it began, how long it took)
_ERROR = struct.Struct("<Qdd")
_SLOT_BYTES = 4096
KINDS = ("open", "names", "stat", "whole")


class Content:
    """What files must hold: sizes, and the versions that are right now."""

    def __init__(self, sizes):
        self.sizes = dict(sizes)
        self.versions = {path: 1 for path in sizes}
        self._fills = {}

    def _fill(self, path, version):
        key = (path, version)
        if key not in self._fills:
            tag = hashlib.sha256(path.encode()).digest()[:16]
            self._fills[key] = (tag, random.Random(f"{path}/{version}").randbytes(BLOCK - _HEAD.size))
        return self._fills[key]

    def data(self, path, version=None, offset=0, length=None):
        """The bytes of a range of one version, cut at the file's end."""
        version = self.versions[path] if version is None else version
        size = self.sizes[path]
        stop = size if length is None else min(size, offset + length)
        if offset >= stop:
            return b""
        tag, fill = self._fill(path, version)
        first = offset // BLOCK
        blocks = [_HEAD.pack(tag, version, i * BLOCK) + fill
                  for i in range(first, (stop + BLOCK - 1) // BLOCK)]
        skip = offset - first * BLOCK
        return b"".join(blocks)[skip:skip + stop - offset]

    def wrong(self, path, version, offset, got):
        """None if `got` are the bytes at `offset`, else what is wrong with them."""
        want = self.data(path, version, offset, len(got))
        if got == want:
            return None
        if len(got) > len(want):
            return f"{path}: {len(got) - len(want)} bytes behind the end"
        at = next(i for i in range(len(want)) if want[i] != got[i])
        return f"{path}: byte {offset + at} of version {version} is wrong; {self._owner(offset + at, offset, got)}"

    def _owner(self, place, offset, got):
        """Whose block the bytes around `place` are, by their head."""
        head = place // BLOCK * BLOCK - offset
        if head < 0 and BLOCK + head + _HEAD.size <= len(got):
            head += BLOCK
        if head < 0 or head + _HEAD.size > len(got):
            return f"near it: {got[max(0, place - offset):][:16].hex()}"
        tag, version, at = _HEAD.unpack_from(got, head)
        tags = {self._fill(p, 0)[0]: p for p in self.sizes}
        if tag not in tags:
            return f"the block there is nobody's: {got[head:head + 16].hex()}"
        return f"the block there is of {tags[tag]} version {version} offset {at}"

    def put(self, store, bucket, prefix="", paths=None):
        """Into a scripted store, which makes the bytes when they are asked for."""
        for path in paths if paths is not None else self.sizes:
            store.bucket(bucket).put(prefix + path, Made(self, path, self.versions[path]))

    def replace(self, store, bucket, path, prefix=""):
        """Another version of the same size in the store."""
        self.versions[path] += 1
        self.put(store, bucket, prefix, [path])

    def version_of(self, path, got):
        """The version that all of a whole file's bytes are of, or what is wrong with them."""
        for version in range(self.versions[path], 0, -1):
            if got == self.data(path, version):
                return version
        return self.wrong(path, self.versions[path], 0, got)


class Made(Object):
    """An object of the scripted store that is nowhere: files of a terabyte take no room."""

    def __init__(self, content, path, version):
        self.content, self.name, self.version = content, path, version
        self.data = self.path = None
        # Versions of one size and second may be taken for one where listings have other ETags.
        self.size, self.mtime = content.sizes[path], int(time.time()) - 1000 + 10 * version
        # As of an upload in parts: nobody can compute it from the bytes.
        self.etag = hashlib.md5(f"{path}/{version}".encode()).hexdigest() + "-2"

    def read(self, first, length):
        return self.content.data(self.name, self.version, first, length)


class Slot:
    """What one reader thread does and did; written by it alone."""

    def __init__(self, memory, number):
        self.memory, self.at = memory, number * _SLOT_BYTES

    def load(self):
        """(began: 0 while no call is under way, calls, bytes, wrong, errors, longest in seconds)"""
        return _SLOT.unpack_from(self.memory, self.at)

    def save(self, *values):
        _SLOT.pack_into(self.memory, self.at, *values)

    def error(self, number, code, began, took):
        if number < _ERRORS:
            _ERROR.pack_into(self.memory, self.at + _SLOT.size + number * _ERROR.size, code, began, took)

    def errors(self):
        count = min(self.load()[4], _ERRORS)
        return [_ERROR.unpack_from(self.memory, self.at + _SLOT.size + i * _ERROR.size)
                for i in range(count)]


# ---- for tests ----

class Readers:
    """Runs readers over a mount until it is closed.

    kinds: what the threads do in turn. open: every file is opened and read once at the start, then
    read at random places; names: a file is opened, stat'ed, read at a place and closed; stat: the
    same without the read; whole: a file from end to end.
    """

    def __init__(self, root, content, threads=4, deadline=30.0, seed=1, kinds=("open", "names"),
                 paths=None, pause=0.0):
        assert set(kinds) <= set(KINDS)
        self.threads, self.deadline, self.kinds = threads, deadline, tuple(kinds)
        fd = os.memfd_create("readers")
        os.ftruncate(fd, threads * _SLOT_BYTES)
        self.memory = mmap.mmap(fd, threads * _SLOT_BYTES)
        paths = list(content.sizes) if paths is None else list(paths)
        self.paths = len(paths)
        config = {"root": str(root), "sizes": {p: content.sizes[p] for p in paths},
                  "versions": {p: content.versions[p] for p in paths}, "threads": threads,
                  "seed": str(seed), "kinds": kinds, "fd": fd, "pause": pause}
        self.process = subprocess.Popen([sys.executable, os.path.realpath(__file__), json.dumps(config)],
                                        pass_fds=[fd], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True, start_new_session=True)
        os.close(fd)
        self.slots = [Slot(self.memory, i) for i in range(threads)]
        self.wrong, self.ended, self.hung = [], False, 0
        self.worst = 0.0

    # ---- while they run ----

    def calls(self):
        return sum(s.load()[1] for s in self.slots)

    def read_bytes(self):
        return sum(s.load()[2] for s in self.slots)

    def under_way(self):
        """{thread: number of the call that it is in}"""
        return {i: s[1] for i, s in enumerate(slot.load() for slot in self.slots) if s[0] > 0}

    def longest(self):
        """Seconds of the longest call, one that is under way counts with what it took so far."""
        now, found = time.monotonic(), self.worst
        for began, _, _, _, _, longest in (slot.load() for slot in self.slots):
            found = max(found, longest, now - began if began > 0 else 0)
        return found

    def forget_longest(self):
        for slot in self.slots:
            slot.memory[slot.at + _SLOT.size - 8:slot.at + _SLOT.size] = struct.pack("<d", 0.0)

    def errors(self, kind=None):
        """[(errno name, when it began on the monotonic clock, seconds)] of calls that failed; the
        first of each thread. kind: of the threads that do that."""
        slots = [s for i, s in enumerate(self.slots)
                 if kind in (None, self.kinds[i % len(self.kinds)])]
        return sorted(((errno.errorcode.get(code, str(code)), began, took)
                       for slot in slots for code, began, took in slot.errors()),
                      key=lambda e: e[1])

    def errors_total(self):
        return sum(slot.load()[4] for slot in self.slots)

    def wait_calls(self, more, seconds=60):
        """Until so many more calls have been answered rightly by every thread together."""
        self._wait(f"{more} calls", lambda: self.calls() - self.errors_total(), more, seconds)

    def wait_each(self, more=1, seconds=60):
        """Until every thread has so many more answers: nothing is stuck. wait_open() is for the start."""
        before = [s.load()[1] for s in self.slots]
        end = time.monotonic() + seconds
        while any(s.load()[1] < b + more for s, b in zip(self.slots, before)):
            self._alive()
            stuck = [i for i, (s, b) in enumerate(zip(self.slots, before)) if s.load()[1] < b + more]
            assert time.monotonic() < end, f"readers {stuck} stand still\n{self.report()}"
            time.sleep(0.01)

    def wait_open(self, seconds=60):
        """Until every file is open where the kind says so."""
        end = time.monotonic() + seconds
        least = [2 * self.paths + 1 if self.kinds[i % len(self.kinds)] == "open" else 1
                 for i in range(self.threads)]
        while any(s.load()[1] < n for s, n in zip(self.slots, least)):
            self._alive()
            assert time.monotonic() < end, f"not all files are open\n{self.report()}"
            time.sleep(0.01)

    def _wait(self, what, count, more, seconds):
        before, end = count(), time.monotonic() + seconds
        while count() < before + more:
            self._alive()
            assert time.monotonic() < end, f"{what}: not within {seconds} s\n{self.report()}"
            time.sleep(0.01)

    def _alive(self):
        assert self.process.poll() is None, f"the readers ended with {self.process.returncode}"

    def catch(self, inject, seconds=30):
        """Call inject() while reads are under way; returns how many calls it met: under way when it
        began, or begun before it was over. A fault that met nothing proves nothing: that fails."""
        end = time.monotonic() + seconds
        while True:
            assert time.monotonic() < end, "no call was ever under way"
            before = self.under_way()
            if before:
                break
        begun = self.calls()
        inject()
        return len(before) + self.calls() - begun

    # ---- the end ----

    def report(self):
        errors = {}
        for name, _, _ in self.errors():
            errors[name] = errors.get(name, 0) + 1
        return (f"{self.calls()} calls, {self.read_bytes()} bytes, longest {self.longest():.2f} s, "
                f"{self.errors_total()} errors {errors}, wrong: {self.wrong[:3]}")

    def close(self, seconds=None):
        """Ends them; a call that is under way has its deadline to come back."""
        if self.ended:
            return self
        self.ended = True
        try:
            out = self.process.communicate("", timeout=self.deadline + 5 if seconds is None else seconds)[0]
            self.wrong = json.loads(out) if out else [f"exit {self.process.returncode}"]
        except subprocess.TimeoutExpired:
            self.hung = len(self.under_way())
            self.process.kill()  # one in the kernel ends when the mount is taken away
        self.worst = self.longest()
        return self

    def check(self, calls=1, errors=None, deadline=None):
        """After close(): nothing wrong, nothing hung, at least so many calls; errors: how many may be."""
        assert self.ended
        assert self.hung == 0, f"{self.hung} calls never came back\n{self.report()}"
        assert not self.wrong, self.report()
        assert self.calls() >= calls, f"they proved nothing\n{self.report()}"
        assert self.worst <= (deadline or self.deadline), self.report()
        if errors is not None:
            assert self.errors_total() <= errors, f"{self.report()}\n{self.errors()[:10]}"

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.close()


# ---- the program ----

class _Reader:
    def __init__(self, config, content, memory, number, wrong):
        self.root, self.content, self.wrong = config["root"], content, wrong
        self.slot, self.number = Slot(memory, number), number
        self.rng = random.Random(f"{config['seed']}/{number}")
        self.kind = config["kinds"][number % len(config["kinds"])]
        self.paths, self.pause = sorted(config["sizes"]), config["pause"]
        self.counts = [0, 0, 0, 0]  # calls, bytes, wrong, errors
        self.longest = 0.0
        self.files = {}

    def call(self, fn, *args):
        """One call of the file system, timed; None when it failed."""
        began = time.monotonic()
        self.longest = max(0.0, self.slot.load()[5])  # the test may have cleared it
        self.slot.save(began, *self.counts, self.longest)
        code = 0
        try:
            got = fn(*args)
        except OSError as e:
            got, code = None, e.errno
        took = time.monotonic() - began
        if code:
            self.slot.error(self.counts[3], code, began, took)
            self.counts[3] += 1
        self.counts[0] += 1
        self.counts[1] += len(got) if isinstance(got, bytes) else 0
        self.slot.save(0.0, *self.counts, max(self.longest, took))
        return got

    def open(self, path):
        fd = self.call(os.open, os.path.join(self.root, path), os.O_RDONLY)
        if fd is not None:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        return fd

    def read(self, fd, path, offset, length):
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        want = max(0, min(length, self.content.sizes[path] - offset))
        got = self.call(os.pread, fd, length, offset)
        while got and len(got) < want:  # the kernel keeps what came before an error: ask for the rest
            more = self.call(os.pread, fd, want - len(got), offset + len(got))
            if not more:
                got = None if more is None else got
                break
            got += more
        if got is None:
            return False
        said = None if len(got) == want else f"{path}: {len(got)} bytes at {offset}, not {want}"
        said = said or self.content.wrong(path, self.content.versions[path], offset, got)
        if said:
            self.counts[2] += 1
            self.wrong.append(said)
        return True

    def some_range(self, path):
        size = self.content.sizes[path]
        length = self.rng.choice((1, 4096, 65536, 200_000, 1 << 20))
        return self.rng.randrange(max(1, size)), length

    def step(self):
        path = self.rng.choice(self.paths)
        if self.kind == "open":
            if path not in self.files:
                self.files[path] = self.open(path)
            if self.files[path] is None:
                del self.files[path]
            elif not self.read(self.files[path], path, *self.some_range(path)):
                # The mount may be another one by now.
                os.close(self.files.pop(path))
            return
        fd = self.open(path)
        if fd is None:
            return
        st = self.call(os.fstat, fd)
        if st is not None and st.st_size != self.content.sizes[path]:
            self.wrong.append(f"{path}: {st.st_size} bytes long, not {self.content.sizes[path]}")
        if self.kind == "names":
            self.read(fd, path, *self.some_range(path))
        elif self.kind == "whole":
            for offset in range(0, self.content.sizes[path], 1 << 20):
                if not self.read(fd, path, offset, 1 << 20):
                    break
        os.close(fd)

    def open_all(self, ended):
        """Each thread reads another page, so that none finds it in the kernel: every handle has been
        through the mount once."""
        for path in self.paths:
            fd = None if ended.is_set() else self.open(path)
            if fd is not None and self.read(fd, path, self.number * BLOCK, 1):
                self.files[path] = fd

    def run(self, ended, opened):
        if self.kind == "open":
            self.open_all(ended)
        opened.wait()
        while not ended.is_set():
            errors = self.counts[3]
            try:
                self.step()
            except OSError as e:  # of what is not timed: close, fadvise
                self.slot.error(self.counts[3], e.errno, time.monotonic(), 0.0)
                self.counts[3] += 1
                self.slot.save(0.0, *self.counts, max(0.0, self.slot.load()[5]))
            if self.counts[3] > errors:
                time.sleep(0.02)
            elif self.pause:
                ended.wait(self.pause)


def main():
    config = json.loads(sys.argv[1])
    memory = mmap.mmap(config["fd"], config["threads"] * _SLOT_BYTES)
    content = Content(config["sizes"])
    content.versions = config["versions"]
    wrong, ended = [], threading.Event()
    opened = threading.Barrier(config["threads"])
    threads = [threading.Thread(target=_Reader(config, content, memory, i, wrong).run,
                                args=(ended, opened), daemon=True) for i in range(config["threads"])]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    ended.set()
    for thread in threads:
        thread.join()
    print(json.dumps(wrong), flush=True)


if __name__ == "__main__":
    main()
