"""A disk in an image, a vault on it, a daemon that serves it: what the programs of scripts/faults share."""

import hashlib
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

PASSWORD = "faults"
# No step takes longer, or it hangs.
PATIENCE_SECS = 120
KDF = ["--argon2-memory", "19MiB", "--argon2-passes", "2", "--argon2-lanes", "1"]
MKFS = {
    "ext4": ["mkfs.ext4", "-q", "-m", "0", "-F"],
    "xfs": ["mkfs.xfs", "-q", "-f"],
    "btrfs": ["mkfs.btrfs", "-q", "-f"],
}


def run(*words, ok=True, **more):
    done = subprocess.run([str(word) for word in words], stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=PATIENCE_SECS, check=False, **more)
    if ok and done.returncode != 0:
        raise AssertionError(f"{words}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done


def noise(seed, size):
    return random.Random(seed).randbytes(size)


def digest(data):
    return hashlib.sha256(data).hexdigest()[:16]


def until(what, condition):
    """Waits for a condition, with an end to patience."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < PATIENCE_SECS, f"waited in vain: {what}"
        time.sleep(0.01)


class Place:
    """A directory of the machine's disk, and what is mounted below it: all gone at the end."""

    def __init__(self, akasha):
        self.akasha = str(pathlib.Path(akasha).resolve())
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="akasha faults ", dir=os.environ.get("TMPDIR", "/var/tmp")))
        self.ends = []

    def __enter__(self):
        # Whoever ends this leaves nothing mounted.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        signal.signal(signal.SIGINT, lambda *_: sys.exit(130))
        (self.dir / "password").touch(mode=0o600)
        (self.dir / "password").write_text(PASSWORD + "\n", encoding="utf-8")
        return self

    def __exit__(self, *_):
        failed = []
        for end in reversed(self.ends):
            try:
                end()
            except (AssertionError, OSError, RuntimeError, subprocess.SubprocessError) as error:
                # The others must end, too.
                failed.append(error)
        shutil.rmtree(self.dir, ignore_errors=True)
        if failed:
            raise failed[0]

    def disk(self, kind, mib):
        """A new filesystem in an image, mounted."""
        image, at = self.dir / f"{kind}.img", self.dir / kind
        image.unlink(missing_ok=True)
        with open(image, "wb") as file:
            file.truncate(mib << 20)
        run(*MKFS[kind], image)
        at.mkdir(exist_ok=True)
        run("mount", "-o", "loop", image, at)
        self.ends.append(lambda: run("umount", "-l", at, ok=False))
        return at

    def cut(self, kind, before_it_goes):
        """Cuts the power of such a filesystem: it is as its disk is now, without what only the machine's memory has."""
        image, at, cut = self.dir / f"{kind}.img", self.dir / kind, self.dir / "cut.img"
        run("cp", "--sparse=always", image, cut)
        before_it_goes()
        run("umount", at)
        cut.rename(image)
        run("mount", "-o", "loop", image, at)


class Vault:
    """A vault, and its mount."""

    def __init__(self, place, parent, args=("--commit", "0.2")):
        self.place, self.args = place, list(args)
        self.dir, self.at = pathlib.Path(parent) / "vault", place.dir / "mount"
        self.log = place.dir / "daemon.log"
        self.daemon = None
        self.at.mkdir(exist_ok=True)
        place.ends.append(self.end)
        self.command("init", self.dir, *KDF)

    def command(self, *words, ok=True):
        words = [*words, "--password-file", self.place.dir / "password"]
        return run(self.place.akasha, *words, ok=ok)

    def is_mounted(self):
        try:
            return os.stat(self.at).st_dev != os.stat(self.place.dir).st_dev
        except OSError:
            return False

    def start(self, under=()):
        """Mounts; `under` is the program that runs the daemon. False if it ended before it was mounted."""
        words = [*under, self.place.akasha, "mount", self.dir, self.at, "--foreground", *self.args,
                 "--password-file", self.place.dir / "password"]
        with open(self.log, "ab") as log:
            # pylint: disable-next=consider-using-with
            self.daemon = subprocess.Popen([str(word) for word in words], stdin=subprocess.DEVNULL, stdout=log,
                                           stderr=log, start_new_session=True)
        until("the mount", lambda: self.is_mounted() or self.daemon.poll() is not None)
        return self.daemon.poll() is None

    def is_alive(self):
        return self.daemon.poll() is None and "panicked" not in self.log.read_text(errors="replace")

    def wait(self):
        """The daemon's exit code, once it ended by itself."""
        return self.daemon.wait(timeout=PATIENCE_SECS)

    def umount(self):
        """A clean end."""
        run(self.place.akasha, "umount", self.at)
        code = self.wait()
        assert code == 0, f"the daemon ended with {code}: {self.said()}"

    def detach(self):
        run("umount", "-l", self.at, ok=False)

    def said(self):
        return self.log.read_text(errors="replace")[-3000:]

    def end(self):
        self.detach()
        if self.daemon and self.daemon.poll() is None:
            os.killpg(self.daemon.pid, signal.SIGKILL)
            self.daemon.wait()

    def check(self):
        """`akasha check` finds nothing."""
        self.command("check", self.dir)


def file_with(path, data, sync=True):
    with open(path, "wb") as file:
        file.write(data)
        if sync:
            file.flush()
            os.fsync(file.fileno())


def fsync(path):
    """What is at `path` is durable, the names in a directory too, or an error says that it may not be."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
