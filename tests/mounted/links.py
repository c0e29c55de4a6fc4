"""Hard links, as programs use them."""

import filecmp
import os
import stat
import subprocess

from common import main


def same(*paths, content=None):
    """These are the names of one file, and all of them."""
    stats = [os.lstat(path) for path in paths]
    assert len({status.st_ino for status in stats}) == 1, paths
    for path, status in zip(paths, stats):
        assert status.st_nlink == len(paths), (path, status.st_nlink, len(paths))
        assert (status.st_size, status.st_mtime_ns, status.st_mode) == (
            stats[0].st_size,
            stats[0].st_mtime_ns,
            stats[0].st_mode,
        ), paths
        folder, name = os.path.split(path)
        listed = {entry.name: entry.inode() for entry in os.scandir(folder or ".")}
        assert listed[name] == status.st_ino, path
        if content is not None:
            with open(path, "rb") as file:
                assert file.read() == content, path


def fails(code, call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except OSError as error:
        assert error.errno == code, error
    else:
        raise AssertionError(f"{call} {args} did not fail")


def do(directory):
    os.chdir(directory)
    os.mkdir("dir")
    # The size is the plaintext's at once, also of what is still being written.
    with open("a", "wb") as file:
        file.write(b"a" * 5000)
        file.flush()
        os.link("a", "dir/b")
        same("a", "dir/b", content=b"a" * 5000)
        file.write(b"more")
    same("a", "dir/b", content=b"a" * 5000 + b"more")
    os.link("dir/b", "c")
    same("a", "dir/b", "c")
    # Changed by one name, seen by all: appended to, in place, cut, mapped; attributes.
    with open("c", "ab") as file:
        file.write(b"end")
    with open("dir/b", "r+b") as file:
        file.write(b"BEGIN")
    os.truncate("a", 5005)
    os.chmod("c", 0o604)
    os.utime("dir/b", ns=(10**18, 10**18 + 7))
    same("a", "dir/b", "c", content=b"BEGIN" + b"a" * 4995 + b"more" + b"e")
    assert stat.S_IMODE(os.stat("a").st_mode) == 0o604 and os.stat("a").st_mtime_ns == 10**18 + 7
    # A save by rename takes one name out of it.
    with open("new", "wb") as file:
        file.write(b"new")
    os.rename("new", "a")
    same("a", content=b"new")
    same("dir/b", "c")
    # Two names of one file: rename does nothing.
    os.rename("dir/b", "c")
    same("dir/b", "c")
    os.rename("c", "dir/c")
    same("dir/b", "dir/c")
    before = os.stat("dir/b")
    os.unlink("dir/c")
    after = os.stat("dir/b")
    assert after.st_nlink == 1 and after.st_ctime_ns >= before.st_ctime_ns
    # Symbolic links, fifos, and what cannot be.
    os.symlink("a", "link")
    os.link("link", "dir/link", follow_symlinks=False)
    os.mkfifo("fifo")
    os.link("fifo", "dir/fifo")
    same("link", "dir/link")
    same("fifo", "dir/fifo")
    assert os.readlink("dir/link") == "a"
    fails(1, os.link, "dir", "dir2")
    fails(17, os.link, "a", "dir")
    fails(17, os.link, "a", "link")
    fails(2, os.link, "nothing", "x")
    fails(2, os.link, "a", "nowhere/x")
    # Open, and its names come and go.
    file = os.open("a", os.O_RDWR)
    os.link("a", "a2")
    os.unlink("a")
    os.link("a2", "a3")
    os.unlink("a2")
    os.write(file, b"NEW!")
    same("a3", content=b"NEW!")
    os.unlink("a3")
    assert os.fstat(file).st_nlink == 0
    os.fchmod(file, 0o600)
    os.ftruncate(file, 2)
    assert os.pread(file, 10, 0) == b"NE"
    os.close(file)
    # Like a mailbox does: written, synced, linked, unlinked.
    for number in range(20):
        with open(f"dir/tmp {number}", "wb") as file:
            file.write(b"mail %d" % number)
            if number % 2:
                os.fsync(file.fileno())
        os.link(f"dir/tmp {number}", f"mail {number}")
        os.unlink(f"dir/tmp {number}")
    # Like a lock: whoever's link succeeds has it.
    for number in range(5):
        with open(f"lock {number}", "wb"):
            pass
        os.link(f"lock {number}", "lock")
        fails(17, os.link, f"lock {number}", "lock")
        assert os.stat(f"lock {number}").st_nlink == 2
        os.unlink("lock")
        os.unlink(f"lock {number}")
    many()
    tree()


def many():
    os.mkdir("many")
    with open("many/0", "wb") as file:
        file.write(b"x" * 300_000)
    for number in range(1, 300):
        os.link("many/0", f"many/{number}")
    same(*(f"many/{number}" for number in range(300)))


def tree():
    """A tree, and two snapshots of it that share what did not change."""
    os.makedirs("tree/src/deep")
    for number in range(300):
        with open(f"tree/src/{number}", "wb") as file:
            file.write(b"%d\n" % number * number)
    with open("tree/src/deep/link me", "wb") as file:
        file.write(b"deep" * 100_000)
    subprocess.run(["cp", "-al", "tree", "snapshot 1"], check=True)
    for number in range(0, 300, 10):
        os.unlink(f"tree/src/{number}")
        with open(f"tree/src/{number}", "wb") as file:
            file.write(b"changed")
    subprocess.run(["cp", "-al", "tree", "snapshot 2"], check=True)


def check(directory):
    os.chdir(directory)
    same("a3") if os.path.exists("a3") else None
    assert not os.path.exists("a")
    same("dir/b", content=b"BEGIN" + b"a" * 4995 + b"more" + b"e")
    same("link", "dir/link")
    same("fifo", "dir/fifo")
    for number in range(20):
        same(f"mail {number}", content=b"mail %d" % number)
    assert sorted(os.listdir("dir")) == ["b", "fifo", "link"]
    same(*(f"many/{number}" for number in range(300)), content=b"x" * 300_000)
    for number in range(300):
        paths = [f"{top}/src/{number}" for top in ("tree", "snapshot 2", "snapshot 1")]
        if number % 10:
            same(*paths, content=b"%d\n" % number * number)
        else:
            same(*paths[:2], content=b"changed")
            same(paths[2], content=b"%d\n" % number * number)
    assert filecmp.cmp("tree/src/deep/link me", "snapshot 1/src/deep/link me", shallow=False)


def sync(directory):
    """All of it durable: names through their directories."""
    for path, _, names in os.walk(directory):
        for name in [os.path.join(path, name) for name in names] + [path]:
            if stat.S_ISREG(os.lstat(name).st_mode) or name == path:
                file = os.open(name, os.O_RDONLY)
                os.fsync(file)
                os.close(file)


def remove(directory):
    os.chdir(directory)
    subprocess.run(["sh", "-c", "rm -rf -- *"], check=True)
    assert os.listdir(".") == []


main(do=do, sync=sync, check=check, remove=remove)
