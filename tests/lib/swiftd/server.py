#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""One process of a test Swift, or a helper that works on its files. Started by swift.py.

    server.py rings DIR ACCOUNT_PORT CONTAINER_PORT OBJECT_PORT
    server.py proxy|account|container|object DIR
    server.py seed DIR ACCOUNT BUCKET      objects on stdin: a JSON line {key, size}, the bytes

Swift reads /etc/swift/swift.conf unless it is told another folder before anything else is imported;
that is why Debian's own start scripts are not used. Nothing is synced to the disk: the state is
thrown away, and the kernel keeps it across a kill.
"""
import json
import os
import sys
import time

ROLE, STATE = sys.argv[1], sys.argv[2]

# pylint: disable=wrong-import-position
import swift.common.utils as swift_utils  # noqa: E402

swift_utils.set_swift_dir(STATE + "/etc")

DEVICE = "d1"
TYPES = ("account", "container", "object")


def no_sync(*modules):
    for module in modules:
        for name in ("fsync", "fsync_dir", "fdatasync"):
            if hasattr(module, name):
                setattr(module, name, lambda *args, **kwargs: None)
    os.fsync = lambda fd: None


def make_rings():
    from swift.common.ring import RingBuilder
    for kind, port in zip(TYPES, sys.argv[3:6]):
        builder = RingBuilder(4, 1, 1)
        builder.add_dev({"region": 1, "zone": 1, "ip": "127.0.0.1", "port": int(port),
                         "device": DEVICE, "weight": 1.0, "replication_ip": "127.0.0.1",
                         "replication_port": int(port), "meta": ""})
        builder.rebalance(seed=1)
        builder.get_ring().save(f"{STATE}/etc/{kind}.ring.gz")


def serve():
    from swift.common.wsgi import run_wsgi
    more = {}
    if ROLE == "object":
        from swift.obj import diskfile, server
        more["global_conf_callback"] = server.global_conf_callback
        no_sync(diskfile, swift_utils)
    else:
        no_sync(swift_utils)
    return run_wsgi(f"{STATE}/etc/{ROLE}-server.conf", f"{ROLE}-server", **more)


def container_broker(account, bucket):
    from swift.common.ring import Ring
    from swift.container.backend import ContainerBroker, DATADIR
    ring = Ring(STATE + "/etc", ring_name="container")
    part = ring.get_part(account, bucket)
    digest = swift_utils.hash_path(account, bucket)
    path = os.path.join(STATE, "srv", DEVICE, swift_utils.storage_directory(DATADIR, part, digest))
    return ContainerBroker(os.path.join(path, digest + ".db"), account=account, container=bucket)


def seed():
    """Put objects into Swift's files with Swift's own classes, past its servers."""
    from swift.common.ring import Ring
    from swift.common.storage_policy import POLICIES
    from swift.common.utils import Timestamp, md5
    from swift.obj import diskfile
    account, bucket = sys.argv[3], sys.argv[4]
    no_sync(diskfile, swift_utils)
    conf = {"devices": STATE + "/srv", "mount_check": "false", "disable_fallocate": "true"}
    manager = diskfile.DiskFileRouter(conf, swift_utils.get_logger({}))[POLICIES.legacy]
    ring = Ring(STATE + "/etc", ring_name="object")
    rows = []
    while line := sys.stdin.buffer.readline():
        item = json.loads(line)
        data = sys.stdin.buffer.read(item["size"])
        stamp = Timestamp(item.get("mtime") or time.time())
        meta = {"X-Timestamp": stamp.internal, "Content-Type": "application/octet-stream",
                "ETag": md5(data, usedforsecurity=False).hexdigest(),
                "Content-Length": str(len(data))}
        part = str(ring.get_part(account, bucket, item["key"]))
        disk_file = manager.get_diskfile(DEVICE, part, account, bucket, item["key"],
                                         POLICIES.legacy)
        with disk_file.create(size=len(data)) as writer:
            writer.write(data)
            writer.put(meta)
            writer.commit(stamp)
        rows.append({"name": item["key"], "created_at": stamp.internal, "size": len(data),
                     "content_type": meta["Content-Type"], "etag": meta["ETag"], "deleted": 0,
                     "ctype_timestamp": stamp.internal, "meta_timestamp": stamp.internal,
                     "storage_policy_index": 0})
    container_broker(account, bucket).merge_items(rows)
    print(len(rows))


def main():
    if ROLE == "rings":
        make_rings()
    elif ROLE == "seed":
        seed()
    else:
        sys.exit(serve())


main()
