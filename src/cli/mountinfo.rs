//! What is mounted where: `/proc/self/mountinfo`, proc_pid_mountinfo(5).

use std::ffi::OsString;
use std::fmt::Write;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// What the source of an akasha mount begins with; the vault's path follows.
const SOURCE_PREFIX: &str = "akasha:";

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    /// The filesystem's type, such as `fuse.akasha`.
    pub fs_type: String,
    /// What is mounted, as the filesystem told.
    pub source: OsString,
    /// Whether nothing can be written through it.
    pub read_only: bool,
    /// Its flags, and after a space those of the filesystem, as words.
    pub options: String,
}

impl Mount {
    /// Whether `word` is among its flags.
    pub fn has(&self, word: &str) -> bool {
        self.options.split([',', ' ']).any(|option| option == word)
    }

    /// The vault behind an akasha mount; `None` if it is something else. Believe it as far as
    /// whoever mounted it: any user who may mount can write any source.
    pub fn vault(&self) -> Option<PathBuf> {
        if !self.fs_type.starts_with("fuse") {
            return None;
        }
        let path = self.source.as_bytes().strip_prefix(SOURCE_PREFIX.as_bytes())?;
        Some(PathBuf::from(OsString::from_vec(percent_decode(path))))
    }
}

/// The path of a vault as [`Mount::vault`] reads it. It passes through option lists (fusermount3, mount(8)), where
/// a comma would begin another option: whatever is not plainly part of a path is written as `%XX`.
pub fn escape(path: &Path) -> String {
    let mut source = String::new();
    for &byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"/._-+@:".contains(&byte) {
            source.push(char::from(byte));
        } else {
            let _ = write!(source, "%{byte:02X}");
        }
    }
    source
}

/// A `%` without two hexadecimal digits stands for itself.
fn percent_decode(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        let value = after
            .get(..2)
            .filter(|_| byte == b'%')
            .and_then(|digits| data_encoding::HEXUPPER.decode(digits).ok());
        if let Some(value) = value {
            out.extend(value);
            rest = &after[2..];
        } else {
            out.push(byte);
            rest = after;
        }
    }
    out
}

/// All mounts this process sees, in the order in which they were mounted.
pub fn all() -> io::Result<Vec<Mount>> {
    Ok(parse(&std::fs::read("/proc/self/mountinfo")?))
}

/// The topmost mount at exactly `path` (absolute, without symbolic links).
pub fn at<'a>(mounts: &'a [Mount], path: &Path) -> Option<&'a Mount> {
    mounts.iter().rev().find(|mount| mount.mountpoint == path)
}

/// Lines that make no sense are skipped.
fn parse(text: &[u8]) -> Vec<Mount> {
    text.split(|&byte| byte == b'\n').filter_map(parse_line).collect()
}

/// Fields: id, parent, device, root, mountpoint, options, any number of tags, `-`, type, source,
/// super options.
fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|&byte| byte == b' ');
    let mountpoint = fields.nth(4)?;
    let options = fields.next()?;
    fields.find(|&field| field == b"-")?;
    let fs_type = fields.next()?;
    let source = fields.next()?;
    let super_options = fields.next().unwrap_or_default();
    let is_ro = |options: &[u8]| options.split(|&byte| byte == b',').any(|option| option == b"ro");
    Some(Mount {
        mountpoint: PathBuf::from(OsString::from_vec(unescape(mountpoint))),
        fs_type: String::from_utf8_lossy(&unescape(fs_type)).into_owned(),
        source: OsString::from_vec(unescape(source)),
        read_only: is_ro(options) || is_ro(super_options),
        options: String::from_utf8_lossy(&[options, super_options].join(&b' ')).into_owned(),
    })
}

/// The kernel writes space, tab, newline, backslash and `#` as `\ooo` (mangle() in fs/seq_file.c).
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let octal =
            after.get(..3).filter(|digits| digits.iter().all(|d| (b'0'..=b'7').contains(d)));
        match octal {
            Some(digits) if byte == b'\\' => {
                let value = digits.iter().fold(0_u32, |sum, d| sum * 8 + u32::from(d - b'0'));
                out.push(u8::try_from(value).unwrap_or(b'?'));
                rest = &after[3..];
            }
            _ => {
                out.push(byte);
                rest = after;
            }
        }
    }
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b"22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
        61 22 0:50 / /mnt/a\\040b rw,nosuid,nodev shared:2 master:1 - fuse.akasha akasha:/vaults/x\\134y rw,user_id=0\n\
        62 22 0:51 / /mnt/a\\040b ro,nosuid - fuse akasha:/v rw\n\
        63 22 0:52 / /mnt/c rw - tmpfs akasha:/v rw\n\
        broken line\n";

    #[test]
    fn escaped_paths_are_read_back() {
        let mounts = parse(TEXT);
        assert_eq!(mounts.len(), 4);
        assert_eq!(mounts[1].mountpoint, Path::new("/mnt/a b"));
        assert_eq!(mounts[1].vault().unwrap(), Path::new("/vaults/x\\y"));
        assert!(!mounts[1].read_only);
    }

    #[test]
    fn the_topmost_mount_of_a_stack_is_found() {
        let mounts = parse(TEXT);
        let top = at(&mounts, Path::new("/mnt/a b")).unwrap();
        assert_eq!(top.vault().unwrap(), Path::new("/v"));
        assert!(top.read_only);
        assert_eq!(at(&mounts, Path::new("/mnt")), None);
    }

    #[test]
    fn every_path_survives_the_mount_table_and_none_begins_an_option() {
        for path in
            [&b"/plain/path-1.0"[..], b"/a b,allow_other", b"/50% \\x\n", b"/\xff\xfe", b"/%41"]
        {
            let path = PathBuf::from(OsString::from_vec(path.to_vec()));
            let source = format!("akasha:{}", escape(&path));
            assert!(!source.contains([',', ' ', '\\', '\n']), "{source}");
            let mount = Mount {
                mountpoint: PathBuf::new(),
                fs_type: "fuse.akasha".to_owned(),
                source: source.into(),
                read_only: false,
                options: String::new(),
            };
            assert_eq!(mount.vault(), Some(path));
        }
    }

    #[test]
    fn only_fuse_mounts_are_akasha_mounts() {
        let mounts = parse(TEXT);
        assert_eq!(mounts[0].vault(), None);
        assert_eq!(mounts[3].vault(), None);
    }
}
