"""Every call on files and directories that lost their last name while they were open; and a name that is there all
the time although it is renamed over."""

import ctypes
import ctypes.util
import errno
import fcntl
import mmap
import os
import stat

from common import Other, link, main, refused

libc = ctypes.CDLL(ctypes.util.find_library("c") or "libc.so.6", use_errno=True)
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16
ROUNDS = 1500


def fallocate(file, mode, offset, length):
    if libc.fallocate(file, mode, ctypes.c_int64(offset), ctypes.c_int64(length)) < 0:
        raise OSError(ctypes.get_errno(), "fallocate")


def every_call(file, content):
    """All that a descriptor can be used for, on a file without a name."""
    status = os.fstat(file)
    assert status.st_nlink == 0 and status.st_size == len(content) and stat.S_ISREG(status.st_mode)
    inode = status.st_ino
    assert os.pread(file, len(content) + 10, 0) == content
    content = bytearray(content)
    os.pwrite(file, b"written", 50)
    content[50:57] = b"written"
    os.pwrite(file, b"far", len(content) + 10_000)
    content += bytes(10_000) + b"far"
    os.fsync(file)
    assert os.pread(file, len(content) + 10, 0) == content
    os.ftruncate(file, 5000)
    del content[5000:]
    os.ftruncate(file, 400_000)
    content += bytes(400_000 - len(content))
    os.fdatasync(file)
    assert os.pread(file, len(content) + 10, 0) == content
    # Attributes.
    os.fchmod(file, 0o751)
    assert stat.S_IMODE(os.fstat(file).st_mode) == 0o751
    os.fchown(file, os.getuid(), os.getgid())
    if os.getuid() == 0:
        os.fchown(file, 123, 456)
        assert (os.fstat(file).st_uid, os.fstat(file).st_gid) == (123, 456)
    os.utime(file, ns=(1_234_567_890_123_456_789, 987_654_321_098_765_432))
    status = os.fstat(file)
    assert (status.st_atime_ns, status.st_mtime_ns) == (1_234_567_890_123_456_789, 987_654_321_098_765_432)
    os.setxattr(file, "user.nameless", b"value")
    assert os.getxattr(file, "user.nameless") == b"value" and "user.nameless" in os.listxattr(file)
    refused(errno.EEXIST, os.setxattr, file, "user.nameless", b"", os.XATTR_CREATE)
    os.removexattr(file, "user.nameless")
    refused(errno.ENODATA, os.getxattr, file, "user.nameless")
    os.setxattr(file, "user.kept", b"kept")
    # Space.
    fallocate(file, 0, 400_000, 50_000)
    content += bytes(50_000)
    os.pwrite(file, b"d" * 100_000, 100_000)
    content[100_000:200_000] = b"d" * 100_000
    fallocate(file, PUNCH_HOLE | KEEP_SIZE, 120_000, 30_000)
    content[120_000:150_000] = bytes(30_000)
    fallocate(file, ZERO_RANGE, 180_000, 10_000)
    content[180_000:190_000] = bytes(10_000)
    assert os.pread(file, len(content) + 10, 0) == content
    assert os.lseek(file, 0, os.SEEK_DATA) == 0 and os.lseek(file, 0, os.SEEK_END) == len(content)
    # Maps.
    with mmap.mmap(file, len(content)) as view:
        view[300_000:300_006] = b"mapped"
        content[300_000:300_006] = b"mapped"
        view.flush()
    assert os.pread(file, len(content) + 10, 0) == content
    # A second description of the same file; it gets no name back.
    again = os.open(f"/proc/self/fd/{file}", os.O_RDWR)
    assert os.fstat(again).st_ino == inode and os.pread(again, 6, 300_000) == b"mapped"
    os.pwrite(again, b"again", 0)
    content[:5] = b"again"
    fcntl.flock(again, fcntl.LOCK_EX)
    refused((errno.EAGAIN, errno.EACCES), fcntl.flock, file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(again)
    truncated = os.open(f"/proc/self/fd/{file}", os.O_WRONLY | os.O_APPEND)
    os.write(truncated, b"appended")
    content += b"appended"
    os.close(truncated)
    assert os.pread(file, len(content) + 10, 0) == content
    refused(errno.ENOENT, link, file, "back")
    assert not os.path.exists("back")
    # Copied out and, as a last resort, that brings the content back.
    os.lseek(file, 0, os.SEEK_SET)
    with open("copy", "wb") as copy:
        done = 0
        while done < len(content):
            done += os.copy_file_range(file, copy.fileno(), len(content) - done, done, done)
    with open("copy", "rb") as copy:
        assert copy.read() == content
    os.unlink("copy")
    os.fsync(file)
    status = os.fstat(file)
    assert status.st_nlink == 0 and status.st_ino == inode and os.getxattr(file, "user.kept") == b"kept"
    os.fchmod(file, 0)
    assert os.pread(file, 5, 0) == b"again"


def do(directory):
    os.chdir(directory)
    for size in (0, 100, 3_000_000):
        ways = ("never committed", "committed", "replaced", "one of two names", "removed directory", "made without")
        for way in ways:
            content = os.urandom(size)
            if size < 60:
                content = bytes(60)
            if way == "removed directory":
                os.mkdir("dir")
            name = "dir/file" if way == "removed directory" else "file"
            if way == "made without":
                file = os.open(".", os.O_RDWR | os.O_TMPFILE | os.O_EXCL, 0o600)
            else:
                file = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            os.write(file, content)
            if way != "never committed":
                os.fsync(file)
            if way == "one of two names":
                os.link("file", "second")
                os.unlink("file")
                assert os.fstat(file).st_nlink == 1
                os.unlink("second")
            elif way == "replaced":
                with open("other", "wb") as other:
                    other.write(b"other")
                os.rename("other", "file")
            elif way != "made without":
                os.unlink(name)
            if way == "removed directory":
                os.rmdir("dir")
            every_call(file, content)
            os.close(file)
            if way == "replaced":
                with open("file", "rb") as other:
                    assert other.read() == b"other"
                os.unlink("file")
    directories()
    always_there()
    with open("left", "wb") as left:
        left.write(b"left")
    check(".")


def directories():
    """A directory that was removed while somebody stands in it."""
    os.mkdir("gone")
    os.mkdir("gone/below")
    at = os.open("gone", os.O_RDONLY | os.O_DIRECTORY)
    below = os.open("gone/below", os.O_RDONLY | os.O_DIRECTORY)
    make = lambda: os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=at)
    refused(errno.ENOTEMPTY, os.rmdir, "gone")
    os.rmdir("gone/below")
    os.rmdir("gone")
    with open("file", "wb"):
        pass
    for file in (at, below):
        assert os.listdir(file) == []
        status = os.fstat(file)
        assert stat.S_ISDIR(status.st_mode) and status.st_nlink == 0, status
    refused(errno.ENOENT, make)
    refused(errno.ENOENT, os.mkdir, "new", dir_fd=at)
    refused(errno.ENOENT, os.symlink, "target", "new", dir_fd=at)
    refused(errno.ENOENT, os.mkfifo, "new", dir_fd=at)
    refused(errno.ENOENT, os.link, "file", "new", dst_dir_fd=at)
    refused(errno.ENOENT, os.rename, "file", "new", dst_dir_fd=at)
    refused(errno.ENOENT, os.stat, "new", dir_fd=at)
    refused(errno.ENOENT, os.unlink, "new", dir_fd=at)
    os.fchmod(at, 0o711)
    assert stat.S_IMODE(os.fstat(at).st_mode) == 0o711
    os.setxattr(at, "user.kept", b"kept")
    assert os.getxattr(at, "user.kept") == b"kept"
    os.utime(at, ns=(1, 2))
    os.fsync(at)
    os.close(at)
    os.close(below)
    # The name is free, and what takes it is another directory.
    at = os.open(".", os.O_RDONLY)
    os.mkdir("gone")
    inside = os.open("gone", os.O_RDONLY)
    os.rmdir("gone")
    os.mkdir("gone")
    with open("gone/file", "wb"):
        pass
    assert os.listdir(inside) == [] and os.listdir("gone") == ["file"]
    os.unlink("gone/file")
    os.rmdir("gone")
    os.close(inside)
    os.close(at)
    os.unlink("file")


def replace(rounds):
    """Renames one complete file after another over a name."""
    for number in range(rounds):
        with open("next", "wb") as file:
            file.write(b"%06d" % number * 10)
        os.rename("next", "there")


def look(rounds):
    """What opening found: never nothing, and never an older one than before."""
    last = 0
    for _ in range(rounds):
        with open("there", "rb") as file:
            content = file.read()
        assert content == content[:6] * 10 and int(content[:6]) >= last, content
        last = int(content[:6])
        os.stat("there")
        os.access("there", os.R_OK)
    return last


def always_there():
    replace(1)
    writer, reader = Other(), Other()
    writer.begin(replace, ROUNDS)
    last = -1
    while writer.is_busy(0):
        last = reader(look, 200)
    writer.end()
    assert reader(look, 1) == ROUNDS - 1 >= last
    writer.close()
    reader.close()
    os.unlink("there")


def check(directory):
    os.chdir(directory)
    assert os.listdir(".") == ["left"], os.listdir(".")


main(do=do, check=check)
