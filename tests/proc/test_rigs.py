# SPDX-License-Identifier: Apache-2.0
"""The rigs themselves: the stores really start, and the faults really happen."""
import hashlib
import http.client
import os
import socket
import ssl
import subprocess
import time
import urllib.request

import pytest

from tests.lib import util
from tests.lib.s3 import S3
from tests.lib.tarn import parse_metrics
from tests.lib.util import some_bytes

BKT = "bkt"
DATA = some_bytes(100_000)


# ---- Swift ----

def test_swift_puts_gets_lists(swift, bucket):
    client = swift.client
    etag = client.put(bucket, "d/é + 漢.bin", DATA)
    assert etag == hashlib.md5(DATA).hexdigest()
    assert client.get(bucket, "d/é + 漢.bin") == DATA
    assert client.get(bucket, "d/é + 漢.bin", 10, 19) == DATA[10:20]
    assert [(e.key, e.size, e.etag) for e in client.list(bucket)] == [("d/é + 漢.bin", 100_000, etag)]
    client.delete(bucket, "d/é + 漢.bin")
    assert client.head(bucket, "d/é + 漢.bin").status == 404


def test_swift_agrees_with_boto3(swift, bucket):
    import boto3
    from botocore.config import Config
    theirs = boto3.client("s3", endpoint_url=swift.endpoint, aws_access_key_id=swift.access_key,
                          aws_secret_access_key=swift.secret_key, region_name="us-east-1",
                          config=Config(s3={"addressing_style": "path"}))
    swift.client.put(bucket, "ours", DATA)
    theirs.put_object(Bucket=bucket, Key="theirs", Body=DATA)
    assert theirs.get_object(Bucket=bucket, Key="ours")["Body"].read() == DATA
    assert swift.client.get(bucket, "theirs") == DATA
    keys = [o["Key"] for o in theirs.list_objects_v2(Bucket=bucket)["Contents"]]
    assert keys == [e.key for e in swift.client.list(bucket)] == ["ours", "theirs"]


def test_swift_checks_signatures(swift, bucket):
    swift.client.put(bucket, "k", b"x")
    assert S3(swift.endpoint, swift.access_key, "wrong").head(bucket, "k").status == 403
    assert S3(swift.endpoint, "nobody", "wrong").head(bucket, "k").status == 403
    assert S3(swift.endpoint).head(bucket, "k").status >= 400


def test_swift_seed_is_what_a_client_sees(swift, bucket):
    items = dict(util.tree_items(300))
    started = time.monotonic()
    assert swift.seed(bucket, items.items()) == 300
    assert time.monotonic() - started < 30
    assert {e.key: e.etag for e in swift.client.list(bucket)} == \
        {k: hashlib.md5(v).hexdigest() for k, v in items.items()}
    for key in list(items)[:20]:
        assert swift.client.get(bucket, key) == items[key]
    page = swift.client.list_page(bucket, delimiter="/")
    assert page.prefixes == [f"d{i:03d}/" for i in range(10)] and not page.entries


def test_swift_put_many(swift, bucket):
    items = dict(util.tree_items(60))
    assert swift.client.put_many(bucket, items.items()) == 60
    assert len(swift.client.list(bucket)) == 60


def test_swift_counts_requests_and_bytes(swift, bucket):
    swift.client.put(bucket, "k", DATA)
    swift.client.get(bucket, "k")
    swift.client.get(bucket, "k", 0, 999)
    swift.client.head(bucket, "k")
    assert swift.served(bucket) == {"k": (2, 101_000)}
    ranges = [r["range"] for r in swift.requests("GET", bucket)]
    assert ranges == [None, "bytes=0-999"]
    assert len(swift.requests("HEAD", bucket)) == 1


def test_swift_survives_kill_and_a_second_one_is_apart(swift_factory, swift, bucket):
    other = swift_factory()
    other.client.create_bucket(BKT)
    other.client.put(BKT, "k", DATA)
    other.kill()
    assert not util.listens(other.ports["proxy"])
    swift.client.put(bucket, "k", b"still up")
    other.start()
    assert other.client.get(BKT, "k") == DATA
    assert swift.client.get(bucket, "k") == b"still up"
    other.stall()
    with pytest.raises(TimeoutError):
        slow = http.client.HTTPConnection("127.0.0.1", other.ports["proxy"], timeout=1)
        slow.request("GET", "/")
        slow.getresponse()
    other.go_on()
    assert other.client.get(BKT, "k") == DATA


# ---- the scripted store ----

@pytest.fixture
def store(s3fault):
    s3fault.put(BKT, "a/k", DATA)
    return s3fault


def get(store, key="a/k", **headers):
    return store.client.request("GET", BKT, key, headers={k.replace("_", "-"): v
                                                          for k, v in headers.items()})


def test_store_serves_ranges_and_conditions(store):
    whole = get(store)
    etag = hashlib.md5(DATA).hexdigest()
    assert (whole.status, whole.body, whole.headers["ETag"]) == (200, DATA, f'"{etag}"')
    part = get(store, range="bytes=5-9")
    assert (part.status, part.body) == (206, DATA[5:10])
    assert part.headers["Content-Range"] == "bytes 5-9/100000"
    assert get(store, range="bytes=-7").body == DATA[-7:]
    assert get(store, range="bytes=99999-200000").body == DATA[-1:]
    assert get(store, range="bytes=100000-").status == 416
    assert get(store, if_match=f'"{etag}"').status == 200
    assert get(store, if_match='"other"').status == 412
    assert get(store, if_none_match=f'"{etag}"').status == 304
    head = store.client.head(BKT, "a/k")
    assert (head.status, head.headers["Content-Length"], head.body) == (200, "100000", b"")
    assert get(store, key="none").status == 404
    assert store.client.request("GET", "nobucket", "k").status == 404


def test_store_lists_in_pages(store):
    for i in range(25):
        store.put(BKT, f"l/{i:02d}", b".")
    for i in range(5):
        store.put(BKT, f"l/sub{i}/f", b".")
        store.put(BKT, f"l/sub{i}/g", b".")
    store.put(BKT, "l/zz<&é", b".")
    seen, token, pages = [], "", 0
    while token is not None:
        page = store.client.list_page(BKT, "l/", "/", token, max_keys=7)
        seen += [e.key for e in page.entries] + page.prefixes
        token, pages = page.token, pages + 1
    assert sorted(seen) == sorted([f"l/{i:02d}" for i in range(25)] +
                                  [f"l/sub{i}/" for i in range(5)] + ["l/zz<&é"])
    assert pages == 5
    more = {"start-after": "l/23", "encoding-type": "url"}
    page = store.client.list_page(BKT, "l/", max_keys=2, **more)
    assert [e.key for e in page.entries] == ["l/24", "l/sub0/f"]
    assert len(store.client.list(BKT)) == 37


def test_store_takes_writes(store):
    store.client.put(BKT, "new", b"one")
    assert get(store, "new").body == b"one"
    store.client.delete(BKT, "new")
    assert get(store, "new").status == 404


def test_rules_strike_where_and_as_often_as_said(store):
    rule = store.fail("status", op="get", key="a/*", times=2, skip=1, code=500,
                      error="InternalError")
    assert [get(store).status for _ in range(5)] == [200, 500, 500, 200, 200]
    assert rule.struck == 2
    assert store.client.head(BKT, "a/k").status == 200
    assert [r.status for r in store.requests("get")] == [200, 500, 500, 200, 200]
    assert all(r.ended >= r.time for r in store.requests("get")[:4])
    assert store.requests("get")[1].faults == ("status",)
    store.fail("status", retry_after=7)
    assert get(store).headers["Retry-After"] == "7"
    store.heal()
    assert get(store).body == DATA


def test_short_body(store):
    store.fail("short_body", cut=10)
    with pytest.raises(http.client.IncompleteRead) as e:
        get(store)
    assert e.value.partial == DATA[:-10] and e.value.expected == 10


def test_wrong_length(store):
    store.fail("wrong_length", times=1, delta=5)
    with pytest.raises(http.client.IncompleteRead):
        get(store)
    store.fail("wrong_length", times=1, delta=-5)
    assert get(store).body == DATA[:-5]


def test_no_length(store):
    store.fail("no_length")
    reply = get(store)
    assert reply.body == DATA and reply.headers["Content-Length"] is None


def test_stalls(store):
    for fault in ({"kind": "stall_headers"}, {"kind": "stall_body", "after": 1000}):
        store.heal()
        store.fail(**fault)
        connection = http.client.HTTPConnection("127.0.0.1", store.port, timeout=0.5)
        with pytest.raises(TimeoutError):
            connection.request("GET", f"/{BKT}/a/k")
            connection.getresponse().read()
        connection.close()
    util.wait_until("the log", lambda: store.requests("get")[-1].sent == 1000, 10)
    store.heal()
    assert get(store).body == DATA


def test_slow(store):
    store.fail("slow", rate=400_000)
    started = time.monotonic()
    assert get(store).body == DATA
    assert time.monotonic() - started > 0.15


def test_resets(store):
    for after in (None, 5000):
        store.heal()
        store.fail("reset", after=after)
        with pytest.raises((ConnectionResetError, http.client.IncompleteRead)):
            connection = http.client.HTTPConnection("127.0.0.1", store.port, timeout=5)
            connection.request("GET", f"/{BKT}/a/k")
            connection.getresponse().read()


def test_wrong_answers(store):
    store.fail("wrong_range", times=1, shift=100)
    assert get(store, range="bytes=0-9").headers["Content-Range"] == "bytes 100-109/100000"
    store.fail("ignore_range", times=1)
    reply = get(store, range="bytes=0-9")
    assert (reply.status, len(reply.body)) == (200, len(DATA))
    store.fail("no_content_range", times=1)
    reply = get(store, range="bytes=0-9")
    assert (reply.status, reply.headers["Content-Range"]) == (206, None)
    store.fail("corrupt", times=1, at=70_000)
    body = get(store).body
    assert [i for i in range(len(DATA)) if body[i] != DATA[i]] == [70_000]
    store.fail("wrong_etag", times=1, etag="feed")
    assert get(store).headers["ETag"] == '"feed"'
    store.fail("no_etag", times=1)
    assert get(store).headers["ETag"] is None
    store.fail("ignore_if_match", times=1)
    assert get(store, if_match='"other"').status == 200
    assert get(store).body == DATA


def test_object_changes_between_ranges(store):
    etag = get(store).headers["ETag"]
    store.fail("change", op="get", skip=1, times=1, data=b"n" * len(DATA))
    assert get(store, range="bytes=0-9", if_match=etag).body == DATA[:10]
    assert get(store, range="bytes=10-19", if_match=etag).status == 412
    assert get(store, range="bytes=10-19").body == b"n" * 10


def test_redirects_and_garbage(store):
    store.fail("redirect", times=1, location="http://127.0.0.1:1/x", code=301)
    reply = get(store)
    assert (reply.status, reply.headers["Location"]) == (301, "http://127.0.0.1:1/x")
    store.fail("body", op="list", times=1, data=b"<ListBucketResult><Contents>")
    assert store.client.request("GET", BKT, query={"list-type": "2"}).body.endswith(b"<Contents>")
    store.fail("same_token", op="list", times=2)
    assert store.client.list_page(BKT).token == store.client.list_page(BKT).token == "61"
    store.fail("no_token", op="list", times=1)
    body = store.client.request("GET", BKT, query={"list-type": "2"}).body
    assert b"<IsTruncated>true<" in body and b"Token" not in body


def test_store_that_is_gone_comes_back(store):
    kept = http.client.HTTPConnection("127.0.0.1", store.port, timeout=5)
    kept.request("GET", f"/{BKT}/a/k")
    kept.getresponse().read()
    store.stop()
    with pytest.raises((ConnectionError, http.client.BadStatusLine)):
        kept.request("GET", f"/{BKT}/a/k")
        kept.getresponse()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", store.port), timeout=2)
    store.start()
    assert S3(store.endpoint).get(BKT, "a/k") == DATA


@pytest.mark.parametrize("kind, reason", [("good", None), ("self-signed", "self.signed"),
                                          ("expired", "expired"), ("wrong-host", "not valid for")])
def test_tls(s3fault_factory, certificates, kind, reason):
    store = s3fault_factory(tls=kind)
    store.put(BKT, "k", DATA)
    client = S3(store.endpoint, ca=certificates.ca)
    if reason is None:
        assert client.get(BKT, "k") == DATA
    else:
        with pytest.raises(ssl.SSLCertVerificationError, match=reason):
            client.get(BKT, "k")


def test_store_from_a_directory(s3fault, workdir):
    util.write_tree(workdir, util.tree_items(20))
    s3fault.put_directory(BKT, workdir)
    for key, data in util.tree_items(20):
        assert s3fault.client.get(BKT, key, 5, 50) == data[5:51]


# ---- nginx ----

def test_nginx_serves_a_directory(nginx, workdir):
    root = os.path.join(workdir, "root")
    util.write_tree(root, util.tree_items(5))
    server = nginx(root)
    for key, data in util.tree_items(5):
        with urllib.request.urlopen(f"{server.endpoint}/{key}", timeout=5) as reply:
            assert reply.read() == data
    with urllib.request.urlopen(f"{server.endpoint}/d000/", timeout=5) as reply:
        assert b"f000000.bin" in reply.read()
    util.wait_until("the log", lambda: len(server.requests()) == 6, 5)
    assert sum(r["sent"] for r in server.requests()[:5]) == sum(len(d) for _, d in util.tree_items(5))


def test_nginx_as_s3(nginx, workdir):
    root = os.path.join(workdir, "root")
    util.write_tree(os.path.join(root, BKT), util.tree_items(5))
    client = S3(nginx(root, s3=True).endpoint, "any", "any")
    entries = client.list(BKT)
    assert [e.key for e in entries] == sorted(k for k, _ in util.tree_items(5))
    for entry in entries:
        reply = client.request("GET", BKT, entry.key, headers={"range": "bytes=0-9",
                                                              "if-match": f'"{entry.etag}"'})
        assert (reply.status, reply.headers["ETag"].strip('"')) == (206, entry.etag)


# ---- file systems ----

@pytest.mark.parametrize("kind, size", [("ext4", "64M"), ("xfs", "300M")])
def test_shutdown_keeps_what_was_synced(loopfs, kind, size):
    fs = loopfs(kind, size)
    with open(f"{fs.path}/kept", "wb") as f:
        f.write(b"kept")
        f.flush()
        os.fsync(f.fileno())
    folder = os.open(fs.path, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)
    with open(f"{fs.path}/lost", "wb") as f:
        f.write(b"lost")
    fs.shutdown()
    with pytest.raises(OSError):
        with open(f"{fs.path}/more", "wb") as f:
            f.write(b"x")
    fs.remount()
    with open(f"{fs.path}/kept", "rb") as f:
        assert f.read() == b"kept"
    assert not os.path.exists(f"{fs.path}/lost") or os.path.getsize(f"{fs.path}/lost") == 0


@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_full_file_system(loopfs, kind):
    fs = loopfs(kind, "16M")
    fs.fill()
    with pytest.raises(OSError, match="No space left"):
        with open(f"{fs.path}/x", "wb") as f:
            f.write(DATA)
    fs.close()
    assert not util.mounted(fs.path)


# ---- the rest ----

def test_mounts_below_are_taken_away(root, workdir):
    for name in ("a", "a/b"):
        os.makedirs(f"{workdir}/{name}", exist_ok=True)
        util.run("mount", "-t", "tmpfs", "tmpfs", f"{workdir}/{name}")
        os.makedirs(f"{workdir}/a/b", exist_ok=True)
    util.unmount_below(workdir)
    assert not any(m.startswith(workdir) for m, _ in util.mounts())


def test_end_group_ends_a_stubborn_family():
    process = subprocess.Popen(["sh", "-c", "trap '' TERM; sleep 1000 & echo $!; wait; wait"],
                               stdout=subprocess.PIPE, start_new_session=True)
    child = int(process.stdout.readline())
    util.end_group(process, seconds=0.5)
    util.wait_until("the child's end", lambda: not util.alive(child), 5)
    process.stdout.close()


def test_xxh3_and_manifest(workdir):
    assert util.xxh3(b"") == "2d06800538d394c2"
    util.write_manifest(f"{workdir}/m", [("a b", b"")])
    with open(f"{workdir}/m", encoding="utf-8") as f:
        assert f.read() == "2d06800538d394c2  a b\n"


def test_metrics_parser():
    text = '# HELP x y\ntarn_a_total{source="local",x="a\\"b"} 12\ntarn_b 1.5e3\n'
    found = parse_metrics(text)
    assert found[("tarn_b", frozenset())] == 1500
    assert found[("tarn_a_total", frozenset({("source", "local"), ("x", 'a\\"b')}))] == 12
