"""Files made without a name (O_TMPFILE): what they inherit, and how they get a name."""

import ctypes
import ctypes.util
import errno
import mmap
import os
import random
import signal
import stat
import struct

from common import link, main, refused

libc = ctypes.CDLL(ctypes.util.find_library("c") or "libc.so.6", use_errno=True)
AT_FDCWD, AT_EMPTY_PATH = -100, 0x1000
ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
SIZES = (0, 100, 5000, 3_000_000)


def nameless(directory=".", flags=0, mode=0o644):
    return os.open(directory, os.O_TMPFILE | os.O_RDWR | flags, mode)


def link_itself(file, name):
    """Without /proc; only root may."""
    if libc.linkat(file, b"", AT_FDCWD, name.encode(), AT_EMPTY_PATH) < 0:
        raise OSError(ctypes.get_errno(), "linkat")


def content(name, size):
    return random.Random(name).randbytes(size)


def read(path):
    with open(path, "rb") as file:
        return file.read()


def rights(status):
    return stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid


def access_list(where):
    try:
        return os.getxattr(where, ACCESS)
    except OSError as error:
        assert error.errno == errno.ENODATA, error
        return None


def do(directory):
    os.chdir(directory)
    names()
    refusals()
    heritage()
    late_names()
    check(".")


def names():
    for size in SIZES:
        for synced in (False, True):
            name, data = f"{size} {synced}", content(f"{size} {synced}", size)
            file = nameless()
            status = os.fstat(file)
            assert stat.S_ISREG(status.st_mode) and (status.st_nlink, status.st_size) == (0, 0), status
            before = sorted(os.listdir("."))
            os.write(file, data)
            if synced:
                os.fsync(file)
            assert sorted(os.listdir(".")) == before
            link(file, name)
            # At once, though nothing of it was committed, and most may be in the kernel's cache.
            named = os.stat(name)
            assert (named.st_nlink, named.st_size, named.st_ino) == (1, size, status.st_ino), named
            assert os.fstat(file).st_nlink == 1 and read(name) == data
            assert sorted(os.listdir(".")) == sorted(before + [name])
            link(file, f"{name} second")
            assert os.stat(name).st_nlink == 2
            os.close(file)
            os.rename(f"{name} second", f"{name} third")
            os.unlink(name)
            assert os.stat(f"{name} third").st_nlink == 1
            os.rename(f"{name} third", name)
    # Over another file, by a rename, as programs save.
    with open("saved", "wb") as old:
        old.write(b"old")
    file = nameless()
    os.write(file, content("saved", 70_000))
    link(file, "saved.new")
    os.close(file)
    os.rename("saved.new", "saved")
    # Changed by a map, and after it got its name.
    file = nameless()
    os.ftruncate(file, 200_000)
    with mmap.mmap(file, 200_000) as view:
        view[:] = content("mapped", 200_000)
        link(file, "mapped")
        view[:7] = b"changed"
    os.pwrite(file, b"grown", 200_000)
    os.close(file)


def refusals():
    refused(errno.EINVAL, os.open, ".", os.O_TMPFILE | os.O_RDONLY)
    refused(errno.ENOTDIR, os.open, "saved", os.O_TMPFILE | os.O_RDWR)
    refused(errno.ENOENT, os.open, "nowhere", os.O_TMPFILE | os.O_RDWR)
    file = nameless()
    refused(errno.EEXIST, link, file, "saved")
    os.close(file)
    # It never gets a name, whoever asks.
    file = nameless(flags=os.O_EXCL)
    os.write(file, b"never")
    refused(errno.ENOENT, link, file, "never")
    if os.getuid() == 0:
        refused(errno.ENOENT, link_itself, file, "never")
    again = os.open(f"/proc/self/fd/{file}", os.O_RDWR)
    refused(errno.ENOENT, link, again, "never")
    os.close(file)
    assert os.pread(again, 5, 0) == b"never"
    os.close(again)
    # Nor does one that lost its name again.
    file = nameless()
    link(file, "lost")
    os.unlink("lost")
    assert os.fstat(file).st_nlink == 0
    refused(errno.ENOENT, link, file, "never")
    os.close(file)
    os.mkdir("shut", 0o500)
    if os.getuid() != 0:
        refused(errno.EACCES, nameless, "shut")
    os.rmdir("shut")
    assert not os.path.exists("never")


def heritage():
    """As of a file that is created in the same directory."""
    acl = [(1, 7), (2, 6, 4001), (4, 5), (8, 6, 4002), (16, 6), (32, 4)]
    entries = (struct.pack("<HHI", e[0], e[1], e[2] if len(e) > 2 else 0xFFFFFFFF) for e in acl)
    os.mkdir("parents")
    old = os.umask(0o027)
    for number, (bits, has_list) in enumerate(((0o755, False), (0o2775, False), (0o755, True), (0o2775, True))):
        parent = f"parents/{number}"
        os.mkdir(parent)
        if os.getuid() == 0:
            os.chown(parent, 0, 4711)
        os.chmod(parent, bits)
        if has_list:
            os.setxattr(parent, DEFAULT, struct.pack("<I", 2) + b"".join(entries))
            entries = (struct.pack("<HHI", e[0], e[1], e[2] if len(e) > 2 else 0xFFFFFFFF) for e in acl)
        for mode in (0o666, 0o777, 0o600):
            plain = os.open(f"{parent}/plain", os.O_CREAT | os.O_RDWR, mode)
            file = nameless(parent, mode=mode)
            assert rights(os.fstat(file)) == rights(os.fstat(plain)), (number, oct(mode))
            assert access_list(file) == access_list(plain), (number, oct(mode))
            link(file, f"{parent}/{mode:o}")
            assert rights(os.stat(f"{parent}/{mode:o}")) == rights(os.fstat(plain))
            assert access_list(f"{parent}/{mode:o}") == access_list(plain)
            os.close(plain)
            os.close(file)
            os.rename(f"{parent}/plain", f"{parent}/{mode:o} plain")
    os.umask(old)


def late_names():
    """By other ways, in other directories, and with all that it was given before."""
    os.mkdir("other")
    file = nameless()
    os.write(file, content("given", 100_000))
    os.fchmod(file, 0o751)
    if os.getuid() == 0:
        os.fchown(file, 123, 456)
    os.setxattr(file, "user.given", b"given" * 100)
    os.utime(file, ns=(1_234_567_890_123_456_789, 987_654_321_098_765_432))
    link(file, "other/given")
    os.close(file)
    # Held without a handle when it gets its name.
    for size in (100, 3_000_000):
        file = nameless("other")
        os.write(file, content(f"path {size}", size))
        held = os.open(f"/proc/self/fd/{file}", os.O_PATH)
        os.close(file)
        link(held, f"path {size}")
        os.close(held)
        assert read(f"path {size}") == content(f"path {size}", size)
    if os.getuid() == 0:
        file = nameless("other")
        os.write(file, b"by root")
        link_itself(file, "other/by root")
        os.close(file)
    # Scratch: written over and over, and never named.
    file = nameless()
    for _ in range(30):
        data = os.urandom(1_000_000)
        os.pwrite(file, data, 0)
        os.fdatasync(file)
    assert os.pread(file, 1_000_001, 0) == data
    os.close(file)


def check(directory):
    os.chdir(directory)
    expected = {f"{size} {synced}" for size in SIZES for synced in (False, True)}
    for name in expected:
        assert read(name) == content(name, int(name.split()[0])), name
        assert os.stat(name).st_nlink == 1
    assert set(os.listdir(".")) == expected | {"saved", "mapped", "parents", "other", "path 100", "path 3000000"}
    assert read("saved") == content("saved", 70_000)
    assert read("mapped") == b"changed" + content("mapped", 200_000)[7:] + b"grown"
    for parent in os.listdir("parents"):
        for mode in ("666", "777", "600"):
            path = f"parents/{parent}/{mode}"
            assert rights(os.stat(path)) == rights(os.stat(f"{path} plain")), path
            assert access_list(path) == access_list(f"{path} plain"), path
    status = os.stat("other/given")
    assert status.st_mtime_ns == 987_654_321_098_765_432 and stat.S_IMODE(status.st_mode) == 0o751
    assert os.getxattr("other/given", "user.given") == b"given" * 100
    assert read("other/given") == content("given", 100_000)
    for size in (100, 3_000_000):
        assert read(f"path {size}") == content(f"path {size}", size)
    if os.getuid() == 0:
        assert (status.st_uid, status.st_gid) == (123, 456) and read("other/by root") == b"by root"


def sync(directory, daemon):
    """Kills the daemon when the files that were synced, one way or the other, are promised under their names."""
    os.chdir(directory)
    at = os.open(".", os.O_RDONLY)
    files = []
    for size in SIZES:
        before, after = nameless(), nameless()
        files += [before, after]
        for file in (before, after):
            os.write(file, content(f"synced {size}", size))
        os.fsync(before)
        link(before, f"before {size}")
        link(after, f"after {size}")
        os.fsync(after)
    os.fsync(at)
    unsynced = nameless()
    os.write(unsynced, content("unsynced", 200_000))
    link(unsynced, "unsynced")
    files += [unsynced, nameless()]
    os.write(files[-1], content("never named", 3_000_000))
    # All of them are open: nobody has come to the end of his writing.
    os.kill(int(daemon), signal.SIGKILL)


def survived(directory):
    os.chdir(directory)
    names = set(os.listdir("."))
    expected = {f"{when} {size}" for size in SIZES for when in ("before", "after")}
    assert expected <= names <= expected | {"unsynced"}, names
    for name in expected:
        assert read(name) == content(f"synced {name.split()[1]}", int(name.split()[1])), name
    if "unsynced" in names:
        assert read("unsynced") == content("unsynced", 200_000)


main(do=do, check=check, sync=sync, survived=survived)
