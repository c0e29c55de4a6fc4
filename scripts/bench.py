"""The work and the arithmetic of scripts/bench: `WORK AKASHA [--rounds N] [--quick] [--cipher CIPHER]`.

WORK holds akasha/, gocryptfs/ and disk/, and a password. Every measurement is made on the three in turn, round after
round, so that a drift of the machine meets all of them. As root each round begins on new, empty filesystems (images
in WORK, mounted by loop): ext4 searches long for an inode after many were deleted, and the one who comes later would
pay for the one who came before.
"""

import argparse
import os
import random
import shutil
import statistics
import subprocess
import time

PLACES = ("akasha", "gocryptfs", "disk")
MIB = 1 << 20


class Place:
    def __init__(self, name, options):
        self.name, self.akasha, self.cipher = name, options.akasha, options.cipher
        self.base = os.path.join(options.work, name)
        self.image = os.path.join(options.work, name + ".img")
        self.vault, self.plain = os.path.join(self.base, "vault"), os.path.join(self.base, "plain")
        self.password = os.path.join(options.work, "password")

    def begin(self):
        """An empty filesystem with an empty vault in it, mounted."""
        if os.getuid() == 0:
            with open(self.image, "wb") as image:
                image.truncate(16 << 30)
            subprocess.run(["mkfs.ext4", "-q", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0", self.image], check=True)
            subprocess.run(["mount", "-o", "loop", self.image, self.base], check=True)
        os.mkdir(self.plain)
        if self.name == "akasha":
            command = [self.akasha, "init", self.vault, "--cipher", self.cipher, "--password-file", self.password]
            subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        elif self.name == "gocryptfs":
            os.mkdir(self.vault)
            subprocess.run(["gocryptfs", "-q", "-init", "-passfile", self.password, self.vault], check=True)
        self.mount()

    def end(self):
        self.umount()
        if os.getuid() == 0:
            # gocryptfs lets go of its directory a little after it was unmounted.
            for left in reversed(range(100)):
                if subprocess.run(["umount", self.base], check=left == 0, stderr=None if left == 0 else subprocess.DEVNULL).returncode == 0:
                    break
                time.sleep(0.1)
            os.unlink(self.image)
        else:
            shutil.rmtree(self.plain)
            shutil.rmtree(self.vault, ignore_errors=True)

    def sync(self):
        """What else the machine writes does not count."""
        subprocess.run(["sync", "-f", self.base], check=True)

    def mount(self):
        if self.name == "akasha":
            command = [self.akasha, "mount", self.vault, self.plain, "--password-file", self.password]
        elif self.name == "gocryptfs":
            command = ["gocryptfs", "-q", "-passfile", self.password, self.vault, self.plain]
        else:
            return
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)

    def umount(self):
        """Until all is on its way to the disk."""
        if self.name == "akasha":
            subprocess.run([self.akasha, "umount", self.plain], check=True, stderr=subprocess.DEVNULL)
        elif self.name == "gocryptfs":
            subprocess.run(["fusermount3", "-u", self.plain], check=True)
        self.sync()

    def fresh(self):
        """Nothing cached: not in the kernel, not in the daemon."""
        self.umount()
        if os.getuid() == 0:
            with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as drop:
                drop.write("3")
        self.mount()

    def path(self, *names):
        return os.path.join(self.plain, *names)


class Work:
    """The measurements, in order: each may use what the ones before it left. Each returns what it moved, with its unit."""

    def __init__(self, quick):
        self.size = (256 if quick else 1024) * MIB
        self.files = 2000 if quick else 10_000
        self.randoms = 2000 if quick else 8000
        self.syncs = 100 if quick else 500
        self.block = random.Random(1).randbytes(MIB)
        self.source = os.path.join(os.environ.get("CARGO_HOME", os.path.expanduser("~/.cargo")), "registry", "src")

    def sequential_write(self, place):
        with open(place.path("big"), "wb", buffering=0) as out:
            for _ in range(self.size // MIB):
                out.write(self.block)
            os.fsync(out.fileno())
        return self.size / MIB, "MiB"

    def sequential_read(self, place):
        with open(place.path("big"), "rb", buffering=0) as file:
            while file.read(MIB):
                pass
        return self.size / MIB, "MiB"

    def random_read_4k(self, place):
        rng = random.Random(2)
        file = os.open(place.path("big"), os.O_RDONLY)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
        for _ in range(self.randoms):
            os.pread(file, 4096, rng.randrange(self.size // 4096) * 4096)
        os.close(file)
        return self.randoms, "reads"

    def write_4k_fsync(self, place):
        rng = random.Random(3)
        file = os.open(place.path("big"), os.O_RDWR)
        for _ in range(self.syncs):
            os.pwrite(file, self.block[:4096], rng.randrange(self.size // 4096) * 4096)
            os.fsync(file)
        os.close(file)
        return self.syncs, "fsyncs"

    def create_small_files(self, place):
        os.mkdir(place.path("small"))
        for number in range(self.files):
            if number % 100 == 0:
                os.mkdir(place.path("small", str(number // 100)))
            with open(place.path("small", str(number // 100), f"file {number}"), "wb", buffering=0) as out:
                out.write(self.block[:2000])
        return self.files, "files"

    def read_small_files(self, place):
        for number in range(self.files):
            with open(place.path("small", str(number // 100), f"file {number}"), "rb", buffering=0) as file:
                assert len(file.read()) == 2000
        return self.files, "files"

    def stat_small_files(self, place):
        count = sum(len(files) for _, _, files in os.walk(place.path("small")))
        for number in range(self.files):
            os.stat(place.path("small", str(number // 100), f"file {number}"))
        assert count == self.files
        return self.files, "files"

    def save_by_rename(self, place):
        for _ in range(self.syncs):
            with open(place.path("document.tmp"), "wb", buffering=0) as out:
                out.write(self.block[:20_000])
                os.fsync(out.fileno())
            os.replace(place.path("document.tmp"), place.path("document"))
        return self.syncs, "saves"

    def unpack_tree(self, place):
        subprocess.run(["tar", "-C", place.plain, "-xf", self.archive], check=True)
        return self.tree_files, "files"

    def remove_tree(self, place):
        shutil.rmtree(place.path("tree"))
        shutil.rmtree(place.path("small"))
        os.unlink(place.path("big"))
        os.unlink(place.path("document"))
        return self.tree_files + self.files, "files"

    def pack(self, directory):
        """An archive of real sources, with names and sizes as they come."""
        self.archive = os.path.join(directory, "tree.tar")
        crates = sorted(os.path.join(index, name) for index in map(lambda n: os.path.join(self.source, n), os.listdir(self.source))
                        for name in os.listdir(index))
        chosen, self.tree_files = [], 0
        for crate in crates:
            chosen.append(os.path.relpath(crate, self.source))
            self.tree_files += sum(len(files) for _, _, files in os.walk(crate))
            if self.tree_files > self.files // 2:
                break
        subprocess.run(["tar", "-C", self.source, "--transform", "s,^,tree/,", "-cf", self.archive, *chosen], check=True)


MEASURES = ["sequential_write", "sequential_read", "random_read_4k", "write_4k_fsync", "create_small_files", "read_small_files",
            "stat_small_files", "save_by_rename", "unpack_tree", "remove_tree"]
COLD = {"sequential_read", "random_read_4k", "read_small_files", "stat_small_files"}
# Over when all of it is on the disk: unmounted and synced. Mounting again (a key derivation) is not counted.
SYNCED = {"create_small_files", "unpack_tree"}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("work")
    parser.add_argument("akasha")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--cipher", default="chacha20-poly1305")
    parser.add_argument("--only", action="append", choices=MEASURES)
    options = parser.parse_args()
    work = Work(options.quick)
    work.pack(options.work)
    places = [Place(name, options) for name in PLACES]
    measures = [measure for measure in MEASURES if measure in (options.only or MEASURES)]
    rates, units = {}, {}
    for number in range(options.rounds):
        print(f"round {number + 1} of {options.rounds} ...", flush=True)
        for place in places:
            place.begin()
        for measure in measures:
            # Another one first in every round.
            turn = number % len(places)
            for place in places[turn:] + places[:turn]:
                if measure in COLD:
                    place.fresh()
                place.sync()
                start = time.monotonic()
                amount, units[measure] = getattr(work, measure)(place)
                if measure in SYNCED:
                    place.umount()
                rates.setdefault((measure, place.name), []).append(amount / (time.monotonic() - start))
                if measure in SYNCED:
                    place.mount()
        for place in places:
            place.end()
    print(f"\n{'rate (median of ' + str(options.rounds) + ')':<28}" + "".join(f"{name:>12}" for name in PLACES)
          + f"{'':>10}{'x gocryptfs':>13}{'x disk':>9}")
    for measure in measures:
        medians = [statistics.median(rates[measure, name]) for name in PLACES]
        print(f"{measure.replace('_', ' '):<28}" + "".join(f"{median:12,.0f}" for median in medians)
              + f"{units[measure] + '/s':>10}{medians[0] / medians[1]:13.2f}{medians[0] / medians[2]:9.2f}")
    spread = {name: max(max(rates[m, name]) / min(rates[m, name]) for m in measures) for name in PLACES}
    print("largest spread between rounds: " + ", ".join(f"{name} x{ratio:.1f}" for name, ratio in spread.items()))


main()
