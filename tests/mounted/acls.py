"""POSIX access control lists: inherited, enforced, kept, and one with the permission bits. As root, with other users."""

import errno
import os
import stat
import struct

from common import main

ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
OWNER, USER, OWNING, GROUP, MASK, OTHER = 1, 2, 4, 8, 16, 32
NOBODY = 0xFFFFFFFF
ALICE, BOB, STAFF = 41001, 41002, 41003


def acl(*entries):
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", tag, bits, who) for tag, bits, who in entries)


def read(path, name=ACCESS):
    try:
        value = os.getxattr(path, name)
    except OSError as error:
        assert error.errno == errno.ENODATA, error
        return None
    return [struct.unpack_from("<HHI", value, at) for at in range(4, len(value), 8)]


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


def as_user(uid, gid, work):
    """Whether `work` succeeds for a user; an error of permission means no."""
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(gid)
            os.setuid(uid)
            work()
        except PermissionError:
            os._exit(1)
        except BaseException:
            os._exit(2)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 1), code
    return code == 0


def can_read(uid, path, gid=41999):
    return as_user(uid, gid, lambda: open(path, "rb").close())


def can_write(uid, path, gid=41999):
    return as_user(uid, gid, lambda: open(path, "r+b").close())


def fails(code, call, *args):
    try:
        call(*args)
    except OSError as error:
        assert error.errno == code, error
    else:
        raise AssertionError(f"{call} {args} did not fail")


NAMED = [(OWNER, 6, NOBODY), (USER, 6, ALICE), (OWNING, 0, NOBODY), (GROUP, 4, STAFF), (MASK, 6, NOBODY), (OTHER, 0, NOBODY)]
HANDED_DOWN = [(OWNER, 7, NOBODY), (USER, 7, ALICE), (OWNING, 5, NOBODY), (MASK, 7, NOBODY), (OTHER, 5, NOBODY)]


def do(directory):
    os.chdir(directory)
    os.umask(0o022)
    with open("file", "wb") as file:
        file.write(b"content")
    os.chmod("file", 0o600)
    assert not can_read(ALICE, "file") and read("file") is None
    os.setxattr("file", ACCESS, acl(*NAMED))
    # The group's bits are the mask.
    assert mode("file") == 0o660 and read("file") == NAMED
    assert can_read(ALICE, "file") and can_write(ALICE, "file")
    assert can_read(BOB, "file", STAFF) and not can_write(BOB, "file", STAFF)
    assert not can_read(BOB, "file")
    # chmod is of the mask.
    os.chmod("file", 0o640)
    assert read("file")[4] == (MASK, 4, NOBODY)
    assert can_read(ALICE, "file") and not can_write(ALICE, "file")
    os.chmod("file", 0o660)
    # Kept by rewrites, hard links and moves.
    with open("file", "wb") as file:
        file.write(b"x" * 300_000)
    with open("file", "r+b") as file:
        file.write(b"y")
        os.fsync(file.fileno())
    os.link("file", "second")
    os.rename("file", "moved")
    assert read("moved") == read("second") == NAMED and can_write(ALICE, "second")
    # A list that is only a mode becomes one.
    with open("plain", "wb"):
        pass
    os.setxattr("plain", ACCESS, acl(*NAMED))
    os.setxattr("plain", ACCESS, acl((OWNER, 7, NOBODY), (OWNING, 5, NOBODY), (OTHER, 1, NOBODY)))
    assert read("plain") is None and mode("plain") == 0o751
    os.setxattr("plain", ACCESS, acl(*NAMED))
    os.removexattr("plain", ACCESS)
    assert read("plain") is None and mode("plain") == 0o660
    # Set-group-id goes where the setter is not of the group.
    fails(errno.EINVAL, os.setxattr, "plain", ACCESS, acl((OWNER, 7, NOBODY), (OTHER, 1, NOBODY)))
    fails(errno.EINVAL, os.setxattr, "plain", ACCESS, acl((OWNER, 7, NOBODY), (USER, 7, ALICE), (OWNING, 5, NOBODY), (OTHER, 1, NOBODY)))
    fails(errno.EACCES, os.setxattr, "plain", DEFAULT, acl(*HANDED_DOWN))
    assert not as_user(ALICE, STAFF, lambda: os.setxattr("plain", ACCESS, acl(*NAMED)))
    inherited()


def inherited():
    os.mkdir("dir", 0o755)
    os.setxattr("dir", DEFAULT, acl(*HANDED_DOWN))
    assert read("dir", DEFAULT) == HANDED_DOWN and read("dir") is None and mode("dir") == 0o755
    # The umask does not count under a default list; what was asked for does.
    os.umask(0o077)
    os.mkdir("dir/sub", 0o777)
    assert read("dir/sub", DEFAULT) == HANDED_DOWN and mode("dir/sub") == 0o775
    assert read("dir/sub") == HANDED_DOWN
    for name, make, asked in [
        ("file", lambda path: os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o666)), 0o664),
        ("private", lambda path: os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600)), 0o600),
        ("fifo", lambda path: os.mkfifo(path, 0o666), 0o664),
    ]:
        path = f"dir/sub/{name}"
        make(path)
        assert mode(path) == asked, (path, oct(mode(path)))
        assert read(path)[1] == (USER, 7, ALICE) and read(path)[3] == (MASK, asked >> 3 & 7, NOBODY)
    os.symlink("file", "dir/sub/link")
    assert can_write(ALICE, "dir/sub/file") and not can_read(ALICE, "dir/sub/private")
    assert can_read(BOB, "dir/sub/file") and not can_write(BOB, "dir/sub/file")
    assert as_user(ALICE, ALICE, lambda: os.mkdir("dir/sub/hers"))
    assert not as_user(BOB, BOB, lambda: os.mkdir("dir/sub/his"))
    os.removexattr("dir", DEFAULT)
    os.mkdir("dir/plain", 0o777)
    assert mode("dir/plain") == 0o700 and read("dir/plain", DEFAULT) is None
    os.umask(0o022)
    os.mkdir("dir/usual", 0o777)
    with open("dir/usual/file", "wb"):
        pass
    assert (mode("dir/usual"), mode("dir/usual/file")) == (0o755, 0o644)


def check(directory):
    os.chdir(directory)
    assert read("moved") == read("second") == NAMED and mode("moved") == 0o660
    assert can_write(ALICE, "second") and can_read(BOB, "moved", STAFF) and not can_read(BOB, "moved")
    assert read("plain") is None and mode("plain") == 0o660
    assert read("dir/sub", DEFAULT) == read("dir/sub") == HANDED_DOWN
    assert mode("dir/sub/private") == 0o600 and not can_read(ALICE, "dir/sub/private")
    assert can_write(ALICE, "dir/sub/file")
    assert os.stat("dir/sub/hers").st_uid == ALICE


main(do=do, check=check)
