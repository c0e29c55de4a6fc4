"""A disk that answers some writes with an error for a while: whatever an fsync has returned success for is there afterwards, on the
disk itself, whole; everything else is an older or a newer version, whole; and work goes on when the disk does.

The disk is a loop device over the recorder of tests/powercut, so that a write fails where it fails in life: when the kernel writes
back, long after the call that wrote.

usage: failing.py AKASHA [short | [--seed N] [--rounds N] [ext4|xfs|btrfs]...]
"""

import errno
import itertools
import os
import pathlib
import random
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "powercut"))

# pylint: disable=wrong-import-position
from common import MKFS, Place, Vault, noise, run, until
from recorder import FSYNC, MAX_WRITE, WRITE, Recorder, Server

DISK_MIB = 384
# What the disk refuses: only blocks that look like ciphertext, or whatever it is sent, flushes and the journal included.
CONTENT, ANYTHING = 1, 2
OPERATIONS = 40
TOLD = {errno.EIO, errno.EROFS, errno.ENOSPC, errno.ESHUTDOWN, errno.EUCLEAN}


def looks_random(block):
    """Blocks of metadata have runs of zeros; one byte in 256 of ciphertext is zero."""
    return bytes(block).count(0) < len(block) // 100


class Failing(Server):
    """Serves the image; while the second cell of the counter is set, one write in eight fails, first in its middle."""

    def __init__(self, fuse, image, log, counter):
        super().__init__(fuse, image, log, counter)
        self.dice = random.Random(os.path.basename(image))

    def append(self, offset, length):
        """Nothing is recorded."""

    def answer(self, opcode, body):
        mode = self.counter.cell[1]
        if mode and opcode in (WRITE, FSYNC) and self.dice.randrange(8) == 0:
            if opcode == WRITE and (mode == ANYTHING or looks_random(body[40:])):
                self.counter.cell[2] += 1
                return -errno.EIO, []
            if opcode == FSYNC and mode == ANYTHING:
                self.counter.cell[2] += 1
                return -errno.EIO, []
        if opcode == WRITE:
            os.truncate(self.data, 0)
        return super().answer(opcode, body)


class File:
    """What is known of one path: what was promised, and what may be there as well."""

    def __init__(self):
        self.promised, self.later, self.all = None, [], []

    def tries(self, data):
        self.later.append(data)
        self.all.append(data)

    def holds(self, data):
        """An fsync said so."""
        self.promised, self.later = data, []

    def allows(self, data):
        known = [self.promised, *self.later]
        return any(data == version for version in known)

    def describe(self, data):
        """What `data` is that is not allowed."""
        if data not in self.all:
            return f"{len(data)} bytes that were never in it"
        return f"version {self.all.index(data) + 1} of {len(self.all)} and not {self.all.index(self.promised) + 1} or later"

    def is_promised(self):
        return self.promised is not None


class Round:
    """One disk, one vault, one window of errors."""

    def __init__(self, place, kind, mode, seed):
        self.place, self.kind, self.mode = place, kind, mode
        self.dice = random.Random(seed)
        self.files, self.promises, self.errors = {}, 0, 0
        self.seeds = itertools.count(seed * 1000)
        self.image, self.at = place.dir / f"{kind} {seed}.img", place.dir / "disk"
        with open(self.image, "wb") as file:
            file.truncate(DISK_MIB << 20)
        run(*MKFS[kind], self.image)
        self.served = place.dir / "served"
        self.served.touch()
        self.recorder = Recorder(str(self.image), str(place.dir / "log"), str(self.served), Failing)
        place.ends.append(self.let_go)
        self.at.mkdir(exist_ok=True)
        self.mount()
        place.ends.append(self.unmount)
        self.vault = Vault(place, self.at)
        assert self.vault.start(), self.vault.said()

    def mount(self):
        device = run("losetup", "--find", "--show", self.served).stdout.strip()
        # A longer request is cut in two by FUSE, and where the second part fails, loop takes a short write for a success.
        limit = pathlib.Path("/sys/block", pathlib.Path(device).name, "queue/max_sectors_kb")
        limit.write_text(str(MAX_WRITE // 2048), encoding="ascii")
        run("mount", "-t", self.kind, device, self.at)
        run("losetup", "--detach", device)

    def unmount(self):
        """As far as the kernel goes: what it has in memory of the disk must be gone when it is mounted again."""
        def is_gone():
            done = run("umount", self.at, ok=False)
            return done.returncode == 0 or "not mounted" in done.stderr
        until("the disk's last user", is_gone)
        until("the loop device", lambda: str(self.served) not in run("losetup", "-a").stdout)

    def let_go(self):
        if self.recorder:
            self.recorder.stop()
            self.recorder = None

    def content(self, size):
        return noise(next(self.seeds), size)

    def path(self, name):
        return self.vault.at / name

    def attempt(self, name, data, step, promises=True):
        """`step` makes `name` hold `data`; if it succeeds and `promises`, that is durable. True if it did."""
        known = self.files.setdefault(name, File())
        known.tries(data)
        try:
            step()
        except OSError as error:
            assert error.errno in TOLD, f"{name}: {error}"
            self.errors += 1
            self.give_up(name + "~")
            return False
        if promises:
            known.holds(data)
            self.promises += 1
        return True

    def give_up(self, name):
        """As programs do with a save that failed. A name whose content was lost keeps its directory from being synced."""
        try:
            self.path(name).unlink(missing_ok=True)
        except OSError as error:
            assert error.errno in TOLD, f"{name}: {error}"

    def replace(self, name, data, sync):
        """Writes it whole under another name, which it gives up for this one."""
        write(self.path(name + "~"), data, sync)
        os.rename(self.path(name + "~"), self.path(name))
        if sync:
            sync_dir(self.path(name).parent)

    # ---- what is done --------------------------------------------------------------------------

    def save(self):
        """A small file."""
        name = f"small{self.dice.randrange(6)}"
        data = self.content(self.dice.choice([0, 100, 5000, 90_000]))
        self.attempt(name, data, lambda: self.replace(name, data, sync=True))

    def large(self):
        """More than the daemon keeps in memory: it is on its way to the disk long before the fsync."""
        name = f"large{self.dice.randrange(2)}"
        data = self.content(self.dice.choice([3 << 20, 20 << 20]))
        self.attempt(name, data, lambda: self.replace(name, data, sync=True))

    def patch(self):
        """Some bytes of a large file."""
        name = f"large{self.dice.randrange(2)}"
        old = self.shown(name)
        if not old:
            return
        new = bytearray(old)
        places = [self.dice.randrange(len(old) - 3000) for _ in range(self.dice.choice([1, 40]))]
        for place in places:
            new[place:place + 3000] = self.content(3000)

        def step():
            with open(self.path(name), "r+b", buffering=0) as file:
                for place in places:
                    assert os.pwrite(file.fileno(), new[place:place + 3000], place) == 3000
                os.fsync(file.fileno())
        self.attempt(name, bytes(new), step)

    def burst(self):
        """Many files, of which nobody waits for each: the directory is synced, or the interval passes."""
        names = [f"burst/{n}" for n in range(24)]
        written = []
        for name in names:
            data = self.content(self.dice.choice([300, 40_000]))
            if self.attempt(name, data, lambda name=name, data=data: self.replace(name, data, sync=False), promises=False):
                written.append((name, data))
        if self.dice.randrange(2):
            time.sleep(0.4)
            return
        try:
            sync_dir(self.path("burst"))
        except OSError as error:
            assert error.errno in TOLD, error
            self.errors += 1
            return
        for name, data in written:
            self.files[name].holds(data)
            self.promises += 1

    def move(self):
        """Directories that come and go: syncs of names."""
        try:
            for n in range(12):
                os.makedirs(self.path(f"dirs/{n}/in"), exist_ok=True)
            for n in range(12):
                os.rmdir(self.path(f"dirs/{n}/in"))
            sync_dir(self.path("dirs"))
        except OSError as error:
            assert error.errno in TOLD, error
            self.errors += 1

    # ---- what is there -------------------------------------------------------------------------

    def shown(self, name):
        """What the mount shows of it: a version that is known, or after an error nothing for now."""
        try:
            data = self.path(name).read_bytes()
        except OSError as error:
            assert error.errno in TOLD | {errno.ENOENT}, error
            return None
        assert self.is_known(name, data), f"{self.label()}: {name} shows what was never in it, {len(data)} bytes"
        return data

    def is_known(self, name, data):
        known = self.files.get(name)
        return known and known.allows(data)

    def is_writable(self):
        """Whether the filesystem below has survived it."""
        try:
            write(self.at / "probe", b"probe", sync=True)
        except OSError as error:
            assert error.errno in TOLD, error
            return False
        return True

    def work(self, count):
        steps = [self.save, self.save, self.large, self.patch, self.patch, self.burst, self.move]
        for _ in range(count):
            self.dice.choice(steps)()

    def label(self):
        return f"{self.kind}, {'content' if self.mode == CONTENT else 'anything'}, {self.image.name}"

    def run(self):
        os.mkdir(self.path("burst"))
        self.work(8)
        self.recorder.counter.cell[1] = self.mode
        self.work(OPERATIONS)
        self.recorder.counter.cell[1] = 0
        refused = self.recorder.counter.cell[2]
        assert self.vault.is_alive(), self.vault.said()
        before = self.errors
        told = before
        # A full block of btrfs's checksums looks random, too, and is then missed by its journal.
        if self.mode == CONTENT and self.is_writable():
            # The disk is well again, and nothing else was struck: so is the vault.
            self.work(8)
            assert self.errors == before, f"{self.label()}: {self.errors - before} errors after the end of the window: {self.vault.said()}"
        code = self.end()
        self.verify()
        return refused, told, code

    def end(self):
        """Ends the mount and the filesystem below; the code of the daemon."""
        ended = run(self.place.akasha, "umount", self.vault.at, ok=False)
        code = self.vault.wait()
        assert code in (0, 1), f"{self.label()}: the daemon ended with {code}: {self.vault.said()}"
        assert ended.returncode in (0, 1), ended.stderr
        assert "panicked" not in self.vault.said(), self.vault.said()
        self.unmount()
        return code

    def verify(self):
        """What the disk itself has."""
        self.mount()
        assert self.vault.start(), f"{self.label()}: {self.vault.said()}"
        for name, known in self.files.items():
            try:
                data = self.path(name).read_bytes()
            except FileNotFoundError:
                assert not known.is_promised(), f"{self.label()}: {name} was promised and is absent"
                continue
            except OSError as error:
                state = "promised" if known.is_promised() and not known.later else "not promised"
                raise AssertionError(f"{self.label()}: {name}, {state}: {error}\n{self.vault.said()}") from error
            assert self.is_known(name, data), f"{self.label()}: {name}: {known.describe(data)}\n{self.vault.said()}"
        self.vault.umount()
        self.vault.check()


def write(path, data, sync):
    with open(path, "wb", buffering=0) as file:
        view = memoryview(data)
        while view:
            view = view[os.write(file.fileno(), view[:1 << 20]):]
        if sync:
            os.fsync(file.fileno())


def sync_dir(path):
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check(akasha, kind, mode, seeds):
    refused, promised, told, unclean = 0, 0, 0, 0
    for seed in seeds:
        with Place(akasha) as place:
            work = Round(place, kind, mode, seed)
            more, errors, code = work.run()
            refused, promised, told, unclean = refused + more, promised + work.promises, told + errors, unclean + code
            work.vault.end()
    kinds = "content" if mode == CONTENT else "anything"
    print(f"| {kind} | {kinds} | {len(seeds)} | {refused} | {promised} | {told} | {unclean} | 0 |", flush=True)


def main(words):
    kinds, seed, rounds = [], 1, 20
    akasha, *words = words
    while words:
        word = words.pop(0)
        if word == "short":
            rounds = 1
        elif word == "--seed":
            seed = int(words.pop(0))
        elif word == "--rounds":
            rounds = int(words.pop(0))
        else:
            kinds.append(word)
    print("| filesystem | refused | rounds | writes refused | promises | errors told | ends that said so | lost or torn |")
    for kind in kinds or list(MKFS):
        for mode in [CONTENT, ANYTHING]:
            check(akasha, kind, mode, range(seed, seed + rounds))


if __name__ == "__main__":
    main(sys.argv[1:])
