#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| akasha::format::fuzz::rescue(data));
