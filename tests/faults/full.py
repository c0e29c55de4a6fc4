"""A disk that is full to the last byte: deleting, cutting and small edits work, the rest is told, nothing is lost.

usage: full.py AKASHA [short | ext4 | xfs | btrfs]...    (short: half of it, on ext4)
"""

import errno
import os
import sys

from common import Place, Vault, file_with, fsync, noise, until

LARGE, SMALL = 8 << 20, 5000
DISK_MIB = 320


class Full:
    """A vault on a disk that can be filled and made empty again."""

    def __init__(self, place, kind):
        self.disk = place.disk(kind, DISK_MIB)
        self.vault = Vault(place, self.disk)
        self.content = {"large": noise(1, LARGE), "small": noise(2, SMALL), "other": noise(3, 200_000),
                        "removed": noise(4, 100_000), "open": noise(5, 300_000)}
        assert self.vault.start(), self.vault.said()
        for name, data in self.content.items():
            file_with(self.path(name), data)
        os.mkdir(self.path("dir"))

    def path(self, name):
        return self.vault.at / name

    def reserve(self):
        """Its room in bytes, None if it is not there."""
        try:
            return os.stat(self.vault.dir / ".akasha/reserve").st_blocks * 512
        except FileNotFoundError:
            return None

    def fill(self):
        """Once what was freed has settled, takes all the room that there is."""
        until("the reserve", lambda: (self.reserve() or 0) >= 1 << 20)
        os.sync()
        number = 0
        # The last bytes are found by small files, which some filesystems keep elsewhere.
        for size in [4 << 20, 64 << 10, 4096, 4096, 500]:
            while True:
                number += 1
                try:
                    with open(self.disk / f"filler {number}", "wb", buffering=0) as file:
                        written = 0
                        while written < (64 << 20 if size > 4096 else size):
                            written += file.write(b"\xaa" * size)
                        os.fsync(file.fileno())
                except OSError as error:
                    assert error.errno == errno.ENOSPC, error
                    break
        assert self.reserve(), "the reserve went while the disk was filled by others"

    def free(self):
        for path in self.disk.glob("filler *"):
            path.unlink()
        os.sync()

    def verify(self, when):
        shown = {name for name in os.listdir(self.vault.at) if (self.path(name)).is_file()}
        assert shown == set(self.content), f"{when}: {shown}"
        for name, data in self.content.items():
            now = self.path(name).read_bytes()
            assert now == data, f"{when}: {name} has other content"

    # ---- what is done on the full disk

    def edit(self, name, at):
        descriptor = os.open(self.path(name), os.O_RDWR)
        os.pwrite(descriptor, b"\x07" * 4096, at)
        os.fsync(descriptor)
        os.close(descriptor)
        data = bytearray(self.content[name].ljust(at + 4096, b"\0"))
        data[at:at + 4096] = b"\x07" * 4096
        self.content[name] = bytes(data)

    def cut(self, name, size):
        descriptor = os.open(self.path(name), os.O_RDWR)
        os.ftruncate(descriptor, size)
        os.fsync(descriptor)
        os.close(descriptor)
        self.content[name] = self.content[name][:size]

    def save(self, name):
        data = noise(len(self.content[name]), 6000)
        file_with(self.path(name + ".tmp"), data)
        os.rename(self.path(name + ".tmp"), self.path(name))
        self.sync_dir()
        self.content[name] = data

    def remove(self, name):
        os.unlink(self.path(name))
        self.sync_dir()
        del self.content[name]

    def remove_open(self, name):
        with open(self.path(name), "rb") as file:
            os.unlink(self.path(name))
            self.sync_dir()
            assert file.read() == self.content.pop(name), "what is open and removed has other content"

    def remove_dir(self):
        os.rmdir(self.path("dir"))
        self.sync_dir()

    def move(self):
        os.rename(self.path("other"), self.path("dir/other"))
        os.rename(self.path("dir/other"), self.path("another"))
        self.sync_dir()
        self.content["another"] = self.content.pop("other")

    def sync_dir(self):
        fsync(self.vault.at)

    def too_much(self):
        """More than there is room for is told, and the old version stays."""
        told = None
        try:
            file_with(self.path("small"), noise(9, 16 << 20))
        except OSError as error:
            told = error.errno
        assert told == errno.ENOSPC, f"a write without room was answered with {told}"
        # Whoever saves like this has lost it in the mount; in the vault the old one is there.
        file_with(self.path("small"), self.content["small"])


def steps(full):
    """What is tried, by name, each on a full disk."""
    return [("an edit of a small file", lambda: full.edit("small", 100)),
            ("an edit of a large file", lambda: full.edit("large", 5 << 20)),
            ("a save by rename", lambda: full.save("small")),
            ("a large file cut", lambda: full.cut("large", (3 << 20) + 77)),
            ("a move", full.move),
            ("more than there is room for", full.too_much),
            ("a file removed", lambda: full.remove("removed")),
            ("an open file removed", lambda: full.remove_open("open")),
            ("a file cut to nothing", lambda: full.cut("large", 0)),
            ("a directory removed", full.remove_dir)]


def check(akasha, kind, step_by=1):
    with Place(akasha) as place:
        full = Full(place, kind)
        tried = steps(full)[::step_by]
        for name, step in tried:
            full.fill()
            full.verify(f"{kind}, before {name}")
            try:
                step()
            except OSError as error:
                raise AssertionError(f"{kind}: {name}: {error}; the daemon said: {full.vault.said()}") from error
            full.verify(f"{kind}, {name}")
            assert full.vault.is_alive()
            full.free()
        # The disk is full when it ends, too.
        full.fill()
        full.edit("small", 0)
        full.vault.umount()
        assert full.vault.start()
        full.verify(f"{kind}, mounted again")
        full.vault.umount()
        full.vault.check()
        print(f"{kind}: {len(tried)} kinds of changes on a full disk, nothing lost")


if __name__ == "__main__":
    if sys.argv[2:] == ["short"]:
        check(sys.argv[1], "ext4", step_by=3)
    else:
        for filesystem in sys.argv[2:] or ["ext4", "xfs", "btrfs"]:
            check(sys.argv[1], filesystem)
