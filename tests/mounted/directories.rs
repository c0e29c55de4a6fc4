//! Large, deep and changing directories.

use super::harness::{Mount, Setup, Vault, big};

/// Nothing but the skeleton is left.
fn empty(vault: &Vault) {
    let control = vault.dir().join(".akasha");
    let left: Vec<_> =
        vault.files().into_iter().filter(|file| !file.starts_with(&control)).collect();
    assert!(left.is_empty(), "after everything was removed: {left:?}");
}

#[test]
fn positions_in_a_listing_hold_while_entries_come_and_go() {
    let mount_args = ["--commit", "0.1"].map(str::to_owned).into();
    let Some(mount) = Mount::with(Setup { mount_args, ..Setup::default() }) else { return };
    mount.python("directories.py", &["listed"]);
    let mount = mount.remount();
    mount.python("directories.py", &["check_listed"]);
    mount.unmount();
}

#[test]
fn paths_of_4095_bytes_work_and_directories_can_be_deeper() {
    let Some(mount) = Mount::new() else { return };
    mount.python("directories.py", &["deep"]);
    let mount = mount.remount();
    mount.python("directories.py", &["check_deep"]);
    let mount = mount.kill().mount();
    mount.python("directories.py", &["check_deep"]);
    mount.python("directories.py", &["remove_deep"]);
    empty(&mount.unmount());
}

#[test]
fn a_directory_of_200000_entries_is_listed_twice_and_removed() {
    let Some(mount) = Mount::new() else { return };
    // A listing of 20,000 is in `programs`; a build without optimisation takes its time for each.
    let count = if big() { "200000" } else { "5000" };
    mount.python("directories.py", &["many", count]);
    let mount = mount.remount();
    mount.python("directories.py", &["check_many", count]);
    mount.python("directories.py", &["remove_many", count]);
    empty(&mount.unmount());
}
