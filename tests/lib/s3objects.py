# SPDX-License-Identifier: Apache-2.0
"""What the scripted store holds: objects in memory or files of a directory, and their listings."""
import bisect
import email.utils
import hashlib
import os
import threading
import time
import urllib.parse
from xml.sax.saxutils import escape

DAY = 86400


class Object:
    """One version of an object; a new version is a new Object."""

    def __init__(self, data=None, path=None, etag=None, mtime=None):
        self.data, self.path = data, path
        if path is not None:
            st = os.stat(path)
            self.size, self.mtime = st.st_size, int(st.st_mtime)
            self.etag = etag or f"{self.mtime:x}-{self.size:x}"  # as nginx makes them
        else:
            self.size, self.mtime = len(data), int(mtime if mtime is not None else time.time())
            self.etag = etag if etag is not None else hashlib.md5(data).hexdigest()

    def read(self, first, length):
        if self.data is not None:
            return self.data[first:first + length]
        with open(self.path, "rb") as f:
            f.seek(first)
            return f.read(length)

    def headers(self):
        found = {"Last-Modified": email.utils.formatdate(self.mtime, usegmt=True)}
        if self.etag:
            found["ETag"] = f'"{self.etag}"'
        return found


class Bucket:
    """Lock: self.lock for the maps; an Object never changes."""

    def __init__(self):
        self.objects, self.keys, self.lock = {}, [], threading.Lock()

    def put(self, key, obj):
        with self.lock:
            if key not in self.objects:
                bisect.insort(self.keys, key)
            self.objects[key] = obj

    def put_directory(self, root):
        """Every regular file below root becomes an object."""
        found = {}
        for folder, _, names in os.walk(root):
            for name in names:
                path = os.path.join(folder, name)
                found[os.path.relpath(path, root)] = Object(path=path)
        with self.lock:
            self.objects.update(found)
            self.keys = sorted(self.objects)

    def get(self, key):
        with self.lock:
            return self.objects.get(key)

    def delete(self, key):
        with self.lock:
            if self.objects.pop(key, None):
                self.keys.remove(key)

    def page(self, prefix, delimiter, after, max_keys):
        """(objects, prefixes, last key or prefix of the page, whether more follows)"""
        objects, prefixes, last = [], [], after
        with self.lock:
            i = max(bisect.bisect_left(self.keys, prefix), bisect.bisect_right(self.keys, after))
            while i < len(self.keys) and self.keys[i].startswith(prefix):
                key = self.keys[i]
                if after and delimiter and after.endswith(delimiter) and key.startswith(after):
                    i = bisect.bisect_left(self.keys, after[:-1] + chr(ord(delimiter) + 1))
                    continue
                if len(objects) + len(prefixes) >= max_keys:
                    return objects, prefixes, last, True
                cut = key.find(delimiter, len(prefix)) if delimiter else -1
                if cut < 0:
                    objects.append((key, self.objects[key]))
                    last = key
                    i += 1
                else:
                    last = key[:cut + 1]
                    prefixes.append(last)
                    i = bisect.bisect_left(self.keys, last[:-1] + chr(ord(delimiter) + 1))
        return objects, prefixes, last, False


def list_xml(name, bucket, query):
    """The body of a ListObjectsV2 reply."""
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
    token, max_keys = query.get("continuation-token", ""), int(query.get("max-keys", "1000"))
    after = bytes.fromhex(token).decode() if token else query.get("start-after", "")
    objects, prefixes, last, more = bucket.page(prefix, delimiter, after, min(max_keys, 1000))
    url = query.get("encoding-type") == "url"
    text = (lambda s: escape(urllib.parse.quote(s, safe="/"))) if url else escape
    out = ['<?xml version="1.0" encoding="UTF-8"?>',
           '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">',
           f"<Name>{escape(name)}</Name><Prefix>{text(prefix)}</Prefix><MaxKeys>{max_keys}</MaxKeys>",
           f"<KeyCount>{len(objects) + len(prefixes)}</KeyCount>",
           f"<IsTruncated>{'true' if more else 'false'}</IsTruncated>"]
    if url:
        out.append("<EncodingType>url</EncodingType>")
    if more:
        out.append(f"<NextContinuationToken>{last.encode().hex()}</NextContinuationToken>")
    for key, obj in objects:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(obj.mtime))
        out.append(f"<Contents><Key>{text(key)}</Key><LastModified>{stamp}</LastModified>"
                   f"<ETag>&quot;{escape(obj.etag)}&quot;</ETag><Size>{obj.size}</Size>"
                   "<StorageClass>STANDARD</StorageClass></Contents>")
    out += [f"<CommonPrefixes><Prefix>{text(p)}</Prefix></CommonPrefixes>" for p in prefixes]
    return ("".join(out) + "</ListBucketResult>").encode()
