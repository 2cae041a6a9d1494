# SPDX-License-Identifier: Apache-2.0
"""A filter in the test Swift's proxy that logs each request, as the client sees it, in JSON lines.

One line says that a request begins, another, when the reply has gone, what it was: a client may read
the log before the server has written the second. `sent` counts the bytes of the body that were
handed to the connection, also when it broke off.
"""
import itertools
import json
import os
import time


class _Counted:
    def __init__(self, parts, done):
        self.parts, self.done, self.sent = parts, done, 0

    def __iter__(self):
        for part in self.parts:
            self.sent += len(part)
            yield part

    def close(self):
        if hasattr(self.parts, "close"):
            self.parts.close()
        self.done(self.sent)


class Access:
    def __init__(self, app, path):
        self.app = app
        self.ids = itertools.count(1)
        self.run = os.getpid()  # ids start again when the server does
        self.fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def write(self, line):
        os.write(self.fd, json.dumps(line).encode() + b"\n")

    def __call__(self, env, start_response):
        record = {"id": f"{self.run}/{next(self.ids)}", "time": time.time(), "method": env["REQUEST_METHOD"],
                  "path": env["PATH_INFO"].encode("latin1").decode("utf-8", "replace"),
                  "query": env.get("QUERY_STRING", ""), "range": env.get("HTTP_RANGE"),
                  "if_match": env.get("HTTP_IF_MATCH"), "agent": env.get("HTTP_USER_AGENT")}

        self.write({"begins": record["id"]})

        def started(status, headers, exc_info=None):
            record["status"] = int(status.split()[0])
            return start_response(status, headers, exc_info)

        def done(sent):
            record["sent"] = sent
            self.write(record)

        return _Counted(self.app(env, started), done)


def filter_factory(_global_conf, **conf):
    return lambda app: Access(app, conf["log_path"])
