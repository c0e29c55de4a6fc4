//! Copies made by the kernel, changes watched through it, advice given to it.

use super::harness::{Mount, Setup};

#[test]
fn sendfile_splice_and_inotify_work_as_on_a_local_filesystem() {
    for args in [&[][..], &["--commit", "0.05"]] {
        let mount_args = args.iter().map(|&arg| arg.to_owned()).collect();
        let Some(mount) = Mount::with(Setup { mount_args, ..Setup::default() }) else { return };
        mount.python("streams.py", &["do"]);
        let mount = mount.remount();
        mount.python("streams.py", &["check"]);
        mount.unmount();
    }
}
