//! The program as a person or a script meets it, as far as that needs no mount: what it prints, what it leaves on
//! the disk, and each exit code. Exit codes are literal numbers here: they are API.

#![allow(clippy::unwrap_used)]

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

const EXE: &str = env!("CARGO_BIN_EXE_akasha");
/// The cheapest key derivation that is allowed.
const CHEAP: [&str; 6] =
    ["--argon2-memory", "19MiB", "--argon2-passes", "2", "--argon2-lanes", "1"];
const NOBODY: u32 = 65534;

/// How one run of the program ended.
#[derive(Debug)]
struct Run {
    code: i32,
    out: String,
    err: String,
}

impl Run {
    /// It worked and had nothing to complain about.
    #[track_caller]
    fn ok(self) -> Self {
        assert_eq!((self.code, self.err.as_str()), (0, ""), "{self:?}");
        self
    }

    /// It failed with this code, one sentence and one hint.
    #[track_caller]
    fn fails(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        assert_eq!(self.out, "", "{self:?}");
        let lines: Vec<&str> = self.err.lines().collect();
        assert_eq!(lines.len(), 2, "{self:?}");
        assert!(lines[0].starts_with("error: ") && lines[1].starts_with("hint: "), "{self:?}");
        self
    }

    #[track_caller]
    fn says(self, text: &str) -> Self {
        assert!(self.err.contains(text) || self.out.contains(text), "no {text:?} in {self:?}");
        self
    }
}

/// Runs the program with `stdin` as its standard input.
fn akasha<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>, stdin: &[u8]) -> Run {
    let mut command = Command::new(EXE);
    command.args(args);
    run(&mut command, stdin)
}

fn run(command: &mut Command, stdin: &[u8]) -> Run {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = loop {
        match command.spawn() {
            // A copy of the program that was just written is still open in a child that another test is about to start.
            Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            spawned => break spawned.unwrap(),
        }
    };
    // The program may end without reading: that is no failure of the test.
    let _ = child.stdin.take().unwrap().write_all(stdin);
    let output = child.wait_with_output().unwrap();
    Run {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A temporary directory in which a test has its vault and what else it needs.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Place(tempfile::tempdir().unwrap())
    }

    /// With a vault named `vault`, whose password is `pw`.
    fn with_vault() -> Self {
        let place = Place::new();
        place.init("vault", b"pw\n").ok();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn str(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn init(&self, name: &str, stdin: &[u8]) -> Run {
        let path = self.str(name);
        akasha(["init", &path].into_iter().chain(CHEAP), stdin)
    }

    /// The last word of `args` that begins with `@` names something in here.
    fn run(&self, args: &[&str], stdin: &[u8]) -> Run {
        let args = args.iter().map(|arg| match arg.strip_prefix('@') {
            Some(name) => self.str(name),
            None => (*arg).to_owned(),
        });
        akasha(args, stdin)
    }

    fn file(&self, name: &str, content: &[u8]) -> String {
        fs::write(self.path(name), content).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o600)).unwrap();
        self.str(name)
    }

    fn dir(&self, name: &str) -> String {
        fs::create_dir(self.path(name)).unwrap();
        self.str(name)
    }

    fn config(&self) -> PathBuf {
        self.path("vault/.akasha/vault.toml")
    }

    fn edit_config(&self, edit: impl FnOnce(String) -> String) {
        let text = fs::read_to_string(self.config()).unwrap();
        fs::write(self.config(), edit(text)).unwrap();
    }

    #[track_caller]
    fn opens_with(&self, password: &str) {
        self.run(&["info", "--verify", "@vault"], password.as_bytes()).ok();
    }
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Whether mounting could work at all here; says so if not.
fn has_fuse(test: &str) -> bool {
    let is_there = File::options().read(true).write(true).open("/dev/fuse").is_ok();
    if !is_there {
        eprintln!("SKIPPED {test}: /dev/fuse cannot be opened");
    }
    is_there
}

fn is_root() -> bool {
    std::os::unix::fs::MetadataExt::uid(&fs::metadata("/proc/self").unwrap()) == 0
}

/// A copy of the program that other users can run, and the place opened to them; `None` unless root.
fn as_nobody(place: &Place, test: &str) -> Option<Command> {
    if !is_root() {
        eprintln!("SKIPPED {test}: only root can become another user");
        return None;
    }
    fs::set_permissions(place.0.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let copy = place.path("akasha");
    fs::copy(EXE, &copy).unwrap();
    let mut command = Command::new(copy);
    command.uid(NOBODY).gid(NOBODY).current_dir("/");
    Some(command)
}

// --- help and usage ------------------------------------------------------------------------

#[test]
fn help_and_version_are_no_errors() {
    akasha(["--version"], b"").ok().says("akasha 0.");
    for command in ["init", "mount", "umount", "passwd", "info", "check"] {
        akasha(["--help"], b"").ok().says(command);
        akasha([command, "--help"], b"").ok().says("Usage: akasha");
        akasha(["help", command], b"").ok().says("Usage: akasha");
    }
}

#[test]
fn the_help_documents_the_exit_codes() {
    let help = akasha(["--help"], b"").ok();
    for (code, meaning) in
        [(0, "done"), (3, "wrong password"), (9, "the vault is in use"), (19, "no space left")]
    {
        assert!(help.out.contains(&format!("{code:>2}  {meaning}")), "{code}");
    }
}

#[test]
fn a_wrong_command_line_is_told_with_code_2() {
    for args in [
        &["frobnicate"][..],
        &["init"],
        &["init", "a", "b"],
        &["init", "a", "--frobnicate"],
        &["mount", "a"],
        &["init", "a", "--block-size", "lots"],
        &["init", "a", "--block-size", "5000"],
        &["init", "a", "--block-size", "2KiB"],
        &["init", "a", "--block-size", "2MiB"],
        &["init", "a", "--cipher", "rot13"],
        &["init", "a", "--argon2-memory", "18MiB"],
        &["init", "a", "--argon2-memory", "5GiB"],
        &["init", "a", "--argon2-passes", "1"],
        &["init", "a", "--argon2-passes", "65"],
        &["init", "a", "--argon2-lanes", "0"],
        &["init", "a", "--argon2-lanes", "65"],
        &["init", "a", "--password-file", "x", "--password-command", "y"],
        &["mount", "a", "b", "--commit", "often"],
        &["mount", "a", "b", "--log-level", "loud"],
    ] {
        akasha(args, b"pw\n").fails(2);
    }
    assert!(!Path::new("a").exists());
    let none = akasha::<&str>([], b"");
    assert_eq!(none.code, 2);
    assert!(none.err.contains("Usage: akasha"));
}

#[test]
fn an_unknown_mount_option_is_named() {
    let place = Place::with_vault();
    place.dir("m");
    place
        .run(&["mount", "@vault", "@m", "-o", "ro,noatime,sparkle=1,nodev"], b"pw\n")
        .fails(2)
        .says("sparkle=1");
}

// --- init ----------------------------------------------------------------------------------

#[test]
fn init_makes_a_whole_vault_in_a_new_directory_or_an_empty_one() {
    let place = Place::new();
    place.dir("empty");
    for name in ["new", "empty"] {
        place.init(name, b"pw\n").ok();
        assert_eq!(names(&place.path(name)), [".akasha"]);
        let control = place.path(name).join(".akasha");
        assert_eq!(names(&control), ["inodes", "layers", "lock", "tmp", "vault.toml", "xattrs"]);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&control), 0o700);
        assert_eq!(mode(&control.join("vault.toml")), 0o600);
    }
    assert_eq!(fs::metadata(place.path("new")).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn init_takes_what_it_is_given() {
    let place = Place::new();
    for (cipher, block_size, shown) in [
        ("chacha20-poly1305", "4KiB", "4 KiB"),
        ("aes-256-gcm", "65536", "64 KiB"),
        ("aes-256-gcm-siv", "1MiB", "1 MiB"),
    ] {
        let vault = place.str(cipher);
        let args = ["init", &vault, "--cipher", cipher, "--block-size", block_size];
        akasha(args.into_iter().chain(CHEAP), b"pw\n").ok();
        akasha(["info", "--verify", &vault], b"pw\n").ok().says(cipher).says(shown).says("19 MiB");
    }
}

#[test]
fn init_refuses_a_place_that_is_taken_and_leaves_it_as_it_is() {
    let place = Place::with_vault();
    let before = fs::read(place.config()).unwrap();
    place.init("vault", b"pw\n").fails(10).says("is a vault already");
    assert_eq!(fs::read(place.config()).unwrap(), before);

    place.dir("full");
    place.file("full/letter", b"x");
    place.init("full", b"pw\n").fails(10).says("not empty");
    assert_eq!(names(&place.path("full")), ["letter"]);

    place.file("file", b"x");
    place.init("file", b"pw\n").fails(10).says("not a directory");
}

#[test]
fn init_makes_only_the_last_directory() {
    let place = Place::new();
    place.init("a/b", b"pw\n").fails(2).says("mkdir");
    assert!(!place.path("a").exists());
}

#[test]
fn init_without_a_password_leaves_nothing() {
    let place = Place::new();
    for stdin in [&b""[..], b"\n"] {
        place.init("v", stdin).fails(4);
        assert!(!place.path("v").exists());
    }
}

#[test]
fn init_takes_over_what_a_crash_left() {
    let place = Place::new();
    place.dir("v");
    for name in ["v/.akasha.new", "v/.akasha.new/tmp", "v/.akasha.new/layers"] {
        place.dir(name);
    }
    place.file("v/.akasha.new/vault.toml", b"half of a fi");
    place.run(&["info", "@v"], b"").fails(5);
    place.init("v", b"pw\n").ok();
    assert_eq!(names(&place.path("v")), [".akasha"]);
    akasha(["info", "--verify", &place.str("v")], b"pw\n").ok();
}

#[test]
fn init_on_a_full_disk_says_so_and_leaves_nothing() {
    if !is_root() {
        eprintln!("SKIPPED init_on_a_full_disk_says_so_and_leaves_nothing: only root can mount");
        return;
    }
    let place = Place::new();
    let dir = place.dir("small");
    // Room for three inodes: the root, the control directory and one more.
    let script = format!(
        "mount -t tmpfs -o nr_inodes=3,mode=755 none '{dir}' || exit 99; \
         '{EXE}' init '{dir}' {}; code=$?; ls -A '{dir}' | grep . >&2; exit $code",
        CHEAP.join(" ")
    );
    let ended = run(Command::new("unshare").args(["-m", "sh", "-c", &script]), b"pw\n");
    if matches!(ended.code, 1 | 99 | 127) && !ended.err.contains("hint: ") {
        eprintln!("SKIPPED init_on_a_full_disk_says_so_and_leaves_nothing: {}", ended.err.trim());
        return;
    }
    ended.fails(19);
}

#[test]
fn a_costly_key_derivation_needs_a_word() {
    let place = Place::new();
    let args = ["init", "@v", "--argon2-memory", "1GiB", "--argon2-passes", "17"];
    place.run(&args, b"pw\n").fails(8).says("--allow-costly-kdf");
    assert!(!place.path("v").exists());
}

// --- passwords -----------------------------------------------------------------------------

#[test]
fn a_password_comes_from_a_file_a_command_or_standard_input() {
    let place = Place::with_vault();
    let file = place.file("p", b"pw\n");
    let bare = place.file("bare", b"pw");
    place.run(&["info", "@vault", "--password-file", &file], b"").ok().says("verified");
    place.run(&["info", "@vault", "--password-file", &bare], b"").ok();
    place.run(&["info", "@vault", "--password-command", "printf 'pw\\n'"], b"").ok();
    place.run(&["info", "@vault", "--password-command", "echo pw"], b"").ok();
    place.run(&["info", "@vault", "--verify"], b"pw\nrest is not read").ok();
}

#[test]
fn a_password_is_bytes() {
    let place = Place::new();
    let password = b"\xff\x00 \xfe\r";
    place.init("vault", &[&password[..], b"\n"].concat()).ok();
    let file = place.file("p", password);
    place.run(&["info", "@vault", "--password-file", &file], b"").ok();
    place.run(&["info", "@vault", "--verify"], b"\xff\n").fails(3);
}

#[test]
fn what_is_no_password_is_told_with_code_4() {
    let place = Place::with_vault();
    let empty = place.file("empty", b"\n");
    let long = place.file("long", &[b'x'; 4097]);
    for source in [
        ["--password-file", "/nonexistent/file"],
        ["--password-file", &empty],
        ["--password-file", &long],
        ["--password-file", "/"],
        ["--password-command", "exit 7"],
        ["--password-command", "kill -TERM $$"],
        ["--password-command", "true"],
        ["--password-command", "yes"],
    ] {
        place.run(&["info", "@vault", source[0], source[1]], b"").fails(4);
    }
    place.run(&["info", "@vault", "--password-command", "exit 7"], b"").says("exit code 7");
    place.run(&["info", "@vault", "--verify"], b"").fails(4);
    place.run(&["info", "@vault", "--verify"], &[b'x'; 5000]).fails(4);
}

#[test]
fn a_password_of_4096_bytes_works() {
    let place = Place::new();
    let password = [[b'x'; 4096].as_slice(), b"\n"].concat();
    place.init("vault", &password).ok();
    place.run(&["info", "@vault", "--verify"], &password).ok();
    place.run(&["info", "@vault", "--verify"], &password[1..]).fails(3);
}

#[test]
fn a_password_file_open_to_others_is_warned_of() {
    let place = Place::with_vault();
    let file = place.file("p", b"pw\n");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let ended = place.run(&["info", "@vault", "--password-file", &file], b"");
    assert_eq!(ended.code, 0);
    ended.says("warning: other users may read");
}

// --- passwd --------------------------------------------------------------------------------

#[test]
fn passwd_replaces_the_password() {
    let place = Place::with_vault();
    place.run(&["passwd", "@vault"], b"pw\nnew\n").ok();
    place.opens_with("new");
    place.run(&["info", "--verify", "@vault"], b"pw\n").fails(3);
    assert_eq!(
        names(&place.path("vault/.akasha")),
        ["inodes", "layers", "lock", "tmp", "vault.toml", "xattrs"]
    );

    let new = place.file("n", b"third\n");
    let args = ["passwd", "@vault", "--password-command", "echo new", "--new-password-file", &new];
    place.run(&args, b"").ok();
    place.opens_with("third");

    let args = ["passwd", "@vault", "--password-file", &new, "--new-password-command", "echo pw"];
    place.run(&args, b"").ok();
    place.opens_with("pw");

    // One of the two from standard input is its first line.
    let args = ["passwd", "@vault", "--password-command", "echo pw"];
    place.run(&args, b"fourth\n").ok();
    place.opens_with("fourth");
}

#[test]
fn passwd_keeps_the_costs_unless_told_otherwise() {
    let place = Place::with_vault();
    place.run(&["passwd", "@vault"], b"pw\nnew\n").ok();
    place.run(&["info", "@vault"], b"").ok().says("19 MiB").says("2 passes").says("1 lane");
    place.run(&["passwd", "@vault", "--argon2-passes", "3"], b"new\npw\n").ok();
    place.run(&["info", "@vault"], b"").ok().says("19 MiB").says("3 passes");
    place.opens_with("pw");
}

#[test]
fn a_failed_passwd_changes_nothing() {
    let place = Place::with_vault();
    let before = fs::read(place.config()).unwrap();
    place.run(&["passwd", "@vault"], b"wrong\nnew\n").fails(3);
    place.run(&["passwd", "@vault"], b"pw\n\n").fails(4);
    place.run(&["passwd", "@vault"], b"pw\n").fails(4);
    place.run(&["passwd", "@vault", "--argon2-passes", "99"], b"pw\nnew\n").fails(2);
    assert_eq!(fs::read(place.config()).unwrap(), before);
    assert_eq!(
        names(&place.path("vault/.akasha")),
        ["inodes", "layers", "lock", "tmp", "vault.toml", "xattrs"]
    );
}

#[test]
fn two_changes_at_once_are_not_mixed() {
    let place = Place::with_vault();
    let held = File::create(place.path("vault/.akasha/vault.toml.new")).unwrap();
    held.lock().unwrap();
    place.run(&["passwd", "@vault"], b"pw\nnew\n").fails(9).says("changing the vault");
    drop(held);
    // What a crashed change left is written over.
    place.run(&["passwd", "@vault"], b"pw\nnew\n").ok();
    place.opens_with("new");
}

// --- what is no vault, or a broken one -------------------------------------------------------

#[test]
fn what_is_no_vault_is_told_with_code_5_by_every_command() {
    let place = Place::new();
    place.dir("m");
    place.dir("empty");
    place.file("file", b"x");
    place.dir("odd");
    place.file("odd/.akasha", b"not a directory");
    place.dir("hollow");
    place.dir("hollow/.akasha");
    for name in ["@missing", "@empty", "@file", "@odd", "@hollow"] {
        place.run(&["info", name], b"").fails(5);
        place.run(&["passwd", name], b"pw\nnew\n").fails(5);
        place.run(&["mount", name, "@m"], b"pw\n").fails(5);
    }
    assert_eq!(names(&place.path("empty")), [""; 0]);
    assert_eq!(names(&place.path("hollow/.akasha")), [""; 0]);
}

#[test]
fn a_broken_configuration_is_told_with_code_6() {
    let place = Place::with_vault();
    place.dir("m");
    let good = fs::read(place.config()).unwrap();
    let too_long = [good.as_slice(), &vec![b'#'; 70_000]].concat();
    for bytes in [&b""[..], b"nonsense", &good[..good.len() / 2], b"\xff\xfe", &too_long] {
        fs::write(place.config(), bytes).unwrap();
        place.run(&["info", "@vault"], b"").fails(6);
        place.run(&["passwd", "@vault"], b"pw\nnew\n").fails(6);
        place.run(&["mount", "@vault", "@m"], b"pw\n").fails(6);
    }
    fs::remove_file(place.config()).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", place.config()).unwrap();
    place.run(&["info", "@vault"], b"").fails(6);
    fs::remove_file(place.config()).unwrap();
    fs::create_dir(place.config()).unwrap();
    place.run(&["info", "@vault"], b"").fails(6);
}

#[test]
fn a_newer_format_is_told_with_code_7() {
    let place = Place::with_vault();
    place.dir("m");
    place.edit_config(|text| {
        let newer = text.replacen("format = 1", "format = 2", 1).replacen(
            "min_reader = 1",
            "min_reader = 2",
            1,
        );
        assert_ne!(newer, text);
        newer
    });
    place.run(&["info", "@vault"], b"").fails(7);
    place.run(&["passwd", "@vault"], b"pw\nnew\n").fails(7);
    place.run(&["mount", "@vault", "@m"], b"pw\n").fails(7);
}

#[test]
fn an_edited_configuration_never_opens() {
    let place = Place::with_vault();
    let good = fs::read(place.config()).unwrap();
    for at in (0..good.len()).step_by(41) {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(place.config(), &bad).unwrap();
        let ended = place.run(&["info", "--verify", "@vault"], b"pw\n");
        assert!(matches!(ended.code, 2..=8), "byte {at}: {ended:?}");
        let code = ended.code;
        ended.fails(code);
    }
}

// --- info ----------------------------------------------------------------------------------

#[test]
fn info_marks_what_it_cannot_prove() {
    let place = Place::with_vault();
    let claimed = place.run(&["info", "@vault"], b"").ok().says("not verified");
    let proved = place.run(&["info", "--verify", "@vault"], b"pw\n").ok();
    assert!(!proved.out.contains("not verified"));
    for text in ["chacha20-poly1305", "4 KiB", "argon2id", "vault id", "format", "created"] {
        assert!(claimed.out.contains(text), "{text} in {claimed:?}");
        assert!(proved.out.contains(text), "{text} in {proved:?}");
    }
    place.run(&["info", "--verify", "@vault"], b"wrong\n").fails(3);
}

#[test]
fn info_does_not_mind_a_reader_that_leaves() {
    let place = Place::with_vault();
    let script = format!("'{EXE}' info '{}' | true", place.str("vault"));
    run(Command::new("sh").args(["-c", &script]), b"").ok();
}

// --- mount, as far as it gets without mounting -----------------------------------------------

#[test]
fn an_unfit_mountpoint_is_told_before_the_password_is_asked() {
    let place = Place::with_vault();
    place.file("file", b"x");
    place.dir("full");
    place.file("full/x", b"x");
    place.run(&["mount", "@vault", "@missing"], b"").fails(11).says("mkdir");
    place.run(&["mount", "@vault", "@file"], b"").fails(12);
    place.run(&["mount", "@vault", "@full"], b"").fails(13).says("nonempty");
    place.run(&["mount", "@vault", "/proc"], b"").fails(14).says("umount");
    place.run(&["mount", "@vault", "@vault"], b"").fails(2).says("inside the vault");
    place.run(&["mount", "@vault", "@vault/.akasha/tmp"], b"").fails(2);
}

#[test]
fn a_wrong_password_reaches_the_caller_from_the_background_too() {
    if !has_fuse("a_wrong_password_reaches_the_caller_from_the_background_too") {
        return;
    }
    let place = Place::with_vault();
    place.dir("m");
    place.run(&["mount", "@vault", "@m"], b"wrong\n").fails(3);
    place.run(&["mount", "--foreground", "@vault", "@m"], b"wrong\n").fails(3);
    place.run(&["mount", "@vault", "@m"], b"").fails(4);
    place.run(&["mount", "@vault", "@m", "-o", "password-file=/nonexistent"], b"").fails(4);
}

#[test]
fn a_vault_that_somebody_holds_is_not_mounted_again() {
    if !has_fuse("a_vault_that_somebody_holds_is_not_mounted_again") {
        return;
    }
    let place = Place::with_vault();
    place.dir("m");
    let mut lock = File::options().write(true).open(place.path("vault/.akasha/lock")).unwrap();
    lock.lock().unwrap();
    lock.write_all(b"process 4711\n").unwrap();
    // Before the password is asked for.
    place.run(&["mount", "@vault", "@m"], b"").fails(9).says("process 4711");
}

#[test]
fn without_fusermount3_an_ordinary_user_is_told_how_to_get_it() {
    const NAME: &str = "without_fusermount3_an_ordinary_user_is_told_how_to_get_it";
    let place = Place::with_vault();
    if !has_fuse(NAME) || as_nobody(&place, NAME).is_none() {
        return;
    }
    place.dir("m");
    // In a mount namespace of its own, in which the helper is no file.
    let script = format!(
        "chown -R {NOBODY} '{vault}' '{mountpoint}' || exit 99; \
         for helper in /usr/bin/fusermount3 /bin/fusermount3 /usr/local/bin/fusermount3; do \
           if [ -f $helper ]; then mount --bind /dev/null $helper || exit 99; fi; \
         done; \
         exec setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups \
           '{exe}' mount '{vault}' '{mountpoint}'",
        exe = place.str("akasha"),
        vault = place.str("vault"),
        mountpoint = place.str("m"),
    );
    let ended = run(Command::new("unshare").args(["-m", "sh", "-c", &script]), b"pw\n");
    if matches!(ended.code, 1 | 99 | 127) && !ended.err.contains("hint: ") {
        eprintln!("SKIPPED {NAME}: {}", ended.err.trim());
        return;
    }
    ended.fails(17).says("apt install fuse3");
}

#[test]
fn a_vault_of_somebody_else_is_told_with_code_18() {
    let place = Place::with_vault();
    let Some(mut command) = as_nobody(&place, "a_vault_of_somebody_else_is_told_with_code_18")
    else {
        return;
    };
    command.args(["info", &place.str("vault")]);
    run(&mut command, b"").fails(18);
    let mut init = as_nobody(&place, "").unwrap();
    init.args(["init", &place.str("mine")]).args(CHEAP);
    run(&mut init, b"pw\n").fails(18);
    let mut suid = as_nobody(&place, "").unwrap();
    place.dir("m");
    suid.args(["mount", &place.str("vault"), &place.str("m"), "-o", "suid"]);
    run(&mut suid, b"pw\n").fails(18);
}

// --- umount --------------------------------------------------------------------------------

#[test]
fn umount_tells_what_is_no_mount_of_ours() {
    let place = Place::with_vault();
    place.dir("m");
    place.run(&["umount", "@m"], b"").fails(15);
    place.run(&["umount", "@vault"], b"").fails(15).says("not the vault");
    place.run(&["umount", "/proc"], b"").fails(15);
    place.run(&["umount", "--lazy", "@m"], b"").fails(15);
    place.run(&["umount", "@missing"], b"").fails(11);
}

// --- check ---------------------------------------------------------------------------------

#[test]
fn check_tells_a_clean_vault_from_a_damaged_one() {
    let place = Place::with_vault();
    let clean = place.run(&["check", "@vault"], b"pw\n").ok();
    clean.says("0 files and 1 directories checked").says("0 damaged");
    let json = place.run(&["check", "--json", "@vault"], b"pw\n").ok();
    json.says("{\"type\":\"summary\",\"files\":0,\"directories\":1,\"bytes\":0,\"damaged\":0,");
    place.run(&["check", "@vault"], b"wrong\n").fails(3);
    place.run(&["check", "@nothing"], b"pw\n").fails(5);
    fs::write(place.path("vault").join("planted"), b"x").unwrap();
    let damaged = place.run(&["check", "@vault"], b"pw\n");
    assert!(damaged.out.starts_with("/ [planted]: not made by akasha; "), "{damaged:?}");
    assert_eq!(damaged.code, 20, "{damaged:?}");
    let json = place.run(&["check", "--json", "@vault"], b"pw\n");
    let start = "{\"type\":\"finding\",\"kind\":\"foreign\",\"damage\":true,\"path\":\"\",\"path_hex\":\"\",\"name\":\"planted\",";
    assert!(json.out.starts_with(start), "{json:?}");
    assert_eq!(json.code, 20, "{json:?}");
}
