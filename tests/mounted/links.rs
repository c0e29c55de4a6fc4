//! Hard links, as programs use them.

use std::path::PathBuf;

use super::harness::{Mount, Setup};

fn left_in(mount: Mount, below: &[&str]) -> Vec<PathBuf> {
    let vault = mount.unmount();
    let control = vault.dir().join(".akasha");
    let ours = |file: &PathBuf| {
        !file.starts_with(&control) || below.iter().any(|name| file.starts_with(control.join(name)))
    };
    vault.files().into_iter().filter(ours).collect()
}

#[test]
fn hard_links_share_everything_and_survive_every_rewrite() {
    for args in [&[][..], &["--commit", "0.05"], &["--commit", "close"]] {
        let mount_args = args.iter().map(|&arg| arg.to_owned()).collect();
        let setup = Setup { mount_args, ..Setup::default() };
        let Some(mount) = Mount::with(setup) else { return };
        std::fs::create_dir(mount.path("dir")).unwrap();
        mount.python_in("dir", "links.py", &["do"]);
        mount.python_in("dir", "links.py", &["check"]);
        let mount = mount.remount();
        mount.python_in("dir", "links.py", &["check"]);
        mount.python_in("dir", "links.py", &["remove"]);
        std::fs::remove_dir(mount.path("dir")).unwrap();
        let left = left_in(mount, &["inodes", "layers", "tmp"]);
        assert!(left.is_empty(), "after everything was removed: {left:?}");
    }
}

#[test]
fn linked_names_survive_a_killed_daemon() {
    let Some(mount) = Mount::new() else { return };
    std::fs::create_dir(mount.path("dir")).unwrap();
    mount.python_in("dir", "links.py", &["do"]);
    mount.python_in("dir", "links.py", &["sync"]);
    let mount = mount.kill().mount();
    mount.python_in("dir", "links.py", &["check"]);
    mount.python_in("dir", "links.py", &["remove"]);
    let mount = mount.kill().mount();
    std::fs::create_dir(mount.path("other")).unwrap();
    mount.unmount();
}
