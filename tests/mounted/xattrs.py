"""Extended attributes, as programs use them."""

import errno
import os
import shutil
import stat
import subprocess
from contextlib import contextmanager

from common import main

NAMES = ["user.plain", "user.größe", "user." + "n" * 150]


@contextmanager
def refused(*codes):
    try:
        yield
    except OSError as error:
        assert error.errno in codes, error
    else:
        raise AssertionError("not refused")


def offered(directory):
    """Whether the filesystem under the vault has extended attributes."""
    while not os.path.ismount(directory):
        directory = os.path.dirname(os.path.abspath(directory))
    below = os.path.dirname(os.path.abspath(directory))
    try:
        os.setxattr(below, "user.akasha_test", b"")
    except OSError as error:
        assert error.errno == errno.EOPNOTSUPP, error
        print("SKIPPED: no extended attributes under the vault")
        return False
    return True


def all_of(path):
    names = os.listxattr(path, follow_symlinks=False)
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in names}


def mine(path):
    return {name: value for name, value in all_of(path).items() if name.startswith("user.")}


def expected(kind):
    return {name: kind.encode() * (at * 60) for at, name in enumerate(NAMES)}


def do(directory):
    if not offered(directory):
        return
    os.chdir(directory)
    os.mkdir("dir")
    with open("file", "wb") as file:
        file.write(b"one")
    with open("big", "wb") as file:
        file.write(b"big" * 300_000)
    os.link("file", "linked")
    os.symlink("file", "link")
    os.mkfifo("fifo")
    for path in ["dir", "file", "big"]:
        assert all_of(path) == {}
        for name, value in expected(path).items():
            with refused(errno.ENODATA):
                os.getxattr(path, name)
            with refused(errno.ENODATA):
                os.removexattr(path, name)
            with refused(errno.ENODATA):
                os.setxattr(path, name, value, os.XATTR_REPLACE)
            os.setxattr(path, name, b"first", os.XATTR_CREATE)
            with refused(errno.EEXIST):
                os.setxattr(path, name, value, os.XATTR_CREATE)
            os.setxattr(path, name, value)
        os.setxattr(path, "user.gone", b"gone")
        os.removexattr(path, "user.gone")
        assert mine(path) == expected(path), path
        with refused(errno.E2BIG, errno.ERANGE):
            os.setxattr(path, "user.big", bytes(65537))
        with refused(errno.ERANGE):
            os.setxattr(path, "user." + "n" * 251, b"")
        with refused(errno.EOPNOTSUPP):
            os.setxattr(path, "nowhere.name", b"")
        with refused(errno.EOPNOTSUPP):
            os.setxattr(path, "system.name", b"")
        with refused(errno.EOPNOTSUPP, errno.EINVAL):
            os.setxattr(path, "user.", b"")
    for path in ["link", "fifo"]:
        with refused(errno.EPERM):
            os.setxattr(path, "user.no", b"", follow_symlinks=False)
        assert mine(path) == {}
    assert mine("linked") == expected("file")
    if os.geteuid() == 0:
        for path in ["link", "fifo", "file", "dir"]:
            os.setxattr(path, "trusted.secret", path.encode(), follow_symlinks=False)
            os.setxattr(path, "security.akasha", b"", follow_symlinks=False)
    # Every way of rewriting a file keeps what it has.
    for _ in range(3):
        with open("file", "r+b") as file:
            file.write(b"two")
            os.fsync(file.fileno())
        with open("big", "r+b") as file:
            file.seek(500_000)
            file.write(b"changed")
            os.fsync(file.fileno())
        os.truncate("big", 700_000)
        os.chmod("file", 0o640)
    with open("new", "wb") as file:
        # Of what no commit has seen.
        os.setxattr(file.fileno(), NAMES[0], b"new")
        file.write(b"new")
        assert os.getxattr(file.fileno(), NAMES[0]) == b"new"
    os.rename("new", "renamed")
    # A file without a name.
    with open("unlinked", "w+b") as file:
        os.setxattr(file.fileno(), NAMES[0], b"1")
        os.unlink("unlinked")
        file.write(b"x")
        os.fsync(file.fileno())
        os.setxattr(file.fileno(), NAMES[1], b"2")
        assert os.getxattr(file.fileno(), NAMES[0]) == b"1"
        assert sorted(os.listxattr(file.fileno())) == sorted(NAMES[:2])
    capabilities()
    copies()
    large()
    check(".")


def capabilities():
    """A changed program has no file capabilities."""
    if os.geteuid() != 0:
        return
    # cap_net_raw=ep, version 2
    value = bytes.fromhex("0100000200200000000000000000000000000000")
    for change in [
        lambda: os.truncate("program", 3),
        lambda: os.chown("program", 1, 1),
        lambda: open("program", "ab").write(b"x"),
    ]:
        with open("program", "wb") as file:
            file.write(b"program")
        try:
            os.setxattr("program", "security.capability", value)
        except PermissionError:
            return
        assert os.getxattr("program", "security.capability") == value
        change()
        with refused(errno.ENODATA):
            os.getxattr("program", "security.capability")
        os.unlink("program")


def copies():
    """cp and rsync bring attributes along, in both ways."""
    source = ["dir", "file", "big", "renamed"]
    programs = [["cp", "-a", "--"]]
    if shutil.which("rsync"):
        programs.append(["rsync", "-aX"])
    for number, program in enumerate(programs):
        target = f"copy{number}"
        os.mkdir(target)
        subprocess.run(program + source + [target], check=True)
        for path in source:
            assert mine(os.path.join(target, path)) == mine(path), (program, path)
    if shutil.which("tar"):
        os.mkdir("copytar")
        subprocess.run(
            "tar --xattrs -c dir file big renamed | tar --xattrs -x -C copytar",
            shell=True,
            check=True,
        )
        for path in source:
            assert mine(os.path.join("copytar", path)) == mine(path), path


def check(directory):
    if not offered(directory):
        return
    os.chdir(directory)
    for path in ["dir", "file", "big"]:
        assert mine(path) == expected(path), path
    assert mine("linked") == expected("file")
    assert mine("renamed") == {NAMES[0]: b"new"}
    assert stat.S_IMODE(os.stat("file").st_mode) == 0o640
    with open("file", "rb") as file:
        assert file.read() == b"two"
    for folder in sorted(name for name in os.listdir() if name.startswith("copy")):
        for path in ["dir", "file", "big", "renamed"]:
            assert mine(os.path.join(folder, path)) == mine(path), (folder, path)
    if os.geteuid() == 0:
        for path in ["link", "fifo", "file", "dir"]:
            kept = all_of(path)
            assert kept["trusted.secret"] == path.encode(), path
            assert kept["security.akasha"] == b"", path
    large_check()
    if shutil.which("getfattr"):
        shown = subprocess.run(
            ["getfattr", "-d", "renamed"], check=True, capture_output=True, text=True
        )
        assert 'user.plain="new"' in shown.stdout, shown


LARGE = {"user.large": bytes(range(256)) * 256, "user." + "l" * 250: b"long", "user.small": b"small"}


def large():
    """Values and names as long as the kernel takes them, more than the vault's filesystem has room for beside a file."""
    os.mkdir("l_dir")
    for path in ["l_file", "l_open"]:
        with open(path, "wb") as file:
            file.write(b"one")
            if path == "l_open":
                for name, value in LARGE.items():
                    os.setxattr(file.fileno(), name, value)
                assert mine(path) == LARGE
    os.link("l_file", "l_linked")
    for path in ["l_dir", "l_file"]:
        for name, value in LARGE.items():
            with refused(errno.ENODATA):
                os.setxattr(path, name, value, os.XATTR_REPLACE)
            os.setxattr(path, name, value[:9], os.XATTR_CREATE)
            with refused(errno.EEXIST):
                os.setxattr(path, name, value, os.XATTR_CREATE)
            os.setxattr(path, name, value)
        os.setxattr(path, "user.gone", bytes(9000))
        os.removexattr(path, "user.gone")
        with refused(errno.ENODATA):
            os.getxattr(path, "user.gone")
        with refused(errno.E2BIG, errno.ERANGE):
            os.setxattr(path, "user.big", bytes(65537))
        assert mine(path) == LARGE, path
    assert mine("l_linked") == LARGE
    for _ in range(3):
        with open("l_file", "r+b") as file:
            file.write(b"two")
            os.fsync(file.fileno())
        os.chmod("l_file", 0o640)
    # Not more than an object can have: 1 MiB in all.
    with open("l_many", "wb") as file:
        file.write(b"x")
    with refused(errno.ENOSPC):
        for at in range(20):
            os.setxattr("l_many", f"user.{at}", bytes(65536))
    assert at == 15, at
    assert len(mine("l_many")) == at
    for name in os.listxattr("l_many"):
        os.removexattr("l_many", name)
    assert mine("l_many") == {}
    source = ["l_dir", "l_file", "l_open"]
    programs = [["cp", "-a", "--"]]
    if shutil.which("rsync"):
        programs.append(["rsync", "-aX"])
    if shutil.which("rsync") and os.geteuid() == 0:
        programs.append(["rsync", "-aAX"])
    for number, program in enumerate(programs):
        target = f"l_copy{number}"
        os.mkdir(target)
        subprocess.run(program + source + [target], check=True)
    os.rename("l_dir", "l_moved")


def large_check():
    for path in ["l_moved", "l_file", "l_linked", "l_open"]:
        assert mine(path) == LARGE, path
    for folder in sorted(name for name in os.listdir() if name.startswith("l_copy")):
        for path in ["l_dir", "l_file", "l_open"]:
            assert mine(os.path.join(folder, path)) == LARGE, (folder, path)
    with open("l_file", "rb") as file:
        assert file.read() == b"two"


def remove(directory):
    os.chdir(directory)
    for name in os.listdir():
        if os.path.isdir(name):
            shutil.rmtree(name)
        else:
            os.unlink(name)


def synced(directory):
    """What a killed daemon leaves."""
    if not offered(directory):
        return
    os.chdir(directory)
    for path in ["s_file", "s_dir"]:
        if path == "s_dir":
            os.mkdir(path)
        else:
            with open(path, "wb") as file:
                file.write(b"x")
                os.fsync(file.fileno())
        os.setxattr(path, NAMES[0], b"kept")
        os.setxattr(path, "user.large", bytes(50_000))
        os.chmod(path, 0o711)
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)


def survived(directory):
    if not offered(directory):
        return
    os.chdir(directory)
    for path in ["s_file", "s_dir"]:
        assert mine(path) == {NAMES[0]: b"kept", "user.large": bytes(50_000)}, path
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o711, path


if __name__ == "__main__":
    main(
        do=do,
        check=check,
        remove=remove,
        synced=synced,
        survived=survived,
    )
