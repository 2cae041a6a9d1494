# SPDX-License-Identifier: Apache-2.0
"""What status, doctor and the metrics say of a store that hangs, is gone, and comes back."""
import json
import os

import pytest

from tests.lib import local, sums, util

BKT = "bkt"
FILES = {f"d/{i}": util.some_bytes(200_000, f"health{i}") for i in range(9)}


@pytest.fixture
def store(s3fault):
    for name, data in FILES.items():
        s3fault.put(BKT, name, data)
    return s3fault


def start(tarn, store, **options):
    options = {"timeout": "1s", "retries": "0", **options}
    server = tarn(f"s3://{BKT}", *local.fault_options(store, **options))
    assert len(local.listed(server, "d")) == len(FILES)
    for name in FILES:  # from here on only bytes are asked for
        os.stat(server.path(name))
    return server


def mount(server):
    return server.json("status")["mounts"][0]


def doctor(server):
    """(state, text) of the line about the store."""
    done = server.cli("doctor", "--json", check=False, seconds=30)
    found = {d["check"]: d for d in json.loads(done.out)}["store"]
    return found["state"], found["text"]


def read(server, name):
    return sums.read(server.mnt, [name], threads=1)[name]


def no_answer(server):
    return server.metric("tarn_ufs_requests_total", op="get", status="no_answer")


def check_up(server):
    found = mount(server)
    assert (found["state"], found["error"], found["down_ms"]) == ("up", None, None)
    assert "does not answer" not in server.cli("status").out


def check_down(server, *texts):
    found = mount(server)
    assert found["state"] == "down" and found["down_ms"] >= 0
    local.says(found["error"], *texts)
    local.says(server.cli("status").out, "the store does not answer", *texts)


@pytest.mark.parametrize("kind, args", [("stall_headers", {}), ("stall_body", {"after": 70_000})])
def test_gets_that_hang(tarn, store, kind, args):
    server = start(tarn, store)
    check_up(server)
    assert no_answer(server) == 0
    store.fail("stall_headers", op="list")  # nor does the server's own question find that it is up
    store.fail(kind, op="get", **args)
    assert read(server, "d/1") == "EIO"
    assert no_answer(server) >= 1
    check_down(server, "no progress for", BKT)
    store.heal()
    assert read(server, "d/2") == local.sha(FILES["d/2"])
    check_up(server)


def test_gets_that_hang_are_followed_by_a_question(tarn, store):
    """Nobody reads again: the server itself finds that the store is back."""
    server = start(tarn, store)
    store.fail("stall_headers", op="list")  # until we have looked
    store.fail("stall_headers", op="get", times=4)
    assert read(server, "d/1") == "EIO"
    check_down(server, "no progress for")
    store.heal()
    util.wait_until("the probe", lambda: mount(server)["state"] == "up", 20, step=0.2)


def test_doctor_asks_a_store_that_hangs(tarn, store):
    server = start(tarn, store, timeout="30s")
    assert doctor(server) == ("ok", f"{server.uri} answers")
    store.fail("stall_headers")
    state, text = doctor(server)
    assert state == "fail"
    local.says(text, "no answer within 3", BKT)
    check_down(server, "no answer within 3")
    store.heal()
    assert doctor(server)[0] == "ok"
    check_up(server)


def test_doctor_asks_a_store_that_is_gone(tarn, store):
    """Nothing was asked since it went."""
    server = start(tarn, store, retries="8")
    assert doctor(server)[0] == "ok"
    store.stop()
    state, text = doctor(server)
    assert state == "fail"
    local.says(text, "Connection refused", BKT)
    check_down(server, "Connection refused")
    assert read(server, "d/1") == "EIO"
    assert no_answer(server) >= 1
    store.start()
    assert doctor(server)[0] == "ok"
    check_up(server)


def test_doctor_tells_a_refusal(tarn, store):
    """The store answers, and is of no use."""
    server = start(tarn, store)
    store.fail("status", code=403, error="AccessDenied")
    state, text = doctor(server)
    assert state == "fail"
    local.says(text, "403", "AccessDenied")
    check_up(server)
