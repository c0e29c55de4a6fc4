//! What is vendored is what its authors published, plus the patch that lies beside it, and nothing else.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

fn vendor() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("vendor")
}

/// The SHA-256 of every file below `dir`, by path relative to `root`.
fn sums_below(root: &Path, dir: &Path, sums: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(dir).expect("a directory of ours") {
        let path = entry.expect("a directory of ours").path();
        if path.is_dir() {
            sums_below(root, &path, sums);
        } else {
            let name = path.strip_prefix(root).expect("it was found below").to_string_lossy();
            let sum = Sha256::digest(fs::read(&path).expect("a file of ours"));
            sums.insert(name.into_owned(), data_encoding::HEXLOWER.encode(&sum));
        }
    }
}

fn copy_below(from: &Path, to: &Path) {
    fs::create_dir(to).expect("the disk is writable");
    for entry in fs::read_dir(from).expect("a directory of ours") {
        let path = entry.expect("a directory of ours").path();
        let copy = to.join(path.file_name().expect("entries have names"));
        if path.is_dir() {
            copy_below(&path, &copy);
        } else {
            fs::copy(&path, &copy).expect("the disk is writable");
        }
    }
}

/// What sha256sum wrote.
fn published_sums(list: &Path) -> BTreeMap<String, String> {
    let text = fs::read_to_string(list).expect("the list of sums is there");
    let pairs = text.lines().map(|line| line.split_once("  ").expect("sum, two spaces, name"));
    pairs.map(|(sum, name)| (name.to_owned(), sum.to_owned())).collect()
}

#[test]
fn fuser_is_the_published_crate_and_the_patch() {
    let place = tempfile::tempdir().expect("temporary directories can be made");
    let copy = place.path().join("fuser");
    copy_below(&vendor().join("fuser"), &copy);
    let mut git = Command::new("git");
    git.args(["apply", "--reverse", "--whitespace=nowarn"]).arg(vendor().join("fuser.patch"));
    // In a repository it would look for the files from there.
    git.current_dir(&copy).env("GIT_CEILING_DIRECTORIES", place.path());
    let output = git.output().expect("git is there");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut ours = BTreeMap::new();
    sums_below(&copy, &copy, &mut ours);
    let published = published_sums(&vendor().join("fuser.sha256"));
    assert!(published.contains_key("src/lib.rs"), "the list is empty");
    for name in ours.keys().chain(published.keys()) {
        assert_eq!(ours.get(name), published.get(name), "vendor/fuser/{name}");
    }
}
