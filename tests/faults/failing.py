"""A disk that answers some writes with an error for a while: whatever an fsync has returned success for is there afterwards, on the
disk itself, whole; everything else is an older or a newer version, whole; and work goes on when the disk does.

The disk is a loop device over the recorder of tests/powercut, so that a write fails where it fails in life: when the kernel writes
back, long after the call that wrote. Run it in a mount namespace of its own (scripts/faults failing).

usage: failing.py AKASHA [short | [--seed N] [--rounds N] [ext4|xfs|btrfs]...]
"""

import copy
import ctypes
import errno
import itertools
import os
import pathlib
import random
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "powercut"))

# pylint: disable=wrong-import-position
from common import MKFS, Place, Vault, file_with, fsync, noise, run, until
from recorder import FSYNC, MAX_WRITE, WRITE, Recorder, Server

DISK_MIB = 384
# What the disk refuses: one in eight of the writes that look like ciphertext; one in eight of all, flushes and the journal's included;
# or everything.
CONTENT, ANYTHING, EVERYTHING = 1, 2, 3
OPERATIONS = 40
TOLD = {errno.EIO, errno.EROFS, errno.ENOSPC, errno.ESHUTDOWN, errno.EUCLEAN}


def looks_random(block):
    """Whether it does not begin as metadata does: 256 bytes of ciphertext have about 162 values, names fewer than 100."""
    return len(set(block[:256])) > 120


class Failing(Server):
    """Serves the image, and fails as the second cell of the counter says."""

    def __init__(self, fuse, image, log, counter):
        super().__init__(fuse, image, log, counter)
        self.dice = random.Random(os.path.basename(image))

    def append(self, offset, length):
        """Nothing is recorded."""

    def answer(self, opcode, body):
        mode = self.counter.cell[1]
        if mode and opcode in (WRITE, FSYNC) and self.refuses(mode, opcode == WRITE, body):
            self.counter.cell[2] += 1
            return -errno.EIO, []
        if opcode == WRITE:
            os.truncate(self.data, 0)
        return super().answer(opcode, body)

    def refuses(self, mode, is_write, body):
        if mode == EVERYTHING:
            return True
        is_wanted = mode == ANYTHING or is_write and looks_random(body[40:])
        return is_wanted and self.dice.randrange(8) == 0


class Known:
    """What is known of one path: what was promised, what may be there as well, and what a clean end promises."""

    def __init__(self):
        self.promised, self.later, self.all, self.last = None, [], [], None

    def tries(self, data):
        self.later.append(data)
        self.all.append(data)
        self.last = None

    def holds(self, data):
        """An fsync said so."""
        self.promised, self.later = data, []

    def allows(self, data):
        return any(data == version for version in [self.promised, *self.later])

    def describe(self, data):
        """What `data` is that is not allowed."""
        if data not in self.all:
            return f"{len(data)} bytes that were never in it"
        return f"version {self.all.index(data) + 1} of {len(self.all)} and not {self.all.index(self.promised) + 1} or later"


class Disk:
    """A filesystem on a disk that fails."""

    def __init__(self, place, kind, name):
        self.kind, self.image, self.at = kind, place.dir / f"{kind} {name}.img", place.dir / "disk"
        with open(self.image, "wb") as file:
            file.truncate(DISK_MIB << 20)
        run(*MKFS[kind], self.image)
        self.served = place.dir / "served"
        self.served.touch()
        self.recorder = Recorder(str(self.image), str(place.dir / "log"), str(self.served), Failing)
        place.ends.append(self.let_go)
        self.at.mkdir(exist_ok=True)
        place.ends.append(self.unmount)
        self.mount()

    def fails(self, mode):
        self.recorder.counter.cell[1] = mode

    def refused(self):
        return self.recorder.counter.cell[2]

    def mount(self):
        device = run("losetup", "--find", "--show", self.served).stdout.strip()
        try:
            # A longer request is cut in two by FUSE, and where the second part fails, loop takes a short write for a success.
            limit = pathlib.Path("/sys/block", pathlib.Path(device).name, "queue/max_sectors_kb")
            limit.write_text(str(MAX_WRITE // 2048), encoding="ascii")
            run("mount", "-t", self.kind, device, self.at)
        finally:
            # It goes with the mount, or now.
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

    def is_writable(self):
        """Whether the filesystem has survived it."""
        try:
            file_with(self.at / "probe", b"probe")
        except OSError as error:
            assert error.errno in TOLD, error
            return False
        return True


class Round:
    """One disk, one vault, one window of errors."""

    def __init__(self, place, kind, mode, seed):
        self.place, self.mode = place, mode
        self.dice = random.Random(seed)
        self.files, self.promises, self.errors = {}, 0, 0
        # Directories: those promised to be there or not, and those changed since.
        self.dirs, self.dirs_later = {}, set()
        self.seeds = itertools.count(seed * 1000)
        self.disk = Disk(place, kind, seed)
        self.label = f"{kind}, {'content' if mode == CONTENT else 'anything'}, seed {seed}"
        self.vault = Vault(place, self.disk.at)
        assert self.vault.start(), self.vault.said()

    def content(self, size):
        return noise(next(self.seeds), size)

    def path(self, name):
        return self.vault.at / name

    def attempt(self, name, data, step, promises=True):
        """`step` makes `name` hold `data`; if it succeeds and `promises`, that is durable. True if it did."""
        known = self.files.setdefault(name, Known())
        known.tries(data)
        if not self.told(step):
            self.give_up(name + "~")
            return False
        known.last = data
        if promises:
            known.holds(data)
            self.promises += 1
        return True

    def told(self, step):
        """Whether it succeeds; what it says if not is an error of the disk's."""
        try:
            step()
        except OSError as error:
            assert error.errno in TOLD, f"{self.label}: {error}"
            self.errors += 1
            return False
        return True

    def give_up(self, name):
        """As programs do with a save that failed. A name whose content was lost keeps its directory from being synced."""
        try:
            self.path(name).unlink(missing_ok=True)
        except OSError as error:
            assert error.errno in TOLD, f"{name}: {error}"

    def replace(self, name, data, sync):
        """Writes it whole under another name, which it gives up for this one."""
        file_with(self.path(name + "~"), data, sync)
        os.rename(self.path(name + "~"), self.path(name))
        if sync:
            fsync(self.path(name).parent)

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
        """Many files, of which nobody waits for each: their directories are synced, or the interval passes."""
        where = self.dice.choice(["burst", "spread"])
        names = [f"burst/{n}" if where == "burst" else f"spread/{n}/file" for n in range(24)]
        written = []
        for name in names:
            data = self.content(self.dice.choice([300, 40_000]))
            step = lambda name=name, data=data: self.replace(name, data, sync=False)
            if self.attempt(name, data, step, promises=False):
                written.append((name, data))
        if self.dice.randrange(2):
            time.sleep(0.4)
            return
        for directory in sorted({self.path(name).parent for name in names}):
            if self.told(lambda directory=directory: fsync(directory)):
                for name, data in written:
                    if self.path(name).parent == directory:
                        self.files[name].holds(data)
                        self.promises += 1

    def directories(self):
        """Directories that come and go."""
        def change(name, is_there):
            self.dirs_later.add(name)
            if self.told(lambda: os.mkdir(self.path(name)) if is_there else os.rmdir(self.path(name))):
                now[name] = is_there
        now = {}
        for name, is_there in list(self.dirs.items()):
            if is_there and name not in self.dirs_later and self.dice.randrange(2):
                change(name, False)
        for _ in range(4):
            change(f"dirs/{next(self.seeds)}", True)
        if self.dice.randrange(3) and self.told(lambda: fsync(self.path("dirs"))):
            self.dirs.update(now)
            self.dirs_later -= now.keys()
            self.promises += 1

    def work(self, count):
        steps = [self.save, self.save, self.large, self.patch, self.patch, self.burst, self.burst, self.directories]
        for _ in range(count):
            self.dice.choice(steps)()

    # ---- what is there -------------------------------------------------------------------------

    def shown(self, name):
        """What the mount shows of it: a version that is known, or after an error nothing for now."""
        try:
            data = self.path(name).read_bytes()
        except OSError as error:
            assert error.errno in TOLD | {errno.ENOENT}, error
            return None
        known = self.files.get(name)
        assert known and known.allows(data), f"{self.label}: {name} shows what was never in it, {len(data)} bytes"
        return data

    def run(self):
        for name in ["burst", "dirs", "spread", *(f"spread/{n}" for n in range(24))]:
            os.mkdir(self.path(name))
        self.work(8)
        assert self.errors == 0, f"{self.label}: {self.vault.said()}"
        self.disk.fails(self.mode)
        self.work(OPERATIONS)
        self.disk.fails(0)
        assert self.vault.is_alive(), self.vault.said()
        told = self.errors
        # The disk as it would be found if the power went now.
        cut = (self.place.dir / "cut.img", copy.deepcopy((self.files, self.dirs, self.dirs_later)))
        run("cp", "--sparse=always", self.disk.image, cut[0])
        if self.disk.is_writable():
            # The disk is well again, and the journal was not struck: so is the vault.
            self.work(8)
            assert self.mode == ANYTHING or self.errors == told, \
                f"{self.label}: {self.errors - told} errors after the end of the window: {self.vault.said()}"
        elif self.mode == CONTENT:
            print(f"{self.label}: a block of metadata was taken for content", file=sys.stderr)
        code = self.end()
        if code == 0:
            for known in self.files.values():
                if known.last is not None:
                    known.holds(known.last)
        self.verify()
        self.disk.unmount()
        # What lies there is what the server wrote; from here on it is another disk.
        run("cp", "--sparse=always", cut[0], self.disk.image)
        self.files, self.dirs, self.dirs_later = cut[1]
        self.label += ", cut at the end of the window"
        self.verify()
        return told, code

    def end(self):
        """Ends the mount and the filesystem below; the code of the daemon."""
        ended = run(self.place.akasha, "umount", self.vault.at, ok=False)
        code = self.vault.wait()
        assert (code, ended.returncode) in [(0, 0), (1, 1)], \
            f"{self.label}: the daemon ended with {code}, akasha umount with {ended.returncode}: {self.vault.said()}"
        assert "panicked" not in self.vault.said(), self.vault.said()
        self.disk.unmount()
        return code

    def verify(self):
        """What the disk itself has."""
        self.disk.mount()
        assert self.vault.start(), f"{self.label}: {self.vault.said()}"
        for name, known in self.files.items():
            try:
                data = self.path(name).read_bytes()
            except FileNotFoundError:
                assert known.promised is None, f"{self.label}: {name} was promised and is absent"
                continue
            except OSError as error:
                raise AssertionError(f"{self.label}: {name}: {error}\n{self.vault.said()}") from error
            assert known.allows(data), f"{self.label}: {name}: {known.describe(data)}\n{self.vault.said()}"
        for name, is_there in self.dirs.items():
            if name not in self.dirs_later:
                assert self.path(name).exists() == is_there, f"{self.label}: {name} should be there: {is_there}"
        self.vault.umount()
        self.vault.check()


def journal_fails_unseen(akasha, kind):
    """The journal fails while nobody waits for it, and the disk is well again: the next fsync must not say that all is well. On ext4
    and xfs that of the filesystem itself does, unless something was changed in between: then it is told, as it should be."""
    with Place(akasha) as place:
        disk = Disk(place, kind, "journal")
        vault = Vault(place, disk.at)
        assert vault.start(), vault.said()
        os.mkdir(vault.at / "dir")
        fsync(vault.at / "dir")
        native = disk.at / "native"
        native.mkdir()
        os.fsync(descriptor := os.open(native, os.O_RDONLY))
        os.mkdir(native / "new")
        os.mkdir(vault.at / "dir/new")
        disk.fails(EVERYTHING)
        # Whoever waits for the journal here is neither of the two.
        ctypes.CDLL(None).sync()
        disk.fails(0)
        told = {}
        for name, sync in [("the filesystem", lambda: os.fsync(descriptor)), ("akasha", lambda: fsync(vault.at / "dir"))]:
            try:
                sync()
                told[name] = "success"
            except OSError as error:
                assert error.errno in TOLD, error
                told[name] = errno.errorcode[error.errno]
        os.close(descriptor)
        run(akasha, "umount", vault.at, ok=False)
        code = vault.wait()
        assert vault.is_mounted() is False
        disk.unmount()
        disk.mount()
        is_lost = not (native / "new").exists()
        assert vault.start(), vault.said()
        assert told["akasha"] != "success" or (vault.at / "dir/new").exists(), f"{kind}: a directory was promised and is absent"
        assert code == 1 or (vault.at / "dir/new").exists(), f"{kind}: the end promised a directory that is absent"
        vault.umount()
        vault.check()
        print(f"{kind}, the journal fails unseen: fsync of a directory says {told['the filesystem']} on the filesystem, "
              f"{told['akasha']} on akasha; what was not durable is {'lost' if is_lost else 'there'}", flush=True)


def check(akasha, kind, mode, seeds):
    refused, promised, told, unclean = 0, 0, 0, 0
    for seed in seeds:
        with Place(akasha) as place:
            work = Round(place, kind, mode, seed)
            errors, code = work.run()
            refused, promised, told = refused + work.disk.refused(), promised + work.promises, told + errors
            unclean += code
            work.vault.end()
    assert refused and promised and told, f"{kind}: nothing was tried"
    kinds = "content" if mode == CONTENT else "anything"
    print(f"| {kind} | {kinds} | {len(seeds)} | {refused:,} | {promised:,} | {told:,} | {unclean} | 0 |", flush=True)


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
    kinds = kinds or list(MKFS)
    for kind in kinds:
        journal_fails_unseen(akasha, kind)
    print("| filesystem | refused | rounds | writes refused | promises | errors told | ends that said so | lost or torn |")
    for kind in kinds:
        for mode in [CONTENT, ANYTHING]:
            check(akasha, kind, mode, range(seed, seed + rounds))


if __name__ == "__main__":
    main(sys.argv[1:])
