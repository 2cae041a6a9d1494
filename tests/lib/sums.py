#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Checksums of files, read by another process: a read that hangs must not hang the test.

    sums.py [--threads N] [--keep]     paths on stdin, NUL between them; prints one JSON array:
                                       of each file the SHA-256, or the name of the error

Pages that the kernel holds are given up first, so that the bytes come from the file system's server;
--keep leaves them.
"""
import argparse
import concurrent.futures
import errno
import hashlib
import json
import os
import subprocess
import sys

BLOCK = 1 << 20


def sha256(path, keep=False):
    """The SHA-256 of a file's bytes in hex, or the name of the error, like "EIO"."""
    digest = hashlib.sha256()
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError as e:
        return errno.errorcode[e.errno]
    try:
        if not keep:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        while block := os.read(fd, BLOCK):
            digest.update(block)
    except OSError as e:
        return errno.errorcode[e.errno]
    finally:
        os.close(fd)
    return digest.hexdigest()


def read(root, names, threads=1, keep=False, seconds=60):
    """{name: SHA-256 or the error's name} of files below root."""
    names = list(names)
    command = [sys.executable, os.path.abspath(__file__), "--threads", str(threads)]
    paths = b"\0".join(os.fsencode(os.path.join(root, name)) for name in names)
    done = subprocess.run(command + ["--keep"] * keep, input=paths, capture_output=True,
                          timeout=seconds, check=False)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return dict(zip(names, json.loads(done.stdout)))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--keep", action="store_true")
    args = parser.parse_args()
    text = sys.stdin.buffer.read()
    paths = text.split(b"\0") if text else []
    with concurrent.futures.ThreadPoolExecutor(args.threads) as pool:
        json.dump(list(pool.map(lambda path: sha256(path, args.keep), paths)), sys.stdout)


if __name__ == "__main__":
    main()
