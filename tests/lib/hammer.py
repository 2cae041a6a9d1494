#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Readers of random files that check every byte, until the file system dies below them.

    hammer.py ROOT SUMS THREADS SEED    SUMS: JSON {name: SHA-256}

Prints "on" once all readers have begun; ends when each has met an error, or at SIGTERM, and prints
JSON: reads that were right, names whose bytes were wrong, and what was under way at the end.
"""
import errno
import hashlib
import json
import os
import random
import signal
import sys
import threading

ROOT, SUMS, THREADS, SEED = sys.argv[1], json.load(open(sys.argv[2])), int(sys.argv[3]), sys.argv[4]
found = {"right": 0, "wrong": [], "under_way": 0, "errors": []}
lock = threading.Lock()
ended = threading.Event()
begun = threading.Barrier(THREADS + 1)


def one(name):
    digest = hashlib.sha256()
    fd = os.open(os.path.join(ROOT, name), os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        while block := os.read(fd, 1 << 18):
            digest.update(block)
    finally:
        os.close(fd)
    return digest.hexdigest()


def reader(number):
    rng = random.Random(f"{SEED}/{number}")
    names = sorted(SUMS)
    begun.wait()
    while not ended.is_set():
        name = rng.choice(names)
        try:
            right = one(name) == SUMS[name]
        except OSError as e:
            with lock:
                found["under_way"] += 1
                found["errors"].append(errno.errorcode[e.errno])
            return
        with lock:
            found["right"] += right
            if not right:
                found["wrong"].append(name)


def main():
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    threads = [threading.Thread(target=reader, args=(i,), daemon=True) for i in range(THREADS)]
    for thread in threads:
        thread.start()
    begun.wait()
    print("on", flush=True)
    for thread in threads:
        while thread.is_alive():  # a signal is seen only between waits
            thread.join(0.05)
    print(json.dumps(found), flush=True)


main()
