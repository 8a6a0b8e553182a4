//! Rules of commands, keys and channels, and what they allow together.

use crate::glob::Pattern;
use crate::limits::MAX_PATTERN;
use crate::table::redis::{self, CATEGORIES, UNITS};
use crate::table::{TABLE, flag};

/// Words that hold as many bits as there are commands.
const WORDS: usize = 4;

/// A set of commands and subcommands, by their places among the units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Commands([u64; WORDS]);

impl Commands {
    fn put(&mut self, place: usize, allowed: bool) {
        let bit = 1 << (place % 64);
        let word = &mut self.0[place / 64];
        *word = if allowed { *word | bit } else { *word & !bit };
    }

    fn put_name(&mut self, name: &str, allowed: bool) {
        if let Some(place) = redis::place_of(name) {
            self.put(place, allowed);
        }
    }

    fn put_all(&mut self, allowed: bool) {
        (0..UNITS.len()).for_each(|place| self.put(place, allowed));
    }

    fn has(&self, place: usize) -> bool {
        self.0[place / 64] & 1 << (place % 64) != 0
    }

    fn has_name(&self, name: &str) -> bool {
        redis::place_of(name).is_some_and(|place| self.has(place))
    }
}

/// What is done to a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Need {
    /// Its value, or whether there is one, is told.
    pub read: bool,
    /// It is changed.
    pub write: bool,
}

/// A pattern, and its text.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Glob {
    text: Vec<u8>,
    pattern: Pattern,
}

impl Glob {
    fn new(text: &str) -> Result<Glob, String> {
        let pattern = Pattern::new(text.as_bytes());
        let pattern = pattern.ok_or_else(|| format!("a pattern is longer than {MAX_PATTERN} bytes"))?;
        Ok(Glob { text: text.as_bytes().to_vec(), pattern })
    }

    fn all() -> Glob {
        Glob::new("*").expect("a pattern of ours")
    }

    /// Whether all that matches a pattern matches this one: only if it is the same one, or matches all.
    fn covers(&self, pattern: &[u8]) -> bool {
        self.text == b"*" || self.text == pattern
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct KeyRule {
    glob: Glob,
    read: bool,
    write: bool,
}

/// What a user may do: the rights of a user, or of one of its selectors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rights {
    commands: Commands,
    keys: Vec<KeyRule>,
    channels: Vec<Glob>,
    /// The rules as they were read.
    pub(super) words: Vec<String>,
}

impl Rights {
    pub(super) fn apply(&mut self, rule: &str) -> Result<(), String> {
        let all = || KeyRule { glob: Glob::all(), read: true, write: true };
        match &*rule.to_ascii_lowercase() {
            "allkeys" | "~*" => self.keys = vec![all()],
            "resetkeys" => self.keys.clear(),
            "allchannels" | "&*" => self.channels = vec![Glob::all()],
            "resetchannels" => self.channels.clear(),
            "allcommands" | "+@all" => self.commands.put_all(true),
            "nocommands" | "-@all" => self.commands.put_all(false),
            _ => self.apply_with_argument(rule)?,
        }
        self.words.push(rule.to_owned());
        Ok(())
    }

    fn apply_with_argument(&mut self, rule: &str) -> Result<(), String> {
        if let Some(glob) = rule.strip_prefix('&') {
            if self.channels.iter().any(|known| known.text == b"*") {
                return Err(format!("{rule}: all channels are allowed already; write resetchannels before it"));
            }
            self.channels.push(Glob::new(glob)?);
        } else if let Some(key) = key_rule(rule).transpose()? {
            if self.has_all_keys() {
                return Err(format!("{rule}: all keys are allowed already; write resetkeys before it"));
            }
            match self.keys.iter_mut().find(|known| known.glob == key.glob) {
                Some(known) => (known.read, known.write) = (known.read | key.read, known.write | key.write),
                None => self.keys.push(key),
            }
        } else if let Some(name) = rule.strip_prefix('+') {
            self.put(name, true).ok_or(format!("{rule}: no such command or category"))?;
        } else if let Some(name) = rule.strip_prefix('-') {
            self.put(name, false).ok_or(format!("{rule}: no such command or category"))?;
        } else {
            return Err(format!("{}: no such rule", hidden(rule)));
        }
        Ok(())
    }

    /// Allows or forbids a command with its subcommands, a subcommand or a category; None if there is none.
    fn put(&mut self, name: &str, allowed: bool) -> Option<()> {
        if let Some(category) = name.strip_prefix('@') {
            let category = CATEGORIES.iter().find(|known| known[1..].eq_ignore_ascii_case(category))?;
            let places = (0..UNITS.len()).filter(|place| UNITS[*place].is_in(&category[1..]));
            places.for_each(|place| self.commands.put(place, allowed));
        } else if let Some(place) = redis::place_of(name) {
            self.commands.put(place, allowed);
            UNITS[place].subs().for_each(|sub| self.commands.put_name(&sub.name, allowed));
        } else if !redis::is_absent(name) {
            return None;
        }
        Some(())
    }

    /// What follows from other rights, as the table says: who may fill may answer for a lease in any way.
    pub(super) fn complete(&mut self) {
        let before = self.commands;
        for (place, row) in TABLE.iter().enumerate() {
            if row.has(flag::EVERYBODY) || row.granted_by.iter().any(|name| before.has_name(name)) {
                self.commands.put(place, true);
            }
        }
    }

    fn has_all_keys(&self) -> bool {
        self.keys.iter().any(|rule| rule.glob.text == b"*" && rule.read && rule.write)
    }

    /// Whether a command or subcommand is allowed, by its place among the units.
    pub fn may_run(&self, place: usize) -> bool {
        self.commands.has(place)
    }

    /// Whether a key may be used so: one pattern has to allow all of it.
    pub fn may_use(&self, key: &[u8], need: Need) -> bool {
        self.keys.iter().any(|rule| rule.grants(need) && rule.glob.pattern.matches(key))
    }

    /// Whether all keys that match a pattern may be used so: only if one of its own patterns is this one, or all.
    pub fn may_use_all(&self, pattern: &[u8], need: Need) -> bool {
        self.keys.iter().any(|rule| rule.grants(need) && rule.glob.covers(pattern))
    }

    /// Whether a channel may be used.
    pub fn may_use_channel(&self, channel: &[u8]) -> bool {
        self.channels.iter().any(|glob| glob.pattern.matches(channel))
    }

    /// Whether all channels that match a pattern may be used: only if one of its own patterns is this one, or all.
    pub fn may_use_channels(&self, pattern: &[u8]) -> bool {
        self.channels.iter().any(|glob| glob.covers(pattern))
    }

    pub(super) fn is_unlimited(&self) -> bool {
        (0..UNITS.len()).all(|place| self.commands.has(place))
            && self.has_all_keys()
            && self.channels.iter().any(|glob| glob.text == b"*")
    }

    /// Rules of commands, of keys and of channels, as ACL GETUSER tells them.
    pub fn facts(&self) -> [String; 3] {
        let of = |pick: &dyn Fn(&str) -> bool| {
            let words = self.words.iter().map(|word| match &*word.to_ascii_lowercase() {
                "allcommands" => "+@all".to_owned(),
                "nocommands" => "-@all".to_owned(),
                "allkeys" => "~*".to_owned(),
                "allchannels" => "&*".to_owned(),
                _ => word.clone(),
            });
            words.filter(|word| pick(word)).collect::<Vec<_>>().join(" ")
        };
        let commands = of(&|word| word.starts_with(['+', '-']));
        let commands = if commands.is_empty() { "-@all".to_owned() } else { commands };
        [commands, of(&|word| word.starts_with(['~', '%'])), of(&|word| word.starts_with('&'))]
    }
}

impl KeyRule {
    fn grants(&self, need: Need) -> bool {
        (self.read || !need.read) && (self.write || !need.write)
    }
}

/// Reads a selector: rules in brackets.
pub(super) fn selector(rule: &str) -> Result<Rights, String> {
    let inside = rule.trim_start_matches('(').trim_end_matches(')');
    let mut rights = Rights::default();
    inside.split_whitespace().try_for_each(|rule| rights.apply(rule))?;
    Ok(rights)
}

/// `~pattern`, or `%R~`, `%W~`, `%RW~` and a pattern; None if it is no rule of keys.
fn key_rule(rule: &str) -> Option<Result<KeyRule, String>> {
    let (access, glob) = match rule.strip_prefix('~') {
        Some(glob) => ("RW", glob),
        None => rule.strip_prefix('%')?.split_once('~')?,
    };
    let access = access.to_ascii_uppercase();
    let (read, write) = (access.contains('R'), access.contains('W'));
    let is_access = matches!(&*access, "R" | "W" | "RW" | "WR");
    is_access.then(|| Glob::new(glob).map(|glob| KeyRule { glob, read, write }))
}

/// The beginning of a rule that is not understood: it may hold a secret.
fn hidden(rule: &str) -> String {
    rule.chars().take(1).chain("...".chars()).collect()
}
