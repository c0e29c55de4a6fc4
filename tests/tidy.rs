//! House rules that no compiler checks: who may import whom, where `unsafe`, fuser and the crypto
//! crates may appear, how long a file gets, and that the documents named in the README exist.
//!
//! Every rule is a function of one file's text, so that `every_rule_can_fail` can show it a bad one.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// Each floor with the floors it may import: only what stands below it.
const FLOORS: [(&str, &[&str]); 11] = [
    ("main", &["cli"]),
    ("cli", &["fuse", "fs", "store", "format", "crypto", "backing", "secret", "entropy", "clock"]),
    ("fuse", &["fs", "store", "format", "crypto", "backing", "secret", "entropy", "clock"]),
    ("fs", &["store", "format", "crypto", "backing", "secret", "entropy", "clock"]),
    ("store", &["format", "crypto", "backing", "secret", "entropy", "clock"]),
    ("format", &["crypto", "secret", "entropy", "clock"]),
    ("crypto", &["secret", "entropy"]),
    ("backing", &["entropy", "clock"]),
    ("secret", &["entropy"]),
    ("entropy", &[]),
    ("clock", &[]),
];

/// Crates that only one floor may name, so that replacing one touches one floor.
const CRATES: [(&str, &[&str]); 10] = [
    ("fuser", &["fuse"]),
    ("memmap2", &["backing"]),
    ("aws_lc_rs", &["crypto"]),
    ("chacha20poly1305", &["crypto"]),
    ("aes_siv", &["crypto"]),
    ("argon2", &["crypto"]),
    ("hkdf", &["crypto"]),
    ("hmac", &["crypto"]),
    ("sha2", &["crypto"]),
    ("clap", &["cli"]),
];

/// The floors that may hold `unsafe`: system calls and maps; mlock and the wipe of secrets.
const UNSAFE: [&str; 2] = ["backing", "secret"];

/// A file longer than this holds more than one idea.
const MAX_LINES: usize = 900;

/// One source file as the rules see it.
struct Source {
    /// Relative to the repository, with forward slashes.
    path: String,
    /// As written.
    text: String,
    /// `text` without comments and without what stands between quotes; same lines.
    code: String,
    /// `code` without what is compiled for tests only.
    shipped: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Source {
        let code = blank_comments_and_literals(text);
        let (shipped, _) = blank_test_items(&code);
        Source { path: path.to_owned(), text: text.to_owned(), code, shipped }
    }

    /// The floor a file under src/ belongs to; lib.rs stands outside, it only declares.
    fn floor(&self) -> Option<&str> {
        let inside = self.path.strip_prefix("src/")?;
        let first = inside.split('/').next()?;
        let name = first.strip_suffix(".rs").unwrap_or(first);
        FLOORS.iter().map(|(floor, _)| *floor).find(|floor| *floor == name)
    }

    /// How many `super` lead from this file to the crate's root.
    fn depth(&self) -> usize {
        let parts = self.path.split('/').count() - 1;
        if self.path.ends_with("/mod.rs") { parts - 1 } else { parts }
    }
}

type Rule = fn(&Source, &mut Vec<String>);

const RULES: [(&str, Rule); 8] = [
    ("floors import only downward", imports),
    ("a crate has its floor", crates),
    ("unsafe stays where it is reviewed", unsafe_code),
    ("no unwrap outside tests", unwraps),
    ("bytes are little-endian", endianness),
    ("a file holds one idea", length),
    ("nothing is put off", put_off),
    ("every floor is in the list", listed),
];

fn imports(source: &Source, complaints: &mut Vec<String>) {
    let Some(floor) = source.floor() else { return };
    let allowed =
        FLOORS.iter().find(|(name, _)| *name == floor).map_or(&[][..], |(_, below)| below);
    for used in floors_named(source) {
        if used != floor && !allowed.contains(&used.as_str()) {
            complaints.push(format!("floor {floor} imports {used}"));
        }
    }
}

fn crates(source: &Source, complaints: &mut Vec<String>) {
    if !source.path.starts_with("src/") {
        return;
    }
    for (name, floors) in CRATES {
        let named = paths(&source.code, name).next().is_some();
        if named && !source.floor().is_some_and(|floor| floors.contains(&floor)) {
            complaints.push(format!("only {floors:?} may name {name}"));
        }
    }
}

fn unsafe_code(source: &Source, complaints: &mut Vec<String>) {
    if source.path.starts_with("src/")
        && words(&source.code).any(|(_, word)| word == "unsafe")
        && !source.floor().is_some_and(|floor| UNSAFE.contains(&floor))
    {
        complaints.push(format!("unsafe is only allowed in {UNSAFE:?}"));
    }
}

fn unwraps(source: &Source, complaints: &mut Vec<String>) {
    if source.path.starts_with("src/") {
        for (line, text) in (1..).zip(source.shipped.lines()) {
            if text.contains(".unwrap()") || text.contains(".unwrap_err()") {
                complaints
                    .push(format!("line {line}: unwrap; say expect(\"why it cannot happen\")"));
            }
        }
    }
}

fn endianness(source: &Source, complaints: &mut Vec<String>) {
    if source.path.starts_with("src/") {
        for (_, word) in words(&source.code) {
            if ["to_be_bytes", "from_be_bytes", "to_ne_bytes", "from_ne_bytes"].contains(&word) {
                complaints.push(format!("{word}: everything on disk is little-endian"));
            }
        }
    }
}

fn length(source: &Source, complaints: &mut Vec<String>) {
    let lines = source.text.lines().count();
    if lines > MAX_LINES {
        complaints.push(format!("{lines} lines, more than {MAX_LINES}"));
    }
}

fn put_off(source: &Source, complaints: &mut Vec<String>) {
    if source.path == "tests/tidy.rs" {
        return;
    }
    for (line, text) in (1..).zip(source.text.lines()) {
        for (_, word) in words(text) {
            if ["TODO", "FIXME", "HACK", "todo", "unimplemented"].contains(&word)
                && (word.chars().all(char::is_uppercase) || text.contains(&format!("{word}!")))
            {
                complaints.push(format!("line {line}: {word}"));
            }
        }
    }
}

fn listed(source: &Source, complaints: &mut Vec<String>) {
    if source.path.starts_with("src/") && source.path != "src/lib.rs" && source.floor().is_none() {
        complaints.push("no floor of this name in tests/tidy.rs".to_owned());
    }
}

/// The floors that a file's shipped code names, through `crate::`, `akasha::` or enough `super::`.
fn floors_named(source: &Source) -> BTreeSet<String> {
    let code = &source.shipped;
    let mut named = BTreeSet::new();
    let supers = vec!["super"; source.depth()].join("::");
    for root in ["crate", "akasha", supers.as_str()] {
        if root.is_empty() {
            continue;
        }
        for rest in paths(code, root) {
            for name in first_names(rest) {
                if FLOORS.iter().any(|(floor, _)| *floor == name) {
                    named.insert(name);
                }
            }
        }
    }
    named
}

/// What follows each `root::` in `code`, where `root` begins a path.
fn paths<'a>(code: &'a str, root: &'a str) -> impl Iterator<Item = &'a str> {
    code.match_indices(root).filter_map(move |(at, _)| {
        let before = code[..at].trim_end();
        let starts = !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_')
            && (!before.ends_with("::") || before.ends_with("{::"));
        let rest = code[at + root.len()..].trim_start();
        let ends_use = before.ends_with("use") && rest.starts_with([';', ' ']);
        match rest.strip_prefix("::") {
            Some(rest) if starts => Some(rest.trim_start()),
            None if starts && ends_use => Some(rest),
            _ => None,
        }
    })
}

/// The names at the head of what follows `crate::`: `a::b` gives a, `{a::{x, y}, b}` gives a and b.
fn first_names(rest: &str) -> Vec<String> {
    let ident = |text: &str| -> String {
        text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
    };
    let Some(group) = rest.strip_prefix('{') else { return vec![ident(rest)] };
    let mut names = vec![ident(group)];
    let mut depth = 1;
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => names.push(ident(&group[at + 1..])),
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    names
}

fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at + text[at..].find(word)?;
        let end = text[start..].find(|c| !word(c)).map_or(text.len(), |len| start + len);
        at = end;
        Some((start, &text[start..end]))
    })
}

/// Replaces comments and the inside of string and character literals by spaces; keeps the lines.
fn blank_comments_and_literals(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let end = if rest.starts_with(b"//") {
            at + rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len())
        } else if rest.starts_with(b"/*") {
            at + block_comment(rest)
        } else if let Some(len) = raw_string(rest, at.checked_sub(1).map(|before| bytes[before])) {
            at + len
        } else if rest[0] == b'"' {
            at + string(rest)
        } else if rest[0] == b'\'' {
            at + character(rest)
        } else {
            at += 1;
            continue;
        };
        for byte in &mut out[at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end;
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                break;
            }
        } else {
            at += 1;
        }
    }
    at
}

fn raw_string(rest: &[u8], before: Option<u8>) -> Option<usize> {
    if before.is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return None;
    }
    let body = rest.strip_prefix(b"br").or_else(|| rest.strip_prefix(b"r"))?;
    let hashes = body.iter().take_while(|b| **b == b'#').count();
    if body.get(hashes) != Some(&b'"') {
        return None;
    }
    let close = [&b"\""[..], &vec![b'#'; hashes]].concat();
    let open = rest.len() - body.len() + hashes + 1;
    let inside = rest[open..].windows(close.len()).position(|window| window == close);
    Some(inside.map_or(rest.len(), |len| open + len + close.len()))
}

fn string(rest: &[u8]) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != b'"' {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

/// The length of a character literal, 1 for the quote of a lifetime.
fn character(rest: &[u8]) -> usize {
    let line = &rest[..rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len())];
    if line.get(1) == Some(&b'\\') {
        return line[2..].iter().skip(1).position(|b| *b == b'\'').map_or(1, |len| len + 4);
    }
    let len = std::str::from_utf8(&line[1..]).ok().and_then(|text| text.chars().next());
    match len.map(char::len_utf8) {
        Some(len) if line.get(1 + len) == Some(&b'\'') => len + 2,
        _ => 1,
    }
}

/// Blanks every item under `#[cfg(test)]`; returns also the names of modules declared that way.
fn blank_test_items(code: &str) -> (String, Vec<String>) {
    let mut out = code.as_bytes().to_vec();
    let mut modules = Vec::new();
    let marks = ["#[cfg(test)]", "#[cfg(all(test", "#[test]"];
    for mark in marks {
        for (start, _) in code.match_indices(mark) {
            let end = item_end(code, start);
            let item = &code[start..end];
            if let Some((at, _)) = words(item).find(|(_, word)| *word == "mod")
                && item.ends_with(';')
            {
                modules.push(item[at + 3..].trim_matches([' ', ';']).to_owned());
            }
            for byte in &mut out[start..end] {
                if *byte != b'\n' {
                    *byte = b' ';
                }
            }
        }
    }
    (String::from_utf8_lossy(&out).into_owned(), modules)
}

/// Where the item ends whose attributes begin at `start`: behind its `;` or its closing brace.
fn item_end(code: &str, start: usize) -> usize {
    let (mut braces, mut brackets) = (0, 0);
    for (at, c) in code[start..].char_indices() {
        match c {
            '[' | '(' => brackets += 1,
            ']' | ')' => brackets -= 1,
            '{' => braces += 1,
            '}' => {
                braces -= 1;
                if braces == 0 {
                    return start + at + 1;
                }
            }
            ';' if braces == 0 && brackets == 0 => return start + at + 1,
            _ => {}
        }
    }
    code.len()
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files_under(dir: &Path, extension: &str, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries {
        let path = entry.expect("the repository is readable").path();
        if path.is_dir() {
            files_under(&path, extension, found);
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
}

/// All Rust files of src/ and tests/; what a file declares as a test module counts as tests whole.
fn sources() -> Vec<Source> {
    let mut files = Vec::new();
    files_under(&repository().join("src"), "rs", &mut files);
    files_under(&repository().join("tests"), "rs", &mut files);
    files.sort();
    let mut sources = Vec::new();
    let mut test_modules: Vec<String> = Vec::new();
    for file in files {
        let path = file.strip_prefix(repository()).expect("it was found below").to_string_lossy();
        let source =
            Source::new(&path, &fs::read_to_string(&file).expect("source files are UTF-8"));
        let name = path.trim_end_matches(".rs");
        let base = ["/mod", "/lib", "/main"].iter().find_map(|end| name.strip_suffix(end));
        let (_, modules) = blank_test_items(&source.code);
        test_modules
            .extend(modules.iter().map(|module| format!("{}/{module}", base.unwrap_or(name))));
        sources.push(source);
    }
    for source in &mut sources {
        let inside = |module: &String| {
            source.path == format!("{module}.rs") || source.path.starts_with(&format!("{module}/"))
        };
        if test_modules.iter().any(inside) {
            source.shipped.clear();
        }
    }
    sources
}

#[test]
fn the_house_rules_hold() {
    let sources = sources();
    assert!(sources.iter().any(|source| source.path == "src/main.rs"), "found no sources");
    let mut report = String::new();
    for source in &sources {
        for (name, rule) in RULES {
            let mut complaints = Vec::new();
            rule(source, &mut complaints);
            for complaint in complaints {
                let _ = writeln!(report, "{}: {complaint} ({name})", source.path);
            }
        }
    }
    assert!(report.is_empty(), "\n{report}");
}

#[test]
fn every_rule_can_fail() {
    let long = "//\n".repeat(MAX_LINES + 1);
    let bad: [(Rule, &str, &str); 15] = [
        (imports, "src/store/edit.rs", "use crate::fs::Inode;"),
        (imports, "src/format/layer.rs", "use crate::{crypto::{Key, Tag}, backing};"),
        (imports, "src/backing/os.rs", "fn f() -> crate::store::Store {}"),
        (imports, "src/backing/os.rs", "use super::super::store;"),
        (imports, "src/clock.rs", "use super::entropy::Entropy;"),
        (imports, "src/main.rs", "use akasha::store::Store;"),
        (crates, "src/fs/mod.rs", "use fuser::FileType;"),
        (crates, "src/store/mod.rs", "let x = sha2::Sha256::new();"),
        (unsafe_code, "src/store/mod.rs", "#[allow(unsafe_code)] unsafe fn f() {}"),
        (unwraps, "src/cli/mod.rs", "fn f() { g().unwrap(); } #[cfg(test)] mod tests {}"),
        (endianness, "src/format/mod.rs", "#[cfg(test)] mod t { fn f() { 1u8.to_be_bytes(); } }"),
        (length, "src/format/mod.rs", &long),
        (put_off, "tests/mounted.rs", "// TODO later"),
        (put_off, "src/fs/mod.rs", "fn f() { todo!() }"),
        (listed, "src/util.rs", ""),
    ];
    for (rule, path, text) in bad {
        let mut complaints = Vec::new();
        rule(&Source::new(path, text), &mut complaints);
        assert!(!complaints.is_empty(), "{path} passes with {text:.60}");
    }
    let good = "//! crate::fs is above. unsafe TO-DO\n#[cfg(test)]\nmod tests {\n    use crate::fs;\n    \
                fn f<'a>(x: &'a str) { x.find('{').unwrap(); }\n}\nconst S: &str = \"crate::cli .unwrap()\";\n\
                const R: &str = r#\"crate::cli \"unsafe\"\"#;\n";
    for (_, rule) in RULES {
        let mut complaints = Vec::new();
        rule(&Source::new("src/store/mod.rs", good), &mut complaints);
        assert_eq!(complaints, Vec::<String>::new());
    }
}

/// Relative links of a Markdown text, and the repository paths it names in backquotes.
fn named_paths(text: &str) -> Vec<String> {
    let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    // Formulas such as `SIV(key, [a](b c))` look like links; paths of ours have no spaces.
    let links = links.filter(|link| !link.contains([' ', '`', '|']));
    let links = links.map(|link| link.split('#').next().unwrap_or(link).to_owned());
    let quoted = text.split('`').skip(1).step_by(2).filter(|quoted| {
        ["docs/", "scripts/", "tests/", "src/"].iter().any(|dir| quoted.starts_with(dir))
    });
    let quoted = quoted.filter(|quoted| !quoted.contains(['*', '<', '{', '\n']));
    let quoted =
        quoted.filter_map(|quoted| quoted.split([' ', ':', '#']).next().map(str::to_owned));
    links.chain(quoted).filter(|path| !path.is_empty() && !path.contains("://")).collect()
}

#[test]
fn the_documents_name_only_what_exists() {
    let mut documents = vec![repository().join("README.md"), repository().join("CHANGELOG.md")];
    files_under(&repository().join("docs"), "md", &mut documents);
    let mut missing = String::new();
    for document in documents {
        let Ok(text) = fs::read_to_string(&document) else {
            let _ = writeln!(missing, "{} itself", document.display());
            continue;
        };
        let here = document.parent().expect("a file has a directory");
        for path in named_paths(&text) {
            if !repository().join(&path).exists() && !here.join(&path).exists() {
                let _ = writeln!(missing, "{}: {path}", document.display());
            }
        }
    }
    assert!(missing.is_empty(), "named, but not there:\n{missing}");
}

#[test]
fn a_link_to_nothing_is_found() {
    let text =
        "see [here](docs/NOWHERE.md#x), `tests/gone.rs::name` and [web](https://example.org)";
    assert_eq!(named_paths(text), ["docs/NOWHERE.md", "tests/gone.rs"]);
}
