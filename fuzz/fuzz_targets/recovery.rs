#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| aos_fuzz_corpus::target_recovery(data));
