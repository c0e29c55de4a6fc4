"""Reading and writing past the kernel's cache (O_DIRECT), and writes that are durable when they return (O_SYNC,
O_DSYNC, RWF_*)."""

import errno
import fcntl
import mmap
import os
import random
import signal
import stat

from common import link, main

SIZE = 3_000_000


def buffer_of(data):
    """A copy at the beginning of a page, as O_DIRECT wants it on other filesystems."""
    pages = mmap.mmap(-1, max(len(data), 1))
    pages[: len(data)] = data
    return memoryview(pages)[: len(data)]


def read_at(file, length, offset):
    buffer = buffer_of(bytes(length))
    return bytes(buffer[: os.preadv(file, [buffer], offset)])


def write_at(file, data, offset):
    assert os.pwritev(file, [buffer_of(data)], offset) == len(data)


def do(directory):
    os.chdir(directory)
    rng = random.Random(7)
    cached = os.open("mixed", os.O_RDWR | os.O_CREAT, 0o600)
    direct = os.open("mixed", os.O_RDWR | os.O_DIRECT)
    content = bytearray(rng.randbytes(SIZE))
    os.pwrite(cached, content, 0)
    # What is only in the kernel's cache is seen past it, and the other way round.
    assert read_at(direct, SIZE + 8192, 0) == content
    view = mmap.mmap(cached, SIZE)
    for turn in range(60):
        # Aligned to blocks, to sectors, to nothing; a few bytes or many blocks.
        grain = (4096, 512, 1)[turn % 3]
        offset = rng.randrange(SIZE - 400_000) // grain * grain
        data = rng.randbytes(rng.randrange(1, 400_000 if turn % 5 == 0 else 20_000) // grain * grain + grain)
        data = data[: (SIZE - offset) // grain * grain]
        if turn % 4 < 2:
            write_at(direct, data, offset)
        elif turn % 4 == 2:
            os.pwrite(cached, data, offset)
        else:
            view[offset : offset + len(data)] = data
            view.flush()
        content[offset : offset + len(data)] = data
        assert os.pread(cached, len(data) + 100, max(0, offset - 50)) == content[max(0, offset - 50) :][: len(data) + 100]
        assert read_at(direct, len(data), offset) == content[offset:][: len(data)]
        assert view[offset : offset + len(data)] == content[offset:][: len(data)]
        if turn == 30:
            os.fsync(direct)
    view.close()
    # At the end and beyond; a write that leaves a hole; growing, shrinking.
    assert read_at(direct, 8192, SIZE - 10) == content[-10:] and read_at(direct, 4096, SIZE + 4096) == b""
    write_at(direct, b"far" + bytes(4093), SIZE // 4096 * 4096 + 40_960)
    content += bytes(SIZE // 4096 * 4096 + 40_960 - SIZE) + b"far" + bytes(4093)
    assert os.fstat(cached).st_size == len(content)
    os.ftruncate(cached, len(content) - 5000)
    del content[-5000:]
    assert read_at(direct, len(content) + 4096, 0) == content
    os.close(direct)
    os.close(cached)

    # Turned on and off on an open file; appending past the cache.
    log = os.open("log", os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_DIRECT, 0o600)
    write_at(log, b"a" * 4096, 0)
    flags = fcntl.fcntl(log, fcntl.F_GETFL)
    assert flags & os.O_DIRECT and flags & os.O_APPEND
    fcntl.fcntl(log, fcntl.F_SETFL, flags & ~os.O_DIRECT)
    os.write(log, b"b" * 10)
    fcntl.fcntl(log, fcntl.F_SETFL, flags)
    write_at(log, b"c" * 4096, 0)
    fcntl.fcntl(log, fcntl.F_SETFL, flags & ~os.O_APPEND)
    write_at(log, b"d" * 512, 512)
    os.close(log)

    # The flags of single calls.
    file = os.open("calls", os.O_RDWR | os.O_CREAT, 0o600)
    assert os.pwritev(file, [b"begin", b"ning"], 0) == 9
    assert os.pwritev(file, [b" and end"], 0, os.RWF_APPEND) == 8
    assert os.pwritev(file, [b"BEGIN"], 0, os.RWF_DSYNC) == 5
    assert os.pwritev(file, [b"N"], 5, os.RWF_SYNC) == 1
    parts = [bytearray(5), bytearray(100)]
    assert os.preadv(file, parts, 0) == 17
    assert bytes(parts[0]) == b"BEGIN" and parts[1].startswith(b"Ning and end\0")
    # Without waiting: done, or refused.
    for call in (lambda: os.preadv(file, [bytearray(5)], 0, os.RWF_NOWAIT), lambda: os.pwritev(file, [b"BEGIN"], 0, os.RWF_NOWAIT)):
        try:
            assert call() == 5
        except OSError as error:
            assert error.errno in (errno.EAGAIN, errno.EOPNOTSUPP), error
    assert os.preadv(file, [bytearray(5)], 0, os.RWF_HIPRI) == 5
    os.close(file)
    with open("expected", "wb") as expected:
        expected.write(content)
    check(".")


def check(directory):
    os.chdir(directory)
    with open("expected", "rb") as expected, open("mixed", "rb") as mixed:
        content = expected.read()
        assert mixed.read() == content
    direct = os.open("mixed", os.O_RDONLY | os.O_DIRECT)
    assert read_at(direct, len(content) + 4096, 0) == content
    os.close(direct)
    with open("log", "rb") as log:
        assert log.read() == b"a" * 512 + b"d" * 512 + b"a" * 3072 + b"b" * 10 + b"c" * 4096
    with open("calls", "rb") as calls:
        assert calls.read() == b"BEGINNing and end"


# Name, flags of open, flags of the write call.
DURABLE = [
    ("sync", os.O_SYNC, 0),
    ("dsync", os.O_DSYNC, 0),
    ("sync append", os.O_SYNC | os.O_APPEND, 0),
    ("dsync direct", os.O_DSYNC | os.O_DIRECT, 0),
    ("rwf sync", 0, os.RWF_SYNC),
    ("rwf dsync", 0, os.RWF_DSYNC),
    ("rwf dsync append", 0, os.RWF_DSYNC | os.RWF_APPEND),
    ("rwf sync direct", os.O_DIRECT, os.RWF_SYNC),
]


def prepare(directory):
    """Old versions, one small and one of many blocks for each way."""
    os.chdir(directory)
    for name, _, _ in DURABLE + [("plain", 0, 0)]:
        for suffix, size in ((" small", 4096), (" big", 1 << 20)):
            with open(name + suffix, "wb", buffering=0) as file:
                file.write(b"o" * size)
                os.fsync(file.fileno())


def durable(directory, daemon, ways="all"):
    """Writes and, with everything still open, kills the daemon. `ways` "plain": nothing that asks for it."""
    os.chdir(directory)
    keep = []
    for name, flags, call in DURABLE if ways == "all" else []:
        for suffix, size in ((" small", 4096), (" big", 1 << 20)):
            file = os.open(name + suffix, os.O_WRONLY | flags)
            assert os.pwritev(file, [buffer_of(b"n" * 8192)], 0 if "append" in name else size - 4096, call) == 8192
            keep.append(file)
        # A new file's name comes with it.
        file = os.open(name + " new", os.O_WRONLY | os.O_CREAT | flags, 0o600)
        assert os.pwritev(file, [buffer_of(b"n" * 4096)], 0, call) == 4096
        keep.append(file)
    file = os.open("plain small", os.O_WRONLY)
    assert os.pwrite(file, b"n" * 8192, 0) == 8192
    os.kill(int(daemon), signal.SIGKILL)


def survived(directory, ways="all"):
    os.chdir(directory)
    for name, _, _ in DURABLE if ways == "all" else []:
        for suffix, size in ((" small", 4096), (" big", 1 << 20)):
            kept = size if "append" in name else size - 4096
            with open(name + suffix, "rb") as file:
                assert file.read() == b"o" * kept + b"n" * 8192, name + suffix
        with open(name + " new", "rb") as file:
            assert file.read() == b"n" * 4096, name
    with open("plain small", "rb") as file:
        content = file.read()
    # Written without a word about durability: kept where the mount is synchronous, else gone.
    assert content == (b"n" * 8192 if ways == "plain" else b"o" * 4096), content[:10]


def names(directory, daemon):
    """Changes of names on a mount with dirsync, each told to be done, then the daemon is killed."""
    os.chdir(directory)
    for name in ("moved", "over", "removed", "linked"):
        with open(name, "wb") as file:
            file.write(name.encode())
            file.flush()
            os.fsync(file.fileno())
    os.mkdir("removed directory")
    os.mkdir("dir")
    made = os.open("made", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
    late = os.open(".", os.O_WRONLY | os.O_TMPFILE, 0o640)
    link(late, "dir/late")
    os.mkfifo("dir/fifo")
    os.symlink("target", "dir/link")
    os.mknod("dir/node")
    os.link("linked", "dir/second")
    os.rename("moved", "over")
    os.rename("over", "dir/over")
    os.unlink("removed")
    os.rmdir("removed directory")
    os.kill(int(daemon), signal.SIGKILL)
    assert made >= 0 and late >= 0


def names_survived(directory):
    os.chdir(directory)
    assert sorted(os.listdir(".")) == ["dir", "linked", "made"], os.listdir(".")
    assert sorted(os.listdir("dir")) == ["fifo", "late", "link", "node", "over", "second"], os.listdir("dir")
    assert os.readlink("dir/link") == "target" and os.stat("dir/second").st_nlink == 2
    assert os.stat("made").st_mode & 0o777 == 0o640 and stat.S_ISFIFO(os.stat("dir/fifo").st_mode)
    with open("dir/over", "rb") as file:
        assert file.read() == b"moved"


main(names=names, names_survived=names_survived, do=do, check=check, prepare=prepare, durable=durable, survived=survived)
