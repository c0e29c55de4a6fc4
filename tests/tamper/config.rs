//! `vault.toml` under the hand: bit by bit, cut, grown, and each field with other values.

use akasha::crypto::Cipher;
use akasha::entropy::SeededEntropy;
use akasha::format::Geometry;
use akasha::format::config::{self, ConfigError, ConfigParams, KdfParams};

use super::{every, seed};

const PASSWORD: &[u8] = b"p";

fn made(cipher: Cipher) -> Vec<u8> {
    let kdf = KdfParams { memory_kib: 20 << 10, passes: 2, lanes: 1 };
    let params = ConfigParams { cipher, geometry: Geometry::new(12).unwrap(), kdf };
    config::create(PASSWORD, &params, 7, &SeededEntropy::new(2)).unwrap().0
}

/// Why it does not open.
fn refusal(bytes: &[u8]) -> ConfigError {
    match config::open(bytes, PASSWORD) {
        Ok(_) => panic!("opens: {}", String::from_utf8_lossy(bytes)),
        Err(why) => why,
    }
}

#[test]
fn no_bit_of_vault_toml_can_change() {
    use akasha::entropy::Entropy as _;
    let random = SeededEntropy::new(seed());
    let bytes = made(Cipher::ChaCha20Poly1305);
    let bits = bytes.len() as u64 * 8;
    let chosen: Vec<u64> = if every() {
        (0..bits).collect()
    } else {
        (0..150).map(|_| random.next_u64() % bits).collect()
    };
    let mut paid = 0;
    for bit in &chosen {
        let mut edited = bytes.clone();
        edited[(bit / 8) as usize] ^= 1 << (bit % 8);
        let why = refusal(&edited);
        paid += u64::from(matches!(why, ConfigError::WrongPassword | ConfigError::Damaged(_)));
    }
    println!(
        "vault.toml: {} bits flipped, none opens, {paid} of them after the key derivation",
        chosen.len()
    );
}

#[test]
fn vault_toml_can_be_neither_cut_nor_grown() {
    let bytes = made(Cipher::ChaCha20Poly1305);
    for cut in 0..bytes.len() {
        refusal(&bytes[..cut]);
    }
    for more in [b"\n".as_slice(), b"x", b"seal = \"\"\n", &bytes] {
        refusal(&[&bytes, more].concat());
        refusal(&[more, &bytes].concat());
    }
    println!("vault.toml: {} cuts, none opens", bytes.len());
}

/// Each field with values that somebody would want.
#[test]
fn no_field_of_vault_toml_can_be_edited() {
    let bytes = made(Cipher::ChaCha20Poly1305);
    let text = String::from_utf8(bytes.clone()).unwrap();
    let others = [
        "0",
        "1",
        "2",
        "3",
        "19456",
        "4294967295",
        "9223372036854775807",
        "-1",
        "true",
        "\"\"",
        "\"aes-256-gcm\"",
        "[]",
        "[\"x\"]",
    ];
    let mut tried = 0;
    for line in text.lines().filter(|line| line.contains(" = ")) {
        let (field, value) = line.split_once(" = ").unwrap();
        for other in others.into_iter().filter(|other| *other != value) {
            refusal(text.replace(line, &format!("{field} = {other}")).as_bytes());
            tried += 1;
        }
        // Without it, and with it twice.
        refusal(text.replace(&format!("{line}\n"), "").as_bytes());
        refusal(text.replace(line, &format!("{line}\n{line}")).as_bytes());
        tried += 2;
    }
    println!("vault.toml: {tried} edits of fields, none opens");
}

/// A cost outside the bounds is not paid: neither a weak one that the editor could profit from, nor one that takes the machine.
#[test]
fn a_cost_out_of_bounds_is_refused_unpaid() {
    let text = String::from_utf8(made(Cipher::ChaCha20Poly1305)).unwrap();
    for (from, to) in [
        ("memory_kib = 20480", "memory_kib = 8"),
        ("memory_kib = 20480", "memory_kib = 19455"),
        ("memory_kib = 20480", "memory_kib = 4194305"),
        ("memory_kib = 20480", "memory_kib = 4294967295"),
        ("passes = 2", "passes = 0"),
        ("passes = 2", "passes = 1"),
        ("passes = 2", "passes = 65"),
        ("passes = 2", "passes = 4294967295"),
        ("lanes = 1", "lanes = 0"),
        ("lanes = 1", "lanes = 65"),
        ("lanes = 1", "lanes = 4294967295"),
    ] {
        assert!(text.contains(from));
        assert_eq!(refusal(text.replace(from, to).as_bytes()), ConfigError::KdfOutOfBounds, "{to}");
    }
    // A weaker one within the bounds gives another key: no slot fits.
    let weaker = text.replace("memory_kib = 20480", "memory_kib = 19456");
    assert_eq!(refusal(weaker.as_bytes()), ConfigError::WrongPassword);
}
