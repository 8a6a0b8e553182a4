//! A reply, or a push, as a client reads it.

/// A reply, or a push.
#[derive(Clone, Debug, PartialEq)]
pub enum Told {
    Text(String),
    Error(String),
    Int(i64),
    Nothing,
    Many(Vec<Told>),
    Push(Vec<Told>),
}

impl Told {
    pub fn read(input: &mut &[u8]) -> Told {
        let end = memchr::memchr(b'\n', input).expect("a whole reply");
        let line = String::from_utf8(input[1..end - 1].to_vec()).unwrap();
        let kind = input[0];
        *input = &input[end + 1..];
        match (kind, line.parse::<i64>()) {
            (b'+', _) => Told::Text(line),
            (b'-', _) => Told::Error(line),
            (b':', Ok(number)) => Told::Int(number),
            (b'$', Ok(length @ 0..)) => {
                let text = String::from_utf8(input[..length as usize].to_vec()).unwrap();
                *input = &input[length as usize + 2..];
                Told::Text(text)
            }
            (b'*', Ok(count @ 0..)) => Told::Many((0..count).map(|_| Told::read(input)).collect()),
            (b'%', Ok(count)) => Told::Many((0..2 * count).map(|_| Told::read(input)).collect()),
            (b'>', Ok(count)) => Told::Push((0..count).map(|_| Told::read(input)).collect()),
            _ => Told::Nothing,
        }
    }

    pub fn text(&self) -> &str {
        if let Told::Text(text) = self { text } else { "" }
    }

    pub fn int(&self) -> u64 {
        if let Told::Int(number) = self { *number as u64 } else { 0 }
    }
}
