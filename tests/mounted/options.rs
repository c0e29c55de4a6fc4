//! What the options of a mount do, and mount(8): by its helper, by fstab, and for a mount that stands.

use std::fs::{self, File, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::harness::{
    Finished, Mount, Setup, Vault, akasha, binary, is_root, run, skipped, succeed,
};

fn mount_with(options: &str) -> Option<Mount> {
    Mount::with(Setup { mount_args: vec!["-o".to_owned(), options.to_owned()], ..Setup::default() })
}

fn can_be_root() -> bool {
    if !is_root() {
        skipped("needs root, who alone may change a mount");
    }
    is_root()
}

/// What mount(8) calls for `mount -o remount,OPTIONS MOUNTPOINT`: all that the mount table says, then what was asked for.
fn remount(mount: &Mount, options: &str) -> Finished {
    let helper = mount.vault.place().join("mount.fuse.akasha");
    if !helper.exists() {
        symlink(binary(), &helper).unwrap();
    }
    let mut table = Command::new("findmnt");
    table.args(["-n", "-r", "-o", "SOURCE,OPTIONS", "-M"]).arg(mount.vault.mountpoint());
    let table = succeed(&mut table);
    let (source, standing) = table.trim().split_once(' ').unwrap();
    // findmnt -r escapes what mount(8) does not.
    let source = source.replace("\\x25", "%");
    let mut command = Command::new(helper);
    command.arg(source).arg(mount.vault.mountpoint()).arg("-n").arg("-o");
    command.arg(format!("{standing},remount,{options}")).args(["-t", "fuse.akasha"]);
    run(&mut command)
}

/// The flags that the mount table shows.
fn flags(mount: &Path) -> Vec<String> {
    let mut command = Command::new("findmnt");
    let shown = succeed(command.args(["-n", "-o", "VFS-OPTIONS", "-M"]).arg(mount));
    shown.trim().split(',').map(str::to_owned).collect()
}

fn has(mount: &Path, wanted: &[&str], unwanted: &[&str]) {
    let flags = flags(mount);
    for word in wanted {
        assert!(flags.iter().any(|flag| flag == word), "no {word} in {flags:?}");
    }
    for word in unwanted {
        assert!(flags.iter().all(|flag| flag != word), "{word} in {flags:?}");
    }
}

fn errno(result: std::io::Result<impl Sized>) -> Option<i32> {
    result.err().expect("refused").raw_os_error()
}

fn refused(finished: &Finished, code: i32, words: &str) {
    assert_eq!(finished.status.code(), Some(code), "{finished:?}");
    assert!(finished.stderr.contains(words), "{finished:?}");
}

/// Again while a child of another test, just forked, holds a copy of a descriptor.
fn until_free(mut call: impl FnMut() -> Finished) {
    let start = Instant::now();
    loop {
        let finished = call();
        if finished.status.success() {
            return;
        }
        let again = finished.status.code() == Some(16) && start.elapsed() < Duration::from_secs(5);
        assert!(again, "{finished:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn program(path: &Path) {
    fs::write(path, "#!/bin/sh\necho ran\n").unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
}

/// Runs it; a copy of the writing descriptor in a child of another test makes it busy for a moment.
fn execute(path: &Path) -> std::io::Result<std::process::Output> {
    loop {
        match Command::new(path).output() {
            Err(error) if error.raw_os_error() == Some(libc::ETXTBSY) => {}
            result => return result,
        }
    }
}

#[test]
fn nothing_runs_where_noexec_was_asked_for() {
    let Some(mount) = mount_with("noexec") else { return };
    program(&mount.path("program"));
    has(&mount.vault.mountpoint(), &["noexec", "nosuid", "nodev"], &["ro"]);
    assert_eq!(errno(execute(&mount.path("program"))), Some(libc::EACCES));
    let mount = mount.remount_with(&["-o", "noexec,exec,relatime,default_permissions"]);
    assert_eq!(execute(&mount.path("program")).unwrap().stdout, b"ran\n");
    mount.unmount();
}

#[test]
fn a_mount_that_stands_gets_other_flags() {
    if !can_be_root() {
        return;
    }
    let Some(mount) = mount_with("noatime") else { return };
    let point = mount.vault.mountpoint();
    program(&mount.path("file"));
    let done = |options: &str| {
        let finished = remount(&mount, options);
        assert!(finished.status.success(), "{options}: {finished:?}");
    };
    // What was written before stays, what is open for writing is in the way.
    let mut open = File::options().append(true).open(mount.path("file")).unwrap();
    open.write_all(b"# more\n").unwrap();
    refused(&remount(&mount, "ro"), 16, "in use");
    has(&point, &["rw", "noatime", "nosuid", "nodev"], &["ro"]);
    drop(open);
    until_free(|| remount(&mount, "ro"));
    has(&point, &["ro", "noatime", "nosuid", "nodev"], &["rw", "noexec"]);
    assert_eq!(errno(File::create(mount.path("new"))), Some(libc::EROFS));
    assert_eq!(errno(fs::remove_file(mount.path("file"))), Some(libc::EROFS));
    let more = "#!/bin/sh\necho ran\n# more\n";
    assert_eq!(fs::read_to_string(mount.path("file")).unwrap(), more);
    // And back; the daemon went on being the vault's writer.
    done("rw,noexec");
    has(&point, &["rw", "noexec", "noatime", "nosuid", "nodev"], &["ro"]);
    fs::write(mount.path("new"), "new").unwrap();
    assert_eq!(errno(execute(&mount.path("file"))), Some(libc::EACCES));
    done("exec,dev,suid");
    has(&point, &["rw", "noatime"], &["noexec", "nosuid", "nodev"]);
    assert!(execute(&mount.path("file")).is_ok());
    done("nosuid,sync");
    done("async");
    // By akasha itself, with the vault's own path.
    let mut own = akasha();
    own.arg("mount").arg(mount.vault.dir()).arg(&point).args(["-o", "remount,ro"]);
    until_free(|| run(&mut own));
    has(&point, &["ro", "noatime", "nosuid"], &["rw", "nodev"]);
    done("rw");
    // What the daemon goes by stays; another vault is not this one; and nothing else can be remounted.
    refused(&remount(&mount, "relatime"), 2, "access times");
    let mut other = akasha();
    other.arg("mount").arg(mount.vault.place()).arg(&point).args(["-o", "remount,ro"]);
    refused(&run(&mut other), 2, "is not");
    let mut other = akasha();
    other.arg("mount").arg(mount.vault.dir()).arg(mount.vault.place()).args(["-o", "remount,ro"]);
    refused(&run(&mut other), 15, "no akasha vault");
    let mount = mount.remount();
    assert_eq!(fs::read_to_string(mount.path("file")).unwrap(), more);
    assert_eq!(fs::read(mount.path("new")).unwrap(), b"new");
    mount.unmount();
}

#[test]
fn a_vault_mounted_read_only_does_not_become_writable() {
    if !can_be_root() {
        return;
    }
    let Some(mount) = Mount::new() else { return };
    fs::write(mount.path("file"), "content").unwrap();
    let mount = mount.remount_with(&["-o", "ro"]);
    let point = mount.vault.mountpoint();
    refused(&remount(&mount, "rw"), 2, "read-only");
    has(&point, &["ro"], &["rw"]);
    assert!(remount(&mount, "noexec").status.success());
    has(&point, &["ro", "noexec"], &["rw"]);
    // Where the kernel is told so behind our back, the daemon refuses.
    succeed(Command::new("mount").args(["-i", "-o", "remount,rw"]).arg(&point));
    has(&point, &["rw"], &["ro"]);
    assert_eq!(errno(File::create(mount.path("new"))), Some(libc::EROFS));
    assert_eq!(errno(File::options().write(true).open(mount.path("file"))), Some(libc::EROFS));
    assert_eq!(errno(fs::remove_file(mount.path("file"))), Some(libc::EROFS));
    assert_eq!(fs::read(mount.path("file")).unwrap(), b"content");
    let mount = mount.remount_with(&[]);
    fs::write(mount.path("new"), "new").unwrap();
    assert_eq!(fs::read(mount.path("file")).unwrap(), b"content");
    mount.unmount();
}

#[test]
fn mount_8_mounts_and_remounts_by_type_by_fstab_and_by_a_link() {
    if !can_be_root() {
        return;
    }
    if run(Command::new("sh").args(["-c", "command -v mount.fuse3"])).stdout.is_empty() {
        skipped("no mount.fuse3");
        return;
    }
    let Some(vault) = Vault::new(Setup::default()) else { return };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mounted/mount8.sh");
    let mut command = Command::new("unshare");
    command.args(["-m", "--", "bash"]).arg(script).arg(binary()).current_dir(vault.place());
    succeed(command.process_group(0));
    let mount = vault.mount();
    assert_eq!(fs::read(mount.path("file")).unwrap(), b"content\n");
    mount.unmount();
}

#[test]
fn allow_root_lets_root_in_and_nobody_else() {
    if !can_be_root() {
        return;
    }
    let Some(vault) = Vault::new(Setup::default()) else { return };
    if run(Command::new("sh").args(["-c", "command -v fusermount3"])).stdout.is_empty() {
        skipped("no fusermount3");
        return;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mounted/allow_root.sh");
    let mut command = Command::new("unshare");
    command.args(["-m", "--", "bash"]).arg(script).arg(binary()).current_dir(vault.place());
    succeed(command.process_group(0));
}
