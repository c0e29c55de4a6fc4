//! What has no name any more, and a name that always has something.

use std::fs::File;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::time::{Duration, Instant};

use super::harness::{Mount, Setup};

#[test]
fn every_call_works_on_files_and_directories_without_a_name() {
    for args in [&[][..], &["--commit", "0.02", "--commit-open", "0.05"]] {
        let mount_args = args.iter().map(|&arg| arg.to_owned()).collect();
        let Some(mount) = Mount::with(Setup { mount_args, ..Setup::default() }) else { return };
        std::fs::create_dir(mount.path("dir")).unwrap();
        mount.python_in("dir", "nameless.py", &["do"]);
        let mount = mount.remount();
        mount.python_in("dir", "nameless.py", &["check"]);
        std::fs::remove_file(mount.path("dir/left")).unwrap();
        std::fs::remove_dir(mount.path("dir")).unwrap();
        let vault = mount.unmount();
        let control = vault.dir().join(".akasha");
        let left = vault.files().into_iter().filter(|file| !file.starts_with(&control));
        assert_eq!(left.count(), 0, "after everything was removed");
    }
}

/// `tmpfile.py` with mounts that commit seldom, often, and with every close.
#[test]
fn files_made_without_a_name_get_one_by_link() {
    for args in [&[][..], &["--commit", "0.02", "--commit-open", "0.05"], &["--commit", "close"]] {
        let mount_args = args.iter().map(|&arg| arg.to_owned()).collect();
        let Some(mount) = Mount::with(Setup { mount_args, ..Setup::default() }) else { return };
        std::fs::create_dir(mount.path("dir")).unwrap();
        mount.python_in("dir", "tmpfile.py", &["do"]);
        let mount = mount.remount();
        mount.python_in("dir", "tmpfile.py", &["check"]);
        std::fs::remove_dir_all(mount.path("dir")).unwrap();
        let vault = mount.unmount();
        let control = vault.dir().join(".akasha");
        let left: Vec<_> =
            vault.files().into_iter().filter(|file| !file.starts_with(&control)).collect();
        assert!(left.is_empty() && vault.leftovers().is_empty(), "{left:?} {args:?}");
    }
}

#[test]
fn a_file_that_got_no_name_gives_its_room_back_when_it_is_closed() {
    let Some(mount) = Mount::new() else { return };
    for flags in [libc::O_TMPFILE, libc::O_TMPFILE | libc::O_EXCL] {
        let file = File::options().write(true).custom_flags(flags).open(mount.path("")).unwrap();
        file.write_all_at(&vec![7; 3_000_000], 0).unwrap();
        file.sync_all().unwrap();
        assert!(!mount.vault.leftovers().is_empty(), "it takes no room in the vault");
        drop(file);
        // The kernel tells a little later.
        let start = Instant::now();
        while !mount.vault.leftovers().is_empty() {
            assert!(start.elapsed() < Duration::from_mins(2), "it still takes room in the vault");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    mount.unmount();
}

#[test]
fn a_killed_daemon_keeps_the_names_that_were_promised_and_nothing_nameless() {
    let Some(mount) = Mount::new() else { return };
    std::fs::create_dir(mount.path("dir")).unwrap();
    mount.python_in("dir", "tmpfile.py", &["sync", &mount.pid().to_string()]);
    let mount = mount.kill().mount();
    mount.python_in("dir", "tmpfile.py", &["survived"]);
    let vault = mount.unmount();
    assert!(vault.leftovers().is_empty());
}
