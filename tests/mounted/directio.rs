//! Past the kernel's cache, and durable at once.

use super::harness::Mount;

#[test]
fn direct_and_cached_reads_and_writes_of_one_file_agree() {
    let Some(mount) = Mount::new() else { return };
    mount.python("directio.py", &["do"]);
    let mount = mount.remount();
    mount.python("directio.py", &["check"]);
    mount.unmount();
}

#[test]
fn a_synchronous_write_survives_the_daemon_killed_right_after() {
    let Some(mount) = Mount::new() else { return };
    mount.python("directio.py", &["prepare"]);
    mount.python("directio.py", &["durable", &mount.pid().to_string()]);
    let mount = mount.kill().mount();
    mount.python("directio.py", &["survived"]);
    mount.remount().python("directio.py", &["survived"]);
}

#[test]
fn on_a_synchronous_mount_every_write_survives() {
    let Some(mount) = Mount::new() else { return };
    let mount = mount.remount_with(&["-o", "sync"]);
    mount.python("directio.py", &["prepare"]);
    mount.python("directio.py", &["durable", &mount.pid().to_string(), "plain"]);
    let mount = mount.kill().mount();
    mount.python("directio.py", &["survived", "plain"]);
}

#[test]
fn with_dirsync_every_change_of_names_survives() {
    let Some(mount) = Mount::new() else { return };
    let mount = mount.remount_with(&["-o", "dirsync"]);
    mount.python("directio.py", &["names", &mount.pid().to_string()]);
    let mount = mount.kill().mount();
    mount.python("directio.py", &["names_survived"]);
    mount.unmount();
}
