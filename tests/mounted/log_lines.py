"""A log larger than any buffer, written in big pieces and read line by line."""

import os

from common import main

LINE = b"%015d a line of a log that somebody will want to read from the start to the end one day\n"
SIZE = len(LINE % 0)


def write(directory, size):
    lines = int(size) // SIZE
    with open(os.path.join(directory, "log"), "wb", buffering=1 << 20) as out:
        for start in range(0, lines, 10_000):
            out.write(b"".join(LINE % n for n in range(start, min(start + 10_000, lines))))


def read(directory, size):
    count = 0
    with open(os.path.join(directory, "log"), "rb") as lines:
        for line in lines:
            assert len(line) == SIZE and int(line[:15]) == count
            count += 1
    assert count == int(size) // SIZE


main(write=write, read=read)
