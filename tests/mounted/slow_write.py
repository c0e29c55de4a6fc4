"""A big write with fsync in one file; small files elsewhere stay readable meanwhile."""

import os
import time

from common import main

SMALL = 400


def prepare(directory):
    os.mkdir(os.path.join(directory, "small"))
    for number in range(SMALL):
        with open(os.path.join(directory, "small", str(number)), "wb") as out:
            out.write(b"%d" % number * 500)


def do(directory, size):
    """Run on a fresh mount: no small file is in any cache."""
    size = int(size)
    ended_read, ended_write = os.pipe()
    writer = os.fork()
    if writer == 0:
        block = os.urandom(1 << 20)
        with open(os.path.join(directory, "big"), "wb", buffering=0) as out:
            for _ in range(size >> 20):
                out.write(block)
            os.fsync(out.fileno())
        os.write(ended_write, b"%f" % time.monotonic())
        os._exit(0)
    start, ends = time.monotonic(), []
    for number in range(SMALL):
        begin = time.monotonic()
        with open(os.path.join(directory, "small", str(number)), "rb") as file:
            assert file.read() == b"%d" % number * 500
        ends.append((begin, time.monotonic()))
        time.sleep(0.002)
    assert os.waitpid(writer, 0)[1] == 0
    written = float(os.read(ended_read, 100))
    during = [end - begin for begin, end in ends if end < written]
    whole = written - start
    print(f"big write {whole:.2f} s; {len(during)} small reads meanwhile, slowest {max(during) * 1000:.1f} ms")
    assert len(during) >= 20, "the small reads waited for the big write"
    assert max(during) < max(0.25, whole / 2), "a small read waited for the big write"
    check(directory, size)


def check(directory, size):
    assert os.path.getsize(os.path.join(directory, "big")) == int(size) >> 20 << 20


main(prepare=prepare, do=do, check=check)
