"""Files used after they lost their name, and directories removed while open."""

import errno
import mmap
import os

from common import main


def do(directory):
    os.chdir(directory)
    # Committed before, never committed, and big.
    for name, size in [("small", 100), ("big", 3_000_000)]:
        for fresh in (False, True):
            content = os.urandom(size)
            file = open(name, "w+b", buffering=0)
            file.write(content)
            if not fresh:
                os.fsync(file.fileno())
                file.close()
                file = open(name, "r+b", buffering=0)
            os.unlink(name)
            assert not os.path.exists(name) and os.fstat(file.fileno()).st_nlink == 0
            assert file.read() == (b"" if fresh else content)
            assert os.pread(file.fileno(), size, 0) == content
            os.pwrite(file.fileno(), b"written later", 50)
            os.ftruncate(file.fileno(), size + 5000)
            os.fsync(file.fileno())
            expected = content[:50] + b"written later" + content[63:] + bytes(5000)
            assert os.pread(file.fileno(), size + 6000, 0) == expected
            # The name is free for another file.
            with open(name, "wb") as other:
                other.write(b"another")
            assert os.pread(file.fileno(), 13, 50) == b"written later"
            with mmap.mmap(file.fileno(), 0) as view:
                view[60:63] = b"map"
            assert os.pread(file.fileno(), 13, 50) == b"written lamap"
            file.close()
            with open(name, "rb") as other:
                assert other.read() == b"another"
    # A directory removed while somebody stands in it.
    os.mkdir("gone")
    inside = os.open("gone", os.O_RDONLY | os.O_DIRECTORY)
    os.rmdir("gone")
    assert os.listdir(inside) == []
    try:
        os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=inside)
    except OSError as error:
        assert error.errno == errno.ENOENT, error
    else:
        raise AssertionError("a file was made in a removed directory")
    os.close(inside)
    # rmdir of one that is not empty but for a file that was never committed.
    os.mkdir("full")
    with open("full/fresh", "wb"):
        try:
            os.rmdir("full")
        except OSError as error:
            assert error.errno == errno.ENOTEMPTY, error
        else:
            raise AssertionError("a directory with a pending file was removed")
        os.unlink("full/fresh")
        os.rmdir("full")
    check(".")


def check(directory):
    os.chdir(directory)
    assert sorted(os.listdir(".")) == ["big", "small"]
    for name in ("big", "small"):
        with open(name, "rb") as file:
            assert file.read() == b"another"
    # What was unlinked leaves nothing to be freed later.
    assert os.stat(".").st_nlink >= 1


main(do=do, check=check)
