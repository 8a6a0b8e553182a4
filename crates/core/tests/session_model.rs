//! Exchanges of clients of all protocols, drawn anew each time, against a model of what each is to be answered.

use proptest::prelude::*;

mod exchange;

use exchange::Exchange;

proptest! {
    #[test]
    fn every_client_is_answered_as_if_it_were_alone(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        Exchange::run(&bytes);
    }
}
