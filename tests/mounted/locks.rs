//! Locks between processes.

use super::harness::{Mount, Setup};

#[test]
fn locks_of_every_kind_are_held_across_commits_and_released_at_close() {
    let mount_args = ["--commit", "0.1"].map(str::to_owned).into();
    let Some(mount) = Mount::with(Setup { mount_args, ..Setup::default() }) else { return };
    mount.python("locks.py", &["do"]);
    let mount = mount.remount();
    mount.python("locks.py", &["check"]);
    mount.unmount();
}
