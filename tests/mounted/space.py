"""Holes, preallocation, copies of ranges: `DIR do`, `DIR check`, `DIR users`, `DIR programs`, `DIR holes COUNT`."""

import ctypes
import errno
import hashlib
import json
import os
import resource
import shutil
import subprocess
import time

from common import main

BLOCK = 4096
MIB = 1 << 20
KEEP_SIZE, PUNCH, COLLAPSE, ZERO, INSERT = 0x01, 0x02, 0x08, 0x10, 0x20
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def fallocate(fd, mode, offset, length):
    if LIBC.fallocate(fd, mode, offset, length) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def refused(*numbers):
    """A context in which a call must fail with one of the error numbers."""
    class Refused:
        def __enter__(self):
            return self

        def __exit__(self, kind, error, _trace):
            assert isinstance(error, OSError), f"succeeded, expected {numbers}"
            assert error.errno in numbers, f"{error}, expected {[errno.errorcode[n] for n in numbers]}"
            return True
    return Refused()


def open_new(directory, name):
    return os.open(os.path.join(directory, name), os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)


def pieces(fd):
    """The ranges of data, by SEEK_DATA and SEEK_HOLE."""
    size, found, at = os.fstat(fd).st_size, [], 0
    while at < size:
        try:
            data = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            assert error.errno == errno.ENXIO, error
            break
        hole = os.lseek(fd, data, os.SEEK_HOLE)
        assert at <= data < hole <= size, (at, data, hole, size)
        found.append([data, hole])
        at = hole
    return found


def blocks(fd):
    return os.fstat(fd).st_blocks * 512


def noise(length, seed=1):
    return hashlib.shake_128(str(seed).encode()).digest(length)


def preallocate(directory):
    fd = open_new(directory, "allocated")
    os.posix_fallocate(fd, 0, 3 * MIB)
    assert os.fstat(fd).st_size == 3 * MIB and blocks(fd) == 3 * MIB
    assert os.pread(fd, 4 * MIB, 0) == bytes(3 * MIB)
    os.pwrite(fd, b"written", MIB + 5)
    fallocate(fd, KEEP_SIZE, 2 * MIB, 100 * MIB)
    assert os.fstat(fd).st_size == 3 * MIB, "KEEP_SIZE keeps it"
    # What is allocated a second time stays what it is.
    os.posix_fallocate(fd, MIB, MIB)
    assert os.pread(fd, 7, MIB + 5) == b"written"
    os.close(fd)

    fd = open_new(directory, "grown")
    os.pwrite(fd, b"text", 0)
    os.posix_fallocate(fd, 1000, 5)
    assert os.fstat(fd).st_size == 1005 and os.pread(fd, 2000, 0) == b"text" + bytes(1001)
    os.close(fd)

    fd = open_new(directory, "holes filled")
    os.ftruncate(fd, MIB)
    assert blocks(fd) == 0 and pieces(fd) == []
    os.posix_fallocate(fd, 0, MIB)
    assert blocks(fd) == MIB
    os.close(fd)


def punch(directory):
    fd = open_new(directory, "punched")
    content = bytearray(noise(2 * MIB))
    os.pwrite(fd, content, 0)
    os.fsync(fd)
    assert blocks(fd) == 2 * MIB and pieces(fd) == [[0, 2 * MIB]], pieces(fd)
    before = os.fstat(fd)
    time.sleep(0.02)
    for offset, length in ((BLOCK, BLOCK), (100_000, 300_000), (MIB - 1, 2), (2 * MIB - 5000, MIB)):
        fallocate(fd, PUNCH | KEEP_SIZE, offset, length)
        end = min(offset + length, 2 * MIB)
        content[offset:end] = bytes(end - offset)
    after = os.fstat(fd)
    assert after.st_size == 2 * MIB and after.st_mtime_ns > before.st_mtime_ns
    assert after.st_ctime_ns > before.st_ctime_ns
    assert os.pread(fd, 3 * MIB, 0) == content
    first = -(-100_000 // BLOCK) * BLOCK
    last = 400_000 // BLOCK * BLOCK
    tail = -(-(2 * MIB - 5000) // BLOCK) * BLOCK
    expected = [[0, BLOCK], [2 * BLOCK, first], [last, tail]]
    assert pieces(fd) == expected, pieces(fd)
    assert blocks(fd) == sum(end - start for start, end in expected)
    os.fsync(fd)
    assert pieces(fd) == expected and os.pread(fd, 3 * MIB, 0) == content
    # A whole terabyte of nothing, and a piece of it made a hole again.
    os.ftruncate(fd, 1 << 40)
    os.pwrite(fd, b"far", 1 << 39)
    fallocate(fd, PUNCH | KEEP_SIZE, 4 * MIB, 1 << 40)
    assert pieces(fd) == expected and os.pread(fd, 3, 1 << 39) == bytes(3)
    os.close(fd)


def zero(directory):
    fd = open_new(directory, "zeroed")
    content = bytearray(noise(MIB, 2))
    os.pwrite(fd, content, 0)
    fallocate(fd, ZERO, 10_000, 500_000)
    content[10_000:510_000] = bytes(500_000)
    assert os.pread(fd, 2 * MIB, 0) == content
    # Pages that the kernel has not written yet do not count.
    os.fsync(fd)
    assert blocks(fd) == MIB
    fallocate(fd, ZERO | KEEP_SIZE, MIB - 10, 1000)
    content[MIB - 10:] = bytes(10)
    assert os.fstat(fd).st_size == MIB
    fallocate(fd, ZERO, MIB - 10, 1000)
    content += bytes(990)
    assert os.fstat(fd).st_size == len(content)
    assert os.pread(fd, 2 * MIB, 0) == content
    os.close(fd)


def seek(directory):
    """What was written a moment ago is data, also while only the kernel knows of it."""
    fd = open_new(directory, "sought")
    os.ftruncate(fd, 16 * MIB)
    os.fsync(fd)
    reader = os.open(os.path.join(directory, "sought"), os.O_RDONLY)
    for number in range(1, 6):
        place = number * 3 * MIB - 100
        os.pwrite(fd, b"fresh", place)
        start = place // BLOCK * BLOCK
        assert os.lseek(reader, place - MIB, os.SEEK_DATA) == start
        assert os.lseek(fd, start, os.SEEK_HOLE) == start + BLOCK
    os.pwrite(fd, b"longer", 17 * MIB)
    assert os.lseek(reader, 16 * MIB, os.SEEK_DATA) == 17 * MIB
    size = os.fstat(fd).st_size
    assert os.lseek(fd, 17 * MIB, os.SEEK_HOLE) == size
    for place in (size, size + 1):
        for whence in (os.SEEK_DATA, os.SEEK_HOLE):
            with refused(errno.ENXIO):
                os.lseek(fd, place, whence)
    os.ftruncate(fd, 20 * MIB)
    with refused(errno.ENXIO):
        os.lseek(fd, 18 * MIB, os.SEEK_DATA)
    assert os.lseek(fd, 18 * MIB, os.SEEK_HOLE) == 18 * MIB
    os.close(fd)
    os.close(reader)


def copy(directory):
    source = open_new(directory, "source")
    os.pwrite(source, noise(3 * MIB, 3), 0)
    os.ftruncate(source, 40 * MIB)
    os.pwrite(source, noise(MIB, 4), 30 * MIB)
    target = open_new(directory, "target")
    os.pwrite(target, b"t" * MIB, 2 * MIB)
    done = 0
    while done < 40 * MIB:
        # The source's pages and the target's may not have reached the daemon yet.
        count = os.copy_file_range(source, target, 40 * MIB - done, done, done)
        assert count > 0
        done += count
    assert os.copy_file_range(source, target, 100, 40 * MIB, 0) == 0, "the end of the source"
    assert os.pread(target, 40 * MIB, 0) == os.pread(source, 40 * MIB, 0)
    assert pieces(target) == [[0, 3 * MIB], [30 * MIB, 31 * MIB]], pieces(target)
    # Odd places, within one file.
    expected = bytearray(os.pread(target, 40 * MIB, 0))
    assert os.copy_file_range(target, target, 100_001, 123, 10 * MIB + 7) == 100_001
    expected[10 * MIB + 7:10 * MIB + 7 + 100_001] = expected[123:123 + 100_001]
    # A hole over data.
    assert os.copy_file_range(target, target, 300_000, 20 * MIB + 1, MIB + 11) == 300_000
    expected[MIB + 11:MIB + 11 + 300_000] = bytes(300_000)
    assert os.pread(target, 40 * MIB, 0) == expected
    with refused(errno.EINVAL):
        os.copy_file_range(target, target, 10_000, 0, 5000)
    read_only = os.open(os.path.join(directory, "source"), os.O_RDONLY)
    with refused(errno.EBADF):
        os.copy_file_range(target, read_only, 10, 0, 0)
    for fd in (source, target, read_only):
        os.close(fd)


def errors(directory):
    fd = open_new(directory, "errors")
    os.pwrite(fd, b"x" * 10_000, 0)
    for mode in (COLLAPSE, INSERT, PUNCH | KEEP_SIZE | ZERO, 0x4000):
        with refused(errno.EOPNOTSUPP, errno.EINVAL):
            fallocate(fd, mode, 0, BLOCK)
    with refused(errno.EOPNOTSUPP):
        fallocate(fd, PUNCH, 0, BLOCK)
    for offset, length in ((0, 0), (-1, 10), (10, -1)):
        with refused(errno.EINVAL):
            fallocate(fd, 0, offset, length)
    with refused(errno.EFBIG):
        fallocate(fd, 0, 1 << 62, 1 << 62)
    with refused(errno.EFBIG):
        fallocate(fd, 0, 1 << 45, 10)
    with refused(errno.ENOSPC):
        os.posix_fallocate(fd, 0, 15 << 40)
    read_only = os.open(os.path.join(directory, "errors"), os.O_RDONLY)
    with refused(errno.EBADF):
        fallocate(read_only, 0, 0, 10)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_WILLNEED)
    assert os.fstat(fd).st_size == 10_000 and os.pread(fd, 20_000, 0) == b"x" * 10_000
    os.close(read_only)
    os.close(fd)


def limits(directory):
    """RLIMIT_FSIZE; Python ignores SIGXFSZ."""
    fd = open_new(directory, "limited")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        assert os.pwrite(fd, b"w" * 20_000, 90_000) == 10_000
        with refused(errno.EFBIG):
            os.pwrite(fd, b"w", 100_000)
        with refused(errno.EFBIG):
            os.ftruncate(fd, 100_001)
        with refused(errno.EFBIG):
            fallocate(fd, 0, 90_000, 10_001)
        fallocate(fd, 0, 90_000, 10_000)
        with refused(errno.EFBIG):
            os.copy_file_range(fd, fd, 10, 0, 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.fstat(fd).st_size == 100_000
    os.close(fd)


def state(directory):
    found = {}
    for name in sorted(os.listdir(directory)):
        if name.startswith("."):
            continue
        fd = os.open(os.path.join(directory, name), os.O_RDONLY)
        digest = hashlib.sha256()
        for start, end in pieces(fd):
            digest.update(b"%d-" % start)
            for at in range(start, end, MIB):
                digest.update(os.pread(fd, min(MIB, end - at), at))
        found[name] = [os.fstat(fd).st_size, os.fstat(fd).st_blocks, pieces(fd), digest.hexdigest()]
        os.close(fd)
    return found


def do(directory):
    for step in (preallocate, punch, zero, seek, copy, errors, limits):
        step(directory)
    before = state(directory)
    for name in before:
        fd = os.open(os.path.join(directory, name), os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
    assert state(directory) == before, "a commit changed what is allocated"
    with open(os.path.join(directory, ".state"), "w") as out:
        json.dump(before, out)


def check(directory):
    with open(os.path.join(directory, ".state")) as saved:
        before = json.load(saved)
    now = state(directory)
    for name, was in before.items():
        assert now[name] == was, f"{name} was {was}, is {now[name]}"


def users(directory):
    """Set-id bits go when one who is not root changes a file in one of these ways."""
    os.chmod(directory, 0o755)
    # The way to it is closed to others.
    os.chdir(directory)
    for path in ("fallocate", "punch", "copy"):
        with open(path, "wb") as file:
            file.write(b"#" * 300_000)
        os.chown(path, 1234, 1234)
        os.chmod(path, 0o6755)
        if os.fork() == 0:
            os.setgroups([])
            os.setgid(1234)
            os.setuid(1234)
            fd = os.open(path, os.O_RDWR)
            if path == "fallocate":
                os.posix_fallocate(fd, 0, 400_000)
            elif path == "punch":
                fallocate(fd, PUNCH | KEEP_SIZE, 0, 8192)
            else:
                os.copy_file_range(fd, fd, 1000, 0, 20_000)
            os._exit(0)
        assert os.wait()[1] == 0
        mode = os.stat(path).st_mode & 0o7777
        assert mode == 0o755, f"{path}: {mode:o}"


def run(*command, **options):
    return subprocess.run(command, check=True, capture_output=True, text=True, **options).stdout


def programs(directory):
    """What people use: fallocate(1), cp, tar, dd, du, truncate."""
    def path(name):
        return os.path.join(directory, name)

    content = noise(MIB, 7) + bytes(6 * MIB) + noise(MIB, 8)
    with open(path("dense"), "wb") as out:
        out.write(content)
    assert int(run("du", "-B1", path("dense")).split()[0]) == 8 * MIB, "zeros that are written are data"

    run("cp", "--sparse=always", path("dense"), path("sparse"))
    run("fallocate", "--dig-holes", path("dense"))
    run("cp", path("sparse"), path("copied"))
    run("cp", "--sparse=never", path("sparse"), path("filled"))
    run("dd", f"if={path('sparse')}", f"of={path('dd')}", "bs=64K", "conv=sparse", "status=none")
    run("tar", "-C", directory, "-S", "-cf", path("archive.tar"), "sparse")
    assert os.path.getsize(path("archive.tar")) < 3 * MIB
    os.mkdir(path("unpacked"))
    run("tar", "-C", path("unpacked"), "-xf", path("archive.tar"))
    run("truncate", "-s", "8M", path("truncated"))
    with open(path("truncated"), "r+b") as file:
        file.write(content[:MIB])
        file.seek(7 * MIB)
        file.write(content[7 * MIB:])
    if shutil.which("rsync"):
        run("rsync", "--sparse", path("dense"), path("rsynced"))
    for name in ("dense", "sparse", "copied", "dd", "unpacked/sparse", "truncated", "filled", "rsynced"):
        if not os.path.exists(path(name)):
            continue
        with open(path(name), "rb") as file:
            assert file.read() == content, name
        size = int(run("du", "-B1", path(name)).split()[0])
        apparent = int(run("du", "-B1", "--apparent-size", path(name)).split()[0])
        assert apparent == 8 * MIB and size == (8 if name == "filled" else 2) * MIB, (name, size)

    run("fallocate", "-l", "4M", path("allocated"))
    run("fallocate", "-z", "-o", "1M", "-l", "1M", path("filled"))
    run("fallocate", "-p", "-o", "7M", "-l", "512K", path("filled"))
    with open(path("filled"), "rb") as file:
        assert file.read() == content[:MIB] + bytes(6 * MIB + MIB // 2) + content[7 * MIB + MIB // 2:]
    assert os.stat(path("filled")).st_blocks * 512 == 15 * MIB // 2
    assert os.stat(path("allocated")).st_blocks * 512 == 4 * MIB
    # A filesystem in a file, as people make them.
    if shutil.which("mkfs.ext4") and shutil.which("e2fsck"):
        run("truncate", "-s", "64M", path("image"))
        run("mkfs.ext4", "-q", path("image"))
        run("e2fsck", "-fn", path("image"))
        assert os.stat(path("image")).st_blocks * 512 < 16 * MIB


def programs_again(directory):
    for name in ("dense", "sparse", "copied", "dd", "unpacked/sparse", "truncated"):
        size = int(run("du", "-B1", os.path.join(directory, name)).split()[0])
        assert size == 2 * MIB, (name, size)
    run("cmp", os.path.join(directory, "dense"), os.path.join(directory, "copied"))
    if os.path.exists(os.path.join(directory, "image")):
        run("e2fsck", "-fn", os.path.join(directory, "image"))


def holes(directory, count):
    """Punches every second block of a file."""
    fd = open_new(directory, "many holes")
    data = noise(MIB, 9)
    for at in range(0, 2 * int(count) * BLOCK, MIB):
        os.pwrite(fd, data, at)
    os.fsync(fd)
    for number in range(int(count)):
        fallocate(fd, PUNCH | KEEP_SIZE, 2 * number * BLOCK, BLOCK)
    os.fsync(fd)
    assert len(pieces(fd)) == int(count)
    os.close(fd)


def touch(directory, number):
    """Changes one block and commits."""
    with open(os.path.join(directory, "many holes"), "r+b", buffering=0) as file:
        file.seek((2 * int(number) + 1) * BLOCK)
        file.write(b"touched")
        os.fsync(file.fileno())


main(do=do, check=check, users=users, programs=programs, programs_again=programs_again, holes=holes, touch=touch)
