# SPDX-License-Identifier: Apache-2.0
"""A scripted S3 server for tests: it serves what it is given, and misbehaves when it is told to.

It speaks path-style ListObjectsV2, HEAD, ranged and conditional GET, PUT and DELETE, and checks no
signature. Each connection has a thread. What it was asked stands in `log`.

    store = S3Fault().start()
    store.put("bkt", "a/b", b"...")
    store.fail("short_body", op="get", key="a/*", times=2, cut=100)

Faults, by name; the keywords are arguments of fail():
    status(code=503, error="SlowDown", retry_after=None)   an error reply
    short_body(cut=1)              the last bytes are missing, then the connection closes
    wrong_length(delta=1)          Content-Length is off by delta; the body is whole
    no_length()                    no Content-Length; the connection's end ends the body
    stall_headers(seconds=3600)    nothing is answered
    stall_body(after=0, seconds=3600)  the body stops after so many bytes
    slow(rate=10000)               the body drips, bytes per second
    reset(after=None)              the connection is reset: at once, or after so many body bytes
    wrong_range(shift=1)           Content-Range names other bytes than were asked for
    ignore_range()                 200 and the whole object
    no_content_range()             206 without Content-Range
    corrupt(at=0)                  a byte of the body is flipped; all headers are right
    wrong_etag(etag="0")           another ETag
    no_etag()                      none
    ignore_if_match()              conditions are not looked at
    change(data=b"...")            before the reply the object becomes another version
    redirect(location=URL, code=307)
    body(data=b"...", code=200)    this body instead of the real one (garbage XML, say)
    same_token()                   a listing that says it goes on, with the same token for ever
    no_token()                     a listing that says it goes on, and not where
"""
import fnmatch
import http.server
import socket
import socketserver
import struct
import threading
import time
import urllib.parse
from dataclasses import dataclass, field

from tests.lib import util
from tests.lib.netns import Here
from tests.lib.s3 import S3
from tests.lib.s3objects import Bucket, Object, list_xml

CHUNK = 65536
FAULTS = frozenset("""status short_body wrong_length no_length stall_headers stall_body slow reset
    wrong_range ignore_range no_content_range corrupt wrong_etag no_etag ignore_if_match change
    redirect body same_token no_token""".split())


@dataclass
class Rule:
    kind: str                    # one of FAULTS
    op: str = "*"                # list, head, get, put, delete
    key: str = "*"               # a glob over the key (of a listing: over its prefix)
    times: float = float("inf")  # how often it strikes
    skip: int = 0                # requests that it lets pass first
    args: dict = field(default_factory=dict)
    struck: int = 0              # how often it did


@dataclass
class Request:
    op: str
    bucket: str
    key: str                     # of a listing: its prefix
    query: dict
    headers: dict
    time: float                  # monotonic, when the headers were in
    status: int = 0              # 0: nothing was answered
    sent: int = 0                # bytes of the body that were handed to the connection
    faults: tuple = ()           # names of the rules that struck
    ended: float = 0             # monotonic, when the answer was handed over or broke off; 0: not yet


@dataclass
class Reply:
    status: int = 200
    headers: dict = field(default_factory=dict)
    body: object = b""           # bytes, or (Object, first, length)
    length: int = 0

    def parts(self, corrupt_at=None):
        """The body in pieces, one byte flipped if asked."""
        done = 0
        while done < self.length:
            n = min(CHUNK, self.length - done)
            if isinstance(self.body, bytes):
                piece = self.body[done:done + n]
            else:
                piece = self.body[0].read(self.body[1] + done, n)
            if corrupt_at is not None and done <= corrupt_at < done + n:
                i = corrupt_at - done
                piece = piece[:i] + bytes([piece[i] ^ 1]) + piece[i + 1:]
            yield piece
            done += n


def _error(status, code, **headers):
    body = (f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code>'
            f"<Message>scripted</Message><RequestId>1</RequestId></Error>").encode()
    return Reply(status, {"Content-Type": "application/xml", **headers}, body, len(body))


def _parse_range(text, size):
    """(first, length) of `bytes=a-b`, None without a range, False if it cannot be satisfied."""
    if not text or not text.startswith("bytes=") or "," in text:
        return None
    first, last = text[6:].split("-", 1)
    if first == "":
        length = min(int(last), size)
        return (size - length, length) if length else False
    first = int(first)
    if first >= size:
        return False
    return first, min(int(last) if last else size - 1, size - 1) - first + 1


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self._serve("head")

    def do_GET(self):
        query = urllib.parse.urlsplit(self.path).query
        self._serve("list" if "list-type=" in query else "get")

    def do_PUT(self):
        self._serve("put")

    def do_DELETE(self):
        self._serve("delete")

    def _serve(self, op):
        store = self.server.store
        url = urllib.parse.urlsplit(self.path)
        _, bucket, *key = urllib.parse.unquote(url.path).split("/", 2)
        query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        request = Request(op, bucket, query.get("prefix", "") if op == "list" else "".join(key),
                          query, dict(self.headers.items()), time.monotonic())
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        rules = store._strike(request)
        try:
            self._answer(store, request, rules, data)
        except (ConnectionError, OSError):
            self.close_connection = True
        finally:
            request.ended = time.monotonic()

    def _answer(self, store, request, rules, data):
        if "change" in rules:
            store.put(request.bucket, request.key, rules["change"]["data"])
        if "stall_headers" in rules:
            self._stall(rules["stall_headers"].get("seconds", 3600))
            return
        if "reset" in rules and rules["reset"].get("after") is None:
            self._reset()
            return
        reply = store._reply(request, rules, data)
        self._mend_headers(reply, rules)
        request.status = reply.status
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self._send_body(request, reply, rules)

    def _mend_headers(self, reply, rules):
        declared = reply.length
        if "wrong_length" in rules:
            declared += rules["wrong_length"].get("delta", 1)
        if "no_length" not in rules:
            reply.headers["Content-Length"] = str(declared)
        if "no_length" in rules or declared != reply.length:
            reply.headers["Connection"] = "close"
        if "wrong_etag" in rules and "ETag" in reply.headers:
            reply.headers["ETag"] = f'"{rules["wrong_etag"].get("etag", "0")}"'
        if "no_etag" in rules:
            reply.headers.pop("ETag", None)
        if "no_content_range" in rules:
            reply.headers.pop("Content-Range", None)

    def _send_body(self, request, reply, rules):
        if request.op == "head":
            return
        stop = reply.length
        if "short_body" in rules:
            stop = max(0, stop - rules["short_body"].get("cut", 1))
        for name in ("stall_body", "reset"):
            if name in rules:
                stop = min(stop, rules[name].get("after") or 0)
        rate = rules["slow"].get("rate", 10000) if "slow" in rules else 0
        corrupt_at = rules["corrupt"].get("at", 0) if "corrupt" in rules else None
        for piece in reply.parts(corrupt_at):
            piece = piece[:stop - request.sent]
            self._send_piece(request, piece, rate)
        if "stall_body" in rules:
            self._stall(rules["stall_body"].get("seconds", 3600))
        elif "reset" in rules:
            self._reset()
        elif stop < reply.length:
            self.close_connection = True

    def _send_piece(self, request, piece, rate):
        step = max(1, rate // 20) if rate else len(piece)
        for i in range(0, len(piece), step or 1):
            # Counted first: who has read all of a body finds all of it in the log.
            request.sent += len(piece[i:i + step])
            self.wfile.write(piece[i:i + step])
            if rate and self.server.store.released.wait(0.05):
                raise ConnectionAbortedError

    def _stall(self, seconds):
        self.wfile.flush()
        self.server.store.released.wait(seconds)
        self.close_connection = True

    def _reset(self):
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.close_connection = True
        self.connection.close()


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def __init__(self, store, address):
        self.store = store
        self.open, self.lock = set(), threading.Lock()  # connections that are kept
        super().__init__(address, _Handler)

    def get_request(self):
        connection, address = self.socket.accept()
        if self.store.tls:  # the handshake runs in the connection's thread
            connection = self.store.tls.wrap_socket(connection, server_side=True,
                                                    do_handshake_on_connect=False)
        with self.lock:
            self.open.add(connection)
        return connection, address

    def shutdown_request(self, request):
        with self.lock:
            self.open.discard(request)
        super().shutdown_request(request)

    def end_connections(self):
        with self.lock:
            for connection in self.open:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass  # the other side was quicker

    def handle_error(self, request, client_address):
        self.store.broken += 1  # refused handshakes, clients that went away


class S3Fault:
    """Lock: self.lock for rules and log; buckets have their own."""

    def __init__(self, tls=None, host=None):
        """tls: a server context of tests.lib.tls, or None for plain HTTP; host: of tests.lib.netns,
        where it listens. Its objects and its log are this process's wherever that is."""
        self.tls, self.host = tls, host or Here()
        self.buckets = {}
        self.rules, self.log, self.lock = [], [], threading.Lock()
        self.released = threading.Event()  # ends every stall
        self.broken = 0                    # connections that ended in an error
        self.server = None
        self.port = util.free_port()
        self.endpoint = f"{'https' if tls else 'http'}://{self.host.address}:{self.port}"
        self.client = S3(self.endpoint, host=self.host)

    def start(self):
        self.released.clear()
        with self.host.inside():
            self.server = _Server(self, (self.host.address, self.port))
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def stop(self):
        """No more connections are taken, and those that are open end."""
        if self.server:
            self.released.set()
            self.server.shutdown()
            self.server.server_close()
            self.server.end_connections()
            self.server = None

    # ---- what it holds ----

    def bucket(self, name):
        return self.buckets.setdefault(name, Bucket())

    def put(self, bucket, key, data, etag=None, mtime=None):
        self.bucket(bucket).put(key, Object(data=data, etag=etag, mtime=mtime))

    def put_directory(self, bucket, root):
        self.bucket(bucket).put_directory(str(root))

    def delete(self, bucket, key):
        self.bucket(bucket).delete(key)

    # ---- how it misbehaves ----

    def fail(self, kind, op="*", key="*", times=float("inf"), skip=0, **args):
        """Add a rule; the Rule that it returns counts how often it struck."""
        assert kind in FAULTS, f"no such fault: {kind}"
        rule = Rule(kind, op, key, times, skip, args)
        with self.lock:
            self.rules.append(rule)
        return rule

    def heal(self):
        """Forget all rules and end all stalls."""
        with self.lock:
            self.rules.clear()
        self.released.set()
        self.released = threading.Event()

    def requests(self, op=None, key="*"):
        with self.lock:
            return [r for r in self.log if op in (None, r.op) and fnmatch.fnmatchcase(r.key, key)]

    def forget_requests(self):
        with self.lock:
            self.log.clear()

    def _strike(self, request):
        """Log the request; returns {fault: its arguments} of the rules that strike."""
        found = {}
        with self.lock:
            self.log.append(request)
            for rule in self.rules:
                if rule.op not in ("*", request.op) or rule.kind in found:
                    continue
                if not fnmatch.fnmatchcase(request.key, rule.key) or rule.struck >= rule.times:
                    continue
                if rule.skip > 0:
                    rule.skip -= 1
                    continue
                rule.struck += 1
                found[rule.kind] = rule.args
            request.faults = tuple(found)
        return found

    # ---- how it answers ----

    def _reply(self, request, rules, data):
        if "status" in rules:
            args = rules["status"]
            more = {"Retry-After": str(args["retry_after"])} if args.get("retry_after") else {}
            return _error(args.get("code", 503), args.get("error", "SlowDown"), **more)
        if "redirect" in rules:
            args = rules["redirect"]
            return _error(args.get("code", 307), "TemporaryRedirect", Location=args["location"])
        if "body" in rules:
            body = rules["body"]["data"]
            return Reply(rules["body"].get("code", 200), {"Content-Type": "application/xml"}, body,
                         len(body))
        bucket = self.buckets.get(request.bucket)
        if bucket is None and request.op != "put":
            return _error(404, "NoSuchBucket")
        if request.op == "list":
            return self._reply_list(request, rules, bucket)
        if request.op in ("put", "delete"):
            return self._reply_change(request, data)
        if request.key == "":
            return Reply()
        return self._reply_object(request, rules, bucket.get(request.key))

    def _reply_change(self, request, data):
        if request.op == "delete":
            self.delete(request.bucket, request.key)
            return Reply(204)
        bucket = self.bucket(request.bucket)
        if not request.key:
            return Reply()
        self.put(request.bucket, request.key, data)
        return Reply(200, {"ETag": f'"{bucket.get(request.key).etag}"'})

    def _reply_list(self, request, rules, bucket):
        body = list_xml(request.bucket, bucket, request.query)
        if "same_token" in rules or "no_token" in rules:
            token = b"<NextContinuationToken>61</NextContinuationToken>" * ("same_token" in rules)
            body = body.replace(b"<IsTruncated>false</IsTruncated>",
                                b"<IsTruncated>true</IsTruncated>" + token)
        return Reply(200, {"Content-Type": "application/xml"}, body, len(body))

    def _reply_object(self, request, rules, obj):
        if obj is None:
            return _error(404, "NoSuchKey")
        headers = {k.lower(): v for k, v in request.headers.items()}
        if "ignore_if_match" not in rules:
            wanted, unwanted = headers.get("if-match"), headers.get("if-none-match")
            if wanted and wanted.strip('"') not in (obj.etag, "*"):
                return _error(412, "PreconditionFailed")
            if unwanted and unwanted.strip('"') in (obj.etag, "*"):
                return Reply(304, obj.headers())
        reply = Reply(200, {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes",
                            **obj.headers()}, (obj, 0, obj.size), obj.size)
        span = None if "ignore_range" in rules else _parse_range(headers.get("range"), obj.size)
        if span is False:
            return _error(416, "InvalidRange", **{"Content-Range": f"bytes */{obj.size}"})
        if span:
            first, length = span
            shown = first + (rules["wrong_range"].get("shift", 1) if "wrong_range" in rules else 0)
            reply.status, reply.body, reply.length = 206, (obj, first, length), length
            reply.headers["Content-Range"] = f"bytes {shown}-{shown + length - 1}/{obj.size}"
        return reply
