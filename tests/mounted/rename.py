"""rename in all its meanings: replace, NOREPLACE, EXCHANGE, open files, directories, the errors."""

import ctypes
import errno
import os
import stat

from common import main

NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4
libc = ctypes.CDLL(None, use_errno=True)


def renameat2(source, target, flags):
    if libc.renameat2(-100, os.fsencode(source), -100, os.fsencode(target), flags) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), source)


def refused(number, call, *args):
    try:
        call(*args)
    except OSError as error:
        assert error.errno == number, error
    else:
        raise AssertionError(f"{call} {args} succeeded")


def put(name, content):
    with open(name, "wb") as out:
        out.write(content)


def get(name):
    with open(name, "rb") as file:
        return file.read()


def do(directory):
    os.chdir(directory)
    # Replace, also of an open file: the old content stays readable through its handle.
    put("old", b"old" * 5000)
    put("new", b"new")
    held = open("old", "r+b")
    ino = os.stat("new").st_ino
    os.rename("new", "old")
    assert get("old") == b"new" and os.stat("old").st_ino == ino
    assert held.read() == b"old" * 5000
    held.seek(0)
    held.write(b"OLD")
    held.flush()
    assert os.fstat(held.fileno()).st_size == 15000
    refused(errno.ENOENT, os.stat, "new")
    # A file renamed while it is being written, over another one.
    put("target", b"target before")
    writing = open("writing", "wb")
    writing.write(b"half, ")
    writing.flush()
    os.rename("writing", "target")
    writing.write(b"whole")
    writing.close()
    assert get("target") == b"half, whole"
    # An existing file with uncommitted changes, renamed, then changed again.
    with open("target", "r+b") as file:
        file.write(b"HALF")
        file.flush()
        os.rename("target", "moved")
        file.seek(0, os.SEEK_END)
        file.write(b"!")
    assert get("moved") == b"HALF, whole!"
    # NOREPLACE.
    put("a", b"a")
    put("b", b"b")
    refused(errno.EEXIST, renameat2, "a", "b", NOREPLACE)
    renameat2("a", "c", NOREPLACE)
    assert get("b") == b"b" and get("c") == b"a"
    # EXCHANGE of files, and of a file with a directory, and within different directories.
    renameat2("b", "c", EXCHANGE)
    assert get("b") == b"a" and get("c") == b"b"
    os.mkdir("d")
    put("d/inside", b"inside")
    renameat2("c", "d", EXCHANGE)
    assert get("d") == b"b" and get("c/inside") == b"inside"
    renameat2("c/inside", "d", EXCHANGE)
    assert get("d") == b"inside" and get("c/inside") == b"b"
    refused(errno.ENOENT, renameat2, "d", "nothing", EXCHANGE)
    # WHITEOUT leaves a device with the number 0 behind, of a file and of a directory, also of one that is being written.
    put("white", b"white")
    put("black", b"black")
    renameat2("white", "black", WHITEOUT)
    os.mkdir("white dir")
    renameat2("white dir", "gone dir", WHITEOUT)
    with open("late", "wb") as file:
        file.write(b"lat")
        file.flush()
        renameat2("late", "later", WHITEOUT)
        file.write(b"er")
    check_whiteouts()
    refused(errno.ENOENT, renameat2, "nothing", "anything", WHITEOUT)
    refused(errno.EINVAL, renameat2, "black", "white", WHITEOUT | NOREPLACE | EXCHANGE)
    # Directories: moved with what is in them, over an empty one, not over a full one or into themselves.
    os.makedirs("tree/sub/deep")
    put("tree/sub/deep/leaf", b"leaf")
    os.rename("tree/sub", "sub")
    os.mkdir("empty")
    os.rename("sub", "empty")
    assert get("empty/deep/leaf") == b"leaf"
    refused(errno.ENOTEMPTY, os.rename, "tree", "empty")
    refused(errno.EINVAL, os.rename, "empty", "empty/deep/below")
    refused(errno.EISDIR, os.rename, "d", "tree")
    refused(errno.ENOTDIR, os.rename, "tree", "d")
    refused(errno.ENOENT, os.rename, "nothing", "d")
    refused(errno.ENAMETOOLONG, os.rename, "d", "x" * 256)
    os.rename("d", "d")
    # The same name replaced again and again: each replacement is over the last one.
    for version in range(200):
        put("draft", b"%d" % version)
        os.rename("draft", "final")
        assert get("final") == b"%d" % version
    # A name goes from one file to the next while a third waits for it.
    put("one", b"one")
    put("two", b"two")
    os.rename("one", "three")
    os.rename("two", "one")
    os.rename("three", "two")
    held.close()
    check(".")


def check_whiteouts():
    for name in ("white", "white dir", "late"):
        left = os.lstat(name)
        assert stat.S_ISCHR(left.st_mode) and stat.S_IMODE(left.st_mode) == 0 and left.st_rdev == 0, (name, left)
    assert get("black") == b"white" and get("later") == b"later" and os.listdir("gone dir") == []


def check(directory):
    os.chdir(directory)
    whiteouts = ["white", "black", "white dir", "gone dir", "late", "later"]
    assert sorted(os.listdir(".")) == sorted("old moved b c d tree empty final one two".split() + whiteouts)
    check_whiteouts()
    assert get("old") == b"new" and get("moved") == b"HALF, whole!"
    assert get("b") == b"a" and get("d") == b"inside" and get("c/inside") == b"b"
    assert get("empty/deep/leaf") == b"leaf" and os.listdir("tree") == []
    assert get("final") == b"199" and get("one") == b"two" and get("two") == b"one"


main(do=do, check=check)
