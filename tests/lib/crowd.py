#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Many clients of one port, in a process of their own:

    crowd.py ADDRESS TOKEN_FILE MODE COUNT

MODE: idle     connections that are through the handshake and answer pings
      strange  connections that say nothing at all; opened anew when they are cut
      slow     a frame that is sent byte for byte, one per second; anew when they are cut
      session  mounts' sessions that renew their lease
      hear     the same, and each believes what it was told of /f and acknowledges what it hears

Prints "on" once all are there; a line "cut N" when it first sees that the server has ended some of
them, and one at the end: how many the server has ended.
With hear, a line "heard T" each time all have heard of a change, T: CLOCK_MONOTONIC of the last.
Ends when its standard input does.
"""
import os
import resource
import selectors
import socket
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__)))))

from tests.lib import frames  # noqa: E402
from tests.lib.netns import Here  # noqa: E402

PERIOD = {"idle": 3600.0, "strange": 3600.0, "slow": 1.0, "session": 3.0, "hear": 3.0}
ROOT = 1  # its inode


class Member:
    """One client; due: when it has to say something again."""

    def __init__(self, crowd):
        self.crowd, self.session, self.sent, self.came = crowd, None, 0, bytearray()
        token = None if crowd.mode == "strange" else crowd.token
        self.connection = frames.Connection(Here(), crowd.address, token)
        if token is not None:
            assert self.connection.welcome.status == 0, f"refused: {self.connection.welcome.status}"
        if crowd.mode in ("session", "hear"):
            answer = self.connection.call(frames.SESSION_OPEN, {1: "mount", 2: "/crowd", 3: "crowd", 4: os.getpid()})
            assert answer.status == 0, f"no session: {answer.status}"
            self.session = frames.parse(answer.body)[1][0]
        if crowd.mode == "hear":
            answer = self.connection.call(frames.LOOKUP, {1: ("fixed64", ROOT), 2: "f"})
            assert answer.status == 0 and frames.parse(frames.parse(answer.body)[1][0]).get(12), "nothing is promised"
        self.connection.socket.setblocking(False)
        self.due = time.monotonic() + PERIOD[crowd.mode]

    def speak(self):
        self.due += PERIOD[self.crowd.mode]
        if self.crowd.mode == "slow":
            data = frames.frame(frames.REQUEST, 1, frames.STATUS, b"", b"x" * 1000)
            self.connection.socket.send(data[self.sent:self.sent + 1])
            self.sent += 1
        elif self.crowd.mode in ("session", "hear"):
            self.renew(0)

    def renew(self, seq):
        self.connection.next_id += 1
        self.connection.socket.send(frames.frame(
            frames.REQUEST, self.connection.next_id, frames.SESSION_RENEW,
            frames.message({1: self.session, 2: seq}), meta=frames.message({1: 0, 2: 0})))

    def hear(self):
        """Answers pings, and invalidations where it is to; all else is dropped. False: the peer has ended it."""
        try:
            data = self.connection.socket.recv(1 << 16)
        except BlockingIOError:
            return True
        except OSError:
            return False
        if not data:
            return False
        self.came += data
        for kind, number, method, body in frames.take(self.came):
            if kind == frames.PING:
                self.connection.socket.send(frames.frame(frames.PONG, number))
            if (self.crowd.mode, kind, method) == ("hear", frames.NOTICE, frames.INVALIDATE):
                self.renew(frames.parse(body)[1][0])
                self.crowd.told()
        return True


class Crowd:
    def __init__(self, address, token_file, mode):
        self.address, self.token, self.mode = address, frames.token_of(token_file), mode
        self.selector, self.members, self.cut, self.heard = selectors.DefaultSelector(), set(), 0, 0

    def join(self):
        member = Member(self)
        self.members.add(member)
        self.selector.register(member.connection.socket, selectors.EVENT_READ, member)

    def told(self):
        self.heard += 1
        if self.heard % len(self.members) == 0:
            print(f"heard {time.monotonic()}", flush=True)

    def leave(self, member):
        self.cut += 1
        self.selector.unregister(member.connection.socket)
        self.members.discard(member)
        member.connection.close()
        if self.mode in ("strange", "slow"):
            self.join()

    def run(self):
        self.selector.register(sys.stdin, selectors.EVENT_READ)
        looked, told = time.monotonic(), False
        while True:
            for key, _ in self.selector.select(0.2):
                if key.data is None:
                    return
                if key.data in self.members and not key.data.hear():
                    self.leave(key.data)
            if self.cut and not told:
                told = True
                print(f"cut {self.cut}", flush=True)
            if time.monotonic() - looked >= 0.2:
                looked = time.monotonic()
                for member in [m for m in self.members if m.due <= looked]:
                    try:
                        member.speak()
                    except OSError:
                        self.leave(member)


def main():
    address, token_file, mode, count = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    socket.setdefaulttimeout(30)
    crowd = Crowd(address, token_file, mode)
    for _ in range(count):
        crowd.join()
    print("on", flush=True)
    crowd.run()
    print(f"cut {crowd.cut}", flush=True)


main()
