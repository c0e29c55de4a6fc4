"""A disk that writes down what it is told: every write and every flush, in order.

It is a FUSE filesystem of one file; a loop device over that file is the disk under the filesystem to cut. What
arrives is applied to an image and appended to a log. Each entry has a position; position P of the log is the
instant at which P entries had arrived. The counter of entries lies in shared memory, so that a program can say
between which positions a system call of its own ran.

The kernel's side: fuse(4), linux/fuse.h. The file is opened with direct I/O, so that nothing waits in a page cache
of its own; a flush of the loop device arrives as FSYNC (drivers/block/loop.c, lo_req_flush), and FUA, which loop
does not offer, as a write and a flush after it.
"""

import ctypes
import errno
import mmap
import os
import signal
import struct

libc = ctypes.CDLL(None, use_errno=True)

MAX_WRITE = 1 << 20
GETATTR, SETATTR, OPEN, READ, WRITE, RELEASE, FSYNC = 3, 4, 14, 15, 16, 18, 20
FLUSH, INIT, INTERRUPT, DESTROY, FORGET, BATCH_FORGET = 25, 26, 36, 38, 2, 42
ASYNC_READ, BIG_WRITES, MAX_PAGES = 1 << 0, 1 << 5, 1 << 22
FOPEN_DIRECT_IO = 1

ENTRY = struct.Struct("<QQ")  # offset and length of a write; a flush has length 0
IN_HEADER = struct.Struct("<IIQQIIII")
OUT_HEADER = struct.Struct("<IiQ")


class Counter:
    """How many entries have arrived; shared with forked processes."""

    def __init__(self):
        self.memory = mmap.mmap(-1, mmap.PAGESIZE)
        self.cell = memoryview(self.memory).cast("Q")

    def now(self):
        return self.cell[0]

    def set(self, count):
        self.cell[0] = count


class Recorder:
    """Serves `image` as the file `at`, logging to `log`.index and `log`.data, until `stop`; by another kind of `server` if one is given."""

    def __init__(self, image, log, at, server=None):
        self.at, self.log, self.counter = at, log, Counter()
        open(at, "w").close()
        fuse = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        options = f"fd={fuse},rootmode=100000,user_id=0,group_id=0,max_read={MAX_WRITE}".encode()
        if libc.mount(b"powercut", at.encode(), b"fuse", 0, options) != 0:
            raise OSError(ctypes.get_errno(), "mount the recorder", at)
        self.pid = os.fork()
        if self.pid == 0:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            status = 1
            try:
                (server or Server)(fuse, image, log, self.counter).run()
                status = 0
            finally:
                os._exit(status)
        os.close(fuse)

    def now(self):
        return self.counter.now()

    def stop(self):
        """Unmounts. Whoever used the file must have gone."""
        if libc.umount2(self.at.encode(), 0) != 0:
            raise OSError(ctypes.get_errno(), "unmount the recorder", self.at)
        _, status = os.waitpid(self.pid, 0)
        if status != 0:
            raise RuntimeError(f"the recorder failed: {status}")

    def entries(self):
        """The log: (offset, length, where its data is); length 0 is a flush."""
        entries, at = [], 0
        with open(self.log + ".index", "rb") as index:
            for offset, length in ENTRY.iter_unpack(index.read()):
                entries.append((offset, length, at))
                at += length
        return entries


class Server:
    """The process that serves the file."""

    def __init__(self, fuse, image, log, counter):
        self.fuse, self.counter, self.count = fuse, counter, 0
        self.image = os.open(image, os.O_RDWR)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        self.index = os.open(log + ".index", flags, 0o600)
        self.data = os.open(log + ".data", flags, 0o600)
        self.size = os.fstat(self.image).st_size

    def run(self):
        buffer = bytearray(MAX_WRITE + mmap.PAGESIZE)
        view = memoryview(buffer)
        while True:
            try:
                got = os.readv(self.fuse, [buffer])
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.EINTR, errno.EAGAIN):
                    continue
                if error.errno == errno.ENODEV:
                    return
                raise
            _, opcode, unique, *_ = IN_HEADER.unpack_from(buffer)
            if opcode in (FORGET, BATCH_FORGET, INTERRUPT):
                continue
            status, parts = self.answer(opcode, view[IN_HEADER.size : got])
            length = OUT_HEADER.size + sum(map(len, parts))
            try:
                os.writev(self.fuse, [OUT_HEADER.pack(length, status, unique), *parts])
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENODEV):
                    raise

    def answer(self, opcode, body):
        if opcode == WRITE:
            _, offset, size = struct.unpack_from("<QQI", body)
            data = body[40 : 40 + size]
            done = os.pwrite(self.image, data, offset)
            os.write(self.data, data[:done])
            self.append(offset, done)
            return 0, [struct.pack("<II", done, 0)]
        if opcode == READ:
            _, offset, size = struct.unpack_from("<QQI", body)
            return 0, [os.pread(self.image, size, offset)]
        if opcode == FSYNC:
            self.append(0, 0)
            return 0, []
        if opcode in (GETATTR, SETATTR):
            blocks, mode = self.size // 512, 0o100600
            attr = struct.pack("<6Q10I", 1, self.size, blocks, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)
            return 0, [struct.pack("<QII", 3600, 0, 0), attr]
        if opcode == OPEN:
            return 0, [struct.pack("<QIi", 1, FOPEN_DIRECT_IO, 0)]
        if opcode in (RELEASE, FLUSH, DESTROY):
            return 0, []
        if opcode == INIT:
            _, minor, readahead, flags = struct.unpack_from("<4I", body)
            flags &= ASYNC_READ | BIG_WRITES | MAX_PAGES
            pages = MAX_WRITE // mmap.PAGESIZE
            init = (7, min(minor, 38), readahead, flags, 16, 12, MAX_WRITE, 1, pages, 0, 0, 0)
            return 0, [struct.pack("<4I2H2I2H2I24x", *init)]
        return -errno.ENOSYS, []

    def append(self, offset, length):
        os.write(self.index, ENTRY.pack(offset, length))
        self.count += 1
        self.counter.set(self.count)
