"""The daemon killed at the N-th system call of each kind, for all N of a short workload: what is found by the next mount is
old or new for every name, what was fsynced is there, and nothing else is.

usage: crashes.py AKASHA all | short | CALL N
"""

import ctypes
import os
import random
import shutil
import sys
import time
from collections import Counter

from common import Place, Vault, fsync, noise, run, until

# Everything that the daemon changes the vault by, and what it answers the kernel by.
CALLS = ["pwrite64", "renameat2", "fsync", "syncfs", "unlinkat", "linkat", "mkdirat", "openat2", "ftruncate",
         "fallocate", "fsetxattr", "fremovexattr", "fchmod", "fchown", "utimensat", "pread64", "mmap", "getdents64",
         "flock", "write", "writev", "ioctl"]
# Runs of the short form.
SHORT_RUNS = 8
RENAME_EXCHANGE = 2
LIBC = ctypes.CDLL(None, use_errno=True)


class Promises:
    """Each name's versions, and the oldest that may be found."""

    def __init__(self):
        self.versions, self.floor = {}, {}

    def will(self, name, content):
        """The name may hold this from now on; None is no name at all."""
        self.versions.setdefault(name, [None]).append(content)
        self.floor.setdefault(name, 0)

    def now(self, name):
        return self.versions[name][-1]

    def keep(self, *names):
        for name in names:
            self.floor[name] = len(self.versions[name]) - 1

    def check(self, shown):
        for name in set(shown) | set(self.versions):
            allowed = self.versions.get(name, [None])[self.floor.get(name, 0):]
            found = shown.get(name)
            assert found in allowed, f"{name} is neither old nor new: {found[:20] if found else found}"


class Workload:
    """Does things, and records what it may expect of them."""

    def __init__(self, at):
        self.at, self.promises = at, Promises()

    def run(self):
        """Until the mount dies."""
        try:
            self.work()
        except OSError:
            pass

    def path(self, name):
        return os.path.join(self.at, name)

    def write(self, name, content, sync, flags=os.O_TRUNC | os.O_CREAT):
        if flags & os.O_TRUNC:
            self.promises.will(name, b"")
        self.promises.will(name, content)
        descriptor = os.open(self.path(name), os.O_WRONLY | flags, 0o644)
        os.write(descriptor, content)
        if sync:
            os.fsync(descriptor)
            self.promises.keep(name)
        os.close(descriptor)

    def edit(self, name, at, data):
        content = self.promises.now(name)
        self.promises.will(name, content[:at] + data + content[at + len(data):])
        descriptor = os.open(self.path(name), os.O_WRONLY)
        os.pwrite(descriptor, data, at)
        os.fsync(descriptor)
        self.promises.keep(name)
        os.close(descriptor)

    def cut(self, name, size):
        self.promises.will(name, self.promises.now(name)[:size])
        os.truncate(self.path(name), size)

    def move(self, old, new):
        content = self.promises.now(old)
        self.promises.will(new, content)
        self.promises.will(old, None)
        os.rename(self.path(old), self.path(new))

    def exchange(self, one, other):
        first, second = self.promises.now(one), self.promises.now(other)
        self.promises.will(one, second)
        self.promises.will(other, first)
        done = LIBC.renameat2(-100, self.path(one).encode(), -100, self.path(other).encode(), RENAME_EXCHANGE)
        if done != 0:
            raise OSError(ctypes.get_errno(), "renameat2")
        # An exchange is durable when it returns.
        self.promises.keep(one, other)

    def remove(self, name):
        self.promises.will(name, None)
        os.unlink(self.path(name))

    def sync_dir(self, name, *inside):
        fsync(self.path(name))
        self.promises.keep(*inside)

    def work(self):
        self.write("a", noise(1, 5000), True)
        self.write("big", noise(2, 400_000), True)
        self.edit("big", 100_000, b"row" * 1000)
        self.edit("big", 300_000, b"another" * 100)
        self.write("a.tmp", noise(3, 7000), False)
        self.move("a.tmp", "a")
        os.mkdir(self.path("d"))
        self.sync_dir("", "a", "a.tmp")
        self.move("big", "d/big")
        self.sync_dir("d", "d/big")
        self.write("l", noise(4, 3000), True)
        self.promises.will("d/link", self.promises.now("l"))
        os.link(self.path("l"), self.path("d/link"))
        self.sync_dir("d", "d/link")
        os.setxattr(self.path("a"), "user.small", b"value")
        os.setxattr(self.path("a"), "user.large", b"v" * 9000)
        os.removexattr(self.path("a"), "user.small")
        os.chmod(self.path("a"), 0o640)
        os.symlink("target", self.path("s"))
        self.remove("l")
        self.sync_dir("", "l")
        for number in range(12):
            self.write(f"d/many {number}", noise(number, 2000), False)
        self.cut("d/big", 150_000)
        # Time for the interval's commit.
        time.sleep(0.5)
        self.write("b", noise(5, 9000), True)
        self.exchange("a", "b")
        self.cut("a", 0)
        self.write("a", noise(6, 4000), True)
        for number in range(12):
            self.remove(f"d/many {number}")
        self.move("b", "d/b")
        self.sync_dir("d", "d/b")
        run(AKASHA, "umount", self.at, ok=False)
        for name in self.promises.versions:
            self.promises.keep(name)


def shown_in(at):
    shown = {}
    for where, _, names in os.walk(at):
        for name in names:
            path = os.path.join(where, name)
            if not os.path.islink(path):
                with open(path, "rb") as file:
                    shown[os.path.relpath(path, at)] = file.read()
    return shown


STRACE = ["strace", "-f", "-qq"]


def serve(vault, template, under):
    """The workload on a daemon that `under` runs, until that ends."""
    shutil.rmtree(vault.dir)
    shutil.copytree(template, vault.dir)
    workload = Workload(vault.at)
    if vault.start(under):
        workload.run()
        until("the end of the daemon", lambda: vault.daemon.poll() is not None)
    return workload


def counts(place, vault, template):
    """How often each call is made, by the thread that makes it most often: that is how strace counts."""
    trace = place.dir / "trace"
    serve(vault, template, [*STRACE, "-o", trace, "-e", "trace=" + ",".join(CALLS)])
    assert vault.wait() == 0, vault.said()
    threads = Counter()
    for line in trace.read_text(errors="replace").splitlines():
        thread, _, rest = line.partition(" ")
        call = rest.lstrip().partition("(")[0]
        if call in CALLS:
            threads[call, thread] += 1
    most = {call: max([n for (of, _), n in threads.items() if of == call], default=0) for call in CALLS}
    return {call: most[call] for call in CALLS if most[call]}


def crash(vault, template, call, nth):
    """One run; whether the daemon was killed."""
    inject = ["-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={nth}"]
    workload = serve(vault, template, [*STRACE, *inject])
    killed = vault.wait() != 0
    vault.detach()
    assert killed or not vault.is_mounted()
    assert vault.start(), f"cannot be mounted: {vault.said()}"
    workload.promises.check(shown_in(vault.at))
    left = os.listdir(vault.dir / ".akasha/tmp")
    assert left == [], f"left in .akasha/tmp: {left}"
    vault.umount()
    vault.check()
    return killed


def crash_told(vault, template, call, nth):
    try:
        return crash(vault, template, call, nth)
    except Exception as error:
        raise AssertionError(f"killed at {call} {nth}: {error}\nreplay: scripts/faults crashes {call} {nth}") from error


def all_crashes(vault, template, most):
    total = runs = 0
    for call, count in most.items():
        killed = missed = nth = 0
        # Which thread makes a call differs a little from run to run.
        while nth < count or missed < 2:
            nth += 1
            runs += 1
            if crash_told(vault, template, call, nth):
                killed, missed = killed + 1, 0
            else:
                missed += 1
        print(f"{call}: killed {killed} times in {nth} runs", flush=True)
        total += killed
    print(f"{total} crashes in {runs} runs, nothing lost or torn, nothing left behind")


def short_crashes(vault, template, most):
    seed = int(os.environ.get("AKASHA_SEED", time.time_ns() % 100_000))
    print(f"AKASHA_SEED={seed}")
    dice = random.Random(seed)
    killed = 0
    for call in dice.sample(list(most), SHORT_RUNS):
        killed += crash_told(vault, template, call, dice.randint(1, most[call]))
    assert killed > 0, "nobody was killed"
    print(f"{killed} crashes in {SHORT_RUNS} runs, nothing lost or torn, nothing left behind")


def main(words):
    with Place(AKASHA) as place:
        vault = Vault(place, place.dir, ("--commit", "0.1"))
        template = place.dir / "template"
        shutil.copytree(vault.dir, template)
        if words in (["all"], ["short"]):
            most = counts(place, vault, template)
            assert len(most) > 12, f"calls have other names here: {most}"
            (all_crashes if words == ["all"] else short_crashes)(vault, template, most)
        else:
            print("killed" if crash_told(vault, template, words[0], int(words[1])) else "not killed")


if __name__ == "__main__":
    AKASHA = sys.argv[1]
    main(sys.argv[2:])
