//! Forging under a nonce that was used twice (RFC 8439 section 4, NIST SP 800-38D appendix A): two known messages of one
//! block give the square of the authentication key, and that any third message.

/// A message of one block.
pub struct Sealed {
    pub plain: [u8; 16],
    pub cipher: [u8; 16],
    pub tag: [u8; 16],
}

/// Ciphertext and tag.
pub type Slot = [u8; 32];

fn xor16(a: &[u8; 16], b: &[u8; 16]) -> [u8; 16] {
    std::array::from_fn(|at| a[at] ^ b[at])
}

fn slot(cipher: [u8; 16], tag: [u8; 16]) -> Slot {
    std::array::from_fn(|at| if at < 16 { cipher[at] } else { tag[at - 16] })
}

/// The key stream is known with one plaintext: any ciphertext can be written.
fn encrypt(known: &Sealed, wanted: &[u8; 16]) -> [u8; 16] {
    xor16(&xor16(&known.cipher, &known.plain), wanted)
}

/// AES-GCM: tag = C·H² + L·H + E, in GF(2^128). Two tags differ by (C1 + C2)·H²; a third one is then known exactly.
pub fn gcm(known: &[Sealed; 2], wanted: &[u8; 16]) -> Vec<Slot> {
    let cipher = encrypt(&known[0], wanted);
    let field =
        |bytes: [u8; 16]| bytes.iter().fold(0_u128, |sum, byte| sum << 8 | u128::from(*byte));
    let tags = field(xor16(&known[0].tag, &known[1].tag));
    let ciphers = field(xor16(&known[0].cipher, &known[1].cipher));
    let h2 = gf_mul(tags, gf_inverse(ciphers));
    let change = gf_mul(field(xor16(&known[0].cipher, &cipher)), h2);
    let change: [u8; 16] = std::array::from_fn(|at| (change >> (120 - 8 * at)) as u8);
    vec![slot(cipher, xor16(&known[0].tag, &change))]
}

/// Multiplication in GF(2^128) as GCM has it: the highest bit is the lowest power.
fn gf_mul(a: u128, b: u128) -> u128 {
    let (mut sum, mut shifted) = (0, b);
    for bit in (0..128).rev() {
        if a >> bit & 1 == 1 {
            sum ^= shifted;
        }
        let carry = shifted & 1;
        shifted = (shifted >> 1) ^ (carry * (0xE1 << 120));
    }
    sum
}

/// `a^(2^128 - 2)`
fn gf_inverse(a: u128) -> u128 {
    let (mut result, mut square) = (1 << 127, a);
    for _ in 1..128 {
        square = gf_mul(square, square);
        result = gf_mul(result, square);
    }
    result
}

/// Poly1305: tag = ((C + 2^128)·r² + L·r mod p) + s mod 2^128. Two tags give r² but for how often 2^128 was taken off: a third
/// one is among some twenty.
pub fn poly1305(known: &[Sealed; 2], wanted: &[u8; 16]) -> Vec<Slot> {
    let cipher = encrypt(&known[0], wanted);
    let number = |bytes: &[u8; 16]| Mod(0, u128::from_le_bytes(*bytes));
    let ciphers = number(&known[0].cipher).minus(number(&known[1].cipher)).inverse();
    let change = number(&cipher).minus(number(&known[0].cipher));
    let tag = u128::from_le_bytes(known[0].tag);
    let mut tries = Vec::new();
    for overflows in -4_i8..=4 {
        let mut tags = number(&known[0].tag).minus(number(&known[1].tag));
        for _ in 0..overflows.unsigned_abs() {
            let one = Mod(1, 0);
            tags = if overflows > 0 { tags.plus(one) } else { tags.minus(one) };
        }
        let Mod(_, low) = change.times(tags.times(ciphers));
        // The sum may have passed p = 2^130 - 5.
        for wrap in [0, 5] {
            let forged = tag.wrapping_add(low).wrapping_add(wrap);
            let forged = slot(cipher, forged.to_le_bytes());
            if !tries.contains(&forged) {
                tries.push(forged);
            }
        }
    }
    tries
}

/// A number below p = 2^130 - 5: the bits from 128 on, and those below.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Mod(u128, u128);

/// 2^128 - 5
const LOW: u128 = u128::MAX - 4;

impl Mod {
    fn plus(self, other: Mod) -> Mod {
        let (low, carry) = self.1.overflowing_add(other.1);
        let high = self.0 + other.0 + u128::from(carry);
        // Below 2p: p is taken off once at most.
        if high > 3 || high == 3 && low >= LOW {
            let (low, borrow) = low.overflowing_sub(LOW);
            Mod(high - 3 - u128::from(borrow), low)
        } else {
            Mod(high, low)
        }
    }

    fn minus(self, other: Mod) -> Mod {
        let (low, borrow) = LOW.overflowing_sub(other.1);
        let negative = Mod(3 - other.0 - u128::from(borrow), low);
        if other == Mod(0, 0) { self } else { self.plus(negative) }
    }

    fn times(self, other: Mod) -> Mod {
        let mut sum = Mod(0, 0);
        for bit in (0..130).rev() {
            sum = sum.plus(sum);
            let set = if bit < 128 { other.1 >> bit } else { other.0 >> (bit - 128) } & 1 == 1;
            if set {
                sum = sum.plus(self);
            }
        }
        sum
    }

    /// `self^(p - 2)`, p - 2 = 2^130 - 7
    fn inverse(self) -> Mod {
        let mut result = Mod(0, 1);
        for bit in (0..130).rev() {
            result = result.times(result);
            // All bits but those of 6.
            if bit != 1 && bit != 2 {
                result = result.times(self);
            }
        }
        result
    }
}

#[test]
fn the_fields_are_fields() {
    let a = 0x0123_4567_89AB_CDEF_0011_2233_4455_6677;
    assert_eq!(gf_mul(a, gf_inverse(a)), 1 << 127);
    let a = Mod(2, a);
    assert!(a.times(a.inverse()) == Mod(0, 1));
    assert!(a.minus(a) == Mod(0, 0) && Mod(0, 3).minus(Mod(0, 4)).plus(Mod(0, 1)) == Mod(0, 0));
}
