"""One file mapped shared by several processes, over commits, renames, truncation, unlink, and a killed daemon."""

import errno
import mmap
import os
import signal

from common import Other, main, refused

SIZE = 1 << 20
PAGE = mmap.PAGESIZE
maps = {}


def map_it(name, size=SIZE, how=mmap.MAP_SHARED):
    file = os.open(name, os.O_RDWR)
    maps[name] = mmap.mmap(file, size, how)
    os.close(file)


def load(name, offset, length):
    return maps[name][offset : offset + length]


def store(name, offset, data):
    maps[name][offset : offset + len(data)] = data


def count_up(name, offset, times):
    """Adds to a byte pair that is this process's own, in a page that others store to as well."""
    view = maps[name]
    for _ in range(times):
        value = int.from_bytes(view[offset : offset + 4], "little") + 1
        view[offset : offset + 4] = value.to_bytes(4, "little")


def sync(name):
    maps[name].flush()


def unmap(name):
    maps.pop(name).close()


def dies_of(signal_number, function, *args):
    """Whether a child that calls this gets the signal."""
    pid = os.fork()
    if pid == 0:
        function(*args)
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal_number, status


def do(directory):
    os.chdir(directory)
    first, second = Other(), Other()
    with open("shared", "wb") as file:
        file.write(b"o" * SIZE)
    for process in (first, second):
        process(map_it, "shared")
    # Stores are seen at once, before any commit, by the other map and by read.
    first(store, "shared", 10, b"first")
    assert second(load, "shared", 10, 5) == b"first"
    second(store, "shared", SIZE - 6, b"second")
    assert first(load, "shared", SIZE - 6, 6) == b"second"
    file = os.open("shared", os.O_RDWR)
    assert os.pread(file, 7, 9) == b"ofirsto" and os.pread(file, 6, SIZE - 6) == b"second"
    # What is written is seen in the maps.
    os.pwrite(file, b"written", 5000)
    assert first(load, "shared", 4999, 9) == second(load, "shared", 4999, 9) == b"owritteno"
    # The maps stay those of the file over commits of every kind, and over a rename.
    for turn, name in enumerate(["shared", "moved", "shared"]):
        first(store, "shared", 100 + turn, b"%d" % turn)
        first(sync, "shared")
        second(store, "shared", 200 + turn, b"%d" % turn)
        os.fsync(file)
        if name != ["shared", "shared", "moved"][turn]:
            os.rename(["shared", "shared", "moved"][turn], name)
        with open(name, "rb") as other:
            assert other.read()[100 : 101 + turn] == b"012"[: turn + 1]
        assert second(load, "shared", 100, turn + 1) == first(load, "shared", 200, turn + 1) == b"012"[: turn + 1]
    # Both store into one page at the same time, while it is committed again and again.
    first(store, "shared", 3 * PAGE, bytes(PAGE))
    first.begin(count_up, "shared", 3 * PAGE + 8, 20_000)
    second.begin(count_up, "shared", 3 * PAGE + 12, 20_000)
    for _ in range(10):
        os.fsync(file)
    first.end()
    second.end()
    assert first(load, "shared", 3 * PAGE + 8, 8) == (20_000).to_bytes(4, "little") * 2
    # A private map keeps its own.
    private = Other()
    private(map_it, "shared", SIZE, mmap.MAP_PRIVATE)
    private(store, "shared", 300, b"private")
    assert first(load, "shared", 300, 7) == b"ooooooo" and private(load, "shared", 300, 7) == b"private"
    private.close()
    # The map outlives the descriptor and the name.
    os.link("shared", "kept")
    os.unlink("shared")
    first(store, "shared", 400, b"after unlink")
    assert second(load, "shared", 400, 12) == b"after unlink"
    os.rename("kept", "shared")
    for process in (first, second):
        process(unmap, "shared")
    assert os.pread(file, 12, 400) == b"after unlink"
    os.close(file)
    nobody(first, second)
    beyond(first)
    first.close()
    second.close()
    with open("shared", "rb") as file, open("expected", "wb") as expected:
        expected.write(file.read())
    check(".")


def nobody(first, second):
    """A file that has no name and no descriptor, only maps."""
    with open("nameless", "wb") as file:
        file.write(bytes(SIZE))
    first(map_it, "nameless")
    second(map_it, "nameless")
    os.unlink("nameless")
    first(store, "nameless", 7, b"nameless")
    first(sync, "nameless")
    assert second(load, "nameless", 7, 8) == b"nameless"
    with open("nameless", "wb") as file:
        file.write(b"another")
    assert second(load, "nameless", 7, 8) == b"nameless"
    first(unmap, "nameless")
    second(unmap, "nameless")


def beyond(first):
    """Pages wholly beyond the end are SIGBUS; the rest of the last page is zeros, and nothing stored there stays."""
    with open("short", "wb") as file:
        file.write(b"s" * 4 * PAGE)
    # Python maps nothing longer than the file is.
    first(map_it, "short", 4 * PAGE)
    map_it("short", 4 * PAGE)
    os.truncate("short", PAGE + 10)
    assert load("short", PAGE, 20) == b"s" * 10 + bytes(10)
    dies_of(signal.SIGBUS, load, "short", 2 * PAGE, 1)
    dies_of(signal.SIGBUS, store, "short", 3 * PAGE, b"x")
    store("short", PAGE + 10, b"beyond")
    sync("short")
    assert os.stat("short").st_size == PAGE + 10
    with open("short", "rb") as file:
        assert file.read() == b"s" * (PAGE + 10)
    # Grown under the map: there, and zeros. Shrunk: gone.
    os.truncate("short", 3 * PAGE)
    assert load("short", 2 * PAGE, PAGE) == first(load, "short", 2 * PAGE, PAGE) == bytes(PAGE)
    with open("short", "rb") as file:
        assert file.read()[PAGE:] == b"s" * 10 + bytes(2 * PAGE - 10)
    first(store, "short", 2 * PAGE, b"stored")
    os.truncate("short", PAGE)
    dies_of(signal.SIGBUS, load, "short", PAGE, 1)
    os.truncate("short", 3 * PAGE)
    assert load("short", PAGE, 2 * PAGE) == bytes(2 * PAGE)
    unmap("short")
    first(unmap, "short")
    # A descriptor that cannot write gives no shared map that can.
    file = os.open("short", os.O_RDONLY)
    refused(errno.EACCES, mmap.mmap, file, PAGE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
    os.close(file)


def check(directory):
    os.chdir(directory)
    with open("shared", "rb") as file, open("expected", "rb") as expected:
        content = file.read()
        assert content == expected.read() and content[10:15] == b"first" and content[-6:] == b"second"
        assert content[5000:5007] == b"written" and content[400:412] == b"after unlink"
        assert content[3 * PAGE + 8 :][:8] == (20_000).to_bytes(4, "little") * 2
    with open("short", "rb") as file:
        assert file.read() == b"s" * PAGE + bytes(2 * PAGE)
    with open("nameless", "rb") as file:
        assert file.read() == b"another"


def synced(directory, daemon):
    """Stores and msync(MS_SYNC), of a file big and small, then the daemon is killed with everything mapped."""
    os.chdir(directory)
    for name, size in (("big", SIZE), ("small", PAGE)):
        with open(name, "wb") as file:
            file.write(b"o" * size)
        map_it(name, size)
        store(name, size - 3, b"new")
        # All that is committed is what was there at msync.
        sync(name)
    os.kill(int(daemon), signal.SIGKILL)


def survived(directory):
    os.chdir(directory)
    for name, size in (("big", SIZE), ("small", PAGE)):
        with open(name, "rb") as file:
            assert file.read() == b"o" * (size - 3) + b"new", name


main(do=do, check=check, synced=synced, survived=survived)
