# SPDX-License-Identifier: Apache-2.0
"""A small S3 client for tests: Signature Version 4, path-style, one connection per thread."""
import concurrent.futures
import datetime
import hashlib
import hmac
import http.client
import ssl
import threading
import urllib.parse
import xml.etree.ElementTree as ET
from collections import namedtuple

from tests.lib.netns import Here

Reply = namedtuple("Reply", "status headers body")
Entry = namedtuple("Entry", "key size etag")
Listing = namedtuple("Listing", "entries prefixes token")
_NO_BODY = hashlib.sha256(b"").hexdigest()


def _quote(text, safe="-_.~"):
    return urllib.parse.quote(text, safe=safe)


def sign(method, host, path, query, headers, payload_hash, access_key, secret, region, now=None):
    """Return the headers to send. Source: AWS Signature Version 4, single chunk."""
    now = now or datetime.datetime.now(datetime.timezone.utc)
    stamp, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
    headers = {k.lower(): v for k, v in headers.items()}
    headers.update({"host": host, "x-amz-date": stamp, "x-amz-content-sha256": payload_hash})
    names = sorted(headers)
    pairs = sorted((_quote(k), _quote(v)) for k, v in query.items())
    canonical = "\n".join([method, path, "&".join(f"{k}={v}" for k, v in pairs),
                           *(f"{n}:{headers[n].strip()}" for n in names), "", ";".join(names),
                           payload_hash])
    scope = f"{day}/{region}/s3/aws4_request"
    text = "\n".join(["AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = ("AWS4" + secret).encode()
    for part in (day, region, "s3", "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    headers["authorization"] = (f"AWS4-HMAC-SHA256 Credential={access_key}/{scope}, "
                                f"SignedHeaders={';'.join(names)}, Signature={signature}")
    return headers


class S3:
    def __init__(self, endpoint, access_key=None, secret=None, region="us-east-1", ca=None, host=None):
        """host: of tests.lib.netns, from where it connects."""
        self.url = urllib.parse.urlsplit(endpoint)
        self.access_key, self.secret, self.region = access_key, secret, region
        self.tls = ssl.create_default_context(cafile=ca) if self.url.scheme == "https" else None
        self.local, self.host = threading.local(), host or Here()

    def _connection(self):
        connection = getattr(self.local, "connection", None)
        if not connection:
            where = (self.url.hostname, self.url.port)
            connection = (http.client.HTTPSConnection(*where, timeout=30, context=self.tls)
                          if self.tls else http.client.HTTPConnection(*where, timeout=30))
        if not connection.sock:  # new, or the server has closed it
            with self.host.inside():
                connection.connect()
        self.local.connection = connection
        return connection

    def request(self, method, bucket, key="", query=None, headers=None, body=b""):
        """One request; an HTTP error is a Reply too. A dead kept connection is opened anew."""
        path = "/" + _quote(bucket) + ("/" + _quote(key, safe="-_.~/") if key else "")
        query = query or {}
        payload_hash = hashlib.sha256(body).hexdigest() if body else _NO_BODY
        sent = dict(headers or {})
        if self.access_key:
            sent = sign(method, self.url.netloc, path, query, sent, payload_hash, self.access_key,
                        self.secret, self.region)
        target = path + ("?" + "&".join(f"{_quote(k)}={_quote(v)}" for k, v in query.items())
                         if query else "")
        for attempt in (1, 2):
            connection = self._connection()
            try:
                connection.request(method, target, body or None, sent)
                reply = connection.getresponse()
                return Reply(reply.status, reply.headers, reply.read())
            except (ConnectionError, http.client.BadStatusLine):
                connection.close()
                self.local.connection = None
                if attempt == 2:
                    raise
            except Exception:
                connection.close()
                self.local.connection = None
                raise

    def _ok(self, reply, what):
        assert 200 <= reply.status < 300, f"{what}: {reply.status} {reply.body[:300]!r}"
        return reply

    def create_bucket(self, bucket):
        self._ok(self.request("PUT", bucket), f"create {bucket}")

    def put(self, bucket, key, data):
        """Returns the ETag, without quotes."""
        reply = self._ok(self.request("PUT", bucket, key, body=data), f"put {bucket}/{key}")
        return reply.headers["ETag"].strip('"')

    def get(self, bucket, key, first=None, last=None):
        headers = {} if first is None else {"range": f"bytes={first}-{'' if last is None else last}"}
        return self._ok(self.request("GET", bucket, key, headers=headers), f"get {bucket}/{key}").body

    def head(self, bucket, key):
        return self.request("HEAD", bucket, key)

    def delete(self, bucket, key):
        self._ok(self.request("DELETE", bucket, key), f"delete {bucket}/{key}")

    def list_page(self, bucket, prefix="", delimiter="", token="", max_keys=1000, **more):
        query = {"list-type": "2", "prefix": prefix, "max-keys": str(max_keys), **more}
        if delimiter:
            query["delimiter"] = delimiter
        if token:
            query["continuation-token"] = token
        reply = self._ok(self.request("GET", bucket, query=query), f"list {bucket}/{prefix}")
        root = ET.fromstring(reply.body)
        ns = root.tag[:root.tag.index("}") + 1] if "}" in root.tag else ""
        entries = [Entry(c.findtext(ns + "Key"), int(c.findtext(ns + "Size")),
                         (c.findtext(ns + "ETag") or "").strip('"'))
                   for c in root.iter(ns + "Contents")]
        prefixes = [p.findtext(ns + "Prefix") for p in root.iter(ns + "CommonPrefixes")]
        truncated = root.findtext(ns + "IsTruncated") == "true"
        return Listing(entries, prefixes,
                       root.findtext(ns + "NextContinuationToken") if truncated else None)

    def list(self, bucket, prefix=""):
        """Every object below prefix."""
        found, token = [], ""
        while token is not None:
            page = self.list_page(bucket, prefix, token=token)
            found += page.entries
            token = page.token
        return found

    def put_many(self, bucket, items, threads=16):
        """Upload (key, bytes) pairs through the server; returns how many."""
        with concurrent.futures.ThreadPoolExecutor(threads) as pool:
            return sum(1 for _ in pool.map(lambda item: self.put(bucket, *item), items))
