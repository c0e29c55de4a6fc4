//! POSIX access control lists, enforced by the kernel, kept by us.

use super::harness::{Mount, Setup, is_root, skipped};

#[test]
fn access_control_lists_are_inherited_enforced_and_kept() {
    if !is_root() {
        skipped("needs root, to become other users");
        return;
    }
    let setup = Setup { mount_args: vec!["--allow-other".into()], ..Setup::default() };
    let Some(mount) = Mount::with(setup) else { return };
    std::fs::create_dir(mount.path("dir")).unwrap();
    mount.python_in("dir", "acls.py", &["do"]);
    mount.python_in("dir", "acls.py", &["check"]);
    let mount = mount.remount();
    mount.python_in("dir", "acls.py", &["check"]);
    mount.unmount();
}
