//! Offset arithmetic: plaintext sizes, blocks, slots, backing lengths. Pure, no I/O (FORMAT.md, "Lengths").

/// Length of a header in bytes.
pub const HEADER_LEN: usize = 64;
/// Length of a sealed tail in bytes.
pub const TAIL_LEN: usize = 256;
/// Length of a tag in bytes.
const TAG: u64 = 16;
/// Length of what every layer has besides slots and map.
const FRAME: u64 = HEADER_LEN as u64 + TAIL_LEN as u64;
/// The remainder, modulo a slot, that marks a mapped layer.
const MAPPED_REST: u64 = 8;
/// A layer has at most this many slots.
pub const SLOTS_MAX: u64 = 1 << 32;

/// What a backing length says of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LengthClass {
    /// A simple layer of a file of this size.
    Simple {
        /// Plaintext size in bytes.
        size: u64,
    },
    /// A mapped layer; the size is in its tail.
    Mapped,
    /// A stub of a hard link.
    Stub,
    /// No object has this length.
    Invalid,
}

/// The block length of a vault, and what follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    block_log2: u8,
}

impl Geometry {
    /// Blocks of 2^`block_log2` bytes, 12..=20.
    pub fn new(block_log2: u8) -> Option<Geometry> {
        (12..=20).contains(&block_log2).then_some(Geometry { block_log2 })
    }

    /// log2 of the block length.
    pub fn block_log2(self) -> u8 {
        self.block_log2
    }

    /// Plaintext bytes of a block.
    pub fn block_len(self) -> u64 {
        1 << self.block_log2
    }

    /// Ciphertext bytes of a full slot: block and tag.
    pub fn slot_len(self) -> u64 {
        self.block_len() + TAG
    }

    /// Blocks of a file of `size` bytes.
    pub fn block_count(self, size: u64) -> u64 {
        size.div_ceil(self.block_len())
    }

    /// Where slot `slot` begins in a layer's file.
    pub fn slot_offset(self, slot: u64) -> u64 {
        HEADER_LEN as u64 + slot * self.slot_len()
    }

    /// Plaintext bytes of the last block of a file of `size` bytes: 1..=B, 0 for an empty file.
    pub fn last_block_len(self, size: u64) -> u64 {
        match size {
            0 => 0,
            _ => (size - 1) % self.block_len() + 1,
        }
    }

    /// Backing length of a simple layer of a file of `size` bytes.
    pub fn simple_len(self, size: u64) -> u64 {
        FRAME + size + self.block_count(size) * TAG
    }

    /// What a backing length says.
    pub fn classify(self, len: u64) -> LengthClass {
        if len == FRAME + TAG {
            return LengthClass::Stub;
        }
        let Some(body) = len.checked_sub(FRAME) else { return LengthClass::Invalid };
        let (full, rest) = (body / self.slot_len(), body % self.slot_len());
        match rest {
            0 => LengthClass::Simple { size: full * self.block_len() },
            MAPPED_REST => LengthClass::Mapped,
            rest if rest > TAG => {
                LengthClass::Simple { size: full * self.block_len() + (rest - TAG) }
            }
            _ => LengthClass::Invalid,
        }
    }

    /// How many zero bytes make a map of `plain_len` plaintext bytes (sealed in pages of at most `page_len`) end
    /// in the class of mapped layers.
    pub(super) fn map_padding(self, plain_len: u64, page_len: u64) -> u64 {
        let (slot_len, sealed_page) = (self.slot_len(), page_len + TAG);
        // A sealed length in k pages is more than k - 1 full pages and a tag, and at most k full ones: look
        // there for the first one with the right remainder.
        for pages in plain_len.div_ceil(page_len).max(1).. {
            let least = ((pages - 1) * sealed_page + TAG + 1).max(plain_len + pages * TAG);
            let wrong_by = (least % slot_len + slot_len - MAPPED_REST) % slot_len;
            let sealed = if wrong_by == 0 { least } else { least + slot_len - wrong_by };
            if sealed <= pages * sealed_page {
                return sealed - pages * TAG - plain_len;
            }
        }
        unreachable!("two pages in a row have every remainder between them")
    }
}

/// Sealed length of a map of `plain_len` bytes in pages of at most `page_len`.
pub(super) fn sealed_map_len(plain_len: u64, page_len: u64) -> u64 {
    plain_len + plain_len.div_ceil(page_len) * TAG
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn worked_sizes_of_the_format_text() {
        let g = Geometry::new(12).unwrap();
        for (size, len) in
            [(0, 320), (1, 337), (4096, 4432), (4097, 4449), (5000, 5352), (8192, 8544)]
        {
            assert_eq!(g.simple_len(size), len, "size {size}");
            assert_eq!(g.classify(len), LengthClass::Simple { size });
        }
        assert_eq!(g.classify(336), LengthClass::Stub);
        assert_eq!(g.classify(4440), LengthClass::Mapped);
        for bad in [0, 319, 321, 327, 329, 335, 337 - 1 + 4112 - 1] {
            assert_eq!(g.classify(bad), LengthClass::Invalid, "length {bad}");
        }
    }

    proptest! {
        #[test]
        fn a_simple_length_tells_its_size(log in 12u8..=20, size in 0u64..1 << 45) {
            let g = Geometry::new(log).unwrap();
            prop_assert_eq!(g.classify(g.simple_len(size)), LengthClass::Simple { size });
        }

        #[test]
        fn padding_puts_a_map_into_its_class(log in 12u8..=20, plain in 0u64..1 << 20) {
            let g = Geometry::new(log).unwrap();
            let padding = g.map_padding(plain, 65520);
            prop_assert!(padding <= 2 * g.slot_len());
            let len = FRAME + sealed_map_len(plain + padding, 65520);
            prop_assert_eq!(g.classify(len), LengthClass::Mapped);
        }
    }
}
