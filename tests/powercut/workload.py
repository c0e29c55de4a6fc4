"""What runs on the mount until the power goes: writers that save, append, change, rename, link, remove and sync.

Each writer is a process with names of its own: a tree of directories, and files in a directory that all share. It
tells its oracle (by a list of events) of each change before the system call, and of each promise after it.
"""

import ctypes
import mmap
import os
import random
import time

from oracle import ROOT, SHARED, TAG_LEN, Oracle, pattern

libc = ctypes.CDLL(None, use_errno=True)
AT_FDCWD, RENAME_EXCHANGE, AT_SYMLINK_FOLLOW = -100, 2, 0x400
LONG = "long-" + "n" * 195
FILES = ["a", "b", "c", "d", "e", LONG]
SMALL = (20, 20, 100, 1000, 4096, 5000, 20_000)
LARGE = (60_000, 131_072, 140_000, 400_000, 1_500_000)
# (how often, operation)
OPERATIONS = (
    (14, "save"), (14, "replace"), (6, "append"), (14, "change"), (10, "log"), (3, "mkdir"), (2, "move_dir"),
    (2, "rmdir"), (8, "move"), (5, "unlink"), (5, "link"), (3, "symlink"), (4, "set_xattr"), (2, "group"),
    (4, "store"), (4, "sync"), (4, "sync_dir"), (2, "exchange"), (3, "resize"), (2, "nameless"), (3, "late_name"), (1, "big"),
)  # fmt: skip
# The same where names are all that matters: more of them are dead, hidden or on their way at a time.
NAMES = (
    (6, "save"), (20, "replace"), (3, "mkdir"), (2, "move_dir"), (2, "rmdir"), (10, "move"), (10, "unlink"), (14, "link"),
    (2, "set_xattr"), (2, "sync"), (6, "sync_dir"), (3, "exchange"),
)  # fmt: skip
WORKLOADS = {"all": OPERATIONS, "names": NAMES}


class Writer:
    """One writer. `spared` names operations that the program under test does not offer."""

    def __init__(self, worker, root, now, rng, patience_s, spared=(), workload="all"):
        self.worker, self.root, self.now, self.rng, self.patience_s = worker, root, now, rng, patience_s
        self.oracle = Oracle(worker, [])
        self.events = []
        self.serial = self.writes = self.count = 0
        self.open = {}  # files that stay open: object -> descriptor
        weights, self.names = zip(*(pair for pair in WORKLOADS[workload] if pair[1] not in spared))
        self.weights = weights
        self.files = [name for name in FILES if name != LONG or "long_name" not in spared]
        self.dirs = {ROOT: f"w{worker}", SHARED: "shared"}

    # ---- telling ---------------------------------------------------------------------------

    def tell(self, told, *rest):
        self.events.append((self.now(), told, *rest))
        getattr(self.oracle, told)(*rest)

    def path(self, spot):
        return f"{self.dir_path(spot[0])}/{spot[1]}"

    def dir_path(self, directory):
        if directory in self.dirs:
            return f"{self.root}/{self.dirs[directory]}"
        (spot,) = self.oracle.spots(directory)
        return self.path(spot)

    # ---- choosing --------------------------------------------------------------------------

    def live(self, kind):
        return [n for n, found in self.oracle.objects.items() if found.kind == kind and found.places[-1][0]]

    def a_dir(self):
        return self.rng.choice([ROOT, ROOT, SHARED, *self.live("dir")])

    def a_spot(self, name=None):
        directory = self.a_dir()
        name = name or self.rng.choice(self.files)
        return (directory, f"w{self.worker}.{name}" if directory == SHARED else name)

    def a_file(self):
        """A spot that holds a file of the kind that is not kept open."""
        spots = [s for s, h in self.oracle.holders.items() if h[-1] is not None and self.is_plain(h[-1])]
        return self.rng.choice(spots) if spots else None

    def is_plain(self, number):
        found = self.oracle.objects[number]
        return found.kind == "file" and found.states is None

    def is_free(self, spot):
        """Whether a file may be put there."""
        held = self.oracle.holder(spot)
        return held is None or self.oracle.objects[held].kind != "dir"

    def chance(self, share):
        return self.rng.random() < share

    # ---- writing ---------------------------------------------------------------------------

    def new(self, kind, spot, stays_open=False):
        self.serial += 1
        self.tell("made", self.serial, kind, spot, stays_open)
        return self.serial

    def write(self, fd, number, offset, length, is_synced=False):
        self.writes += 1
        self.tell("wrote", number, offset, self.writes, length)
        if is_synced:
            self.tell("version", number)
        data = memoryview(pattern(self.worker, number, self.writes, length))
        while data:
            # Several calls for one write: a save is more than one step.
            step = self.rng.choice((len(data), len(data), 65536, 4096))
            done = os.pwrite(fd, data[:step], offset)
            data, offset = data[done:], offset + done
        if is_synced:
            self.tell("keep", number)

    def fill(self, fd, number, length):
        """A whole new content, in one or more writes."""
        self.tell("emptied", number)
        first = length if length < 2 * TAG_LEN or self.chance(0.7) else self.rng.randrange(TAG_LEN, length)
        self.write(fd, number, 0, first)
        if first < length:
            self.write(fd, number, first, length - first)

    def length(self):
        return self.rng.choice(SMALL if self.chance(0.85) else LARGE) + self.rng.randrange(50)

    def fsync(self, fd, number):
        self.tell("version", number)
        if self.chance(0.5):
            os.fsync(fd)
        else:
            os.fdatasync(fd)
        self.tell("keep", number)

    def close(self, fd, number, since):
        """Closes a file that was being written since (index of the first event that is of it, time)."""
        self.tell("version", number)
        os.close(fd)
        index, begun_s = since
        if time.monotonic() - begun_s > self.patience_s:
            # So slow that the program commits what it has: nobody chose that state.
            self.events.insert(index + 1, (self.events[index][0], "slow", number))

    def since(self):
        return len(self.events), time.monotonic()

    # ---- operations ------------------------------------------------------------------------

    def run(self, until_s, is_over):
        while time.monotonic() < until_s and not is_over():
            name = self.rng.choices(self.names, self.weights)[0]
            self.count += 1
            getattr(self, name)()
        return self.events

    def save(self):
        """Truncates the file or makes it, writes, closes."""
        spot = self.a_spot()
        number = self.oracle.holder(spot)
        if number is not None and not self.is_plain(number):
            return
        since = self.since()
        if number is None:
            number = self.new("file", spot)
        else:
            self.tell("emptied", number)
        fd = os.open(self.path(spot), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        self.fill(fd, number, self.length())
        if self.chance(0.3):
            self.fsync(fd, number)
        self.close(fd, number, since)

    def replace(self):
        """Writes a temporary file and renames it over the name."""
        spot = self.a_spot()
        if not self.is_free(spot):
            return
        temporary = (spot[0], spot[1][:200] + ".tmp")
        since = self.since()
        number = self.new("file", temporary)
        fd = os.open(self.path(temporary), os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        self.fill(fd, number, self.length())
        if self.chance(0.4):
            self.fsync(fd, number)
        is_early = self.chance(0.2)
        if not is_early:
            self.close(fd, number, since)
        self.tell("renamed", temporary, spot)
        os.rename(self.path(temporary), self.path(spot))
        if is_early:
            self.close(fd, number, since)
        if self.chance(0.3):
            self.fsync_dir(spot[0])

    def append(self):
        spot = self.a_file()
        if not spot:
            return
        number = self.oracle.holder(spot)
        since = self.since()
        fd = os.open(self.path(spot), os.O_WRONLY | os.O_APPEND)
        self.write(fd, number, len(self.oracle.objects[number].live), self.rng.choice(SMALL))
        if self.chance(0.4):
            self.fsync(fd, number)
        self.close(fd, number, since)

    def kept_open(self, name, length):
        """A file that stays open: its object and descriptor. It is durable from the start."""
        for number in self.open:
            if self.oracle.objects[number].places[-1][0] == {(ROOT, name)}:
                return number, self.open[number]
        spot = (ROOT, name)
        number = self.new("file", spot, True)
        fd = os.open(self.path(spot), os.O_RDWR | os.O_CREAT | os.O_EXCL)
        self.open[number] = fd
        self.write(fd, number, 0, length)
        self.fsync(fd, number)
        return number, fd

    def log(self):
        number, fd = self.kept_open(f"log{self.rng.randrange(2)}", 40)
        for _ in range(self.rng.randrange(1, 5)):
            self.write(fd, number, len(self.oracle.objects[number].live), self.rng.choice((30, 80, 700)))
        if self.chance(0.5):
            self.fsync(fd, number)

    def change(self):
        """Overwrites in the middle of a large file that stays open, as a database does."""
        number, fd = self.kept_open(f"db{self.rng.randrange(2)}", self.rng.choice((200_000, 500_000, 1_000_000)))
        size = len(self.oracle.objects[number].live)
        for _ in range(self.rng.choice((1, 1, 2, 6))):
            length = self.rng.choice((4096, 4096, 100, 8192, 30_000))
            offset = self.rng.randrange(TAG_LEN, size)
            if length % 4096 == 0:
                offset = offset // 4096 * 4096
            self.write(fd, number, offset, min(length, size - offset) if self.chance(0.9) else length)
        if self.chance(0.7):
            self.fsync(fd, number)

    def store(self):
        """Stores through a shared map, and msync."""
        number, fd = self.kept_open("map", 300_000)
        live = self.oracle.objects[number].live
        with mmap.mmap(fd, len(live)) as shared:
            for _ in range(self.rng.randrange(1, 4)):
                offset = self.rng.randrange(TAG_LEN, len(live) - 5000)
                self.writes += 1
                self.tell("wrote", number, offset, self.writes, 5000)
                shared[offset : offset + 5000] = pattern(self.worker, number, self.writes, 5000)
            self.tell("version", number)
            shared.flush()
            self.tell("keep", number)

    def resize(self):
        """A large file is cut or grown, synced or not, and closed."""
        spots = [s for s in [self.a_file() for _ in range(8)] if s]
        spots = [s for s in spots if len(self.oracle.objects[self.oracle.holder(s)].live) > 9000]
        if not spots:
            return
        number = self.oracle.holder(spots[0])
        since = self.since()
        fd = os.open(self.path(spots[0]), os.O_WRONLY)
        size = max(64, len(self.oracle.objects[number].live) + self.rng.randrange(-9000, 9000))
        self.tell("sized", number, size)
        os.ftruncate(fd, size)
        if self.chance(0.5):
            self.fsync(fd, number)
        self.close(fd, number, since)

    def big(self):
        """A large file, then a change in its middle by another opening."""
        spot = self.a_spot("big")
        number = self.oracle.holder(spot)
        since = self.since()
        if number is None:
            number = self.new("file", spot)
            fd = os.open(self.path(spot), os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            self.fill(fd, number, 2_000_000)
        else:
            is_synced = self.chance(0.3)
            fd = os.open(self.path(spot), os.O_WRONLY | (os.O_DSYNC if is_synced else 0))
            self.write(fd, number, self.rng.randrange(1, 400) * 4096, 4096, is_synced)
        if self.chance(0.5):
            self.fsync(fd, number)
        self.close(fd, number, since)

    def group(self):
        """Many new files, and one sync of their directory."""
        directory = self.a_dir()
        self.count += 1
        prefix = f"w{self.worker}." if directory == SHARED else ""
        for index in range(self.rng.choice((10, 30))):
            spot = (directory, f"{prefix}g{index}")
            if not self.is_free(spot):
                continue
            since = self.since()
            number = self.oracle.holder(spot)
            if number is None:
                number = self.new("file", spot)
            else:
                self.tell("emptied", number)
            fd = os.open(self.path(spot), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            self.fill(fd, number, self.rng.choice(SMALL))
            self.close(fd, number, since)
        if self.chance(0.7):
            self.fsync_dir(directory)

    def nameless(self):
        """A temporary file that loses its name while it is open."""
        spot = self.a_spot("nameless")
        number = self.new("file", spot)
        since = self.since()
        fd = os.open(self.path(spot), os.O_RDWR | os.O_CREAT | os.O_EXCL)
        self.fill(fd, number, self.length())
        self.tell("unlinked", spot)
        os.unlink(self.path(spot))
        self.write(fd, number, 0, 5000)
        if self.chance(0.5):
            os.fsync(fd)
        self.close(fd, number, since)

    def late_name(self):
        """A file that is made without a name (O_TMPFILE) and gets its first by link, written before, synced or not."""
        spot = self.a_spot()
        if self.oracle.holder(spot) is not None:
            return
        since = self.since()
        self.serial += 1
        number = self.serial
        self.tell("born", number)
        fd = os.open(self.dir_path(spot[0]), os.O_RDWR | os.O_TMPFILE, 0o644)
        self.fill(fd, number, self.length())
        is_synced = self.chance(0.5)
        if is_synced:
            self.fsync(fd, number)
        self.tell("linked", number, spot)
        path = os.fsencode(self.path(spot))
        if libc.linkat(AT_FDCWD, b"/proc/self/fd/%d" % fd, AT_FDCWD, path, AT_SYMLINK_FOLLOW) != 0:
            raise OSError(ctypes.get_errno(), "linkat", path)
        # A first version that no fsync returned for is its writer's to publish.
        if is_synced and self.chance(0.5):
            self.fsync_dir(spot[0])
        self.close(fd, number, since)

    def mkdir(self):
        if len(self.live("dir")) > 6:
            return
        parent = self.a_dir()
        if parent == SHARED:
            return
        spot = (parent, f"d{self.serial + 1}.0")
        self.new("dir", spot)
        os.mkdir(self.path(spot))
        if self.chance(0.3):
            self.fsync_dir(parent)

    def is_below(self, directory, other):
        while directory in self.oracle.objects:
            if directory == other:
                return True
            ((directory, _),) = self.oracle.spots(directory)
        return False

    def move_dir(self):
        dirs = self.live("dir")
        target = self.a_dir()
        if not dirs or target == SHARED:
            return
        number = self.rng.choice(dirs)
        if self.is_below(target, number):
            return
        (spot,) = self.oracle.spots(number)
        self.count += 1
        new = (target, f"d{number}.{self.count}")
        source, destination = self.path(spot), self.path(new)
        self.tell("renamed", spot, new)
        os.rename(source, destination)
        if self.chance(0.3):
            self.fsync_dir(target)

    def rmdir(self):
        held = {spot[0] for spot, holders in self.oracle.holders.items() if holders[-1] is not None}
        empty = [number for number in self.live("dir") if number not in held]
        if not empty and self.live("dir"):
            # Empties one.
            number = self.rng.choice(self.live("dir"))
            for spot, holders in list(self.oracle.holders.items()):
                if spot[0] == number and holders[-1] is not None:
                    if self.oracle.objects[holders[-1]].kind == "dir":
                        return
                    self.tell("unlinked", spot)
                    os.unlink(self.path(spot))
            empty = [number]
        if empty:
            (spot,) = self.oracle.spots(self.rng.choice(empty))
            path = self.path(spot)
            self.tell("unlinked", spot)
            os.rmdir(path)

    def move(self):
        source, target = self.a_file(), self.a_spot()
        if not source or not self.is_free(target) or self.oracle.holder(source) == self.oracle.holder(target):
            return
        self.tell("renamed", source, target)
        os.rename(self.path(source), self.path(target))
        if self.chance(0.2):
            self.fsync_dir(target[0])

    def exchange(self):
        one, other = self.a_file(), self.a_file()
        if not one or self.oracle.holder(one) == self.oracle.holder(other):
            return
        self.tell("exchanged", one, other)
        paths = [os.fsencode(self.path(spot)) for spot in (one, other)]
        if libc.renameat2(AT_FDCWD, paths[0], AT_FDCWD, paths[1], RENAME_EXCHANGE) != 0:
            raise OSError(ctypes.get_errno(), "exchange", *paths)
        for spot in (one, other):
            self.tell("keep_name", spot)

    def unlink(self):
        spots = [s for s, h in self.oracle.holders.items() if h[-1] is not None and self.is_removable(h[-1])]
        if spots:
            spot = self.rng.choice(spots)
            self.tell("unlinked", spot)
            os.unlink(self.path(spot))

    def is_removable(self, number):
        return self.oracle.objects[number].kind == "symlink" or self.is_plain(number)

    def link(self):
        source, target = self.a_file(), self.a_spot()
        if not source or self.oracle.holder(target) is not None:
            return
        self.tell("linked", self.oracle.holder(source), target)
        os.link(self.path(source), self.path(target))

    def symlink(self):
        spot = self.a_spot("sym")
        if self.oracle.holder(spot) is not None:
            return
        number = self.new("symlink", spot)
        self.writes += 1
        self.tell("wrote", number, 0, self.writes, TAG_LEN)
        self.tell("version", number)
        os.symlink(bytes(self.oracle.objects[number].live), os.fsencode(self.path(spot)))

    def set_xattr(self):
        spot = self.a_file()
        if spot:
            number = self.oracle.holder(spot)
            self.writes += 1
            value = pattern(self.worker, number, self.writes, self.rng.choice((20, 200, 3000)))
            self.tell("xattr", number, value)
            os.setxattr(self.path(spot), "user.powercut", value)

    def sync(self):
        spot = self.a_file()
        if spot:
            fd = os.open(self.path(spot), os.O_RDONLY if self.chance(0.5) else os.O_RDWR)
            self.fsync(fd, self.oracle.holder(spot))
            os.close(fd)

    def sync_dir(self):
        self.fsync_dir(self.a_dir())

    def fsync_dir(self, directory):
        fd = os.open(self.dir_path(directory), os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(fd)
        self.tell("keep_names", directory)
        os.close(fd)


def prepare(root, workers):
    """What all writers work in: durable when this returns."""
    for name in ["shared", *(f"w{worker}" for worker in range(workers))]:
        os.mkdir(f"{root}/{name}")
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(fd)
    os.close(fd)


def seeded(*parts):
    return random.Random(" ".join(map(str, parts)))
