//! The words of a request, as spans of the input.

/// Where an argument lies in the input it was read from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

/// Arguments: spans of one input buffer, so that reading a request allocates nothing.
#[derive(Clone, Copy, Debug)]
pub struct Args<'a> {
    input: &'a [u8],
    spans: &'a [Span],
}

impl<'a> Args<'a> {
    /// The parts of `input` that `spans` name.
    pub const fn new(input: &'a [u8], spans: &'a [Span]) -> Args<'a> {
        Args { input, spans }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// The argument at `index`, if there is one.
    pub fn get(&self, index: usize) -> Option<&'a [u8]> {
        let span = self.spans.get(index)?;
        Some(&self.input[span.start as usize..span.end as usize])
    }

    /// The arguments from `index` on.
    pub fn from(&self, index: usize) -> Args<'a> {
        Args { input: self.input, spans: &self.spans[index.min(self.spans.len())..] }
    }

    /// The arguments before `index`.
    pub fn to(&self, index: usize) -> Args<'a> {
        Args { input: self.input, spans: &self.spans[..index.min(self.spans.len())] }
    }

    /// All arguments in their order.
    pub fn iter(&self) -> impl Iterator<Item = &'a [u8]> + Clone + use<'a> {
        let input = self.input;
        self.spans.iter().map(move |span| &input[span.start as usize..span.end as usize])
    }
}
