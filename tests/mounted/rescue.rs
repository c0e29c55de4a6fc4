//! Rescue copies of directories on a real mount: they come by themselves and show nowhere; a directory whose vault name is damaged is
//! given its name back by a repair.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::harness::{Mount, Vault, akasha, succeed};

/// Far longer than any copy is waited for.
const PATIENCE: Duration = Duration::from_mins(2);

/// Directories of the vault that have a copy, and those that have none.
fn dirs(vault: &Vault) -> (Vec<PathBuf>, Vec<PathBuf>) {
    fn below(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with(".akasha") {
                below(&path, found);
                found.push(path);
            }
        }
    }
    let mut all = Vec::new();
    below(&vault.dir(), &mut all);
    all.sort();
    all.into_iter().partition(|dir| dir.join(".dir").exists())
}

fn check(vault: &Vault, args: &[&str]) -> (Option<i32>, String) {
    let mut command = akasha();
    command.arg("check").arg(vault.dir()).arg("--password-file").arg(vault.password_file());
    let output = command.args(args).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn a_directory_whose_name_is_damaged_in_the_vault_is_given_it_back() {
    let Some(mount) = Mount::new() else { return };
    fs::create_dir_all(mount.path("outer/inner/empty")).unwrap();
    fs::write(mount.path("outer/inner/file"), b"content").unwrap();
    let paths = ["outer", "outer/inner", "outer/inner/empty"].map(|path| mount.path(path));
    for path in &paths {
        // Looked into, as by whoever uses it.
        fs::read_dir(path).unwrap().count();
    }
    let times = || {
        let meta = paths.iter().map(|path| fs::metadata(path).unwrap());
        meta.map(|meta| (meta.mtime(), meta.mtime_nsec())).collect::<Vec<_>>()
    };
    let before = times();
    let start = Instant::now();
    while !dirs(&mount.vault).1.is_empty() {
        assert!(start.elapsed() < PATIENCE, "{}", mount.log());
        std::thread::sleep(Duration::from_millis(50));
    }
    let shown = |dir: &Path| fs::read_dir(dir).unwrap().count();
    assert_eq!(paths.each_ref().map(|path| shown(path)), [1, 2, 0]);
    let vault = mount.unmount();
    let (code, text) = check(&vault, &[]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.ends_with(": 0 damaged, 0 notes\n"), "{text}");
    let (copied, _) = dirs(&vault);
    let outer = copied.iter().find(|dir| dir.parent() == Some(&vault.dir())).unwrap();
    let mut name = outer.file_name().unwrap().to_str().unwrap().to_owned();
    let other = if name.ends_with('A') { 'B' } else { 'A' };
    name.pop();
    name.push(other);
    fs::rename(outer, vault.dir().join(name)).unwrap();
    let mount = vault.mount();
    assert!(fs::metadata(mount.path("outer/inner/file")).is_err());
    let vault = mount.unmount();
    assert_eq!(check(&vault, &[]).0, Some(20));
    let (code, text) = check(&vault, &["--repair"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains(": has the name outer now"), "{text}");
    let mount = vault.mount();
    assert_eq!(fs::read(mount.path("outer/inner/file")).unwrap(), b"content");
    assert_eq!(times()[1..], before[1..]);
    File::open(mount.path("outer")).unwrap().sync_all().unwrap();
    succeed(Command::new("rm").arg("-rf").args(["outer", "lost+found"].map(|dir| mount.path(dir))));
    let vault = mount.unmount();
    assert_eq!(fs::read_dir(vault.dir()).unwrap().count(), 1, "nothing but the skeleton is left");
}
