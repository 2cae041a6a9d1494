#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Reference of docs/formats/placement.md: weighted rendezvous hashing in exact integers.

Written from the definition and sharing nothing with lib/base/rendezvous.c (XXH3 included).
Prints the test vectors that tests/unit/lib/base reads:

    /usr/bin/python3 tests/lib/rendezvous_ref.py > tests/unit/lib/base/rendezvous_vectors.txt
    /usr/bin/python3 tests/lib/rendezvous_ref.py --check    (compares the log with decimal's)
"""
import decimal
import functools
import random
import sys

M64 = (1 << 64) - 1
SECRET = bytes.fromhex("b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671f")
PRIME64_1 = 0x9E3779B185EBCA87


def le(b):
    return int.from_bytes(b, "little")


def mix16(data, secret):
    product = (le(data[:8]) ^ le(secret[:8])) * (le(data[8:]) ^ le(secret[8:]))
    return (product >> 64) ^ (product & M64)


def xxh3_64_28(data):
    """XXH3-64 without a seed, for inputs of 17 to 32 bytes (xxHash specification 0.2)."""
    assert 17 <= len(data) <= 32
    acc = len(data) * PRIME64_1
    acc += mix16(data[:16], SECRET[:16]) + mix16(data[-16:], SECRET[16:])
    acc &= M64
    acc ^= acc >> 37
    acc = acc * 0x165667919E3779F9 & M64
    return acc ^ acc >> 32


def neglog2(h):
    x = h + 1
    top = x.bit_length() - 1
    if top == 64:
        return 0
    mantissa = x * 2 ** (63 - top)
    fraction = 0
    for i in range(1, 33):
        mantissa = mantissa ** 2 // 2 ** 63
        if mantissa >= 2 ** 64:
            fraction += 2 ** (32 - i)
            mantissa //= 2
    return (64 - top) * 2 ** 32 - fraction


def score(cid, segment, node):
    return xxh3_64_28(cid + segment.to_bytes(4, "little") + node.to_bytes(8, "little"))


def pick(nodes, cid, segment, k):
    def compare(a, b):
        left, right = a[1] * b[2], b[1] * a[2]
        if left != right:
            return -1 if left > right else 1
        return -1 if a[0] < b[0] else 1

    rows = [(i, w, neglog2(score(cid, segment, i))) for i, w in nodes if w > 0]
    return [r[0] for r in sorted(rows, key=functools.cmp_to_key(compare))][:k]


def print_pick(cid, segment, k, nodes):
    owners = ",".join(str(o) for o in pick(nodes, cid, segment, k)) or "-"
    print(f"pick {cid.hex()} {segment} {k} {','.join(f'{a}:{w}' for a, w in nodes)} {owners}")


def tie(cid, segment):
    """Two node ids with the same logarithm."""
    seen = {}
    node = 1
    while True:
        log = neglog2(score(cid, segment, node))
        if log in seen:
            return seen[log], node
        seen[log] = node
        node += 1


def vectors():
    rng = random.Random(20240607)
    print("# SPDX-License-Identifier: Apache-2.0")
    print("# Made by tests/lib/rendezvous_ref.py; see docs/formats/placement.md.")
    print("# log HASH L")
    hashes = [0, 1, 2, 3, 0xFF, (1 << 32) - 1, 1 << 32, (1 << 63) - 2, (1 << 63) - 1, 1 << 63,
              M64 - 2, M64 - 1, M64] + [rng.getrandbits(64) for _ in range(19)]
    for h in hashes:
        print(f"log {h:016x} {neglog2(h)}")
    print("# hash CID SEGMENT NODE HASH")
    for _ in range(8):
        cid, segment, node = rng.randbytes(16), rng.getrandbits(32), rng.getrandbits(64)
        print(f"hash {cid.hex()} {segment} {node} {score(cid, segment, node):016x}")
    print("# pick CID SEGMENT K ID:WEIGHT,... OWNERS,... ('-' is none)")
    for i in range(48):
        nodes = [(rng.getrandbits(64) if i % 3 == 0 else j + 1,
                  1000 if i % 2 else rng.choice([0, 1, 7, 100, 1000, 2 ** 32 - 1]))
                 for j in range(rng.choice([1, 2, 3, 5, 8, 20]))]
        cid = bytes(16) if i == 0 else bytes([255]) * 16 if i == 1 else rng.randbytes(16)
        segment = [0, 1, 2 ** 32 - 1][i] if i < 3 else rng.randrange(64)
        k = i % 8 + 1
        print_pick(cid, segment, k, nodes)
    print("# Equal products: the smaller id first.")
    cid = bytes(range(16))
    a, b = tie(cid, 5)
    print_pick(cid, 5, 2, [(a, 7), (b, 7)])
    print_pick(cid, 5, 2, [(b, 7), (a, 7)])


def check():
    decimal.getcontext().prec = 60
    rng = random.Random(1)
    ln2 = decimal.Decimal(2).ln()
    worst = 0
    for _ in range(2000):
        h = rng.getrandbits(rng.randrange(1, 65))
        exact = -((decimal.Decimal(h + 1) / 2 ** 64).ln() / ln2) * 2 ** 32
        worst = max(worst, abs(exact - neglog2(h)))
    print(f"greatest distance from the exact logarithm: {worst:.3f} units of 2^-32")
    return 0 if worst < 2 else 1


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        sys.exit(check())
    vectors()
