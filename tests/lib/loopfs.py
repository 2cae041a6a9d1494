# SPDX-License-Identifier: Apache-2.0
"""File systems of a size, for full disks, dead disks and power cuts. Only root may mount them.

    with LoopFs(tmp, "ext4", "64M") as fs: ... fs.path ...
shutdown() is what a power cut leaves: all I/O fails at once, and after remount() only what was
synced is there.
"""
import os

from tests.lib import util

_MAKE = {
    "ext4": ["mkfs.ext4", "-q", "-F", "-m", "0"],
    "xfs": ["mkfs.xfs", "-q", "-f"],
}
_XFS_LEAST = 300 << 20  # mkfs.xfs refuses smaller ones


def _bytes(size):
    units = {"K": 10, "M": 20, "G": 30}
    return int(size[:-1]) << units[size[-1]] if isinstance(size, str) else int(size)


class LoopFs:
    def __init__(self, directory, kind, size, make_options=()):
        """kind: ext4, xfs or tmpfs. The image is sparse."""
        os.makedirs(directory, exist_ok=True)
        self.kind, self.size = kind, _bytes(size)
        self.image = os.path.join(str(directory), f"{kind}.img")
        self.path = os.path.join(str(directory), f"{kind}.mnt")
        os.makedirs(self.path)
        if kind != "tmpfs":
            assert kind != "xfs" or self.size >= _XFS_LEAST, "xfs needs 300M"
            with open(self.image, "wb") as f:
                f.truncate(self.size)
            util.run(*_MAKE[kind], *make_options, self.image)
        self.mount()

    def mount(self):
        if self.kind == "tmpfs":
            util.run("mount", "-t", "tmpfs", "-o", f"size={self.size}", "tmpfs", self.path)
        else:
            util.run("mount", "-o", "loop", self.image, self.path)

    def shutdown(self):
        """Everything fails with EIO from now on, and nothing more reaches the image."""
        util.run("xfs_io", "-x", "-c", "shutdown", self.path)

    def remount(self):
        """Unmount, and mount what the image holds; open files must be closed before."""
        util.run("umount", self.path)
        self.mount()

    def fill(self, leave=0):
        """Take all room but `leave` bytes; returns the file that holds it."""
        name = os.path.join(self.path, "filler")
        st = os.statvfs(self.path)
        take = st.f_bavail * st.f_frsize - leave
        with open(name, "ab", buffering=0) as f:
            try:
                os.posix_fallocate(f.fileno(), 0, max(1, take))
            except OSError:  # the file system's own blocks: write what is left
                chunk = b"\0" * 65536
                try:
                    while leave == 0:
                        f.write(chunk)
                except OSError:
                    pass
        return name

    def close(self):
        util.unmount(self.path)
        if os.path.exists(self.image):
            os.unlink(self.image)

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.close()
