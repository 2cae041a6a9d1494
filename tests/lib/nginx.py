# SPDX-License-Identifier: Apache-2.0
"""A store that is not the bottleneck: nginx serves a directory, anonymously, on loopback.

As plain HTTP it has ranges, ETags and an index page. As S3 (path-style, the directory's first level
are the buckets) nginx serves the objects, and listings come from a scripted server over the same
files; their ETags agree.
"""
import json
import os
import subprocess

from tests.lib import util
from tests.lib.s3fault import S3Fault

_CONF = """
daemon off;
worker_processes {workers};
pid {dir}/nginx.pid;
error_log {dir}/error.log;
{user}
events {{ worker_connections 1024; }}
http {{
    default_type application/octet-stream;
    client_body_temp_path {dir}/tmp-body; proxy_temp_path {dir}/tmp-proxy;
    fastcgi_temp_path {dir}/tmp-fastcgi; uwsgi_temp_path {dir}/tmp-uwsgi;
    scgi_temp_path {dir}/tmp-scgi;
    sendfile on; tcp_nopush on; tcp_nodelay on; keepalive_requests 1000000;
    open_file_cache max=20000 inactive=60s;
    log_format line escape=json '{{"method":"$request_method","path":"$uri","args":"$args",'
        '"range":"$http_range","status":$status,"sent":$body_bytes_sent}}';
    access_log {dir}/access.log line;
    server {{
        listen 127.0.0.1:{port};
        root {root};
        {location}
    }}
}}
"""
_INDEX = "location / { autoindex on; }"
_S3 = "location / {{ if ($args ~ list-type=2) {{ proxy_pass http://127.0.0.1:{port}; }} }}"


class Nginx:
    def __init__(self, directory, root, s3=False, workers=1):
        """directory: where it keeps its own files; root: what it serves."""
        self.dir, self.root = str(directory), os.path.realpath(root)
        self.port = util.free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.process = None
        self.lists = S3Fault() if s3 else None
        os.makedirs(self.dir, exist_ok=True)
        with open(f"{self.dir}/nginx.conf", "w", encoding="utf-8") as f:
            f.write(_CONF.format(dir=self.dir, root=self.root, port=self.port, workers=workers,
                                 user="user root;" if os.getuid() == 0 else "",
                                 location=_S3.format(port=self.lists.port) if s3 else _INDEX))

    def start(self):
        if self.lists:
            for bucket in os.listdir(self.root):
                self.lists.put_directory(bucket, os.path.join(self.root, bucket))
            self.lists.start()
        with open(f"{self.dir}/out.log", "ab") as log:
            self.process = subprocess.Popen(
                ["/usr/sbin/nginx", "-p", self.dir, "-c", f"{self.dir}/nginx.conf", "-e",
                 f"{self.dir}/error.log"], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True)
        util.wait_until("nginx", self._ready, seconds=20)
        return self

    def _ready(self):
        if self.process.poll() is not None:
            with open(f"{self.dir}/error.log", encoding="utf-8") as f:
                raise AssertionError(f"nginx ended at its start:\n{f.read()[-2000:]}")
        return util.listens(self.port)

    def stop(self):
        if self.process:
            util.end_group(self.process)
            self.process = None
        if self.lists:
            self.lists.stop()

    def requests(self):
        """The requests that it answered, oldest first (a killed client's last may be missing)."""
        with open(f"{self.dir}/access.log", encoding="utf-8") as f:
            return [json.loads(line) for line in f if line.endswith("\n")]
