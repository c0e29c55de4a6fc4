"""What a disk may hold after a cut, made from the log of what it was told.

What was written before the last flush is there. Of what was written after it each piece is there or not: a disk
has a volatile cache and writes it out in any order. Pieces are 4 KiB, or sectors of 512 bytes.
"""

import fcntl
import os

FICLONE = 0x40049409
PAGE, SECTOR = 4096, 512
# ext4's superblock, 1 KiB at 1 KiB: its checksum is over both sectors, and ext4 itself does not mount when one is older.
SUPERBLOCK = range(1024, 2048)

# What survives of the writes since the last flush.
MODES = ("all", "none", "pages", "sectors")


def clone(source, target):
    """A copy of a sparse file: shares its blocks where the filesystem can do that."""
    with open(source, "rb") as old, open(target, "wb") as new:
        try:
            fcntl.ioctl(new.fileno(), FICLONE, old.fileno())
            return
        except OSError:
            pass
        size = os.fstat(old.fileno()).st_size
        new.truncate(size)
        at = 0
        while at < size:
            try:
                at = os.lseek(old.fileno(), at, os.SEEK_DATA)
            except OSError:  # ENXIO: no more data
                return
            end = os.lseek(old.fileno(), at, os.SEEK_HOLE)
            os.lseek(new.fileno(), at, os.SEEK_SET)
            while at < end:
                at += os.sendfile(new.fileno(), old.fileno(), at, end - at)


class Replay:
    """`base`, the image as it was before the log began, is moved forward; so cuts come in order."""

    def __init__(self, base, entries, data):
        self.base, self.entries = base, entries
        self.data = open(data, "rb")
        self.done = 0

    def last_flush(self, position):
        """The position after the last flush that had arrived by `position`."""
        while position > 0 and self.entries[position - 1][1] != 0:
            position -= 1
        return position

    def cut(self, position, mode, rng, target):
        """Writes to `target` what the disk may hold at `position`. Returns how many pieces were kept, of how many."""
        flushed = max(self.last_flush(position), self.done)
        with open(self.base, "r+b") as image:
            for entry in self.entries[self.done : flushed]:
                self.write(image.fileno(), entry)
        self.done = flushed
        clone(self.base, target)
        kept = pieces = 0
        share = rng.choice((0.1, 0.5, 0.9))
        with open(target, "r+b") as image:
            for offset, length, at in self.entries[flushed:position]:
                step = SECTOR if mode == "sectors" else PAGE
                is_kept = False
                for start in range(offset // step * step, offset + length, step):
                    begin, end = max(start, offset), min(start + step, offset + length)
                    pieces += 1
                    if start - SECTOR not in SUPERBLOCK or start not in SUPERBLOCK:
                        is_kept = mode == "all" or (mode != "none" and rng.random() < share)
                    if is_kept:
                        kept += 1
                        self.write(image.fileno(), (begin, end - begin, at + begin - offset))
        return kept, pieces

    def write(self, image, entry):
        offset, length, at = entry
        if length:
            os.pwrite(image, os.pread(self.data.fileno(), length, at), offset)

    def close(self):
        self.data.close()
