//! What is neither file nor directory, who owns what, and what the kernel does on top: fifos, sockets, devices, modes,
//! times, locks, mount options.

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
    std::fs::create_dir(mount.path("dir")).unwrap();
    let mount = program(mount, "special.py").remount();
    mount.python_in("dir", "special.py", &["check"]);
    mount.python_in("dir", "special.py", &["remove"]);
    std::fs::remove_dir(mount.path("dir")).unwrap();
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
    std::fs::create_dir(mount.path("dir")).unwrap();
    program(mount, "rename_race.py").unmount();
}

#[test]
fn many_users_have_the_rights_and_lose_the_set_id_bits_of_a_local_filesystem() {
    if !is_root() {
        skipped("needs root, to become other users");
        return;
    }
    let Some(mount) = mount_with(&["--allow-other"]) else { return };
    std::fs::create_dir(mount.path("dir")).unwrap();
    program(mount, "modes.py").unmount();
}

#[test]
fn a_changed_program_is_not_set_id_from_the_next_instant_on() {
    if !is_root() {
        skipped("only root may mount with -o suid");
        return;
    }
    let Some(mount) = mount_with(&["-o", "allow_other,suid"]) else { return };
    std::fs::create_dir(mount.path("dir")).unwrap();
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
