"""Files of terabytes that hold next to nothing."""

import os

from common import main

TIB = 1 << 40
SIZE = 5 * TIB
WRITES = {0: b"at the start", TIB + 4095: b"across a block edge", 3 * TIB: b"x" * 200_000, SIZE - 10: b"at the end"}


def do(directory):
    path = os.path.join(directory, "sparse")
    with open(path, "wb"):
        pass
    os.truncate(path, SIZE)
    assert os.stat(path).st_size == SIZE
    with open(path, "r+b", buffering=0) as file:
        for place, text in WRITES.items():
            file.seek(place)
            assert file.write(text) == len(text)
        os.fsync(file.fileno())
    check(directory)
    # Grown and cut: what was cut off reads as zeros when the file grows again.
    with open(os.path.join(directory, "cut"), "wb") as file:
        file.write(b"y" * 10_000)
        file.truncate(5000)
        file.truncate(TIB)
    check(directory)


def check(directory):
    with open(os.path.join(directory, "sparse"), "rb", buffering=0) as file:
        assert os.fstat(file.fileno()).st_size == SIZE
        for place, text in WRITES.items():
            assert os.pread(file.fileno(), len(text), place) == text
            before = max(0, place - 5000)
            assert not any(os.pread(file.fileno(), place - before, before))
        for hole in (100_000, TIB // 2, 4 * TIB + 12345):
            assert os.pread(file.fileno(), 300_000, hole) == bytes(300_000)
        assert os.pread(file.fileno(), 100, SIZE) == b""
        assert os.fstat(file.fileno()).st_blocks * 512 < 1 << 30, "holes must not count as allocated"
    if os.path.exists(os.path.join(directory, "cut")):
        with open(os.path.join(directory, "cut"), "rb", buffering=0) as file:
            assert os.fstat(file.fileno()).st_size == TIB
            assert os.pread(file.fileno(), 12_000, 0) == b"y" * 5000 + bytes(7000)


main(do=do, check=check)
