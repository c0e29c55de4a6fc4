//! What is neither file nor directory, who owns what, and what the kernel does on top: fifos, sockets, devices, modes,
//! times, locks, mount options.

use super::harness::{Mount, Setup, is_root};

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
        super::harness::skipped("only root may mount with -o dev");
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
