"""The programs that can be cut: how each makes, mounts, unmounts and checks a vault."""

import os
import pathlib
import subprocess
import tempfile
import time

from disks import unmount

PATIENCE_S = 180
# What a daemon that lies does not do; the kernel is told that it did.
LIE = ["strace", "-f", "--seccomp-bpf", "-o", "/dev/null", "-e", "trace=fsync,fdatasync,syncfs"]
LIE += ["-e", "inject=fsync,fdatasync,syncfs:retval=0"]


class Refused(Exception):
    """A mount that did not come up, with what the program said."""


def mounted(path):
    with open("/proc/self/mountinfo") as mounts:
        return any(line.split()[4].replace("\\040", " ") == path for line in mounts)


class Program:
    """A filesystem over a directory. `spared` are operations of the workload that it does not offer."""

    name, spared = "", ()
    # How long a save may take before the program commits it half-way, with a margin.
    patience_s = 1e9

    def __init__(self, work, path=None):
        self.path, self.password, self.log = path or self.name, f"{work}/password", f"{work}/{self.name}.log"
        with open(self.password, "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write("power")
        self.daemon = None

    def init(self, vault):
        raise NotImplementedError

    def mount_command(self, vault, at):
        raise NotImplementedError

    def check(self, vault):
        """What the program's own check finds: a list of lines."""
        return []

    def complaints(self):
        """What the daemon said of trouble: a list of lines."""
        return []

    def skeleton(self, vault):
        """What is left in a vault from which everything was removed and that should not be there."""
        return []

    def run(self, *command, **options):
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, **options)
        if done.returncode != 0:
            raise Refused(f"{' '.join(command)}: exit code {done.returncode}: {done.stderr[-500:]}{done.stdout[-500:]}")
        return done.stdout

    def mount(self, vault, at, lies=False):
        log = open(self.log, "wb")
        command = self.mount_command(vault, at)
        with log, open(self.password, "rb") as password:
            self.daemon = subprocess.Popen(
                LIE + command if lies else command, stdin=password, stdout=log, stderr=log, start_new_session=True
            )
        begun_s = time.monotonic()
        while not mounted(at):
            if self.daemon.poll() is not None:
                raise Refused(f"{' '.join(command)}: exit code {self.daemon.returncode}: {self.said()}")
            if time.monotonic() - begun_s > PATIENCE_S:
                self.daemon.kill()
                raise Refused(f"{' '.join(command)}: not mounted after {PATIENCE_S} s: {self.said()}")
            time.sleep(0.002)

    def said(self):
        if not os.path.exists(self.log):
            return ""
        with open(self.log, errors="replace") as log:
            return log.read()[-600:]

    def unmount(self, at):
        if mounted(at):
            unmount(at)
        self.daemon.wait(PATIENCE_S)

    def kill(self, at):
        """The end by force, for a clean-up."""
        if self.daemon is not None and self.daemon.poll() is None:
            self.daemon.kill()
        if mounted(at):
            subprocess.run(["umount", "-l", at], check=False)
        if self.daemon is not None:
            self.daemon.wait()


class Akasha(Program):
    name, patience_s, commit_s = "akasha", 2.5, 0.5

    def complaints(self):
        with open(self.log, errors="replace") as log:
            return [line.strip() for line in log if "error:" in line or "warning:" in line]

    def init(self, vault):
        cheap = ["--argon2-memory", "19MiB", "--argon2-passes", "2", "--argon2-lanes", "1"]
        self.run(self.path, "init", "--password-file", self.password, *cheap, vault)

    def mount_command(self, vault, at):
        # Short intervals: more commits between two cuts.
        often = ["--commit", str(self.commit_s), "--commit-open", "5"]
        return [self.path, "mount", "-f", "--password-file", self.password, *often, vault, at]

    def check(self, vault):
        command = [self.path, "check", "--password-file", self.password, vault]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
        return [] if done.returncode == 0 else [f"exit code {done.returncode}: {done.stdout}{done.stderr}"]

    def skeleton(self, vault):
        left = []
        for place, dirs, files in os.walk(vault):
            inside = os.path.relpath(place, vault)
            names = [os.path.normpath(os.path.join(inside, name)) for name in files + dirs]
            left += [n for n in names if n not in AKASHA_SKELETON]
        return left


AKASHA_SKELETON = {".akasha"} | {
    f".akasha/{name}" for name in ("vault.toml", "lock", "clean", "reserve", "tmp", "layers", "inodes", "xattrs")
}


class Gocryptfs(Program):
    # Its fsync of an unlinked open file is ENOENT; it has no O_TMPFILE.
    name, spared = "gocryptfs", ("exchange", "nameless", "late_name")

    def init(self, vault):
        self.run(self.path, "-q", "-init", "-scryptn", "10", "-passfile", self.password, vault)

    def mount_command(self, vault, at):
        return [self.path, "-q", "-fg", "-passfile", self.password, vault, at]


class Securefs(Program):
    """In its lite format (4); SecurefsFull in the full one (2)."""

    # `--pass` is a test's password.
    executable, format_number = "securefs", "4"
    # As Debian builds it there are no extended attributes; sealed names of 200 bytes are too long.
    name, spared = "securefs-lite", (*Gocryptfs.spared, "set_xattr", "long_name")

    def __init__(self, work, path=None):
        super().__init__(work, path or self.executable)

    def init(self, vault):
        self.run(self.path, "create", "--format", self.format_number, "--pass", "power", "--rounds", "1", vault)

    def mount_command(self, vault, at):
        return [self.path, "mount", "--pass", "power", "--log", "/dev/null", vault, at]

    def mount(self, vault, at, lies=False):
        # It refuses to mount after an unclean end until this is removed, as it says.
        pathlib.Path(vault, ".securefs.lock").unlink(missing_ok=True)
        super().mount(vault, at, lies)


class SecurefsFull(Securefs):
    name, format_number = "securefs-full", "2"


class Encfs(Program):
    name, spared = "encfs", (*Gocryptfs.spared, "long_name")

    def init(self, vault):
        # The first mount makes it.
        with tempfile.TemporaryDirectory() as at:
            self.mount(vault, at)
            self.unmount(at)

    def mount_command(self, vault, at):
        return [self.path, "-f", "--standard", "--stdinpass", vault, at]


class Plain(Program):
    """No encryption: the directory itself, bound. It shows what the filesystem under a vault does."""

    name, spared = "plain", ("exchange",)

    def init(self, vault):
        pass

    def mount(self, vault, at, lies=False):
        subprocess.run(["mount", "--bind", vault, at], check=True)

    def unmount(self, at):
        unmount(at)

    def kill(self, at):
        if mounted(at):
            subprocess.run(["umount", "-l", at], check=False)


PROGRAMS = {program.name: program for program in (Akasha, Gocryptfs, Securefs, SecurefsFull, Encfs, Plain)}
