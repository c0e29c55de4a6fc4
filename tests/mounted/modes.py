"""Several users on root's mount with --allow-other: who may do what, and which set-id bits survive what."""

import errno
import os
import shutil
import stat
import subprocess
import traceback

from common import main

ALICE, BOB, STAFF = 4001, 4002, 4100
PLAIN = 0o755


def mode(path):
    return stat.S_IMODE(os.lstat(path).st_mode)


def expect(number, call, *args, **more):
    try:
        call(*args, **more)
    except OSError as error:
        assert error.errno == number, (error, errno.errorcode[number])
    else:
        raise AssertionError(f"expected {errno.errorcode[number]}")


def as_user(uid, work, groups=()):
    """In the current directory, which the user may not be able to reach by its path."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setgroups(groups)
            os.setgid(uid)
            os.setuid(uid)
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        os._exit(code)
    assert os.waitpid(child, 0)[1] == 0


def writes(path):
    descriptor = os.open(path, os.O_WRONLY)
    os.pwrite(descriptor, b"changed", 3)
    os.close(descriptor)


def truncates(path):
    os.truncate(path, 5)


def truncates_open(path):
    descriptor = os.open(path, os.O_RDWR)
    os.ftruncate(descriptor, 7)
    os.close(descriptor)


def opens_truncating(path):
    os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))


def appends(path):
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
    os.write(descriptor, b"more")
    os.close(descriptor)


def writes_directly(path):
    descriptor = os.open(path, os.O_WRONLY | os.O_DSYNC)
    os.write(descriptor, b"more")
    os.close(descriptor)


def set_id():
    for number, change in enumerate(
        (writes, truncates, truncates_open, opens_truncating, appends, writes_directly)
    ):
        for size in (100, 300_000):
            path = f"set id {number} {size}"
            with open(path, "wb") as file:
                file.write(b"x" * size)
            for user, before, after in (
                (BOB, 0o6777, 0o777),
                # Without group execution the bit means something else, and goes for who is not in the group.
                (BOB, 0o4767, 0o767),
                (0, 0o6777, 0o6777),
            ):
                os.chown(path, ALICE, STAFF)
                os.chmod(path, before)
                assert mode(path) == before
                if user:
                    as_user(user, lambda: change(path))
                else:
                    change(path)
                # At once, from the kernel's memory or not.
                assert mode(path) == after, (change.__name__, size, oct(before), oct(mode(path)))
            assert mode(path) == 0o6777
    # By hand: chown clears, for root too, and not of directories.
    with open("owned", "wb"):
        pass
    os.chmod("owned", 0o6755)
    os.chown("owned", ALICE, STAFF)
    assert mode("owned") == PLAIN
    os.chmod("owned", 0o6755)
    as_user(ALICE, lambda: os.chown("owned", -1, ALICE), groups=[STAFF])
    assert mode("owned") == PLAIN and os.stat("owned").st_gid == ALICE
    os.chmod("owned", 0o6755)
    os.mkdir("owned dir")
    os.chmod("owned dir", 0o7755)
    os.chown("owned dir", ALICE, STAFF)
    assert mode("owned dir") == 0o7755


def groups():
    # A directory that hands its group on.
    os.mkdir("team")
    os.chown("team", ALICE, STAFF)
    os.chmod("team", 0o2775)

    def in_team():
        os.umask(0o002)
        with open("team/file", "wb") as file:
            file.write(b"x")
        os.mkdir("team/dir", 0o770)
        os.mkfifo("team/fifo")
        os.symlink("x", "team/link")
        os.mkdir("team/sub")
        os.mkdir("team/sub/deep")
        for name in ("file", "dir", "fifo", "link", "sub/deep"):
            status = os.lstat("team/" + name)
            assert (status.st_uid, status.st_gid) == (BOB, STAFF), name

    as_user(BOB, in_team, groups=[STAFF])
    assert mode("team/file") == 0o664 and mode("team/dir") == 0o2770
    assert mode("team/sub/deep") == 0o2775 and mode("team/fifo") == 0o664
    # Supplementary groups count; others stay out.
    os.chmod("team/file", 0o640)
    as_user(ALICE + 10, lambda: open("team/file", "rb").close(), groups=[STAFF])
    as_user(ALICE + 10, lambda: expect(errno.EACCES, os.open, "team/file", os.O_RDONLY))
    as_user(ALICE, lambda: expect(errno.EPERM, os.chmod, "team/file", 0o666), groups=[STAFF])
    as_user(BOB, lambda: expect(errno.EPERM, os.chown, "team/file", ALICE, -1), groups=[STAFF])
    as_user(BOB, lambda: expect(errno.EPERM, os.chown, "team/file", -1, ALICE), groups=[STAFF])
    # chmod of who is not in the file's group drops set-group-id.
    as_user(BOB, lambda: os.chmod("team/file", 0o2755))
    assert mode("team/file") == 0o755


def sticky():
    os.mkdir("tmp")
    os.chmod("tmp", 0o1777)

    def alice():
        os.umask(0)
        with open("tmp/of alice", "wb"):
            pass
        os.mkdir("tmp/dir of alice")

    def bob():
        expect(errno.EPERM, os.unlink, "tmp/of alice")
        expect(errno.EPERM, os.rename, "tmp/of alice", "tmp/mine")
        expect(errno.EPERM, os.rmdir, "tmp/dir of alice")
        with open("tmp/of bob", "wb"):
            pass
        expect(errno.EPERM, os.rename, "tmp/of bob", "tmp/of alice")
        os.unlink("tmp/of bob")
        expect(errno.EPERM, os.mknod, "tmp/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.mkfifo("tmp/fifo of bob")

    as_user(ALICE, alice)
    as_user(BOB, bob)
    as_user(ALICE, lambda: os.unlink("tmp/of alice"))


def do(directory):
    os.chdir(directory)
    os.umask(0o022)
    set_id()
    groups()
    sticky()
    # The bits that mkdir and open take, with a umask.
    os.umask(0o027)
    os.mkdir("made", 0o1777)
    os.close(os.open("made/file", os.O_CREAT | os.O_WRONLY, 0o4777))
    check(".")


def check(directory):
    os.chdir(directory)
    assert mode("owned") == 0o6755 and mode("owned dir") == 0o7755
    assert (os.stat("owned").st_uid, os.stat("owned").st_gid) == (ALICE, ALICE)
    assert mode("team") == 0o2775 and mode("team/dir") == 0o2770
    assert os.stat("team/dir").st_gid == STAFF
    assert mode("tmp") == 0o1777 and os.listdir("tmp") != []
    assert mode("made") == 0o1750, oct(mode("made"))
    assert mode("made/file") == 0o4750, oct(mode("made/file"))
    for name in os.listdir("."):
        if name.startswith("set id"):
            assert mode(name) == 0o6777, name


def honoured(directory):
    """On a mount with -o suid: a program that somebody else has changed is not set-id any more, without any look at it."""
    os.chdir(directory)
    shutil.copyfile(shutil.which("id"), "id")
    for changed in (False, True):
        os.chmod("id", 0o4777)

        def work():
            if changed:
                appends("id")
            said = subprocess.run(["./id", "-u"], capture_output=True, check=True).stdout.strip()
            assert said == (b"%d" % BOB if changed else b"0"), said

        as_user(BOB, work)


main(do=do, check=check, honoured=honoured)
