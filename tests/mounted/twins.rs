//! The same random operations on a mount and on a plain directory of the machine's own filesystem, by several users, with
//! remounts in between. `AKASHA_OPS` makes the run longer, `AKASHA_SEED` another one.

use super::harness::{Mount, Setup, is_root, setting};

#[test]
fn random_operations_do_what_the_machines_own_filesystem_does() {
    let mut mount_args = vec!["--commit".to_owned(), "0.5".to_owned()];
    if is_root() {
        mount_args.push("--allow-other".to_owned());
    }
    let Some(mut mount) = Mount::with(Setup { mount_args, ..Setup::default() }) else { return };
    let twin = mount.vault.place().join("twin");
    std::fs::create_dir(&twin).expect("the place is ours");
    let twin = twin.to_str().expect("made of ASCII").to_owned();
    let (seed, ops) = (setting("AKASHA_SEED", 1), setting("AKASHA_OPS", 6000));
    for round in 0..4 {
        mount.python("twins.py", &[&twin, &(seed + round).to_string(), &(ops / 4).to_string()]);
        mount = mount.remount();
    }
    mount.unmount();
}
