"""Files with holes that are small enough to copy: a hole in front, in the middle, at the end; and none. Each is then
changed, punched and grown by room that is allocated and not written."""

import ctypes
import os

from common import main

FILES = {"front": [(100_000, b"x" * 5000)], "middle": [(0, b"a" * 5000), (300_000, b"b" * 9000)],
         "end": [(0, b"c" * 4096)], "dense": [(0, bytes(range(256)) * 1000)]}
SIZE = 500_000
KEEP_SIZE, PUNCH = 0x01, 0x02
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def do(directory):
    for name, writes in FILES.items():
        with open(os.path.join(directory, name), "wb") as out:
            for place, text in writes:
                out.seek(place)
                out.write(text)
            if name != "dense":
                out.truncate(SIZE)
        # Committed, then changed in the middle: a second layer.
        with open(os.path.join(directory, name), "r+b") as file:
            os.fsync(file.fileno())
            file.seek(123_456)
            file.write(b"changed in place")
            file.flush()
            os.fsync(file.fileno())
            os.posix_fallocate(file.fileno(), 400_000, 300_000)
            assert LIBC.fallocate(file.fileno(), PUNCH | KEEP_SIZE, 2000, 50_000) == 0


main(do=do)
