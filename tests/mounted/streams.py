"""Copies that the kernel makes (sendfile, splice, copy_file_range) into, out of and inside the mount, what inotify
tells, and the advice that programs give (posix_fadvise, readahead)."""

import ctypes
import ctypes.util
import errno
import os
import random
import select
import shutil
import socket
import struct
import tempfile
import threading

from common import main, refused

libc = ctypes.CDLL(ctypes.util.find_library("c") or "libc.so.6", use_errno=True)
SIZE = 2_500_000
CONTENT = random.Random(5).randbytes(SIZE)

MODIFY, ATTRIB, CLOSE_WRITE, MOVED_FROM, MOVED_TO = 0x2, 0x4, 0x8, 0x40, 0x80
CREATE, DELETE, DELETE_SELF, MOVE_SELF, IS_DIR = 0x100, 0x200, 0x400, 0x800, 0x4000_0000


def call(name, *args):
    result = getattr(libc, name)(*args)
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    return result


def content(path):
    with open(path, "rb") as file:
        return file.read()


def whole(copy, size):
    """Repeats a copy of at most so many bytes until nothing comes."""
    done = 0
    while done < size:
        count = copy(size - done)
        if count == 0:
            break
        done += count
    assert done == size, (done, size)


def through_pipe(source, target, size):
    """splice(2) needs a pipe at one end."""
    out, into = os.pipe()
    done = 0
    while done < size:
        count = os.splice(source, into, min(size - done, 65_536))
        assert count > 0
        left = count
        while left:
            left -= os.splice(out, target, left)
        done += count
    os.close(out)
    os.close(into)


def do(directory):
    outside = tempfile.TemporaryDirectory()
    os.chdir(directory)
    with open("source", "wb") as file:
        file.write(CONTENT)
    with open(os.path.join(outside.name, "outside"), "wb") as file:
        file.write(CONTENT)
    source = os.open("source", os.O_RDWR)
    foreign = os.open(os.path.join(outside.name, "outside"), os.O_RDWR)
    ways = {
        "sendfile": lambda into, out, size: whole(lambda count: os.sendfile(out, into, None, count), size),
        "splice": through_pipe,
        "copy_file_range": lambda into, out, size: whole(lambda count: os.copy_file_range(into, out, count), size),
    }
    for name, copy in ways.items():
        beyond = os.path.join(outside.name, name)
        for path, origin in ((f"{name} inside", source), (f"{name} into", foreign), (beyond, source)):
            os.lseek(origin, 0, os.SEEK_SET)
            target = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            if name == "copy_file_range" and not path.endswith("inside") and os.fstat(origin).st_dev != os.fstat(target).st_dev:
                # The kernel makes it within one filesystem only (or two of one kind); cp then reads and writes.
                refused(errno.EXDEV, copy, origin, target, SIZE)
                shutil.copyfile("source", path)
            else:
                copy(origin, target, SIZE)
            os.close(target)
            assert content(path) == CONTENT
    # A web server: a file to a socket; and a socket's bytes into a file. What is not yet committed included.
    os.pwrite(source, b"changed", 100_000)
    changed = CONTENT[:100_000] + b"changed" + CONTENT[100_007:]
    near, far = socket.socketpair()
    received = bytearray()

    def receive():
        while data := far.recv(1 << 16):
            received.extend(data)

    reader = threading.Thread(target=receive)
    reader.start()
    done = 0
    while done < SIZE:
        done += os.sendfile(near.fileno(), source, done, SIZE - done)
    near.close()
    reader.join()
    far.close()
    assert received == changed
    os.pwrite(source, CONTENT[100_000:100_007], 100_000)
    near, far = socket.socketpair()
    near.sendall(b"from a socket")
    near.close()
    out, into = os.pipe()
    assert os.splice(far.fileno(), into, 100) == 13
    with open("socket", "wb") as file:
        assert os.splice(out, file.fileno(), 13) == 13
    far.close()
    # tee and vmsplice stay in the pipe; splice at an offset.
    assert os.splice(source, into, 10, 1000) == 10 and os.read(out, 20) == CONTENT[1000:1010]
    os.close(out)
    os.close(into)
    # sendfile does not append.
    appending = os.open("socket", os.O_WRONLY | os.O_APPEND)
    refused(errno.EINVAL, os.sendfile, appending, source, 0, 10)
    os.close(appending)
    advice(source)
    os.close(source)
    os.close(foreign)
    outside.cleanup()
    watch()
    check(".")


def advice(file):
    """Changes nothing, whatever is advised."""
    for advised in range(os.POSIX_FADV_NORMAL, os.POSIX_FADV_NOREUSE + 1):
        os.pwrite(file, CONTENT[:5000], 0)
        os.posix_fadvise(file, 0, 0, advised)
        os.posix_fadvise(file, 4096, 10_000, advised)
        assert os.pread(file, SIZE, 0) == CONTENT
    refused(errno.EINVAL, os.posix_fadvise, file, 0, 0, 4711)
    libc.readahead.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_size_t]
    for offset, count in ((0, SIZE), (SIZE - 10, 1 << 20), (1 << 40, 4096)):
        assert call("readahead", file, offset, count) == 0
    assert os.pread(file, SIZE, 0) == CONTENT
    os.fdatasync(file)
    assert call("sync_file_range", file, ctypes.c_int64(0), ctypes.c_int64(0), 7) == 0


class Watch:
    """inotify(7) on a directory or file."""

    def __init__(self, *paths):
        self.file = call("inotify_init1", os.O_NONBLOCK)
        mask = MODIFY | ATTRIB | CLOSE_WRITE | MOVED_FROM | MOVED_TO | CREATE | DELETE | DELETE_SELF | MOVE_SELF
        self.watched = {call("inotify_add_watch", self.file, path.encode(), mask): path for path in paths}

    def seen(self, enough):
        """The events so far, as (watched path, mask, name), repeated ones once. Those of a last close come late."""
        events = []
        while enough not in events and select.select([self.file], [], [], 2)[0]:
            data = os.read(self.file, 1 << 16)
            while data:
                which, mask, _, length = struct.unpack_from("iIII", data)
                event = (self.watched[which], mask, data[16 : 16 + length].rstrip(b"\0").decode())
                if event not in events:
                    events.append(event)
                data = data[16 + length :]
        return events


def watch():
    for name in ("watched", "elsewhere"):
        os.mkdir(name)
    with open("watched/file", "wb") as file:
        file.write(b"content")
    dirs = Watch("watched", "elsewhere")
    itself = Watch("watched/file")
    with open("watched/new", "wb") as file:
        file.write(b"content")
    expected = [("watched", CREATE, "new"), ("watched", MODIFY, "new"), ("watched", CLOSE_WRITE, "new")]
    assert dirs.seen(expected[-1]) == expected
    os.mkdir("watched/dir")
    os.symlink("new", "watched/link")
    os.link("watched/new", "watched/linked")
    os.mknod("watched/second")
    os.chmod("watched/new", 0o640)
    os.truncate("watched/new", 3)
    os.rename("watched/new", "watched/renamed")
    os.rename("watched/renamed", "elsewhere/moved")
    os.rename("elsewhere/moved", "watched/second")
    # Two names of one file: nothing to do, nothing to tell.
    os.link("watched/second", "elsewhere/same")
    os.rename("watched/second", "elsewhere/same")
    os.unlink("elsewhere/same")
    os.unlink("watched/second")
    os.unlink("watched/linked")
    os.rmdir("watched/dir")
    os.unlink("watched/link")
    events = dirs.seen(("watched", DELETE, "link"))
    expected = [
        ("watched", CREATE | IS_DIR, "dir"),
        ("watched", CREATE, "link"),
        ("watched", CREATE, "linked"),
        ("watched", CREATE, "second"),
        ("watched", ATTRIB, "new"),
        ("watched", MODIFY, "new"),
        ("watched", MOVED_FROM, "new"),
        ("watched", MOVED_TO, "renamed"),
        ("watched", MOVED_FROM, "renamed"),
        ("elsewhere", MOVED_TO, "moved"),
        ("elsewhere", MOVED_FROM, "moved"),
        ("watched", MOVED_TO, "second"),
        ("watched", DELETE, "second"),
        ("watched", DELETE, "linked"),
        ("watched", DELETE | IS_DIR, "dir"),
        ("watched", DELETE, "link"),
    ]
    assert [event for event in events if event in expected] == expected, events
    assert ("watched", MOVED_FROM, "second") not in events and ("elsewhere", MOVED_TO, "same") not in events
    with open("watched/file", "r+b") as file:
        file.write(b"changed")
        file.flush()
        os.fsync(file.fileno())
    os.rename("watched/file", "elsewhere/file")
    os.unlink("elsewhere/file")
    events = itself.seen(("watched/file", DELETE_SELF, ""))
    masks = [mask for _, mask, _ in events]
    assert masks[0] == MODIFY and MOVE_SELF in masks and DELETE_SELF in masks, events
    assert masks.index(MOVE_SELF) < masks.index(DELETE_SELF)
    # A commit by the daemon is nobody's change: the listing is all that was seen.
    quiet = Watch("watched", "elsewhere")
    with open("elsewhere/committed", "wb") as file:
        file.write(b"x")
        file.flush()
        os.fsync(file.fileno())
    expected = [("elsewhere", CREATE, "committed"), ("elsewhere", MODIFY, "committed"), ("elsewhere", CLOSE_WRITE, "committed")]
    assert quiet.seen(expected[-1]) == expected
    os.fsync(os.open("elsewhere", os.O_RDONLY))
    assert not select.select([quiet.file], [], [], 0.3)[0]


def check(directory):
    os.chdir(directory)
    for name in ("sendfile", "splice", "copy_file_range"):
        for place in ("inside", "into"):
            assert content(f"{name} {place}") == CONTENT
    assert content("source") == CONTENT and content("socket") == b"from a socket"
    assert os.listdir("watched") == [] and os.listdir("elsewhere") == ["committed"]


main(do=do, check=check)
