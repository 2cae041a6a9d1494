# SPDX-License-Identifier: Apache-2.0
"""Frames and the handshake from docs/formats/frame.md, written a second time: for tests that speak
to a port what no client of ours would, or that need a thousand clients in one process."""
import hashlib
import hmac
import os
import socket
import struct
from collections import namedtuple

from tests.lib.util import xxh3

MAGIC, VERSION = 0x4e524154, 1
REQUEST, RESPONSE, NOTICE, CANCEL, HELLO, CHALLENGE, PROOF, WELCOME, PING, PONG = range(1, 11)
_HEAD = struct.Struct("<IBBHQIIIIIIQI")
_BYTES = _HEAD.size + 4
Frame = namedtuple("Frame", "version type id method status body payload")

# Calls of rpc.def that tests make.
LOOKUP, RESOLVE, LOCATE, SESSION_OPEN, SESSION_RENEW, CHANGED, STATUS = 20, 25, 24, 30, 31, 40, 51
WORKER_REGISTER, WORKER_BEAT, WORKER_DRAIN, WORKER_REMOVE = 80, 81, 83, 84
READ, FREE, CACHED, WORKER_STATUS, TAKE = 100, 102, 103, 104, 105
INVALIDATE = 200


def _sum(data):
    return int(xxh3(data), 16) & 0xffffffff


def header(kind, request_id=0, method=0, body=b"", payload=b"", meta=b"", status=0, version=VERSION,
           remaining_ms=5000, magic=MAGIC, lengths=None):
    """The 56 bytes. lengths: (body, payload, meta) to be declared instead of the real ones."""
    declared = lengths or (len(body), len(payload), len(meta))
    head = _HEAD.pack(magic, version, kind, 0, request_id, method, status, declared[0], declared[1],
                      remaining_ms if kind == REQUEST else 0, declared[2], 0, _sum(meta + body))
    return head + struct.pack("<I", _sum(head))


def frame(kind, request_id=0, method=0, body=b"", payload=b"", meta=b"", **more):
    return header(kind, request_id, method, body, payload, meta, **more) + meta + body + payload


# ---- protobuf, as much as is needed ----

def _varint(n):
    out = bytearray()
    while True:
        out.append(n & 0x7f | (0x80 if n > 0x7f else 0))
        n >>= 7
        if not n:
            return bytes(out)


def message(fields):
    """Encodes {number: value}: an int, bytes, str, or ("fixed64", int); a list: each of them."""
    out = b""
    for number, values in fields.items():
        for value in values if isinstance(values, list) else [values]:
            if isinstance(value, tuple):
                out += _varint(number << 3 | 1) + struct.pack("<Q", value[1])
            elif isinstance(value, int):
                out += _varint(number << 3) + _varint(value)
            else:
                data = value.encode() if isinstance(value, str) else value
                out += _varint(number << 3 | 2) + _varint(len(data)) + data
    return out


def parse(data):
    """{number: [values]}: ints, or bytes of what has a length."""
    found, at = {}, 0

    def varint():
        nonlocal at
        shift = value = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7f) << shift
            shift += 7
            if not byte & 0x80:
                return value

    while at < len(data):
        key = varint()
        if key & 7 == 0:
            value = varint()
        elif key & 7 == 1:
            value, at = struct.unpack_from("<Q", data, at)[0], at + 8
        elif key & 7 == 5:
            value, at = struct.unpack_from("<I", data, at)[0], at + 4
        else:
            length = varint()
            value, at = data[at:at + length], at + length
        found.setdefault(key >> 3, []).append(value)
    return found


def take(data):
    """Takes the whole frames out of a bytearray: (kind, number, method, body) of each."""
    found = []
    while len(data) >= _BYTES:
        _, _, kind, _, number, method, _, body, payload, _, meta, _, _ = _HEAD.unpack_from(data)
        end = _BYTES + meta + body + payload
        if len(data) < end:
            break
        found.append((kind, number, method, bytes(data[_BYTES + meta:_BYTES + meta + body])))
        del data[:end]
    return found


# ---- a connection ----

class Closed(ConnectionError):
    """The peer ended the connection."""


class Connection:
    """One connection of `host` (tests.lib.netns) to an address, with its handshake where a token is
    given. Blocking; every wait has `timeout`."""

    def __init__(self, host, address, token=None, timeout=10.0, uid=0):
        name, port = address.rsplit(":", 1)
        with host.inside():
            self.socket = socket.create_connection((name, int(port)), timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.next_id, self.welcome, self.handshake = 1, None, []
        if token is not None:
            try:
                self._shake(token, uid)
            except BaseException:
                self.socket.close()
                raise

    def _shake(self, token, uid):
        nonce = os.urandom(32)
        self.send(frame(HELLO, body=message({1: 1, 2: 1, 3: "test", 4: nonce})))
        challenge = parse(self.receive(CHALLENGE).body)
        theirs = challenge[2][0]
        mac = proof(token, "tarn-client", nonce, theirs, chosen=challenge[1][0])
        self.send(frame(PROOF, body=message({1: mac, 2: uid})))
        self.welcome = self.receive(WELCOME)
        if self.welcome.status == 0:
            assert parse(self.welcome.body)[1][0] == proof(token, "tarn-server", nonce, theirs)

    def send(self, data):
        self.handshake.append(data)  # of what was sent: to be replayed
        del self.handshake[8:]
        self.socket.sendall(data)

    def _exactly(self, length):
        got = b""
        while len(got) < length:
            try:
                piece = self.socket.recv(length - len(got))
            except ConnectionError as e:
                raise Closed(str(e)) from e
            if not piece:
                raise Closed("the end")
            got += piece
        return got

    def receive(self, kind=None, request_id=None):
        """The next frame that is no ping; of a kind and id if they are given."""
        while True:
            head = self._exactly(_BYTES)
            (magic, version, got, _, number, method, status, body, payload, _, meta, _,
             _) = _HEAD.unpack_from(head)
            assert magic == MAGIC and struct.unpack_from("<I", head, _HEAD.size)[0] == _sum(head[:-4])
            rest = self._exactly(meta + body + payload)
            if got == PING:
                self.socket.sendall(frame(PONG, number))
                continue
            if (kind in (None, got)) and request_id in (None, number):
                return Frame(version, got, number, method, status, rest[meta:meta + body],
                             rest[meta + body:])

    def call(self, method, fields=None, capability=None, meta=None, payload=b""):
        """One call; its answer's Frame."""
        number, self.next_id = self.next_id, self.next_id + 1
        meta = meta or {1: 0, 2: 0}
        if capability is not None:
            meta = {**meta, 4: capability}
        self.socket.sendall(frame(REQUEST, number, method, message(fields or {}), payload, message(meta)))
        return self.receive(RESPONSE, number)

    def ended(self, seconds=10):
        """True once the peer has closed; frames that it still sends are read."""
        self.socket.settimeout(seconds)
        try:
            while self.socket.recv(1 << 16):
                pass
            return True
        except ConnectionError:
            return True
        except TimeoutError:
            return False

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.close()


def proof(token, role, client_nonce, server_nonce, low=1, high=1, chosen=1):
    return hmac.new(token, role.encode() + client_nonce + server_nonce +
                    struct.pack("<III", low, high, chosen), hashlib.sha256).digest()


def token_of(path):
    with open(path, "rb") as f:
        return f.read().strip()
