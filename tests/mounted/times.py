"""Times: which calls move which, to the nanosecond, whatever commits do meanwhile (mount with --commit 0.1)."""

import json
import mmap
import os
import time

from common import main

NS = 1_000_000_000
DAY = 24 * 3600 * NS


def times(path):
    status = os.lstat(path)
    return status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns


def moved(path, work, which):
    """Runs `work`; exactly the times in `which` ("amc") become now, and a commit later they are the same."""
    before = times(path)
    time.sleep(0.02)
    early = time.time_ns() - 10_000_000
    work()
    now = times(path)
    for letter, old, new in zip("amc", before, now):
        if letter in which:
            assert early <= new <= time.time_ns() + 10_000_000 and new != old, (path, letter, old, new)
        else:
            assert new == old, (path, work, letter, old, new)
    time.sleep(0.3)
    assert times(path) == now, (path, work, now, times(path))


def content(path, how):
    def work():
        with open(path, "r+b", buffering=0) as file:
            if how == "write":
                file.write(b"x" * 5000)
            elif how == "synced":
                file.write(b"y" * 5000)
                os.fsync(file.fileno())
            elif how == "shrink":
                file.truncate(4000)
            elif how == "grow":
                file.truncate(9000)
            elif how == "same":
                file.truncate(9000)
            elif how == "map":
                with mmap.mmap(file.fileno(), 9000) as view:
                    view[10:12] = b"zz"
                    view.flush()

    return work


def reads(path):
    with open(path, "rb", buffering=0) as file:
        file.read()


def do(directory):
    os.chdir(directory)
    with open("file", "wb") as file:
        file.write(b"x" * 5000)
    os.mkdir("dir")
    os.mkfifo("fifo")
    os.symlink("file", "link")
    time.sleep(0.3)
    for how in ("write", "synced", "shrink", "grow", "same", "map"):
        # Opened for both: an access time in the future keeps reading out of it.
        os.utime("file", ns=(time.time_ns() + 50 * NS, os.stat("file").st_mtime_ns))
        moved("file", content("file", how), "mc")
    os.utime("file", ns=(time.time_ns() + 50 * NS, os.stat("file").st_mtime_ns))
    moved("file", lambda: os.truncate("file", 100), "mc")
    for path in ("file", "dir", "fifo"):
        moved(path, lambda: os.chmod(path, 0o700), "c")
        moved(path, lambda: os.chown(path, os.getuid(), -1), "c")
        moved(path, lambda: os.utime(path), "amc")
    for path in ("file", "dir", "fifo", "link"):
        before = times(path)
        time.sleep(0.02)
        os.rename(path, path + " moved")
        now = times(path + " moved")
        assert now[:2] == before[:2] and now[2] > before[2], (path, before, now)
        time.sleep(0.3)
        assert times(path + " moved") == now
        os.rename(path + " moved", path)
    # utimensat: now, omitted, of a link itself, to the nanosecond.
    os.utime("link", ns=(5 * NS + 123_456_789, 6 * NS + 987_654_321), follow_symlinks=False)
    assert times("link")[:2] == (5 * NS + 123_456_789, 6 * NS + 987_654_321)
    os.utime("dir", ns=(7 * NS + 1, 8 * NS + 2))
    assert times("dir")[:2] == (7 * NS + 1, 8 * NS + 2)
    # Names move the times of their directory.
    moved("dir", lambda: os.mkfifo("dir/a"), "mc")
    moved("dir", lambda: os.rename("dir/a", "dir/b"), "mc")
    moved("dir", lambda: os.mkdir("dir/c"), "mc")
    moved("dir", lambda: os.rmdir("dir/c"), "mc")
    moved("dir", lambda: os.unlink("dir/b"), "mc")
    moved("dir", lambda: os.symlink("x", "dir/link"), "mc")
    access()
    slow_writer()
    rewritten()
    note()


def access():
    with open("read", "wb") as file:
        file.write(b"r" * 10_000)
    time.sleep(0.02)
    moved("read", lambda: reads("read"), "a")
    moved("read", lambda: reads("read"), "")
    os.utime("read", ns=(time.time_ns() - DAY - NS, 5 * NS))
    # The change time is younger than this access time.
    moved("read", lambda: reads("read"), "a")
    moved("read", lambda: reads("read"), "")
    with open("read", "r+b") as file:
        file.write(b"!")
    moved("read", lambda: os.close(os.open("read", os.O_RDONLY | os.O_NOATIME)), "")
    moved("read", lambda: os.close(os.open("read", os.O_WRONLY)), "")
    moved("read", lambda: reads("read"), "a")
    moved("dir", lambda: os.listdir("dir"), "a")
    moved("dir", lambda: os.listdir("dir"), "")
    # Two users of one cached page: the second one counts as well.
    os.utime("read", ns=(NS, NS))
    reads("read")
    assert os.stat("read").st_atime_ns > NS


def slow_writer():
    """A modification time is that of the write, not of the commit that came to it."""
    for size in (1000, 400_000):
        with open("slow", "wb", buffering=0) as file:
            file.write(b"s" * size)
            at = os.fstat(file.fileno()).st_mtime_ns
            time.sleep(0.5)
            assert os.fstat(file.fileno()).st_mtime_ns == at
            os.fsync(file.fileno())
            assert os.fstat(file.fileno()).st_mtime_ns == at
        time.sleep(0.3)
        assert os.stat("slow").st_mtime_ns == at
        os.rename("slow", f"slow {size}")


def rewritten():
    """Files that are cut and written again right after somebody looked: the kernel's clock is then between two ticks."""
    for number in range(60):
        with open(f"rewritten {number}", "wb") as file:
            file.write(b"first")
        with open(f"rewritten {number}", "wb") as file:
            file.write(b"second")


def note():
    noted = {}
    for name in os.listdir("."):
        noted[name] = times(name)[1]
    noted["."] = None
    with open("noted", "w", encoding="ascii") as file:
        json.dump(noted, file)


def check(directory):
    os.chdir(directory)
    with open("noted", encoding="ascii") as file:
        noted = json.load(file)
    for name, mtime in noted.items():
        if mtime is not None:
            assert times(name)[1] == mtime, (name, mtime, times(name))
    assert times("link")[0] == 5 * NS + 123_456_789


def still(directory):
    """On a mount with noatime."""
    os.chdir(directory)
    with open("file", "wb") as file:
        file.write(b"x" * 5000)
    os.mkdir("dir")
    before = times("file"), times("dir")
    time.sleep(0.02)
    reads("file")
    os.listdir("dir")
    assert (times("file"), times("dir")) == before, (before, times("file"), times("dir"))


main(do=do, check=check, still=still)
