//! What sync tools and damage leave in a vault, and when a file that stays open is committed.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::harness::{Mount, Setup, Vault, succeed};

fn names(dir: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// The vault's files outside `.akasha`, by their paths inside.
fn in_tree(vault: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut todo = vec![vault.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            // A rescue copy comes with time.
            if path.ends_with(".akasha") || path.ends_with(".dir") {
                continue;
            }
            if path.is_dir() {
                todo.push(path.clone());
            }
            found.insert(path.strip_prefix(vault).unwrap().to_owned());
        }
    }
    found
}

/// Two copies of one vault, each with a file `doc` of its own, merged as a sync tool does; and what it holds.
fn vault_with_conflict() -> Option<Vault> {
    let vault = Vault::new(Setup::default())?;
    let copy = vault.place().join("copy");
    succeed(Command::new("cp").arg("-a").arg(vault.dir()).arg(&copy));
    let mount = vault.mount();
    fs::write(mount.path("doc"), "here").unwrap();
    let vault = mount.unmount();
    let first = vault.place().join("first");
    fs::rename(vault.dir(), &first).unwrap();
    fs::rename(&copy, vault.dir()).unwrap();
    let mount = vault.mount();
    fs::write(mount.path("doc"), "there").unwrap();
    let vault = mount.unmount();
    for file in in_tree(&first) {
        fs::copy(first.join(&file), vault.dir().join(&file)).unwrap();
    }
    Some(vault)
}

fn conflict_of(mount: &Mount) -> PathBuf {
    let all = names(&mount.vault.mountpoint());
    let conflict = all.iter().find(|name| name.starts_with("doc (conflict "));
    mount.path(conflict.unwrap_or_else(|| panic!("no conflict among {all:?}")))
}

#[test]
fn two_files_of_one_name_are_both_shown_and_can_be_changed_and_removed() {
    let Some(vault) = vault_with_conflict() else { return };
    let mount = vault.mount();
    let conflict = conflict_of(&mount);
    let both = [fs::read(mount.path("doc")).unwrap(), fs::read(&conflict).unwrap()];
    assert_eq!(BTreeSet::from(both), BTreeSet::from([b"here".to_vec(), b"there".to_vec()]));
    // Changed under the name that it is shown under, and still there after a remount.
    fs::write(&conflict, "changed").unwrap();
    let mount = mount.remount();
    let conflict = conflict_of(&mount);
    assert_eq!(fs::read(&conflict).unwrap(), b"changed");
    assert_eq!(names(&mount.vault.mountpoint()).len(), 2);
    // The other one takes its place.
    fs::rename(mount.path("doc"), &conflict).unwrap();
    let mount = mount.remount();
    let left = names(&mount.vault.mountpoint());
    assert_eq!(left.len(), 1, "{left:?}");
    let left = mount.path(left.first().unwrap());
    assert_ne!(fs::read(&left).unwrap(), b"changed");
    fs::remove_file(left).unwrap();
    let vault = mount.unmount();
    assert_eq!(in_tree(&vault.dir()), BTreeSet::new());
}

#[test]
fn a_conflict_is_resolved_by_removing_renaming_or_replacing_either() {
    for way in ["remove it", "remove the other", "rename it", "replace it", "replace it twice"] {
        let Some(vault) = vault_with_conflict() else { return };
        let mount = vault.mount();
        let conflict = conflict_of(&mount);
        let (kept, content) = match way {
            "remove it" => {
                let content = fs::read(mount.path("doc")).unwrap();
                fs::remove_file(&conflict).unwrap();
                ("doc", content)
            }
            "remove the other" => {
                let content = fs::read(&conflict).unwrap();
                fs::remove_file(mount.path("doc")).unwrap();
                fs::rename(conflict_of(&mount), mount.path("kept")).unwrap();
                ("kept", content)
            }
            "rename it" => {
                let content = fs::read(&conflict).unwrap();
                fs::rename(&conflict, mount.path("doc")).unwrap();
                ("doc", content)
            }
            _ => {
                for round in 0..if way == "replace it" { 1 } else { 2 } {
                    fs::write(mount.path("new"), format!("the newest {round}")).unwrap();
                    fs::rename(mount.path("new"), &conflict).unwrap();
                }
                let content = fs::read(&conflict).unwrap();
                fs::rename(&conflict, mount.path("doc")).unwrap();
                ("doc", content)
            }
        };
        let mount = mount.remount();
        assert_eq!(names(&mount.vault.mountpoint()), BTreeSet::from([kept.to_owned()]), "{way}");
        assert_eq!(fs::read(mount.path(kept)).unwrap(), content, "{way}");
        fs::remove_file(mount.path(kept)).unwrap();
        let vault = mount.unmount();
        assert_eq!(in_tree(&vault.dir()), BTreeSet::new(), "{way}");
    }
}

#[test]
fn what_does_not_decrypt_is_shown_cannot_be_read_and_can_be_removed() {
    let Some(mount) = Mount::new() else { return };
    fs::create_dir(mount.path("dir")).unwrap();
    fs::write(mount.path("dir/in it"), "inside").unwrap();
    fs::write(mount.path("whole"), "whole").unwrap();
    let vault = mount.unmount();
    let before = in_tree(&vault.dir());
    let file =
        before.iter().find(|path| vault.dir().join(path).is_file() && path.iter().count() == 1);
    let file = file.unwrap();
    let dir = before.iter().find(|path| vault.dir().join(path).is_dir()).unwrap();
    let copied = |path: &Path| vault.dir().join(format!("{} (conflicted copy)", path.display()));
    for path in [file, dir] {
        succeed(Command::new("cp").arg("-a").arg(vault.dir().join(path)).arg(copied(path)));
    }
    let mount = vault.mount();
    let shown = names(&mount.vault.mountpoint());
    let damaged: Vec<&String> =
        shown.iter().filter(|name| name.starts_with("akasha-damaged-")).collect();
    assert_eq!((shown.len(), damaged.len()), (4, 2), "{shown:?}");
    for name in damaged {
        let path = mount.path(name);
        let meta = fs::symlink_metadata(&path).unwrap();
        assert!(meta.is_file() && meta.len() == 0);
        assert_eq!(meta.permissions().mode() & 0o777, 0);
        assert_eq!(fs::read(&path).unwrap_err().raw_os_error(), Some(libc::EIO));
        assert_eq!(
            fs::rename(&path, mount.path("moved")).unwrap_err().raw_os_error(),
            Some(libc::EOPNOTSUPP)
        );
        fs::remove_file(&path).unwrap();
    }
    // No plaintext name is logged, and none of the backing names raw.
    let log = mount.log();
    assert!(
        !log.contains("whole") && !log.contains("in it") && !log.contains("conflicted"),
        "{log}"
    );
    let mount = mount.remount();
    assert_eq!(names(&mount.vault.mountpoint()), ["dir", "whole"].map(str::to_owned).into());
    assert_eq!(fs::read(mount.path("dir/in it")).unwrap(), b"inside");
    let vault = mount.unmount();
    assert_eq!(in_tree(&vault.dir()), before);
}

#[test]
fn damage_is_logged_by_number_and_never_by_name() {
    let Some(mount) = Mount::new() else { return };
    fs::create_dir(mount.path("secret directory")).unwrap();
    fs::write(mount.path("secret directory/secret file"), vec![7; 300_000]).unwrap();
    let vault = mount.unmount();
    let tree = in_tree(&vault.dir());
    let file = tree.iter().find(|path| vault.dir().join(path).is_file()).unwrap();
    let file = File::options().write(true).open(vault.dir().join(file)).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[0xff; 64], 5000).unwrap();
    let mount = vault.mount();
    let path = mount.path("secret directory/secret file");
    assert_eq!(fs::read(&path).unwrap_err().raw_os_error(), Some(libc::EIO));
    let inode = std::os::unix::fs::MetadataExt::ino(&fs::metadata(&path).unwrap());
    let log = mount.log();
    assert!(log.contains(&format!("{inode:016x}")), "{log}");
    assert!(!log.contains("secret"), "{log}");
    mount.unmount();
}

#[test]
fn a_file_that_stays_open_is_committed_when_its_time_is_up() {
    let setup = Setup {
        mount_args: ["--commit", "0.1", "--commit-open", "1"].map(str::to_owned).into(),
        ..Setup::default()
    };
    let Some(mount) = Mount::with(setup) else { return };
    let start = Instant::now();
    let mut log = File::create(mount.path("log")).unwrap();
    log.write_all(b"a line\n").unwrap();
    // What the kernel keeps to itself is in no version.
    succeed(Command::new("sync").arg("-f").arg(mount.path("log")));
    while in_tree(&mount.vault.dir()).is_empty() {
        assert!(start.elapsed() < Duration::from_mins(1), "never committed");
        std::thread::sleep(Duration::from_millis(20));
    }
    // Not as soon as a closed file would be.
    assert!(start.elapsed() >= Duration::from_secs(1), "committed at once");
    let vault = mount.kill();
    drop(log);
    let mount = vault.mount();
    assert_eq!(fs::read(mount.path("log")).unwrap(), b"a line\n");
    mount.unmount();
}
