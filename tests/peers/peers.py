"""The same edits of the vault's files on akasha and its peers, each mounted for real; prints a table of what reading the file
gives then. A file of five blocks of 4 KiB was written, committed by an unmount, and overwritten in place; the edits are made
while nothing is mounted.

usage: peers.py AKASHA PLACE [SYSTEM...]"""

import json
import os
import random
import shutil
import subprocess
import sys
import time

PASSWORD = "peers"
SIZE = 5 * 4096

# Reads a file whole, and then in pieces where that fails; in a process of its own, which may hang.
READER = """
import json, sys
path, out = sys.argv[1:]
try:
    data = open(path, "rb").read()
    open(out, "wb").write(data)
    print(json.dumps({"read": len(data)}))
except FileNotFoundError:
    print(json.dumps({"absent": True}))
except OSError as error:
    pieces = []
    for at in range(0, 24576, 4096):
        try:
            with open(path, "rb") as file:
                file.seek(at)
                pieces.append(file.read(4096).hex())
        except OSError:
            pieces.append(None)
    print(json.dumps({"errno": error.errno, "pieces": pieces}))
"""


def run(*args, text=None, env=None, ok=True):
    done = subprocess.run(args, input=text, capture_output=True, text=True, timeout=120, env=env)
    if ok and done.returncode != 0:
        raise RuntimeError(f"{args[0]}: {done.stdout}{done.stderr}")
    return done


class System:
    """How a filesystem is made, mounted and unmounted; where the blocks of a file begin in its ciphertext."""

    header = None

    def __init__(self, place):
        self.place, self.dir, self.mnt = place, os.path.join(place, "vault"), os.path.join(place, "mnt")
        os.makedirs(self.mnt)

    def unmount(self):
        for _ in range(50):
            if run("fusermount3", "-u", self.mnt, ok=False).returncode == 0 or run("umount", self.mnt, ok=False).returncode == 0:
                break
            time.sleep(0.1)
        until = time.monotonic() + 20
        while os.path.ismount(self.mnt) and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(0.2)

    def wait_mounted(self):
        until = time.monotonic() + 60
        while not os.path.ismount(self.mnt):
            if time.monotonic() > until:
                raise RuntimeError("the mount does not come up")
            time.sleep(0.05)

    def version(self):
        return ""


class Akasha(System):
    name, header = "akasha", 64
    program = None

    def secret(self):
        path = os.path.join(self.place, "password")
        if not os.path.exists(path):
            with open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
                file.write(PASSWORD + "\n")
        return path

    def init(self):
        cheap = ["--argon2-memory", "19MiB", "--argon2-passes", "2", "--argon2-lanes", "1"]
        run(self.program, "init", self.dir, "--password-file", self.secret(), *cheap)

    def mount(self):
        run(self.program, "mount", self.dir, self.mnt, "--password-file", self.secret())

    def version(self):
        return run(self.program, "--version").stdout.split()[-1]


class Gocryptfs(System):
    name, header = "gocryptfs", 18

    def init(self):
        os.mkdir(self.dir)
        run("gocryptfs", "-init", "-q", "-scryptn", "12", "-extpass", f"echo {PASSWORD}", self.dir)

    def mount(self):
        run("gocryptfs", "-q", "-extpass", f"echo {PASSWORD}", self.dir, self.mnt)

    def version(self):
        return run("gocryptfs", "--version").stdout.split()[1].rstrip(";")


class SecurefsLite(System):
    name, format = "securefs, lite", "4"

    def init(self):
        os.mkdir(self.dir)
        run("securefs", "create", "--format", self.format, "--pass", PASSWORD, "--rounds", "1", self.dir)

    def mount(self):
        run("securefs", "mount", "--background", "--pass", PASSWORD, "--log", "/dev/null", self.dir, self.mnt)
        self.wait_mounted()

    def version(self):
        # Debian's build does not know its own.
        return run("dpkg-query", "-W", "-f", "${Version}", "securefs", ok=False).stdout.split("+")[0]


class SecurefsFull(SecurefsLite):
    name, format = "securefs, full", "2"


class EncfsStandard(System):
    name, mode, header = "EncFS, standard", "--standard", 8

    def init(self):
        os.mkdir(self.dir)
        self.mount()
        self.unmount()

    def mount(self):
        run("encfs", self.mode, "--stdinpass", self.dir, self.mnt, text=PASSWORD + "\n")
        self.wait_mounted()

    def version(self):
        said = run("encfs", "--version", ok=False)
        return (said.stdout + said.stderr).split()[-1]


class EncfsParanoia(EncfsStandard):
    name, mode = "EncFS, paranoia", "--paranoia"


class Cryfs(System):
    name = "CryFS"
    # One ciphertext file per block.
    spread = True

    def env(self):
        state = os.path.join(self.place, "state")
        return dict(os.environ, CRYFS_FRONTEND="noninteractive", CRYFS_NO_UPDATE_CHECK="true",
                    CRYFS_LOCAL_STATE_DIR=state)

    def init(self):
        os.mkdir(self.dir)
        self.mount("--blocksize", "4096")
        self.unmount()

    def mount(self, *more):
        run("cryfs", *more, self.dir, self.mnt, text=PASSWORD + "\n", env=self.env())
        self.wait_mounted()

    def version(self):
        return run("cryfs", "--version", ok=False, env=self.env()).stdout.split("\n")[0].split()[-1]


def content(seed):
    return random.Random(seed).randbytes(SIZE)


OLD, NEW, OTHER = content("old"), content("new"), content("other")


def files(root):
    found = {}
    for here, _, names in os.walk(root):
        for name in names:
            path = os.path.join(here, name)
            with open(path, "rb") as file:
                found[os.path.relpath(path, root)] = file.read()
    return found


def write(path, data, mode="wb"):
    with open(path, mode) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


class Bench:
    """One system with its files, and the states of its vault that edits are made of."""

    def __init__(self, system):
        self.system = system
        system.init()
        bare = files(system.dir)
        self.act(lambda: os.mkdir(self.plain("d1")))
        self.act(lambda: os.mkdir(self.plain("d2")))
        before = files(system.dir)
        self.act(lambda: write(self.plain("d1/a"), OLD))
        self.old = files(system.dir)
        self.own = [path for path in self.old if path not in before]
        self.act(lambda: write(self.plain("d1/b"), OTHER))
        after = files(system.dir)
        self.others = [path for path in after if path not in self.old]
        # A file of four blocks tells how long a block is.
        self.act(lambda: write(self.plain("d1/four"), OLD[:4 * 4096]))
        four = [len(data) for path, data in files(system.dir).items() if path not in after]
        self.act(lambda: write(self.plain("d1/a"), NEW, "r+b"))
        self.new = files(system.dir)
        # A rewrite may come under another backing name.
        self.own = [p for p in self.new if p in self.own or (p not in after and p not in bare and self.new[p] != b"" and len(self.new[p]) > SIZE)]
        self.main = max(self.own, key=lambda path: len(self.new[path]))
        self.theirs = max(self.others, key=lambda path: len(self.new[path]))
        self.block = len(self.new[self.main]) - max(four)
        self.header = system.header if system.header is not None else len(self.new[self.main]) - 5 * self.block
        self.pristine = os.path.join(system.place, "pristine")
        shutil.copytree(system.dir, self.pristine)

    def plain(self, name):
        return os.path.join(self.system.mnt, name)

    def act(self, change):
        self.system.mount()
        try:
            change()
        finally:
            self.system.unmount()

    def restore(self):
        shutil.rmtree(self.system.dir)
        shutil.copytree(self.pristine, self.system.dir)

    def put(self, path, data):
        write(os.path.join(self.system.dir, path), data)

    def at(self, n):
        return self.header + n * self.block

    def read(self, name):
        """What reading gives, in a word."""
        out = os.path.join(self.system.place, "out")
        try:
            done = subprocess.run([sys.executable, "-c", READER, self.plain(name), out], capture_output=True, text=True, timeout=30)
        except subprocess.TimeoutExpired:
            return "**hang**"
        said = json.loads(done.stdout)
        if said.get("absent"):
            return "absent"
        if "read" in said:
            data = open(out, "rb").read()
            if data == NEW:
                return "right"
            if data == OLD:
                return "old, whole"
            if data == OTHER:
                return "**the other file's**"
            if NEW.startswith(data):
                return f"**short**, {len(data)} bytes"
            if data.startswith(NEW):
                return f"**long**, {len(data)} bytes"
            return "**wrong bytes**"
        pieces = [None if piece is None else bytes.fromhex(piece) for piece in said["pieces"]]
        for n, piece in enumerate(pieces):
            if piece is not None and piece != NEW[n * 4096:n * 4096 + 4096]:
                return "**wrong bytes** and errors"
        return "EIO" if said["errno"] == 5 else os.strerror(said["errno"])

    def case(self, edit, name="d1/a"):
        self.restore()
        if edit(self) is False:
            return "not possible"
        try:
            self.system.mount()
        except (RuntimeError, subprocess.TimeoutExpired):
            self.system.unmount()
            return "no mount"
        try:
            return self.read(name)
        finally:
            self.system.unmount()


def splice(bench, at, part):
    data = bytearray(bench.new[bench.main])
    data[at:at + len(part)] = part
    bench.put(bench.main, bytes(data))


def spread(bench):
    return getattr(bench.system, "spread", False)


def leaves(bench):
    """The ciphertext files that hold the content, where there is one for each block."""
    return [path for path in bench.own if bench.new[path] != bench.old.get(path)]


def flip(bench):
    if spread(bench):
        path = leaves(bench)[1]
        data = bytearray(bench.new[path])
        data[len(data) // 2] ^= 1
        return bench.put(path, bytes(data))
    at = bench.at(2) + 1000
    splice(bench, at, bytes([bench.new[bench.main][at] ^ 1]))


def cut_block(bench):
    if spread(bench):
        return bench.put(leaves(bench)[1], bench.new[leaves(bench)[1]][:-1024])
    bench.put(bench.main, bench.new[bench.main][:bench.at(4)])


def cut_all(bench):
    bench.put(leaves(bench)[1] if spread(bench) else bench.main, b"")


def zero(bench):
    if spread(bench):
        path = leaves(bench)[1]
        return bench.put(path, bytes(len(bench.new[path])))
    splice(bench, bench.at(2), bytes(bench.block))


def grow(bench):
    path = leaves(bench)[1] if spread(bench) else bench.main
    bench.put(path, bench.new[path] + random.Random(1).randbytes(64))


def grow_block(bench):
    path = leaves(bench)[1] if spread(bench) else bench.main
    bench.put(path, bench.new[path] + bytes(bench.block or 4096))


def old_block(bench):
    if spread(bench):
        path = leaves(bench)[1]
        return bench.put(path, bench.old[path])
    old = bench.old.get(bench.main) or next(
        data for path, data in bench.old.items() if path not in bench.new or len(data) == len(bench.new[bench.main]) and data != bench.new[path])
    splice(bench, bench.at(2), old[bench.at(2):bench.at(3)])


def swap_blocks(bench):
    if spread(bench):
        one, other = leaves(bench)[:2]
        bench.put(one, bench.new[other])
        return bench.put(other, bench.new[one])
    data = bench.new[bench.main]
    two, three = data[bench.at(2):bench.at(3)], data[bench.at(3):bench.at(4)]
    splice(bench, bench.at(2), three + two)


def foreign_block(bench):
    if spread(bench):
        return bench.put(leaves(bench)[1], bench.new[bench.others[-1]])
    splice(bench, bench.at(2), bench.new[bench.theirs][bench.at(2):bench.at(3)])


def swap_files(bench):
    if spread(bench):
        return False
    bench.put(bench.main, bench.new[bench.theirs])
    bench.put(bench.theirs, bench.new[bench.main])


def roll_back(bench):
    """Every ciphertext file of this file as it was; nothing else."""
    for path in bench.own:
        if path in bench.old:
            bench.put(path, bench.old[path])


def move(bench):
    if spread(bench) or bench.system.name == "securefs, full":
        return False
    here = os.path.dirname(bench.main)
    parent = os.path.dirname(here)
    vault = bench.system.dir
    dirs = [entry for entry in os.listdir(os.path.join(vault, parent)) if os.path.isdir(os.path.join(vault, parent, entry))]
    to = next(d for d in dirs if d not in (os.path.basename(here), ".akasha"))
    os.rename(os.path.join(vault, bench.main), os.path.join(vault, parent, to, os.path.basename(bench.main)))


CASES = [
    ("a bit flipped", flip, "d1/a"),
    ("cut by a block", cut_block, "d1/a"),
    ("cut to nothing", cut_all, "d1/a"),
    ("a block zeroed", zero, "d1/a"),
    ("64 bytes of garbage behind", grow, "d1/a"),
    ("a block of zeros behind", grow_block, "d1/a"),
    ("an old block in the new version", old_block, "d1/a"),
    ("two blocks swapped", swap_blocks, "d1/a"),
    ("a block of another file", foreign_block, "d1/a"),
    ("two files' ciphertexts swapped", swap_files, "d1/a"),
    ("the file moved to another directory: read there", move, "d2/a"),
    ("the whole file as it once was", roll_back, "d1/a"),
]

SYSTEMS = [Akasha, Gocryptfs, SecurefsLite, SecurefsFull, EncfsStandard, EncfsParanoia, Cryfs]


def main():
    Akasha.program, place, wanted = sys.argv[1], sys.argv[2], sys.argv[3:]
    columns, failed = [], False
    for number, kind in enumerate(SYSTEMS):
        if wanted and kind.name not in wanted:
            continue
        system = kind(os.path.join(place, str(number)))
        try:
            bench = Bench(system)
            found = []
            bench.restore()
            system.mount()
            found.append(bench.read("d1/a"))
            system.unmount()
            for what, edit, name in CASES:
                found.append(bench.case(edit, name))
                print(f"# {system.name}: {what}: {found[-1]}", file=sys.stderr, flush=True)
            columns.append((f"{system.name} {system.version()}", found))
            bad = [w for w in found[1:] if "**" in w]
            failed |= isinstance(system, Akasha) and bool(bad)
        except Exception as error:  # noqa: BLE001: a peer that cannot run here is said, the others go on
            print(f"# {system.name} cannot run here: {error!r}", file=sys.stderr, flush=True)
            failed |= isinstance(system, Akasha)
        finally:
            system.unmount()
    print("| edit | " + " | ".join(name for name, _ in columns) + " |")
    print("|---|" + "---|" * len(columns))
    for row, what in enumerate(["(none)"] + [what for what, _, _ in CASES]):
        print(f"| {what} | " + " | ".join(found[row] for _, found in columns) + " |")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
