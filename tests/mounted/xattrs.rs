//! Extended attributes, as programs use them. As an ordinary user: `command`.

use super::harness::{Mount, Setup};

#[test]
fn extended_attributes_are_kept_by_every_rewrite_copy_and_remount() {
    for args in [&[][..], &["--commit", "0.05"], &["--commit", "close"]] {
        let mount_args = args.iter().map(|&arg| arg.to_owned()).collect();
        let setup = Setup { mount_args, ..Setup::default() };
        let Some(mount) = Mount::with(setup) else { return };
        std::fs::create_dir(mount.path("dir")).unwrap();
        mount.python_in("dir", "xattrs.py", &["do"]);
        let mount = mount.remount();
        mount.python_in("dir", "xattrs.py", &["check"]);
        mount.python_in("dir", "xattrs.py", &["remove"]);
        let vault = mount.unmount();
        let sides = vault.dir().join(".akasha/xattrs");
        assert_eq!(std::fs::read_dir(sides).unwrap().count(), 0);
    }
}

#[test]
fn attributes_survive_a_killed_daemon() {
    let Some(mount) = Mount::new() else { return };
    std::fs::create_dir(mount.path("dir")).unwrap();
    mount.python_in("dir", "xattrs.py", &["synced"]);
    let mount = mount.kill().mount();
    mount.python_in("dir", "xattrs.py", &["survived"]);
    mount.unmount();
}
