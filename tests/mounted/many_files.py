"""More files at once than the daemon may have descriptors: created, held open, read, rewritten."""

import os
import resource

from common import main

FILES, AT_ONCE = 3000, 900


def path(directory, number):
    return os.path.join(directory, f"d{number % 7}", f"file {number}")


def content(number, version):
    return b"%d %d\n" % (number, version) * (1 + number * 37 % 900)


def do(directory):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert hard >= AT_ONCE + 50
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, AT_ONCE + 50), hard))
    for number in range(7):
        os.mkdir(os.path.join(directory, f"d{number}"))
    for number in range(FILES):
        with open(path(directory, number), "wb") as out:
            out.write(content(number, 1))
    # All written a little, then all again, then closed: as many edits in progress as handles.
    held = [open(path(directory, number), "r+b", buffering=0) for number in range(AT_ONCE)]
    for number, file in enumerate(held):
        file.truncate(0)
        file.write(content(number, 2)[:10])
    for number, file in enumerate(held):
        file.write(content(number, 2)[10:])
    for file in held:
        file.close()
    # Held open for reading, read in another order.
    held = [open(path(directory, number), "rb", buffering=0) for number in range(AT_ONCE)]
    for number in reversed(range(AT_ONCE)):
        assert held[number].read() == content(number, 2)
    for file in held:
        file.close()
    check(directory)


def check(directory):
    for number in range(FILES):
        with open(path(directory, number), "rb") as file:
            assert file.read() == content(number, 2 if number < AT_ONCE else 1), number


main(do=do, check=check)
