//! Exchanges of clients of all protocols, drawn from any bytes, against a model of what each is to be answered.
#![no_main]

#[path = "../../crates/core/tests/exchange/mod.rs"]
mod exchange;

use exchange::Exchange;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| Exchange::run(input));
