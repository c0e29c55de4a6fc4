//! A vault and its mount in a temporary place, with the daemon as a child of the test: its pid, its
//! memory and its log are at hand, and whatever happens the mount is gone when the test is.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// No step of a test may take longer; then the daemon is killed, so that nothing waits for it.
const PATIENCE: Duration = Duration::from_mins(10);

/// The password of every test vault.
pub const PASSWORD: &str = "pa\u{df}word of the tests";

/// Argon2 at its accepted minimum.
pub const FAST_KDF: [&str; 6] =
    ["--argon2-memory", "19MiB", "--argon2-passes", "2", "--argon2-lanes", "1"];

/// How a vault is made and mounted where a test wants it otherwise.
#[derive(Clone, Debug)]
pub struct Setup {
    pub cipher: &'static str,
    pub block_size: &'static str,
    /// Further arguments of `akasha mount`.
    pub mount_args: Vec<String>,
    /// RLIMIT_NOFILE of the daemon.
    pub max_descriptors: Option<u64>,
}

impl Default for Setup {
    fn default() -> Self {
        Setup {
            cipher: "chacha20-poly1305",
            block_size: "4KiB",
            mount_args: Vec::new(),
            max_descriptors: None,
        }
    }
}

/// A temporary place with a vault in it.
pub struct Vault {
    /// Removed on drop, after the mount.
    place: TempDir,
    setup: Setup,
}

impl Vault {
    /// A fresh vault; `None`, and a line that says SKIPPED, where FUSE is not to be had.
    pub fn new(setup: Setup) -> Option<Vault> {
        if let Err(why) = File::options().read(true).write(true).open("/dev/fuse") {
            skipped(&format!("/dev/fuse cannot be opened: {why}"));
            return None;
        }
        let place = tempfile::Builder::new()
            .prefix("mounted test ")
            .tempdir()
            .expect("temporary directories can be made");
        let vault = Vault { place, setup };
        secret(&vault.password_file(), &format!("{PASSWORD}\n"));
        fs::create_dir(vault.mountpoint()).expect("the disk is writable");
        let mut init = akasha();
        init.arg("init").arg(vault.dir()).args(FAST_KDF);
        init.args(["--cipher", vault.setup.cipher, "--block-size", vault.setup.block_size]);
        init.arg("--password-file").arg(vault.password_file());
        succeed(&mut init);
        Some(vault)
    }

    /// The temporary place itself, on the bare disk.
    pub fn place(&self) -> &Path {
        self.place.path()
    }

    pub fn dir(&self) -> PathBuf {
        self.place().join("vault")
    }

    pub fn mountpoint(&self) -> PathBuf {
        self.place().join("mount point")
    }

    pub fn password_file(&self) -> PathBuf {
        self.place().join("password")
    }

    pub fn log_file(&self) -> PathBuf {
        self.place().join("daemon.log")
    }

    /// `akasha mount` of this vault, without --foreground.
    pub fn mount_command(&self) -> Command {
        let mut mount = akasha();
        mount.arg("mount").arg(self.dir()).arg(self.mountpoint());
        mount.arg("--password-file").arg(self.password_file()).args(&self.setup.mount_args);
        if let Some(level) = std::env::var_os("AKASHA_LOG") {
            mount.arg("--log-level").arg(level);
        }
        mount
    }

    pub fn mount(self) -> Mount {
        Mount::adopt(Daemon::start(&self).expect("the vault mounts"), self)
    }

    /// Every file of the vault, sorted, but `.akasha/lock`, which holds nothing, and rescue copies, which come with time.
    pub fn files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        collect_files(&self.dir(), &mut files);
        files.retain(|file| !file.ends_with(".akasha/lock") && !file.ends_with(".dir"));
        files.sort();
        files
    }

    /// What is left in `.akasha/tmp`.
    pub fn leftovers(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        collect_files(&self.dir().join(".akasha/tmp"), &mut files);
        files
    }
}

/// Writes a password file that only its owner reads, else akasha warns.
pub fn secret(path: &Path, text: &str) {
    let mut file = File::options();
    let file = file.write(true).create(true).truncate(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).expect("the disk is writable");
}

fn collect_files(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("the vault's directories are readable") {
        let entry = entry.expect("the vault's directories are readable");
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect_files(&entry.path(), files);
        } else {
            files.push(entry.path());
        }
    }
}

/// A running `akasha mount --foreground`.
pub struct Daemon {
    child: Child,
    mountpoint: PathBuf,
    log_file: PathBuf,
    /// Dropped to call the watch off.
    watch: Option<mpsc::Sender<()>>,
    ended: bool,
}

impl Daemon {
    /// Mounts; the error is what the daemon said before it gave up.
    pub fn start(vault: &Vault) -> Result<Daemon, String> {
        let mut mount = vault.mount_command();
        mount.arg("--foreground");
        let mut command = match vault.setup.max_descriptors {
            None => mount,
            Some(limit) => {
                let mut limited = Command::new("prlimit");
                limited.arg(format!("--nofile={limit}:{limit}")).arg(mount.get_program());
                limited.args(mount.get_args());
                limited
            }
        };
        let log_file = vault.log_file();
        let log = File::options().create(true).append(true).open(&log_file);
        let log = log.expect("the log can be made");
        let old_log = log.metadata().expect("the log can be looked at").len();
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("descriptors can be duplicated"))
            .stderr(log)
            .process_group(0)
            .spawn()
            .expect("the daemon starts");
        let mountpoint = vault.mountpoint();
        let mut daemon = Daemon { child, mountpoint, log_file, watch: None, ended: false };
        let here = fs::metadata(vault.place()).expect("the place is there").dev();
        let start = Instant::now();
        while !fs::metadata(&daemon.mountpoint).is_ok_and(|there| there.dev() != here) {
            if let Some(status) = daemon.child.try_wait().expect("a child can be waited for") {
                daemon.ended = true;
                return Err(format!("{status}: {}", daemon.log()));
            }
            assert!(start.elapsed() < PATIENCE, "the mount does not come up: {}", daemon.log());
            thread::sleep(Duration::from_millis(3));
        }
        // A mount that is gone before its daemon has seen it answer is an error to the daemon. Another log level hides the
        // line.
        let seen = Instant::now();
        let is_ready = |log: &str| {
            let new = log.get(usize::try_from(old_log).expect("a short log")..);
            new.is_some_and(|log| log.contains("mounted read-"))
        };
        while !is_ready(&daemon.log()) && seen.elapsed() < Duration::from_secs(2) {
            thread::sleep(Duration::from_millis(1));
        }
        Ok(daemon)
    }

    /// Kills the daemon once patience ends: every call into the mount then fails instead of hanging.
    fn watch(&mut self) {
        let (keep, call_off) = mpsc::channel();
        let pid = self.child.id();
        thread::spawn(move || {
            if call_off.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
                signal(pid, "KILL");
            }
        });
        self.watch = Some(keep);
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log_file).unwrap_or_default()).into_owned()
    }

    /// Waits for the daemon to end by itself.
    fn wait(&mut self) -> ExitStatus {
        self.watch = None;
        let status = wait_for(&mut self.child).unwrap_or_else(|| {
            signal(self.child.id(), "KILL");
            panic!("the daemon does not end: {}", self.log())
        });
        self.ended = true;
        assert!(!self.log().contains("panicked"), "the daemon panicked: {}", self.log());
        status
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.watch = None;
        if !self.ended {
            detach(&self.mountpoint);
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if thread::panicking() {
            let log = self.log();
            let tail = log.char_indices().rev().nth(4000).map_or(0, |(at, _)| at);
            eprintln!("--- the daemon's log:\n{}", &log[tail..]);
        }
    }
}

/// A mounted vault.
pub struct Mount {
    // Declared first, so dropped first: the mount before the directory that it hangs in.
    daemon: Daemon,
    pub vault: Vault,
}

impl Mount {
    /// A fresh vault, mounted; `None` (and SKIPPED) where FUSE is not to be had.
    pub fn new() -> Option<Mount> {
        Mount::with(Setup::default())
    }

    pub fn with(setup: Setup) -> Option<Mount> {
        Some(Vault::new(setup)?.mount())
    }

    /// A daemon that was started by hand.
    pub fn adopt(mut daemon: Daemon, vault: Vault) -> Mount {
        daemon.watch();
        Mount { daemon, vault }
    }

    /// A path in the mount.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.vault.mountpoint().join(name)
    }

    pub fn pid(&self) -> u32 {
        self.daemon.pid()
    }

    pub fn log(&self) -> String {
        self.daemon.log()
    }

    pub fn is_alive(&mut self) -> bool {
        self.daemon.child.try_wait().expect("a child can be waited for").is_none()
            && !self.log().contains("panicked")
    }

    /// `akasha umount`; checks that it ended well and left nothing unpublished.
    pub fn unmount(mut self) -> Vault {
        let pid = self.pid();
        umount(akasha().arg("umount").arg(self.vault.mountpoint()));
        let status = self.daemon.wait();
        assert!(status.success(), "daemon {pid}: {status}: {}", self.log());
        assert_eq!(self.vault.leftovers(), Vec::<PathBuf>::new(), "left in .akasha/tmp");
        let Mount { vault, .. } = self;
        vault
    }

    /// Unmounts and mounts: what the test then sees came from the vault.
    pub fn remount(self) -> Mount {
        self.unmount().mount()
    }

    /// The same with other arguments of `akasha mount`.
    pub fn remount_with(self, args: &[&str]) -> Mount {
        let mut vault = self.unmount();
        vault.setup.mount_args = args.iter().map(|&arg| arg.to_owned()).collect();
        vault.mount()
    }

    /// SIGKILL, as a crash of the daemon; the dead mount is taken away.
    pub fn kill(mut self) -> Vault {
        signal(self.pid(), "KILL");
        self.daemon.wait();
        detach(&self.vault.mountpoint());
        let Mount { vault, .. } = self;
        vault
    }

    /// SIGKILL; the dead mount stays where it is.
    pub fn kill_and_leave_the_dead_mount(mut self) -> Vault {
        signal(self.pid(), "KILL");
        self.daemon.wait();
        let Mount { vault, .. } = self;
        vault
    }

    /// A clean end, asked for by signal.
    pub fn end_by(mut self, name: &str) -> Vault {
        signal(self.pid(), name);
        let status = self.daemon.wait();
        assert!(status.success(), "after SIG{name}: {status}: {}", self.log());
        let Mount { vault, .. } = self;
        vault
    }

    /// A clean end that `command` brings about.
    pub fn end_after(mut self, command: &mut Command) -> Vault {
        umount(command);
        let status = self.daemon.wait();
        assert!(status.success(), "after {command:?}: {status}: {}", self.log());
        let Mount { vault, .. } = self;
        vault
    }

    /// The daemon's largest resident set so far, in KiB, and the anonymous part of what it is now.
    pub fn memory_kib(&self) -> (u64, u64) {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        (number_after(&status, "VmHWM:"), number_after(&status, "RssAnon:"))
    }

    /// Bytes the daemon has handed to write calls, and bytes it has caused to be written to a disk.
    pub fn written(&self) -> (u64, u64) {
        let io = fs::read_to_string(format!("/proc/{}/io", self.pid())).unwrap();
        (number_after(&io, "\nwchar:"), number_after(&io, "\nwrite_bytes:"))
    }

    /// Runs `tests/mounted/PROGRAM DIR ARGS` and expects it to succeed.
    pub fn python(&self, program: &str, args: &[&str]) -> String {
        succeed(&mut python(program, &self.vault.mountpoint(), args))
    }

    /// The same on directory `dir` of the mount.
    pub fn python_in(&self, dir: &str, program: &str, args: &[&str]) -> String {
        succeed(&mut python(program, &self.path(dir), args))
    }
}

/// A Python program of tests/mounted, on `dir`.
pub fn python(program: &str, dir: &Path, args: &[&str]) -> Command {
    let mut command = python_command();
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mounted").join(program));
    command.arg(dir).args(args);
    command
}

/// The Python that scripts/setup made, or the system's.
pub fn python_command() -> Command {
    let mut command =
        Command::new(std::env::var_os("AKASHA_PYTHON").unwrap_or_else(|| "python3".into()));
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

/// The program under test; `AKASHA_BIN` names another build of it.
pub fn akasha() -> Command {
    Command::new(binary())
}

pub fn binary() -> PathBuf {
    std::env::var_os("AKASHA_BIN")
        .map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_akasha")), PathBuf::from)
}

/// Runs a command that unmounts. A child that another test's thread has just forked holds copies of our
/// descriptors until it executes its program: then the mount is busy for a moment, and one tries again.
pub fn umount(command: &mut Command) {
    let start = Instant::now();
    loop {
        let done = run(command);
        if done.status.success() {
            return;
        }
        let busy = done.stderr.contains("in use") || done.stderr.contains("busy");
        let again = busy && start.elapsed() < Duration::from_secs(5);
        assert!(again, "{command:?}: {}\n{}", done.status, done.stderr);
        thread::sleep(Duration::from_millis(20));
    }
}

/// What a finished program left.
#[derive(Debug)]
pub struct Finished {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

/// Runs to the end, with an end to patience.
pub fn run(command: &mut Command) -> Finished {
    let (stdout, stderr) = (tempfile::tempfile(), tempfile::tempfile());
    let (mut stdout, mut stderr) = (stdout.unwrap(), stderr.unwrap());
    command.stdin(Stdio::null());
    command.stdout(stdout.try_clone().unwrap()).stderr(stderr.try_clone().unwrap());
    let mut child = command.spawn().unwrap_or_else(|why| panic!("{command:?}: {why}"));
    let status = wait_for(&mut child).unwrap_or_else(|| {
        let _ = child.kill();
        panic!("{command:?} does not end")
    });
    Finished { status, stdout: contents(&mut stdout), stderr: contents(&mut stderr) }
}

/// Runs to the end and expects success; returns what it printed.
pub fn succeed(command: &mut Command) -> String {
    let done = run(command);
    assert!(done.status.success(), "{command:?}: {}\n{}{}", done.status, done.stdout, done.stderr);
    done.stdout
}

fn contents(file: &mut File) -> String {
    use std::io::{Read as _, Seek as _};
    let mut bytes = Vec::new();
    file.rewind()
        .and_then(|()| file.read_to_end(&mut bytes))
        .expect("temporary files are readable");
    String::from_utf8_lossy(&bytes).into_owned()
}

fn wait_for(child: &mut Child) -> Option<ExitStatus> {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            return Some(status);
        }
        thread::sleep(Duration::from_millis(2));
    }
    None
}

pub fn signal(pid: u32, name: &str) {
    let _ = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status();
}

/// Takes a mount out of the tree whatever state it is in.
pub fn detach(mountpoint: &Path) {
    let quiet = |program: &str, flag: &str| {
        let mut command = Command::new(program);
        command.arg(flag).arg(mountpoint).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    let _ = quiet("umount", "-l") || quiet("fusermount3", "-uz");
}

/// Says, past libtest's capture, that the current test cannot run here.
pub fn skipped(why: &str) {
    let name = thread::current().name().unwrap_or("?").to_owned();
    // In one piece: libtest's own lines go to the same place.
    let _ = io::stderr().write_all(format!("\nSKIPPED {name}: {why}\n").as_bytes());
}

pub fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// The number that follows `label` in a file of /proc.
pub fn number_after(text: &str, label: &str) -> u64 {
    let text = format!("\n{text}");
    let rest = text.split(label).nth(1).unwrap_or_else(|| panic!("no {label} in {text}"));
    rest.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number")
}

/// The number in environment variable `name`, else `usual`: for longer runs by hand.
pub fn setting(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |value| {
        value.parse().unwrap_or_else(|_| panic!("{name}={value} is not a number"))
    })
}

/// True where `AKASHA_BIG=1` asks for the sizes of the promises instead of quick ones.
pub fn big() -> bool {
    std::env::var_os("AKASHA_BIG").is_some_and(|value| value == "1")
}

/// A repeatable sequence (splitmix64); the same bytes for the same seed.
pub struct Random(pub u64);

impl Random {
    /// Seeded by `AKASHA_SEED`, or by the clock; prints the seed.
    pub fn new() -> Random {
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("the clock is past 1970");
        let seed = setting("AKASHA_SEED", u64::from(now.subsec_nanos()));
        eprintln!("AKASHA_SEED={seed}");
        Random(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let words = (0..len.div_ceil(8)).flat_map(|_| self.next().to_le_bytes());
        words.take(len).collect()
    }
}
