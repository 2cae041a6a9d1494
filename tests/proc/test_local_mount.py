# SPDX-License-Identifier: Apache-2.0
"""The mount of tarn local: dead ones, those of others, unprivileged ones; what the kernel keeps."""
import ctypes
import errno
import os
import shutil
import signal
import stat
import subprocess

import pytest

from tests.lib import local, util
from tests.lib.local import says
from tests.lib.tarn import FSTYPE, binary

DATA = util.some_bytes(300_000, "mount")
MNT_DETACH = 2


@pytest.fixture
def served(workdir):
    root = os.path.join(workdir, "served")
    util.write_tree(root, [("d/f", DATA)])
    os.symlink("d/f", f"{root}/link")
    os.makedirs(f"{root}/empty")
    return root


def detach(path):
    """umount(8) would ask the mount, whose server may stand still."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.umount2(os.fsencode(path), MNT_DETACH) == 0, os.strerror(ctypes.get_errno())


def reads(server):
    with open(server.path("d/f"), "rb") as f:
        return f.read() == DATA


# ---- dead mounts ----

def is_dead(path):
    """Users get an error, not the directory below the mount."""
    with pytest.raises(OSError) as e:
        os.listdir(path)
    return e.value.errno in (errno.ENOTCONN, errno.ECONNABORTED)


def test_dead_mount_stays_when_the_start_fails(tarn, served, workdir):
    server = tarn(f"file://{served}")
    server.kill()
    assert is_dead(server.mnt)
    server.uri, good = f"file://{workdir}/none", server.uri
    cache, server.cache = server.cache, f"{workdir}/other-cache"
    assert local.refused(server).code == 3
    assert local.count_mounts(server.mnt) == 1 and is_dead(server.mnt)
    server.uri, server.cache = good, cache
    server.start()
    assert local.count_mounts(server.mnt) == 1 and reads(server)


def test_dead_mount_inside_the_served_directory(tarn, served, workdir):
    """What lies below a dead mount is still told apart from it."""
    os.makedirs(f"{workdir}/above/mnt")
    first, second = tarn(f"file://{served}", start=False), tarn(f"file://{workdir}/above",
                                                              start=False)
    first.mnt = second.mnt = f"{workdir}/above/mnt"
    first.start()
    first.kill()
    local.check_refused(second, 2, second.mnt, "served")
    assert local.count_mounts(second.mnt) == 1
    util.unmount(first.mnt)


def test_dead_mounts_upon_each_other(root, tarn, served):
    server = tarn(f"file://{served}")
    server.kill()
    for _ in range(2):
        fd = os.open("/dev/fuse", os.O_RDWR)
        util.run("mount", "-i", "-t", "fuse", "-o", f"fd={fd},rootmode=40000,user_id=0,group_id=0",
                 "dead", server.mnt, pass_fds=[fd])
        os.close(fd)
    assert local.count_mounts(server.mnt) == 3
    server.start()
    assert local.count_mounts(server.mnt) == 1 and reads(server)


def test_dead_mount_where_sigchld_is_ignored(tarn, served):
    server = tarn(f"file://{served}")
    server.kill()
    server.prefix = ["env", "--ignore-signal=CHLD"]
    server.start()
    assert local.count_mounts(server.mnt) == 1 and reads(server)


# ---- the end ----

def end_beside_a_later_mount(tarn, served):
    """True when the later mount had the device number of the one that ended."""
    first, second = tarn(f"file://{served}"), tarn(f"file://{served}", start=False)
    device = os.stat(first.mnt).st_dev
    first.process.send_signal(signal.SIGSTOP)
    detach(first.mnt)
    second.mnt = first.mnt
    second.start()
    first.process.send_signal(signal.SIGCONT)
    assert first.process.wait(timeout=20) == 0
    first.process = None
    assert reads(second) and local.count_mounts(second.mnt) == 1
    same = os.stat(second.mnt).st_dev == device
    assert second.stop() == 0
    return same


def test_end_leaves_the_mounts_of_others(tarn, served):
    """The kernel gives the device number of a mount that went to the next one, whosever it is."""
    assert any(end_beside_a_later_mount(tarn, served) for _ in range(10)), "this proved nothing"


def test_connection_that_is_aborted(root, tarn, served):
    """By hand, or by a watchdog: the server ends, and leaves no dead mount."""
    server = tarn(f"file://{served}")
    minor = os.minor(os.stat(server.mnt).st_dev)
    control = f"/sys/fs/fuse/connections/{minor}/abort"
    if not os.path.exists(control):
        util.run("mount", "-t", "fusectl", "none", "/sys/fs/fuse/connections", check=False)
    with open(control, "w", encoding="ascii") as f:
        f.write("1")
    assert server.process.wait(timeout=20) == 0
    server.process = None
    assert not util.mounted(server.mnt)


# ---- without privilege ----

def as_nobody(*args):
    return subprocess.run(
        ["setpriv", f"--reuid={local.NOBODY}", f"--regid={local.NOBODY}", "--clear-groups", *args],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=False)


@pytest.fixture
def fuse_for_all(root, workdir):
    """/dev/fuse that anybody may open, as most distributions have it."""
    node = os.path.join(workdir, "fuse")
    os.mknod(node, 0o666 | stat.S_IFCHR, os.stat("/dev/fuse").st_rdev)
    os.chmod(node, 0o666)
    with local.alone("fuse"):
        made = not os.path.lexists("/etc/mtab")
        if made:  # fusermount3 looks there for whose mount it is; a minimal root lacks it
            os.symlink("/proc/self/mounts", "/etc/mtab")
        util.run("mount", "--bind", node, "/dev/fuse")
        yield
        util.run("umount", "--lazy", "/dev/fuse")
        if made:
            os.unlink("/etc/mtab")


@pytest.fixture
def unprivileged(fuse_for_all, workdir, tarn, served, monkeypatch):
    """A server that cannot mount by itself; only its user may look into its mount."""
    assert os.stat(shutil.which("fusermount3")).st_mode & stat.S_ISUID
    monkeypatch.setenv("TARN_BIN", shutil.copy(binary(), os.path.join(workdir, "tarn")))
    run = os.path.join(workdir, "run")
    os.mkdir(run, 0o700)
    os.chown(run, local.NOBODY, local.NOBODY)
    server = tarn(f"file://{served}", start=False,
                  env={"HOME": "/nonexistent", "XDG_RUNTIME_DIR": run})
    server.prefix = ["setpriv", f"--reuid={local.NOBODY}", f"--regid={local.NOBODY}",
                     "--clear-groups"]
    os.chown(server.mnt, local.NOBODY, local.NOBODY)
    os.makedirs(server.cache)
    os.chown(server.cache, local.NOBODY, local.NOBODY)
    os.chmod(server.cache, 0o700)
    return server


def start_unprivileged(server):
    server.spawn()

    def ready():
        assert server.process.poll() is None, server.log_tail()
        return util.mounted(server.mnt, FSTYPE) and as_nobody("ls", server.mnt).stdout

    util.wait_until("the mount", ready, 30)


def test_without_privilege(unprivileged):
    server = unprivileged
    start_unprivileged(server)
    done = as_nobody("sha256sum", server.path("d/f"))
    assert done.stdout.split()[0] == local.sha(DATA), done
    holder = subprocess.Popen([
        *server.prefix, "sh", "-c", f"exec 3< {server.path('d/f')}; echo open; cat"
    ], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == b"open\n"
        done = as_nobody(binary(), "umount", server.mnt)
        assert done.returncode != 0
        says(done.stderr, server.mnt, "in use")
        assert util.mounted(server.mnt, FSTYPE)
    finally:
        holder.stdin.close()
        holder.wait(timeout=10)
    server.kill()
    start_unprivileged(server)
    assert local.count_mounts(server.mnt) == 1
    done = as_nobody(binary(), "umount", server.mnt)
    assert done.returncode == 0, done
    assert server.process.wait(timeout=20) == 0
    server.process = None
    assert not util.mounted(server.mnt)


# ---- df ----

@pytest.mark.parametrize("more", [0, 20 << 20])
def test_space(tarn, served, more):
    """Used is what the data takes, as far as it is known; free is what the cache has beyond that."""
    with open(f"{served}/more", "wb") as f:
        f.truncate(more)
    cache, total = 16 << 20, len(DATA) + more
    server = tarn(f"file://{served}", "--cache-size", cache)
    util.run("find", server.mnt)
    st = os.statvfs(server.mnt)
    used = (st.f_blocks - st.f_bfree) * st.f_frsize
    assert total <= used < total + 4096
    assert st.f_blocks * st.f_frsize == max(cache, used)
    assert st.f_bavail == st.f_bfree and st.f_files == 3
    shown = util.run("df", "--block-size=1", "--output=used,target", server.mnt).stdout
    assert shown.splitlines()[1].split() == [str(used), server.mnt]


# ---- what the kernel keeps ----

@pytest.mark.parametrize("where", ["", "empty"])
def test_new_names_in_an_empty_directory(tarn, workdir, where):
    top = f"{workdir}/s"
    os.makedirs(f"{top}/{where}")
    server = tarn(f"file://{top}", "--meta-ttl", "2s")
    for _ in range(2):
        assert local.listed(server, where) == []
    util.write_tree(f"{top}/{where}", [("new", b"n")])
    util.wait_until("the new name", lambda: local.listed(server, where) == ["new"], 15, step=0.1)
    os.unlink(f"{top}/{where}/new")
    util.wait_until("its end", lambda: local.listed(server, where) == [], 15, step=0.1)


def test_extended_attributes_can_all_be_read(tarn, served):
    """What is listed is there: copying programs stop at what is not."""
    server = tarn(f"file://{served}")
    for name in ("d", "d/f", "link", "empty"):
        path = server.path(name)
        names = os.listxattr(path, follow_symlinks=False)
        assert bool(names) == (name != "link")
        for attribute in names:
            os.getxattr(path, attribute, follow_symlinks=False)
