//! Any bytes to the reader of Redis requests: the same requests however they are cut, within the limits, and what was
//! read says the same again when it is written as clients write it.
#![no_main]

use globalcache_core::limits::Limits;
use globalcache_core::protocol::Next;
use globalcache_core::protocol::resp::Reader;
use globalcache_core::vocabulary::Span;
use libfuzzer_sys::fuzz_target;

type Requests = Vec<Vec<Vec<u8>>>;

/// The requests in `input` when it arrives in pieces of the given lengths, over and over, and whether it broke.
fn read(input: &[u8], pieces: &[u8], limits: &Limits) -> (Requests, bool) {
    let (mut requests, mut reader, mut spans) = (Vec::new(), Reader::default(), Vec::<Span>::new());
    let (mut start, mut end) = (0, 0);
    for piece in pieces.iter().cycle() {
        if end == input.len() {
            break;
        }
        end = (end + usize::from(*piece) + 1).min(input.len());
        while start < end {
            match reader.next(&input[start..end], &mut spans, limits) {
                Next::Request(length) => {
                    assert!(length > 0 && start + length <= end);
                    let word = |span: Span| input[start..][span.start as usize..span.end as usize].to_vec();
                    let words: Vec<Vec<u8>> = spans.drain(..).map(word).collect();
                    // How many parts a skipped argument has depends on the cuts.
                    if !words.is_empty() {
                        requests.push(words);
                    }
                    start += length;
                }
                Next::More(wanted) => {
                    assert!(wanted > end - start, "it asks for no more than it has");
                    break;
                }
                _ => return (requests, true),
            }
        }
    }
    (requests, false)
}

fuzz_target!(|data: &[u8]| {
    let Some((pieces, input)) = data.split_at_checked(4) else { return };
    let limits = Limits { max_args: 100, max_value: 1000, max_request: 2000, ..Limits::default() };
    let whole = read(input, &[u8::MAX], &limits);
    assert_eq!(read(input, pieces, &limits), whole);
    assert_eq!(read(input, &[0], &limits), whole);
    let mut again = Vec::new();
    for request in &whole.0 {
        assert!(request.len() <= 100 && request.iter().map(Vec::len).sum::<usize>() <= 64 << 10);
        again.extend(format!("*{}\r\n", request.len()).into_bytes());
        for word in request {
            again.extend(format!("${}\r\n", word.len()).into_bytes());
            again.extend_from_slice(word);
            again.extend_from_slice(b"\r\n");
        }
    }
    // A request on a line may have longer words than an array.
    let wide = Limits { max_value: 64 << 10, max_request: 64 << 10, ..limits };
    assert_eq!(read(&again, pieces, &wide), (whole.0, false));
});
