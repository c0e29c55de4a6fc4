"""Files with holes that are small enough to copy: a hole in front, in the middle, at the end; and none."""

import os

from common import main

FILES = {"front": [(100_000, b"x" * 5000)], "middle": [(0, b"a" * 5000), (300_000, b"b" * 9000)],
         "end": [(0, b"c" * 4096)], "dense": [(0, bytes(range(256)) * 1000)]}
SIZE = 500_000


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


main(do=do)
