"""mmap: searching a file, changing it in place through a shared mapping, growing it and mapping that."""

import mmap
import os

from common import main

PAGE = 4096
COUNT = 700
NEEDLE = b"needle in the haystack"
PLACES = {0: b"first", 5 * PAGE - 3: b"across two pages", 300 * PAGE + 17: b"middle", COUNT * PAGE - 4: b"last"}


def original():
    content = bytearray(b"".join(n.to_bytes(4, "little") * (PAGE // 4) for n in range(COUNT)))
    content[123_456 : 123_456 + len(NEEDLE)] = NEEDLE
    return content


def expected():
    content = original()
    for place, text in PLACES.items():
        content[place : place + len(text)] = text
    return content + bytes(10 * PAGE) + b"!" * PAGE


def do(directory):
    path = os.path.join(directory, "mapped")
    with open(path, "wb") as out:
        out.write(original())
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as view:
        assert view.find(NEEDLE) == 123_456
        assert view.find(b"not in there") == -1
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as view:
        for place, text in PLACES.items():
            view[place : place + len(text)] = text
            view.flush()
            found = os.pread(file.fileno(), len(text), place)
            assert found == text, "read(2) must see what the mapping wrote"
        assert view[9 * PAGE : 9 * PAGE + 4] == (9).to_bytes(4, "little")
        os.pwrite(file.fileno(), b"through pwrite", 9 * PAGE)
        assert view[9 * PAGE : 9 * PAGE + 14] == b"through pwrite"
        os.pwrite(file.fileno(), original()[9 * PAGE : 9 * PAGE + 14], 9 * PAGE)
    # Grown, mapped, written, and closed without msync: munmap hands the pages over.
    with open(path, "r+b") as file:
        os.ftruncate(file.fileno(), (COUNT + 11) * PAGE)
        view = mmap.mmap(file.fileno(), 0)
    view[(COUNT + 10) * PAGE :] = b"!" * PAGE
    view.close()
    check(directory)


def check(directory):
    path = os.path.join(directory, "mapped")
    with open(path, "rb") as file:
        assert file.read() == expected()
        with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as view:
            assert view[:] == expected()


main(do=do, check=check)
