"""Fifos, sockets and devices: made, used, changed, moved, replaced and removed like any other name."""

import errno
import os
import socket
import stat
import subprocess

from common import main

NS = 1_000_000_000
KINDS = {"fifo": stat.S_IFIFO, "socket": stat.S_IFSOCK, "char": stat.S_IFCHR, "block": stat.S_IFBLK}
LONG = "l" * 255


def expect(number, call, *args, **more):
    try:
        call(*args, **more)
    except OSError as error:
        assert error.errno == number, (error, errno.errorcode[number])
    else:
        raise AssertionError(f"expected {errno.errorcode[number]}")


def listener(path):
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen()
    return server


def talk(server, path):
    client = socket.socket(socket.AF_UNIX)
    client.connect(path)
    peer, _ = server.accept()
    client.sendall(b"over the socket")
    assert peer.recv(100) == b"over the socket"
    client.close()
    peer.close()


def may_make_devices():
    try:
        os.mknod("probe", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    except PermissionError:
        return False
    os.unlink("probe")
    return True


def do(directory):
    os.chdir(directory)
    os.mkdir("dir")
    os.mkfifo("fifo", 0o640)
    os.chmod("fifo", 0o640)
    expect(errno.EEXIST, os.mkfifo, "fifo")
    # Through the fifo, from another process.
    reader = subprocess.Popen(["cat", "fifo"], stdout=subprocess.PIPE)
    with open("fifo", "wb") as file:
        file.write(b"through the fifo")
    assert reader.communicate()[0] == b"through the fifo"
    # As bash scripts do it: open both ways, removed, still there for who has it.
    os.mkfifo("gone", 0o600)
    both = os.open("gone", os.O_RDWR)
    os.unlink("gone")
    status = os.fstat(both)
    assert stat.S_ISFIFO(status.st_mode) and status.st_nlink == 0, status
    os.fchmod(both, 0o444)
    assert stat.S_IMODE(os.fstat(both).st_mode) == 0o444
    os.write(both, b"x")
    assert os.read(both, 1) == b"x"
    os.close(both)
    # The same of one that is in the vault already.
    os.mkfifo("kept", 0o620)
    os.chmod("kept", 0o620)
    both = os.open("kept", os.O_RDWR)
    here = os.open(".", os.O_RDONLY)
    os.fsync(here)
    os.unlink("kept")
    os.fsync(here)
    status = os.fstat(both)
    assert stat.S_ISFIFO(status.st_mode) and status.st_nlink == 0, status
    assert stat.S_IMODE(status.st_mode) == 0o620
    os.close(both)
    server = listener("socket")
    talk(server, "socket")
    os.rename("socket", "dir/socket")
    talk(server, "dir/socket")
    server.close()
    expect(errno.ECONNREFUSED, talk, None, "dir/socket")
    expect(errno.EADDRINUSE, listener, "dir/socket")
    # Committed and pending ones move, replace and are replaced.
    os.mkfifo(LONG)
    os.fsync(here)
    os.rename(LONG, "moved")
    os.mkfifo("over")
    with open("file", "w", encoding="ascii") as file:
        file.write("text")
    os.fsync(here)
    os.rename("file", "over")
    os.mkfifo("fifo 2")
    os.rename("fifo 2", "dir/fifo")
    os.utime("fifo", ns=(5 * NS + 5, 6 * NS + 6))
    os.symlink("fifo", "to fifo")
    os.mknod("plain", stat.S_IFREG | 0o600)
    if may_make_devices():
        os.mknod("null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.chmod("null", 0o666)
        os.mknod("disk", stat.S_IFBLK | 0o600, os.makedev(4095, 1048575))
        os.mknod(LONG[1:], stat.S_IFCHR | 0o600, os.makedev(0, 0))
        os.fsync(here)
        os.rename("disk", "dir/disk")
        os.chown("null", 12, 34)
    os.close(here)
    check(".")


def check(directory):
    os.chdir(directory)
    status = os.stat("fifo")
    assert stat.S_ISFIFO(status.st_mode) and stat.S_IMODE(status.st_mode) == 0o640
    assert status.st_mtime_ns == 6 * NS + 6 and status.st_size == 0 and status.st_nlink == 1
    assert status.st_blocks == 0
    assert stat.S_ISSOCK(os.stat("dir/socket").st_mode)
    assert stat.S_ISFIFO(os.stat("moved").st_mode) and stat.S_ISFIFO(os.stat("dir/fifo").st_mode)
    assert stat.S_ISFIFO(os.stat("to fifo").st_mode) and not os.path.lexists(LONG)
    with open("over", encoding="ascii") as file:
        assert file.read() == "text"
    assert stat.S_ISREG(os.stat("plain").st_mode)
    types = {entry.name: entry.is_file(follow_symlinks=False) for entry in os.scandir(".")}
    assert not types["fifo"] and types["plain"]
    for gone in ("gone", "kept", "socket", "file", "fifo 2"):
        assert not os.path.lexists(gone), gone
    # Still a fifo, through another process.
    reader = subprocess.Popen(["cat", "moved"], stdout=subprocess.PIPE)
    with open("moved", "wb") as file:
        file.write(b"again")
    assert reader.communicate()[0] == b"again"
    if not os.path.lexists("null"):
        return
    status = os.stat("null")
    assert stat.S_ISCHR(status.st_mode) and status.st_rdev == os.makedev(1, 3)
    assert (status.st_uid, status.st_gid) == (12, 34)
    status = os.stat("dir/disk")
    assert stat.S_ISBLK(status.st_mode) and status.st_rdev == os.makedev(4095, 1048575)
    assert os.stat(LONG[1:]).st_rdev == 0
    # Mounted nodev: it is there, and opens nothing.
    if os.statvfs(".").f_flag & os.ST_NODEV:
        expect(errno.EACCES, os.open, "null", os.O_RDONLY)


def devices(directory):
    """On a mount with -o dev."""
    os.chdir(directory)
    os.mknod("null device", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    with open("null device", "r+b", buffering=0) as null:
        assert null.read(1) == b"" and null.write(b"nowhere") == 7
    os.unlink("null device")


def remove(directory):
    os.chdir(directory)
    for path, directories, names in os.walk(".", topdown=False):
        for name in names:
            os.unlink(os.path.join(path, name))
        for name in directories:
            os.rmdir(os.path.join(path, name))


main(do=do, check=check, devices=devices, remove=remove)
