//! Files mapped by several processes.

use super::harness::{Mount, Setup};

#[test]
fn shared_maps_of_several_processes_are_one_over_commits_and_renames() {
    for args in [&[][..], &["--commit", "0.02", "--commit-open", "0.05"]] {
        let mount_args = args.iter().map(|&arg| arg.to_owned()).collect();
        let Some(mount) = Mount::with(Setup { mount_args, ..Setup::default() }) else { return };
        mount.python("shared_maps.py", &["do"]);
        let mount = mount.remount();
        mount.python("shared_maps.py", &["check"]);
        mount.unmount();
    }
}

#[test]
fn what_was_synced_through_a_map_survives_a_killed_daemon() {
    let Some(mount) = Mount::new() else { return };
    mount.python("shared_maps.py", &["synced", &mount.pid().to_string()]);
    let mount = mount.kill().mount();
    mount.python("shared_maps.py", &["survived"]);
    mount.unmount();
}
