//! The command line around a mount: every refusal says in one line what is wrong and in one what to
//! do, with the exit code that `akasha --help` documents; and what a full disk and another user get.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use super::harness::{
    FAST_KDF, Mount, Setup, Vault, akasha, binary, detach, is_root, run, secret, skipped, succeed,
    umount,
};

/// The numbers of nobody and nogroup.
const NOBODY: u32 = 65534;

/// Expects exit code `code`, one line that says what is wrong and one that says what to do.
fn refused(code: i32, command: &mut Command) -> String {
    let done = run(command);
    assert_eq!(done.status.code(), Some(code), "{command:?}: {}{}", done.stdout, done.stderr);
    let lines: Vec<&str> = done.stderr.lines().collect();
    assert_eq!(lines.len(), 2, "{command:?}: {}", done.stderr);
    assert!(lines[0].starts_with("error: ") && lines[1].starts_with("hint: "), "{}", done.stderr);
    let help = succeed(akasha().arg("--help"));
    let documented = help.lines().any(|line| line.trim_start().starts_with(&format!("{code}  ")));
    assert!(documented, "exit code {code} is not in akasha --help");
    done.stderr
}

/// A mount in the background, as a person has it; detached on drop.
struct Background<'a>(&'a Vault);

impl<'a> Background<'a> {
    fn start(vault: &'a Vault) -> Background<'a> {
        succeed(&mut vault.mount_command());
        Background(vault)
    }

    fn stop(self) {
        umount(akasha().arg("umount").arg(self.0.mountpoint()));
    }
}

impl Drop for Background<'_> {
    fn drop(&mut self) {
        detach(&self.0.mountpoint());
    }
}

/// `akasha mount` of `vault` on another place.
fn mount_at(vault: &Vault, mountpoint: &Path) -> Command {
    let mut command = akasha();
    command.arg("mount").arg(vault.dir()).arg(mountpoint);
    command.arg("--password-file").arg(vault.password_file());
    command
}

#[test]
fn mount_goes_to_the_background_and_umount_waits_for_the_last_commit() {
    let Some(vault) = Vault::new(Setup::default()) else { return };
    for round in 0..3 {
        let mounted = Background::start(&vault);
        let path = vault.mountpoint().join(format!("file {round}"));
        assert_eq!(fs::read_dir(vault.mountpoint()).unwrap().count(), round);
        fs::write(&path, vec![round as u8; 2_000_000]).unwrap();
        let holder = fs::read_to_string(vault.dir().join(".akasha/lock")).unwrap();
        let daemon = Path::new("/proc").join(holder.trim().strip_prefix("process ").unwrap());
        // What it has open: nothing of a process that ended.
        let open = || fs::read_dir(daemon.join("fd")).map_or(0, Iterator::count);
        assert!(open() > 0);
        mounted.stop();
        // Else the filesystem under the vault would be busy still.
        assert_eq!(open(), 0);
        assert!(vault.leftovers().is_empty());
        assert_eq!(fs::read_dir(vault.mountpoint()).unwrap().count(), 0);
    }
}

#[test]
fn wrong_places_and_passwords_are_refused_with_what_and_hint() {
    let Some(vault) = Vault::new(Setup::default()) else { return };
    let place = vault.place();
    let wrong = place.join("wrong");
    secret(&wrong, "not the password\n");
    refused(
        3,
        akasha()
            .arg("mount")
            .args([vault.dir(), vault.mountpoint()])
            .arg("--password-file")
            .arg(&wrong),
    );
    let missing = place.join("no such file");
    refused(
        4,
        akasha()
            .arg("mount")
            .args([vault.dir(), vault.mountpoint()])
            .arg("--password-file")
            .arg(&missing),
    );
    // No vault there.
    for place_of_vault in [place.join("nothing"), vault.mountpoint()] {
        let mut command = akasha();
        command.arg("mount").args([place_of_vault, vault.mountpoint()]);
        refused(5, command.arg("--password-file").arg(vault.password_file()));
    }
    refused(5, akasha().arg("info").arg(vault.mountpoint()));
    // Mountpoints.
    refused(11, &mut mount_at(&vault, &missing));
    refused(12, &mut mount_at(&vault, &vault.password_file()));
    let full = place.join("full");
    fs::create_dir_all(full.join("something")).unwrap();
    refused(13, &mut mount_at(&vault, &full));
    refused(15, akasha().arg("umount").arg(vault.mountpoint()));
    refused(2, akasha().arg("mount").arg(vault.dir()));
    refused(2, akasha().arg("frobnicate"));
    // init.
    let mut init = akasha();
    init.arg("init").arg(&full).args(FAST_KDF).arg("--password-file").arg(vault.password_file());
    refused(10, &mut init);
    let mut init = akasha();
    init.arg("init").arg(vault.dir()).args(FAST_KDF);
    refused(10, init.arg("--password-file").arg(vault.password_file()));
    let fresh = place.join("fresh");
    let mut init = akasha();
    init.arg("init").arg(&fresh).args(FAST_KDF).arg("--password-file").arg(&missing);
    refused(4, &mut init);
    assert!(!fresh.exists(), "a failed init leaves nothing");
    // None of it touched the vault.
    Background::start(&vault).stop();
}

#[test]
fn a_mounted_vault_and_a_used_mountpoint_are_refused() {
    let (Some(vault), Some(other)) = (Vault::new(Setup::default()), Vault::new(Setup::default()))
    else {
        return;
    };
    let mounted = Background::start(&vault);
    fs::write(vault.mountpoint().join("file"), b"content").unwrap();
    let elsewhere = vault.place().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    refused(9, &mut mount_at(&vault, &elsewhere));
    refused(14, &mut mount_at(&other, &vault.mountpoint()));
    let held = File::open(vault.mountpoint().join("file")).unwrap();
    refused(16, akasha().arg("umount").arg(vault.mountpoint()));
    assert_eq!(fs::read(vault.mountpoint().join("file")).unwrap(), b"content");
    drop(held);
    mounted.stop();
    refused(15, akasha().arg("umount").arg(vault.mountpoint()));
}

#[test]
fn a_damaged_configuration_is_refused() {
    let Some(vault) = Vault::new(Setup::default()) else { return };
    let path = vault.dir().join(".akasha/vault.toml");
    let good = fs::read(&path).unwrap();
    let text = String::from_utf8(good.clone()).unwrap();
    for bad in ["", "not toml [", &text[..text.len() / 2], &text.replace("block_size", "blocksize")]
    {
        fs::write(&path, bad).unwrap();
        refused(6, &mut vault.mount_command());
    }
    let newer = text.lines().map(|line| {
        let key = line.split('=').next().unwrap_or("").trim();
        if ["format", "min_reader"].contains(&key) {
            format!("{key} = 99")
        } else {
            line.to_owned()
        }
    });
    fs::write(&path, newer.collect::<Vec<_>>().join("\n") + "\n").unwrap();
    refused(7, &mut vault.mount_command());
    fs::write(&path, good).unwrap();
    Background::start(&vault).stop();
}

#[test]
fn a_changed_password_opens_and_the_old_one_does_not() {
    let Some(mount) = Mount::new() else { return };
    fs::write(mount.path("file"), b"content").unwrap();
    let vault = mount.unmount();
    let new = vault.place().join("new password");
    secret(&new, "another\n");
    let mut passwd = akasha();
    passwd.arg("passwd").arg(vault.dir()).args(FAST_KDF);
    passwd.arg("--password-file").arg(vault.password_file());
    succeed(passwd.arg("--new-password-file").arg(&new));
    refused(3, &mut vault.mount_command());
    fs::copy(&new, vault.password_file()).unwrap();
    let mount = vault.mount();
    assert_eq!(fs::read(mount.path("file")).unwrap(), b"content");
    let vault = mount.unmount();
    let told = succeed(akasha().arg("info").arg(vault.dir()));
    assert!(told.contains("chacha20-poly1305"), "{told}");
}

#[test]
fn a_password_comes_from_a_command_or_standard_input() {
    let Some(vault) = Vault::new(Setup::default()) else { return };
    let bare = || {
        let mut command = akasha();
        command.arg("mount").args([vault.dir(), vault.mountpoint()]);
        command
    };
    let mut by_command = bare();
    by_command.arg("--password-command").arg("cat password").current_dir(vault.place());
    succeed(&mut by_command);
    Background(&vault).stop();
    let mut by_input = bare();
    by_input.stdin(File::open(vault.password_file()).unwrap());
    let done = by_input.stdout(Stdio::null()).status().unwrap();
    assert!(done.success());
    Background(&vault).stop();
}

#[test]
fn a_read_only_mount_changes_nothing() {
    let Some(mount) = Mount::new() else { return };
    fs::write(mount.path("file"), b"content").unwrap();
    let vault = mount.unmount();
    let listing = |vault: &Vault| {
        let find = ["-not", "-name", "lock", "-printf", "%P %s %T@ %m\n"];
        let mut lines: Vec<String> = succeed(Command::new("find").arg(vault.dir()).args(find))
            .lines()
            .map(str::to_owned)
            .collect();
        lines.sort();
        lines
    };
    let before = listing(&vault);
    succeed(vault.mount_command().arg("--read-only"));
    let mounted = Background(&vault);
    let file = vault.mountpoint().join("file");
    assert_eq!(fs::read(&file).unwrap(), b"content");
    let readonly = std::io::ErrorKind::ReadOnlyFilesystem;
    assert_eq!(fs::write(&file, b"x").unwrap_err().kind(), readonly);
    assert_eq!(fs::create_dir(vault.mountpoint().join("d")).unwrap_err().kind(), readonly);
    assert_eq!(fs::remove_file(&file).unwrap_err().kind(), readonly);
    mounted.stop();
    assert_eq!(listing(&vault), before);
}

/// Fills the disk that `dir` is on, from outside the mount.
fn fill(dir: &Path) -> PathBuf {
    let path = dir.join("filler");
    let mut file = File::create(&path).unwrap();
    for size in [1 << 20, 4096, 1] {
        while file.write_all(&vec![1; size]).is_ok() {}
    }
    path
}

/// A vault on a small disk of its own; needs root.
struct SmallDisk(PathBuf);

impl Drop for SmallDisk {
    fn drop(&mut self) {
        detach(&self.0);
    }
}

#[test]
fn a_full_disk_says_so_keeps_the_old_and_lets_delete() {
    let Some(vault) = Vault::new(Setup::default()) else { return };
    if !is_root() {
        skipped("mounting a small disk needs root");
        return;
    }
    let disk = vault.place().join("small disk");
    fs::create_dir(&disk).unwrap();
    let options = ["-t", "tmpfs", "-o", "size=40m", "akasha-test"];
    succeed(Command::new("mount").args(options).arg(&disk));
    let disk = SmallDisk(disk);
    succeed(Command::new("cp").arg("-a").arg(vault.dir()).arg(disk.0.join("vault")));
    let mountpoint = vault.mountpoint();
    let mount = || {
        let mut command = akasha();
        command.arg("mount").arg(disk.0.join("vault")).arg(&mountpoint);
        succeed(command.arg("--password-file").arg(vault.password_file()));
    };
    let unmount = || umount(akasha().arg("umount").arg(&mountpoint));
    mount();
    let _mounted = Background(&vault);
    let old = vec![1; 3 << 20];
    let kept = mountpoint.join("kept");
    fs::write(&kept, &old).unwrap();
    File::open(&kept).unwrap().sync_all().unwrap();
    // More than there is room for: ENOSPC at write, fsync or close, whichever comes first.
    let mut big = File::create(mountpoint.join("big")).unwrap();
    let block = vec![2; 1 << 20];
    let outcome = (0..60).try_for_each(|_| big.write_all(&block)).and_then(|()| big.sync_all());
    assert_eq!(outcome.unwrap_err().raw_os_error(), Some(28), "ENOSPC");
    drop(big);
    assert!(fs::read(&kept).unwrap() == old);
    fs::remove_file(mountpoint.join("big")).unwrap();
    fs::write(mountpoint.join("after"), b"room again").unwrap();
    File::open(mountpoint.join("after")).unwrap().sync_all().unwrap();
    // Full from outside, to the last byte: rewriting is refused or done whole, deleting works.
    let filler = fill(&disk.0);
    let rewritten = fs::write(&kept, vec![3; 3 << 20])
        .and_then(|()| File::options().write(true).open(&kept).and_then(|file| file.sync_all()));
    if let Err(why) = rewritten {
        assert_eq!(why.raw_os_error(), Some(28), "{why}");
    }
    let _ = succeed_or_busy(akasha().arg("umount").arg(&mountpoint));
    mount();
    let found = fs::read(&kept).unwrap();
    assert!(found == old || found == vec![3; 3 << 20] || found.is_empty(), "torn");
    fs::remove_file(&kept).unwrap();
    assert!(!kept.exists());
    unmount();
    fs::remove_file(filler).unwrap();
    mount();
    assert!(!kept.exists(), "the deleted file is back");
    assert_eq!(fs::read(mountpoint.join("after")).unwrap(), b"room again");
    fs::write(&kept, b"new").unwrap();
    unmount();
    // And init itself.
    let filler = fill(&disk.0);
    let mut init = akasha();
    init.arg("init").arg(disk.0.join("another")).args(FAST_KDF);
    refused(19, init.arg("--password-file").arg(vault.password_file()));
    fs::remove_file(filler).unwrap();
}

/// A full disk may make the last commits of an unmount fail; then umount says so.
fn succeed_or_busy(command: &mut Command) -> bool {
    let done = run(command);
    if !done.status.success() {
        eprintln!("{command:?}: {}", done.stderr);
    }
    done.status.success()
}

/// A temporary place that nobody owns, with the program in it.
fn place_of_nobody() -> tempfile::TempDir {
    let place = tempfile::Builder::new().prefix("akasha user ").tempdir().unwrap();
    fs::copy(binary(), place.path().join("akasha")).unwrap();
    let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mounted");
    succeed(Command::new("cp").arg("-r").arg(programs).arg(place.path().join("tests")));
    secret(&place.path().join("password"), "of nobody\n");
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
    succeed(Command::new("chown").arg("-R").arg(format!("{NOBODY}:{NOBODY}")).arg(place.path()));
    place
}

/// The script as an ordinary user. As root: in a mount namespace of its own, where /dev/fuse is open to
/// everybody, as udev makes it on an ordinary machine.
fn as_nobody(place: &Path, args: &[&str]) -> Command {
    let script = place.join("tests/ordinary_user.sh");
    if !is_root() {
        let mut command = Command::new("bash");
        command.arg(script).args(args).current_dir(place);
        return command;
    }
    let inside = "set -e; node=$1/fuse; shift
        [ -e \"$node\" ] || { mknod \"$node\" c 10 229; chmod 666 \"$node\"; }
        # Copies of other mounts would keep their daemons from ending.
        umount -lat fuse.akasha || true
        mount --bind \"$node\" /dev/fuse
        exec setpriv --reuid 65534 --regid 65534 --clear-groups bash \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["-m", "--", "bash", "-c", inside, "bash"]).arg(place).arg(script).args(args);
    command.current_dir(place).process_group(0);
    command
}

/// The same command in a mount namespace in which every fusermount3 is an unusable file.
fn without_fusermount(command: &Command) -> Command {
    let inside =
        "for helper in /usr/bin/fusermount3 /bin/fusermount3 /usr/local/bin/fusermount3; do
        if [ -e \"$helper\" ]; then mount --bind /dev/null \"$helper\"; fi
    done; exec \"$@\"";
    let mut hidden = Command::new("unshare");
    hidden.args(["-m", "--", "bash", "-c", inside, "bash"]).arg(command.get_program());
    hidden.args(command.get_args()).current_dir(command.get_current_dir().unwrap());
    hidden
}

#[test]
fn an_ordinary_user_mounts_with_fusermount3() {
    if Vault::new(Setup::default()).is_none() {
        return;
    }
    if run(Command::new("sh").args(["-c", "command -v fusermount3"])).stdout.is_empty() {
        skipped("no fusermount3");
        return;
    }
    let place = place_of_nobody();
    let start = Instant::now();
    eprint!("{}", succeed(&mut as_nobody(place.path(), &["work"])));
    eprintln!("{:?}", start.elapsed());
}

#[test]
fn an_ordinary_user_locks_maps_and_streams() {
    if Vault::new(Setup::default()).is_none() {
        return;
    }
    if run(Command::new("sh").args(["-c", "command -v fusermount3"])).stdout.is_empty() {
        skipped("no fusermount3");
        return;
    }
    let programs = "locks directio shared_maps streams nameless";
    succeed(&mut as_nobody(place_of_nobody().path(), &["work", programs]));
}

#[test]
fn an_ordinary_user_without_fusermount3_or_permission_is_told_so() {
    if Vault::new(Setup::default()).is_none() {
        return;
    }
    if !is_root() {
        skipped("needs root, to take rights away");
        return;
    }
    let place = place_of_nobody();
    succeed(&mut as_nobody(place.path(), &["init"]));
    refused(17, &mut without_fusermount(&as_nobody(place.path(), &["mount", "vault"])));
    let forbidden = place.path().join("of root");
    fs::create_dir(&forbidden).unwrap();
    refused(18, &mut as_nobody(place.path(), &["mount-on", "of root"]));
    fs::set_permissions(&forbidden, fs::Permissions::from_mode(0o700)).unwrap();
    refused(18, &mut as_nobody(place.path(), &["mount", "of root/vault"]));
    let vault = place.path().join("vault");
    succeed(Command::new("chown").args(["-R", "0:0"]).arg(&vault));
    succeed(Command::new("chmod").args(["-R", "go-rwx"]).arg(&vault));
    refused(18, &mut as_nobody(place.path(), &["mount", "vault"]));
}
