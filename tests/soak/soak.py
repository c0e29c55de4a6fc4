"""Hours of work in one command: two vaults, writers of every kind in each. One is mounted all the time and must not grow: memory,
descriptors, threads and maps when idle, after warming up and at the end. The other is unmounted, killed and mounted again
and again, checked by `akasha check` each time. Exit code 1 and what went wrong, if anything did.

usage: soak.py AKASHA PLACE --minutes N --seed S"""

import argparse
import os
import random
import subprocess
import sys
import threading
import time

import writers

PASSWORD = b"soak\n"

# What the idle daemon may have more at the end than after warming up: a factor, and a constant for what caches take.
BOUNDS = {"rss_kib": (1.2, 24 << 10), "fds": (1.0, 8), "threads": (1.0, 2), "maps": (1.0, 48)}


class Vault:
    """A vault and its daemon."""

    def __init__(self, akasha, place, name):
        self.akasha = akasha
        self.dir = os.path.join(place, name)
        self.mountpoint = os.path.join(place, name + ".mnt")
        self.password = os.path.join(place, "password")
        self.log = os.path.join(place, name + ".log")
        os.mkdir(self.mountpoint)
        cheap = ["--argon2-memory", "19MiB", "--argon2-passes", "2", "--argon2-lanes", "1"]
        self.run("init", self.dir, "--password-file", self.password, *cheap)
        self.daemon = None
        self.mount()

    def run(self, *args, ok=(0,)):
        done = subprocess.run([self.akasha, *args], capture_output=True, text=True, timeout=600)
        if done.returncode not in ok:
            raise AssertionError(f"akasha {args[0]}: {done.returncode}: {done.stdout}{done.stderr}")
        return done

    def mount(self):
        log = open(self.log, "ab")
        self.daemon = subprocess.Popen(
            [self.akasha, "mount", "--foreground", "--password-file", self.password, self.dir, self.mountpoint],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        until = time.monotonic() + 120
        while not os.path.ismount(self.mountpoint):
            if self.daemon.poll() is not None or time.monotonic() > until:
                raise AssertionError(f"the mount does not come up: {open(self.log).read()[-2000:]}")
            time.sleep(0.01)

    def unmount(self):
        for _ in range(50):
            done = subprocess.run([self.akasha, "umount", self.mountpoint], capture_output=True, text=True)
            if done.returncode == 0:
                break
            time.sleep(0.2)
        else:
            raise AssertionError(f"umount: {done.stderr}")
        if self.daemon.wait(timeout=120) != 0:
            raise AssertionError(f"the daemon ended with {self.daemon.returncode}")

    def kill(self):
        self.daemon.kill()
        self.daemon.wait()

    def detach(self):
        subprocess.run(["umount", "-l", self.mountpoint], capture_output=True)

    def check(self):
        self.run("check", "--password-file", self.password, self.dir)

    def sample(self):
        proc = f"/proc/{self.daemon.pid}"
        status = dict(line.split(":", 1) for line in open(f"{proc}/status") if ":" in line)
        kib = lambda key: int(status[key].split()[0])
        return {
            "rss_kib": kib("VmRSS"), "hwm_kib": kib("VmHWM"), "threads": int(status["Threads"]),
            "fds": len(os.listdir(f"{proc}/fd")), "maps": sum(1 for _ in open(f"{proc}/maps")),
        }


class Crew:
    """Writers at work in one vault, in a thread each."""

    def __init__(self, vault, seed, copies, maps):
        self.vault, self.errors, self.turns = vault, [], 0
        self.writers = []
        for copy in range(copies):
            for kind in writers.KINDS:
                own = random.Random(f"{seed} {kind.__name__} {copy}")
                where = os.path.join(vault.mountpoint, f"{kind.__name__} {copy}")
                self.writers.append(kind(where, own, maps))
        self.stop = threading.Event()
        self.may_fail = False
        self.threads = []

    def begin(self):
        self.stop.clear()
        self.may_fail = False
        self.threads = [threading.Thread(target=self.work, args=(writer,)) for writer in self.writers]
        for thread in self.threads:
            thread.start()

    def work(self, writer):
        while not self.stop.is_set():
            try:
                writer.turn()
                self.turns += 1
            except Exception as error:  # noqa: BLE001: whatever it is, it is reported
                # After a kill everything fails; a wrong content never may.
                if isinstance(error, AssertionError) or not self.may_fail:
                    self.errors.append(f"{type(writer).__name__}: {error!r}")
                    self.stop.set()
                return

    def end(self):
        self.stop.set()
        for thread in self.threads:
            thread.join(timeout=300)
            if thread.is_alive():
                raise AssertionError("a writer hangs")
        self.hold()

    def hold(self):
        if self.errors:
            raise AssertionError("; ".join(self.errors))


def settle(vault):
    """Idle: everything committed, nothing waiting."""
    subprocess.run(["sync", "-f", vault.mountpoint], check=True)
    time.sleep(8)


def say(text):
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def row(sample):
    return " ".join(f"{key}={value}" for key, value in sample.items())


def soak(args, vaults):
    rng = random.Random(args.seed)
    steady = Vault(args.akasha, args.place, "steady")
    vaults.append(steady)
    shaken = Vault(args.akasha, args.place, "shaken")
    vaults.append(shaken)
    crew, victims = Crew(steady, args.seed, args.copies, True), Crew(shaken, args.seed + 1, 1, False)
    start, length = time.monotonic(), args.minutes * 60
    warm, warm_sample, peak = max(length * 0.25, 5), None, {}
    counts = {"remounts": 0, "kills": 0, "checks": 0}
    crew.begin()
    while time.monotonic() - start < length:
        victims.begin()
        time.sleep(min(rng.uniform(2, 12), max(length / 4, 1)))
        if rng.random() < 0.5:
            # Whatever they are in the middle of.
            victims.may_fail = True
            shaken.kill()
            victims.end()
            shaken.detach()
            shaken.mount()
            for writer in victims.writers:
                writer.after_kill()
            counts["kills"] += 1
        else:
            victims.end()
            shaken.unmount()
            shaken.check()
            shaken.mount()
            counts["remounts"] += 1
        shaken.check()
        counts["checks"] += 1
        crew.hold()
        now = steady.sample()
        peak = {key: max(value, peak.get(key, 0)) for key, value in now.items()}
        if counts["checks"] % 10 == 1:
            say(f"at work: {row(now)} turns={crew.turns + victims.turns} {row(counts)}")
        if warm_sample is None and time.monotonic() - start > warm:
            crew.end()
            settle(steady)
            steady.check()
            warm_sample = steady.sample()
            say(f"warm, idle: {row(warm_sample)}")
            crew.begin()
    crew.end()
    settle(steady)
    steady.check()
    last = steady.sample()
    say(f"end, idle:  {row(last)}")
    say(f"highest:    {row(peak)}")
    grew = []
    for key, (factor, more) in BOUNDS.items():
        bound = warm_sample[key] * factor + more
        if last[key] > bound:
            grew.append(f"{key} grew from {warm_sample[key]} to {last[key]}, more than {bound:.0f}")
    for vault in vaults:
        vault.unmount()
        vault.check()
        if "panicked" in open(vault.log).read():
            grew.append(f"a panic: see {vault.log}")
    vaults.clear()
    say(f"turns={crew.turns + victims.turns} {row(counts)}")
    if grew:
        raise AssertionError("; ".join(grew))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("akasha")
    parser.add_argument("place")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--copies", type=int, default=2)
    args = parser.parse_args()
    if args.seed is None:
        args.seed = int.from_bytes(os.urandom(4), "little")
    say(f"seed {args.seed}, {args.minutes} minutes")
    fd = os.open(os.path.join(args.place, "password"), os.O_WRONLY | os.O_CREAT, 0o600)
    os.write(fd, PASSWORD)
    os.close(fd)
    vaults = []
    try:
        soak(args, vaults)
    except AssertionError as error:
        say(f"FAILED (seed {args.seed}): {error}")
        return 1
    finally:
        for vault in vaults:
            vault.detach()
            vault.kill()
    say("nothing grew, nothing was lost")
    return 0


if __name__ == "__main__":
    sys.exit(main())
