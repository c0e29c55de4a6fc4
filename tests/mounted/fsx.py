"""Random operations on a few files against plain byte arrays, as fsx does; `DIR run SEED OPS MODEL`.

MODEL is a directory on the bare disk: what the files must hold, written at the end, checked at the start of the
next run, so that a remount in between is part of the game. A failure prints the last operations and the seed.
"""

import ctypes
import errno
import mmap
import os
import random
import sys

from common import main

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
KEEP_SIZE, PUNCH, ZERO = 0x01, 0x02, 0x10

FILES = 3
LIMIT = 3_000_000
EDGES = (0, 1, 4095, 4096, 4097, 8192, 65536, 131071, 131072, 131073, 1 << 20)


class Game:
    def __init__(self, directory, seed, model):
        self.random = random.Random(seed)
        self.directory, self.model_directory, self.history = directory, model, []
        self.names = [f"file {n}" for n in range(FILES)]
        self.models, self.handles = {}, {}
        for name in self.names:
            saved = os.path.join(model, name)
            if os.path.exists(saved):
                with open(saved, "rb") as file:
                    self.models[name] = bytearray(file.read())
                self.compare(name)
            elif os.path.exists(self.path(name)):
                raise AssertionError(f"{name} is there and should not be")

    def path(self, name):
        return os.path.join(self.directory, name)

    def compare(self, name):
        with open(self.path(name), "rb") as file:
            found = file.read()
        assert_same(found, self.models[name], f"{name}, whole")

    def place(self, bound):
        """An offset or length below bound, often at an edge, often small."""
        kind = self.random.randrange(4)
        if kind == 0:
            return min(self.random.choice(EDGES), max(bound - 1, 0))
        if kind == 1:
            return self.random.randrange(min(bound, 10_000) or 1)
        return self.random.randrange(bound or 1)

    def data(self, length):
        return self.random.randbytes(length) if self.random.random() < 0.9 else bytes(length)

    def handle(self, name):
        handles = self.handles.setdefault(name, [])
        if not handles or (len(handles) < 3 and self.random.random() < 0.1):
            flags = os.O_RDWR | (os.O_CREAT if name not in self.models else 0)
            handles.append(os.open(self.path(name), flags, 0o644))
            self.models.setdefault(name, bytearray())
        return self.random.choice(handles)

    def close_all(self, name=None):
        for key in [name] if name else list(self.handles):
            for handle in self.handles.pop(key, []):
                os.close(handle)

    def step(self):
        name = self.random.choice(self.names)
        kinds = ["write"] * 5 + ["read"] * 5 + ["append", "truncate", "mapread", "mapwrite", "fsync", "close", "reopen",
                                               "replace", "rename", "unlink", "cut", "whole", "allocate", "allocate", "seek", "copy"]
        kind = self.random.choice(kinds)
        self.history.append((kind, name))
        getattr(self, "do_" + kind)(name)

    def put(self, name, offset, data):
        model = self.models[name]
        if data and offset > len(model):
            model.extend(bytes(offset - len(model)))
        model[offset : offset + len(data)] = data
        self.history[-1] += (offset, len(data))

    def do_write(self, name):
        handle = self.handle(name)
        offset = self.place(min(LIMIT, 2 * len(self.models[name]) + 5000))
        data = self.data(self.place(200_000))
        assert os.pwrite(handle, data, offset) == len(data)
        self.put(name, offset, data)

    def do_append(self, name):
        self.handle(name)
        if len(self.models[name]) > LIMIT:
            return
        data = self.data(self.place(20_000))
        with open(self.path(name), "ab", buffering=0) as file:
            file.write(data)
        self.put(name, len(self.models[name]), data)

    def do_read(self, name):
        handle, model = self.handle(name), self.models[name]
        offset, length = self.place(len(model) + 5000), self.place(300_000)
        self.history[-1] += (offset, length)
        assert_same(os.pread(handle, length, offset), model[offset : offset + length], f"{name} at {offset}")

    def do_truncate(self, name):
        handle, model = self.handle(name), self.models[name]
        size = self.place(min(LIMIT, 2 * len(model) + 5000))
        self.history[-1] += (size,)
        os.ftruncate(handle, size)
        self.models[name] = model[:size] + bytes(max(0, size - len(model)))

    def do_cut(self, name):
        """open(O_TRUNC) and write anew: the save pattern."""
        with open(self.path(name), "wb", buffering=0) as file:
            data = self.data(self.place(100_000))
            if data:
                file.write(data)
        self.models[name] = bytearray(data)
        self.history[-1] += (len(data),)

    def do_mapread(self, name):
        handle, model = self.handle(name), self.models[name]
        if model:
            with mmap.mmap(handle, len(model), prot=mmap.PROT_READ) as view:
                offset, length = self.place(len(model)), self.place(100_000)
                assert_same(view[offset : offset + length], model[offset : offset + length], f"{name} mapped")

    def do_mapwrite(self, name):
        handle, model = self.handle(name), self.models[name]
        if model:
            with mmap.mmap(handle, len(model)) as view:
                offset = self.place(len(model))
                data = self.data(min(self.place(50_000), len(model) - offset))
                view[offset : offset + len(data)] = data
                if self.random.random() < 0.3:
                    view.flush()
            self.put(name, offset, data)

    def do_allocate(self, name):
        handle, model = self.handle(name), self.models[name]
        mode = self.random.choice([0, KEEP_SIZE, PUNCH | KEEP_SIZE, PUNCH | KEEP_SIZE, ZERO, ZERO | KEEP_SIZE])
        offset = self.place(min(LIMIT, 2 * len(model) + 5000))
        length = 1 + self.place(300_000)
        self.history[-1] += (mode, offset, length)
        assert LIBC.fallocate(handle, mode, offset, length) == 0, os.strerror(ctypes.get_errno())
        if not mode & KEEP_SIZE and offset + length > len(model):
            model.extend(bytes(offset + length - len(model)))
        if mode & (PUNCH | ZERO):
            length = max(0, min(length, len(model) - offset))
            if length:
                model[offset : offset + length] = bytes(length)

    def do_seek(self, name):
        """Holes hold nothing."""
        handle, model = self.handle(name), self.models[name]
        at = self.place(len(model))
        while at < len(model):
            try:
                data = os.lseek(handle, at, os.SEEK_DATA)
            except OSError as error:
                assert error.errno == errno.ENXIO, error
                data = len(model)
            assert at <= data <= len(model) and not any(model[at:data]), f"{name}: a hole from {at} to {data}"
            at = os.lseek(handle, data, os.SEEK_HOLE) if data < len(model) else data
            assert at > data or at == len(model), f"{name}: a hole at {at}, where data is"

    def do_copy(self, name):
        other = self.random.choice(self.names)
        source, target = self.handle(name), self.handle(other)
        model = self.models[name]
        from_, to = self.place(len(model) + 1), self.place(min(LIMIT, 2 * len(self.models[other]) + 5000))
        length = self.place(500_000)
        self.history[-1] += (other, from_, to, length)
        expected = min(length, max(0, len(model) - from_))
        if name == other and from_ < to + length and to < from_ + length:
            return
        assert os.copy_file_range(source, target, length, from_, to) == expected
        if expected:
            self.history.append(("into", other))
            self.put(other, to, model[from_ : from_ + expected])

    def do_fsync(self, name):
        self.random.choice([os.fsync, os.fdatasync])(self.handle(name))

    def do_close(self, name):
        self.close_all(name)

    def do_reopen(self, name):
        self.close_all(name)
        self.handle(name)

    def do_whole(self, name):
        if name in self.models:
            self.compare(name)

    def do_replace(self, name):
        """Temporary file, maybe fsync, rename over: old handles keep the old file, so they are closed."""
        self.close_all(name)
        data = self.data(self.place(150_000))
        with open(self.path("temporary"), "wb") as file:
            file.write(data)
            if self.random.random() < 0.3:
                file.flush()
                os.fsync(file.fileno())
        os.rename(self.path("temporary"), self.path(name))
        self.models[name] = bytearray(data)

    def do_rename(self, name):
        """Over another of the files, open handles and all."""
        other = self.random.choice(self.names)
        if name in self.models and name != other:
            self.close_all(other)
            os.rename(self.path(name), self.path(other))
            self.models[other] = self.models.pop(name)
            if name in self.handles:
                self.handles[other] = self.handles.pop(name)

    def do_unlink(self, name):
        if name in self.models and self.random.random() < 0.5:
            self.close_all(name)
            os.unlink(self.path(name))
            del self.models[name]

    def finish(self):
        if self.random.random() < 0.5:
            self.close_all()
        for name in self.models:
            self.compare(name)
        assert sorted(os.listdir(self.directory)) == sorted(self.models)
        self.close_all()
        for name in self.names:
            saved = os.path.join(self.model_directory, name)
            if name in self.models:
                with open(saved, "wb") as file:
                    file.write(self.models[name])
            elif os.path.exists(saved):
                os.unlink(saved)


def assert_same(found, expected, what):
    if found != expected:
        differ = next((n for n, pair in enumerate(zip(found, expected)) if pair[0] != pair[1]), min(len(found), len(expected)))
        raise AssertionError(f"{what}: {len(found)} bytes, expected {len(expected)}; first difference at {differ}: "
                             f"{bytes(found[differ : differ + 16])!r}, expected {bytes(expected[differ : differ + 16])!r}")


def run(directory, seed, count, model):
    game = Game(directory, int(seed), model)
    try:
        for _ in range(int(count)):
            game.step()
        game.finish()
    except BaseException:
        print(f"seed {seed}, operation {len(game.history)}; the last ones:", *game.history[-12:], sep="\n  ", file=sys.stderr)
        raise


main(run=run)
