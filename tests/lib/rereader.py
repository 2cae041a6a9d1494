#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A reader that opens one file over and over, reads all of it and says what it got when.

    with Rereader(path) as reader: ...
    reader.passes      # after the end: [Pass], oldest first

It is a process of its own (this file as a program), so that its times are its own. Between the halves
of a file it may pause, so that what changes meanwhile changes in the middle of a read. It gives up the
pages that the kernel holds, or keeps them.
"""
import errno
import hashlib
import json
import os
import subprocess
import sys
import time
from collections import namedtuple

# Times are of the monotonic clock, which all processes share: before and after open(), after the last
# read. size: of fstat() behind the open; sha: of all bytes up to the end, or the name of an error.
Pass = namedtuple("Pass", "begun opened ended size sha")


class Rereader:
    def __init__(self, path, pause=0.0, keep=False):
        self.process = subprocess.Popen(
            [sys.executable, os.path.realpath(__file__), str(path), str(pause), str(int(keep))], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True, start_new_session=True)
        self.passes = None

    def close(self, seconds=60):
        if self.passes is not None:
            return self
        try:
            out = self.process.communicate("", timeout=seconds)[0]
        except BaseException:
            self.process.kill()  # one in the kernel ends when the mount is taken away
            raise
        self.passes = [Pass(*json.loads(line)) for line in out.splitlines()]
        return self

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.close()


def read_all(fd, pause):
    """The SHA-256 of all bytes. Half of what fstat() said is read, then the rest, up to the end."""
    digest, half = hashlib.sha256(), os.fstat(fd).st_size // 2
    done = 0
    while block := os.read(fd, min(1 << 20, half - done) if done < half else 1 << 20):
        digest.update(block)
        done += len(block)
        if done == half and pause:
            time.sleep(pause)
    return digest.hexdigest()


def one_pass(path, pause, keep):
    begun = time.monotonic()
    opened, size = 0.0, -1
    try:
        fd = os.open(path, os.O_RDONLY)
        opened = time.monotonic()
        try:
            if not keep:
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            size = os.fstat(fd).st_size
            said = read_all(fd, pause)
        finally:
            os.close(fd)
    except OSError as e:
        said = errno.errorcode[e.errno]
        time.sleep(0.01)
    return begun, opened, time.monotonic(), size, said


def main():
    path, pause, keep = sys.argv[1], float(sys.argv[2]), sys.argv[3] == "1"
    os.set_blocking(0, False)
    found = []
    while True:
        found.append(one_pass(path, pause, keep))
        try:
            if os.read(0, 1) == b"":
                break
        except BlockingIOError:
            pass
    for line in found:
        print(json.dumps(line))


if __name__ == "__main__":
    main()
