//! What is neither file nor directory, who owns what, and what the kernel does on top: fifos, sockets, devices, modes,
//! times, locks, mount options.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;

use super::harness::{Mount, Setup, is_root, skipped};

fn mount_with(args: &[&str]) -> Option<Mount> {
    let mount_args = args.iter().map(|&arg| arg.to_owned()).collect();
    Mount::with(Setup { mount_args, ..Setup::default() })
}

/// Runs `program do`, and `check` after it and after a remount.
fn program(mount: Mount, program: &str) -> Mount {
    mount.python_in("dir", program, &["do"]);
    let mount = mount.remount();
    mount.python_in("dir", program, &["check"]);
    mount
}

#[test]
fn fifos_sockets_and_devices_are_kept_and_work() {
    let Some(mount) = Mount::new() else { return };
    fs::create_dir(mount.path("dir")).unwrap();
    let mount = program(mount, "special.py").remount();
    mount.python_in("dir", "special.py", &["check"]);
    mount.python_in("dir", "special.py", &["remove"]);
    fs::remove_dir(mount.path("dir")).unwrap();
    let vault = mount.unmount();
    let left: Vec<_> =
        vault.files().into_iter().filter(|f| !f.starts_with(vault.dir().join(".akasha"))).collect();
    assert!(left.is_empty(), "after everything was removed: {left:?}");
}

#[test]
fn devices_open_where_root_asked_for_them() {
    if !is_root() {
        skipped("only root may mount with -o dev");
        return;
    }
    let Some(mount) = mount_with(&["-o", "dev"]) else { return };
    mount.python("special.py", &["devices"]);
    mount.unmount();
}

#[test]
fn a_name_that_is_replaced_all_the_time_is_always_there() {
    let Some(mount) = Mount::new() else { return };
    fs::create_dir(mount.path("dir")).unwrap();
    program(mount, "rename_race.py").unmount();
}

#[test]
fn many_users_have_the_rights_and_lose_the_set_id_bits_of_a_local_filesystem() {
    if !is_root() {
        skipped("needs root, to become other users");
        return;
    }
    let Some(mount) = mount_with(&["--allow-other"]) else { return };
    fs::create_dir(mount.path("dir")).unwrap();
    program(mount, "modes.py").unmount();
}

#[test]
fn a_changed_program_is_not_set_id_from_the_next_instant_on() {
    if !is_root() {
        skipped("only root may mount with -o suid");
        return;
    }
    let Some(mount) = mount_with(&["-o", "allow_other,suid"]) else { return };
    fs::create_dir(mount.path("dir")).unwrap();
    mount.python_in("dir", "modes.py", &["honoured"]);
    mount.unmount();
}

#[test]
fn with_commit_close_a_shell_redirect_commits_one_version() {
    let Some(mount) = mount_with(&["--commit", "close"]) else { return };
    let vault = mount.vault.dir();
    mount.python("commits.py", &["do", vault.to_str().unwrap()]);
    mount.unmount();
}

#[test]
fn every_time_moves_with_its_cause_and_with_no_commit() {
    let Some(mount) = mount_with(&["--commit", "0.1"]) else { return };
    fs::create_dir(mount.path("dir")).unwrap();
    program(mount, "times.py").unmount();
}

#[test]
fn with_noatime_reading_moves_no_time() {
    let Some(mount) = mount_with(&["-o", "noatime"]) else { return };
    mount.python("times.py", &["still"]);
    mount.unmount();
}

/// Owner, group and permission bits.
fn rights(path: &Path) -> (u32, u32, u32) {
    let status = fs::symlink_metadata(path).unwrap();
    (status.uid(), status.gid(), status.mode() & 0o7777)
}

#[test]
fn a_mount_shows_the_owner_and_the_rights_that_it_was_asked_for() {
    let Some(mount) = Mount::new() else { return };
    fs::create_dir(mount.path("dir")).unwrap();
    fs::write(mount.path("dir/file"), "content").unwrap();
    for name in ["dir", "dir/file"] {
        fs::set_permissions(mount.path(name), Permissions::from_mode(0o755)).unwrap();
    }
    let (uid, gid, _) = rights(&mount.path("dir/file"));
    // An ordinary user goes on being the owner, or could not go in.
    let shown = if is_root() { 4711 } else { uid };
    let options = format!("uid={shown},gid=4712,umask=027,fmask=0137");
    let mount = mount.remount_with(&["-o", &options]);
    let (dir, file) = (mount.path("dir"), mount.path("dir/file"));
    assert_eq!(rights(&dir), (shown, 4712, 0o750));
    assert_eq!(rights(&file), (shown, 4712, 0o640));
    // Bits that are not shown stay as they are, and so does the owner.
    fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    assert_eq!(rights(&file), (shown, 4712, 0o600));
    fs::write(dir.join("new"), "content").unwrap();
    assert_eq!(rights(&dir.join("new")).0, shown);
    if is_root() {
        chown(&file, Some(shown), None).unwrap();
        let error = chown(&file, Some(1), None).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
    }
    let mount = mount.remount_with(&[]);
    assert_eq!(rights(&mount.path("dir")), (uid, gid, 0o755));
    assert_eq!(rights(&mount.path("dir/file")), (uid, gid, 0o715));
    assert_eq!(rights(&mount.path("dir/new")).0, uid);
    mount.unmount();
}
