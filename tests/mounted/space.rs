//! What of a file is allocated: holes, preallocation, copies of ranges, limits.

use super::harness::{Mount, Setup, is_root, skipped};

fn in_dir(mount: &Mount) {
    std::fs::create_dir(mount.path("dir")).unwrap();
}

#[test]
fn holes_allocation_and_copied_ranges_are_those_of_a_local_filesystem() {
    for cipher in ["chacha20-poly1305", "aes-256-gcm", "aes-256-gcm-siv"] {
        let Some(mount) = Mount::with(Setup { cipher, ..Setup::default() }) else { return };
        in_dir(&mount);
        mount.python_in("dir", "space.py", &["do"]);
        let mount = mount.remount();
        mount.python_in("dir", "space.py", &["check"]);
        mount.unmount();
    }
}

#[test]
fn set_id_bits_go_when_a_range_is_allocated_punched_or_copied() {
    if !is_root() {
        skipped("needs root, to become another user");
        return;
    }
    let mount_args = vec!["--allow-other".to_owned()];
    let Some(mount) = Mount::with(Setup { mount_args, ..Setup::default() }) else { return };
    in_dir(&mount);
    mount.python_in("dir", "space.py", &["users"]);
    mount.unmount();
}

#[test]
fn cp_tar_dd_and_fallocate_keep_and_dig_holes() {
    let Some(mount) = Mount::new() else { return };
    in_dir(&mount);
    mount.python_in("dir", "space.py", &["programs"]);
    mount.python_in("dir", "space.py", &["programs_again"]);
    let mount = mount.remount();
    mount.python_in("dir", "space.py", &["programs_again"]);
    mount.unmount();
}

#[test]
fn a_small_change_of_a_file_with_ten_thousand_holes_writes_little() {
    let Some(mount) = Mount::new() else { return };
    in_dir(&mount);
    mount.python_in("dir", "space.py", &["holes", "10000"]);
    // What was gathered may be folded in once.
    mount.python_in("dir", "space.py", &["touch", "1"]);
    let (before, _) = mount.written();
    for number in ["17", "4000", "9998", "500", "2", "7777", "3", "8000"] {
        mount.python_in("dir", "space.py", &["touch", number]);
    }
    let (after, _) = mount.written();
    let each = (after - before) / 8;
    assert!(each < 200_000, "{each} bytes for each change of one block");
    let mount = mount.remount();
    mount.python_in("dir", "space.py", &["touch", "5"]);
    mount.unmount();
}
