"""Times, modes, owners, symlinks, statfs, umask and the identity of files."""

import errno
import os
import stat

from common import main

NS = 1_000_000_000
MODES = [0o600, 0o644, 0o755, 0o400, 0o111, 0o4755, 0o1777, 0o000]
TARGET = "../" * 1000 + "nowhere/" + "n" * 255


def do(directory):
    os.chdir(directory)
    root = os.getuid() == 0
    with open("times", "wb") as file:
        file.write(b"content")
    os.utime("times", ns=(1_000_000_000 * NS + 123_456_789, 1_700_000_000 * NS + 987_654_321))
    os.mkdir("dir")
    os.utime("dir", ns=(2 * NS + 1, 3 * NS + 2))
    # Before 1970 too, and a content written later under a time set before the close.
    with open("early", "wb") as file:
        file.write(b"x")
        file.flush()
        os.utime(file.fileno(), ns=(-5 * NS, -7 * NS))
    with open("kept", "wb") as file:
        file.write(b"x" * 100_000)
        file.flush()
        os.utime(file.fileno(), ns=(11 * NS + 11, 12 * NS + 12))
    for mode in MODES:
        with open(f"mode {mode:o}", "wb") as file:
            file.write(b"mode")
        os.chmod(f"mode {mode:o}", mode)
        os.mkdir(f"dir {mode:o}")
        os.chmod(f"dir {mode:o}", mode)
    # chmod of a handle whose file was never committed, and of one that is being changed.
    with open("handle", "wb") as file:
        os.fchmod(file.fileno(), 0o640)
        file.write(b"after")
    old = os.umask(0o027)
    with open("umask", "wb") as file:
        file.write(b"x")
    os.mkdir("umask dir")
    os.umask(old)
    os.symlink(TARGET, "link")
    os.symlink("times", "good link")
    if root:
        for name in ("owned", "owned link"):
            if name == "owned":
                open(name, "wb").close()
            else:
                os.symlink("x", name)
            os.chown(name, 1234, 5678, follow_symlinks=False)
    # Writing clears set-user-id, changing the mtime follows writing, reading does not change it.
    before = os.stat("mode 644").st_mtime_ns
    with open("mode 644", "rb") as file:
        file.read()
    assert os.stat("mode 644").st_mtime_ns == before
    os.utime("mode 644", ns=(0, 0))
    with open("mode 644", "ab") as file:
        file.write(b"!")
    assert os.stat("mode 644").st_mtime_ns > NS
    # A directory's mtime follows what is made in it.
    os.utime("umask dir", ns=(0, 0))
    with open("umask dir/new", "wb"):
        pass
    assert os.stat("umask dir").st_mtime_ns > NS
    space = os.statvfs(".")
    assert space.f_bsize > 0 and space.f_blocks >= space.f_bfree >= space.f_bavail > 0
    assert space.f_namemax == 255
    for number, call in [
        (errno.EEXIST, lambda: os.mkdir("dir")),
        (errno.ENOENT, lambda: os.open("missing", os.O_RDONLY)),
        (errno.EEXIST, lambda: os.open("times", os.O_CREAT | os.O_EXCL | os.O_WRONLY)),
        (errno.EISDIR, lambda: os.open("dir", os.O_WRONLY)),
        (errno.ENOTDIR, lambda: os.open("times/x", os.O_RDONLY)),
        (errno.ENOTDIR, lambda: os.rmdir("times")),
        (errno.EISDIR, lambda: os.unlink("dir")),
        (errno.EINVAL, lambda: os.readlink("times")),
        (errno.ELOOP, lambda: os.open("link", os.O_RDONLY | os.O_NOFOLLOW)),
    ]:
        try:
            call()
        except OSError as error:
            assert error.errno == number, (error, errno.errorcode[number])
        else:
            raise AssertionError(f"expected {errno.errorcode[number]}")
    with open("inodes", "w", encoding="ascii") as out:
        names = sorted(set(os.listdir(".")) | {"inodes"})
        for name in names:
            print(os.lstat(name).st_ino, name, file=out)
    assert len({os.lstat(name).st_ino for name in names}) == len(names)
    check(".")


def check(directory):
    os.chdir(directory)
    status = os.stat("times")
    assert status.st_mtime_ns == 1_700_000_000 * NS + 987_654_321, status.st_mtime_ns
    assert status.st_size == 7 and status.st_nlink == 1 and stat.S_ISREG(status.st_mode)
    assert os.stat("dir").st_mtime_ns == 3 * NS + 2
    assert os.stat("early").st_mtime_ns == -7 * NS, os.stat("early").st_mtime_ns
    assert os.stat("kept").st_mtime_ns == 12 * NS + 12, os.stat("kept").st_mtime_ns
    for mode in MODES:
        for kind in ("mode", "dir"):
            found = stat.S_IMODE(os.stat(f"{kind} {mode:o}").st_mode)
            assert found == mode, f"{kind} {mode:o} is {found:o}"
    assert stat.S_IMODE(os.stat("handle").st_mode) == 0o640
    assert stat.S_IMODE(os.stat("umask").st_mode) == 0o640
    assert stat.S_IMODE(os.stat("umask dir").st_mode) == 0o750
    assert os.readlink("link") == TARGET and os.lstat("link").st_size == len(TARGET)
    assert os.stat("good link").st_size == 7
    if os.getuid() == 0:
        for name in ("owned", "owned link"):
            status = os.lstat(name)
            assert (status.st_uid, status.st_gid) == (1234, 5678), name
    with open("inodes", encoding="ascii") as lines:
        for line in lines:
            ino, name = line.rstrip("\n").split(" ", 1)
            assert os.lstat(name).st_ino == int(ino), name


main(do=do, check=check)
