#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A store that lists fast: S3 listings of DIRS x FILES objects that exist only as names, from answers made beforehand.

list_store.py PORT DIRS FILES [SIZE]: bucket "b", keys dNNNN/fNNNNNNNN.bin. It knows ListObjectsV2 with prefix, delimiter, start-after,
continuation-token and max-keys, HEAD, and GET of zeros. GET /counts tells how many requests it answered. For measuring
listings: no signature is checked. It listens on loopback and ends with its parent's signal.
"""
import asyncio
import bisect
import json
import sys
import urllib.parse

DATE = "2026-01-02T03:04:05.000Z"
HTTP_DATE = "Fri, 02 Jan 2026 03:04:05 GMT"
ETAG = '"d41d8cd98f00b204e9800998ecf8427e"'


class Names:
    def __init__(self, dirs, files, size):
        self.dirs = [f"d{d:04d}/" for d in range(dirs)]
        self.files = [f"f{f:08d}.bin" for f in range(files)]
        self.size = size
        self.row = (f"</Key><LastModified>{DATE}</LastModified><ETag>{ETAG.replace(chr(34), '&quot;')}</ETag><Size>{size}</Size>"
                    "<StorageClass>STANDARD</StorageClass></Contents>")
        self.cache = {}

    def exists(self, key):
        cut = key.find("/") + 1
        i = bisect.bisect_left(self.files, key[cut:])
        return key[:cut] in self.dirs and i < len(self.files) and self.files[i] == key[cut:]

    def page(self, prefix, delimiter, after, limit):
        """XML of one page; keys greater than `after`."""
        where = (prefix, delimiter, after, limit)
        if where not in self.cache:
            self.cache[where] = self._page(*where)
        return self.cache[where]

    def _page(self, prefix, delimiter, after, limit):
        rows, last, more = [], "", False
        if delimiter and "/" not in prefix:
            found = [d for d in self.dirs if d.startswith(prefix) and d > after]
            rows = [f"<CommonPrefixes><Prefix>{d}</Prefix></CommonPrefixes>" for d in found[:limit]]
            last, more = (found[:limit] or [""])[-1], len(found) > limit
        else:
            for d in self.dirs:
                if not (d.startswith(prefix) or prefix.startswith(d)):
                    continue
                start = bisect.bisect_right(self.files, after[len(d):]) if after.startswith(d) else 0
                if d < after and not after.startswith(d):
                    continue
                names = self.files[start:start + limit - len(rows) + 1]
                names = [n for n in names if (d + n).startswith(prefix)]
                take = names[:limit - len(rows)]
                rows += [f"<Contents><Key>{d}{n}{self.row}" for n in take]
                last = d + take[-1] if take else last
                if len(rows) >= limit:
                    more = len(names) > len(take) or d != self.dirs[-1]
                    break
        token = f"<NextContinuationToken>{last}</NextContinuationToken>" if more else ""
        return ('<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>b</Name>'
                f"<Prefix>{prefix}</Prefix><KeyCount>{len(rows)}</KeyCount><MaxKeys>{limit}</MaxKeys><EncodingType>url</EncodingType>"
                f"<IsTruncated>{'true' if more else 'false'}</IsTruncated>{token}" + "".join(rows) + "</ListBucketResult>").encode()


class Server:
    def __init__(self, names):
        self.names = names
        self.counts = {}

    def answer(self, method, target):
        path, _, query = target.partition("?")
        q = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
        key = urllib.parse.unquote(path[len("/b/"):]) if path.startswith("/b/") else ""
        op = "list" if "list-type" in q else method.lower()
        if path == "/counts":
            return 200, [], json.dumps(self.counts).encode()
        self.counts[op] = self.counts.get(op, 0) + 1
        if op == "list":
            after = max(q.get("continuation-token", ""), q.get("start-after", ""))
            body = self.names.page(q.get("prefix", ""), q.get("delimiter", ""), after, int(q.get("max-keys", 1000)))
            return 200, [("Content-Type", "application/xml")], body
        if not self.names.exists(key):
            return 404, [], b"" if method == "HEAD" else b"<Error><Code>NoSuchKey</Code><Message>no such key</Message></Error>"
        return 200, [("ETag", ETAG), ("Last-Modified", HTTP_DATE)], b"\0" * self.names.size

    async def serve(self, reader, writer):
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                method, target = head.split(b"\r\n", 1)[0].decode().split(" ")[:2]
                status, headers, body = self.answer(method, target)
                lines = [f"HTTP/1.1 {status} OK", f"Content-Length: {len(body)}"] + [f"{k}: {v}" for k, v in headers]
                writer.write(("\r\n".join(lines) + "\r\n\r\n").encode() + (b"" if method == "HEAD" else body))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


async def main():
    port, dirs, files = (int(a) for a in sys.argv[1:4])
    server = Server(Names(dirs, files, int(sys.argv[4]) if len(sys.argv) > 4 else 0))
    listener = await asyncio.start_server(server.serve, "127.0.0.1", port, backlog=1024)
    async with listener:
        await listener.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
