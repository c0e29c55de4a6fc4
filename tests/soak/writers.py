"""Writers of different kinds, each in a directory of its own, each knowing what it must find there.

A writer's `turn` makes some changes and verifies some of what it knows. After the daemon was killed, `after_kill` reads all
and takes as its new truth what a crash may have left; anything else is an error."""

import hashlib
import mmap
import os
import sqlite3
import struct

BLOCK = 4096


def sealed(body):
    """Bytes that show whether they are whole."""
    return struct.pack("<I", len(body)) + hashlib.sha256(body).digest() + body


def is_whole(data):
    return len(data) >= 36 and struct.unpack("<I", data[:4])[0] == len(data) - 36 and \
        hashlib.sha256(data[36:]).digest() == data[4:36]


def read(path):
    with open(path, "rb") as file:
        return file.read()


def expect(is_so, what):
    if not is_so:
        raise AssertionError(what)


class Writer:
    def __init__(self, directory, random, maps):
        # A page fault on a mount whose daemon was killed is SIGBUS, which would end us with it.
        self.dir, self.random, self.maps = directory, random, maps
        os.makedirs(directory, exist_ok=True)
        self.start()

    def start(self):
        pass

    def path(self, *names):
        return os.path.join(self.dir, *names)


class Saver(Writer):
    """Saves by writing a temporary file and renaming it, some with fsync: each name is wholly one save, and no older than the
    last that was fsynced."""

    def start(self):
        self.saved = {}  # name -> list of (data, is durable), the newest last

    def turn(self):
        name = f"save{self.random.randrange(40)}"
        data = sealed(self.random.randbytes(self.random.choice([10, 3000, 5000, 60_000, 300_000])))
        durable = self.random.random() < 0.2
        # Before: a kill in between leaves one or the other.
        history = self.saved.get(name, [])[-20:]
        self.saved[name] = history + [(hashlib.sha256(data).digest(), False)]
        with open(self.path(name + ".new"), "wb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.rename(self.path(name + ".new"), self.path(name))
        if durable:
            fd = os.open(self.dir, os.O_RDONLY)
            os.fsync(fd)
            os.close(fd)
            self.saved[name] = [(hashlib.sha256(data).digest(), True)]
        other = self.random.choice(list(self.saved))
        found = hashlib.sha256(read(self.path(other))).digest()
        expect(found == self.saved[other][-1][0], f"{self.path(other)} is not what was saved")

    def after_kill(self):
        for name in list(self.saved):
            allowed = {digest for digest, _ in self.saved[name]}
            must_be = any(durable for _, durable in self.saved[name])
            try:
                data = read(self.path(name))
            except FileNotFoundError:
                expect(not must_be, f"{name} was durable and is gone")
                del self.saved[name]
                continue
            expect(is_whole(data), f"{name} is torn")
            digest = hashlib.sha256(data).digest()
            # Of twenty saves remembered; an older one that was never durable is still whole.
            expect(not must_be or digest in allowed, f"{name} is older than what was durable")
            self.saved[name] = [(digest, True)]
        for name in os.listdir(self.dir):
            if name.endswith(".new"):
                os.unlink(self.path(name))


class Appender(Writer):
    """Appends records to logs that are cut now and then: after a crash a prefix, at least to the last fsync."""

    def start(self):
        self.logs = {}  # name -> [whole content, durable length]

    def turn(self):
        name = f"log{self.random.randrange(6)}"
        content, durable = self.logs.get(name, (b"", 0))
        record = self.random.randbytes(self.random.randrange(1, 9000))
        if len(content) > 2_000_000:
            os.unlink(self.path(name))
            content, durable = b"", 0
            del self.logs[name]
        # Before: a kill in between leaves a prefix of it.
        self.logs[name] = (content + record, durable)
        with open(self.path(name), "ab") as file:
            file.write(record)
            file.flush()
            if self.random.random() < 0.1:
                os.fsync(file.fileno())
                durable = len(content) + len(record)
        self.logs[name] = (content + record, durable)
        other = self.random.choice(list(self.logs))
        expect(read(self.path(other)) == self.logs[other][0], f"{self.path(other)} is not what was appended")

    def after_kill(self):
        for name, (content, durable) in list(self.logs.items()):
            data = read(self.path(name)) if os.path.exists(self.path(name)) else None
            if data is None:
                expect(durable == 0, f"{name} was durable and is gone")
                del self.logs[name]
                continue
            expect(content.startswith(data) or durable == 0, f"{name} is no prefix of what was appended")
            expect(len(data) >= durable, f"{name} is shorter than what was durable")
            self.logs[name] = (data, len(data))


class Patcher(Writer):
    """Overwrites blocks of large files in place, through write and through shared maps; cuts and grows them."""

    SIZE = 6 << 20

    def start(self):
        self.content = bytearray(self.random.randbytes(self.SIZE))
        with open(self.path("large"), "wb") as file:
            file.write(self.content)
            os.fsync(file.fileno())

    def turn(self):
        with open(self.path("large"), "r+b") as file:
            how = self.random.randrange(10)
            if how == 0:
                size = self.random.randrange(self.SIZE // 2, self.SIZE)
                file.truncate(size)
                file.truncate(self.SIZE)
                self.content[size:] = bytes(self.SIZE - size)
            elif how < 4 and self.maps:
                with mmap.mmap(file.fileno(), 0) as view:
                    at = self.random.randrange(self.SIZE - 20_000)
                    data = self.random.randbytes(self.random.randrange(1, 20_000))
                    view[at:at + len(data)] = data
                    self.content[at:at + len(data)] = data
                    view.flush()
            else:
                at = self.random.randrange(self.SIZE - 70_000)
                data = self.random.randbytes(self.random.randrange(1, 70_000))
                file.seek(at)
                file.write(data)
                file.flush()
                self.content[at:at + len(data)] = data
            if self.random.random() < 0.2:
                os.fsync(file.fileno())
        at = self.random.randrange(self.SIZE - 100_000)
        with open(self.path("large"), "rb") as file:
            file.seek(at)
            expect(file.read(100_000) == self.content[at:at + 100_000], f"{self.dir}/large at {at}")

    def after_kill(self):
        data = read(self.path("large"))
        expect(len(data) <= self.SIZE, "large grew")
        # One of its versions, all of which authenticate; which one, the power-cut suites tell.
        self.content = bytearray(data.ljust(self.SIZE, b"\0"))
        os.truncate(self.path("large"), self.SIZE)


class Churner(Writer):
    """Makes, renames, links, marks and removes small files in a tree."""

    def start(self):
        self.files = {}  # path -> (content, mark or None)

    def turn(self):
        act = self.random.randrange(8)
        if act < 3 or len(self.files) < 10:
            path = self.path(f"d{self.random.randrange(5)}", f"e{self.random.randrange(4)}", f"f{self.random.randrange(30)}")
            os.makedirs(os.path.dirname(path), exist_ok=True)
            if path in self.files:
                os.unlink(path)
            data = sealed(self.random.randbytes(self.random.randrange(3000)))
            with open(path, "wb") as file:
                file.write(data)
            self.files[path] = (data, None)
            return
        path = self.random.choice(list(self.files))
        data, mark = self.files[path]
        if act == 3:
            to = path + "-moved"
            os.rename(path, to)
            self.files[to] = self.files.pop(path)
        elif act == 4:
            to = path + "-link"
            if to not in self.files:
                os.link(path, to)
                # Both names are read before one of them is written anew.
                self.files[to] = (data, mark)
                expect(os.stat(to).st_ino == os.stat(path).st_ino, "a link is another file")
                os.unlink(path)
                del self.files[path]
        elif act == 5:
            mark = self.random.randbytes(self.random.choice([10, 4000]))
            os.setxattr(path, "user.mark", mark)
            self.files[path] = (data, mark)
        elif act == 6:
            os.unlink(path)
            del self.files[path]
        else:
            expect(read(path) == data, f"{path} is not what was written")
            if mark is not None:
                expect(os.getxattr(path, "user.mark") == mark, f"the mark of {path}")
        while len(self.files) > 300:
            path = self.random.choice(list(self.files))
            os.unlink(path)
            del self.files[path]

    def after_kill(self):
        self.files = {}
        for here, _, names in os.walk(self.dir):
            for name in names:
                path = os.path.join(here, name)
                data = read(path)
                expect(is_whole(data), f"{path} is torn")
                mark = os.getxattr(path, "user.mark") if "user.mark" in os.listxattr(path) else None
                self.files[path] = (data, mark)


class Rows(Writer):
    """SQLite with a write-ahead log: what was committed is there, and the database is sound."""

    def start(self):
        self.count = 0
        with self.open() as db:
            db.execute("create table if not exists rows (n integer primary key, body blob)")

    def open(self):
        db = sqlite3.connect(self.path("rows.db"), timeout=60)
        db.execute("pragma synchronous=full")
        return db

    def turn(self):
        db = self.open()
        with db:
            db.execute("insert into rows values (?, ?)", (self.count, self.random.randbytes(2000)))
            db.execute("delete from rows where n < ?", (self.count - 500,))
        self.count += 1
        newest, = db.execute("select max(n) from rows").fetchone()
        expect(newest == self.count - 1, "a committed row is missing")
        db.close()

    def after_kill(self):
        db = self.open()
        expect(db.execute("pragma integrity_check").fetchone() == ("ok",), "the database is broken")
        newest, = db.execute("select max(n) from rows").fetchone()
        newest = -1 if newest is None else newest
        # The last transaction may have been cut off before or after it was durable.
        expect(newest in (self.count - 1, self.count), f"row {newest} of {self.count}")
        self.count = newest + 1
        db.close()


KINDS = [Saver, Appender, Patcher, Churner, Rows]
