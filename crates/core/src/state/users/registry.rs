//! All users of a server, as a file and the passwords of the default user make them.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::RwLock;

use super::access::Access;
use super::user::{User, hash};

/// The name of the user that a connection has before it says another.
pub const DEFAULT: &str = "default";

/// The words of a line, those of a selector as one.
fn words(line: &str) -> Result<Vec<String>, String> {
    let mut words: Vec<String> = Vec::new();
    let mut open = false;
    for word in line.split_whitespace() {
        match words.last_mut().filter(|_| open) {
            Some(selector) => {
                selector.push(' ');
                selector.push_str(word);
            }
            None => words.push(word.to_owned()),
        }
        open = words.last().is_some_and(|word| word.starts_with('(') && !word.ends_with(')'));
    }
    if open { Err("a selector has no closing bracket".to_owned()) } else { Ok(words) }
}

/// All users of a server at a time.
#[derive(Debug)]
pub struct Users {
    all: RwLock<Arc<BTreeMap<String, Arc<User>>>>,
}

impl Default for Users {
    fn default() -> Users {
        Users::new(&[], "").expect("no rules, no mistake")
    }
}

fn read(passwords: &[String], file: &str) -> Result<BTreeMap<String, Arc<User>>, String> {
    let mut all = BTreeMap::new();
    for (number, line) in file.lines().enumerate() {
        let words = words(line).map_err(|text| format!("line {}: {text}", number + 1))?;
        let mut words = words.iter().map(String::as_str);
        match words.next() {
            None => continue,
            Some(first) if first.starts_with('#') => continue,
            Some("user") => {}
            Some(_) => return Err(format!("line {}: it begins with neither `user` nor `#`", number + 1)),
        }
        let name = words.next().ok_or(format!("line {}: a user has a name", number + 1))?;
        let mut user = User::new(name);
        for rule in words {
            user.apply(rule).map_err(|text| format!("line {}: user {name}: {text}", number + 1))?;
        }
        user.complete();
        if all.insert(name.to_owned(), Arc::new(user)).is_some() {
            return Err(format!("line {}: user {name} stands there twice", number + 1));
        }
    }
    if !passwords.is_empty() {
        let hashes = passwords.iter().map(|password| hash(password.as_bytes())).collect();
        all.insert(DEFAULT.to_owned(), Arc::new(User::everything(DEFAULT, hashes)));
    } else if all.is_empty() {
        all.insert(DEFAULT.to_owned(), Arc::new(User::everything(DEFAULT, Vec::new())));
    }
    // Where users are named, nobody is let in without a name unless the file says so.
    all.entry(DEFAULT.to_owned()).or_insert_with(|| Arc::new(User::new(DEFAULT)));
    Ok(all)
}

impl Users {
    /// Users of a file, and the passwords of the default user, who may do everything. Without both there is only that
    /// user, and it needs no password. An error names the line and what is wrong with it.
    pub fn new(passwords: &[String], file: &str) -> Result<Users, String> {
        Ok(Users { all: RwLock::new(Arc::new(read(passwords, file)?)) })
    }

    /// Takes other users in their place. Returns the names of those who are not what they were.
    pub fn replace(&self, passwords: &[String], file: &str) -> Result<Vec<String>, String> {
        let new = read(passwords, file)?;
        let mut all = self.all.write();
        let changed = all.iter().filter(|(name, user)| new.get(*name) != Some(user)).map(|(name, _)| name.clone());
        let changed = changed.collect();
        *all = Arc::new(new);
        Ok(changed)
    }

    /// Whether somebody is let in without a password.
    pub fn is_open(&self) -> bool {
        self.all.read().values().any(|user| user.needs_no_password())
    }

    /// All of them, by name.
    pub fn list(&self) -> Vec<Arc<User>> {
        self.all.read().values().cloned().collect()
    }

    /// One of them.
    pub fn get(&self, name: &[u8]) -> Option<Arc<User>> {
        self.all.read().get(std::str::from_utf8(name).ok()?).cloned()
    }

    /// What a connection may do before it says who it is.
    pub fn initial_access(&self) -> Access {
        match self.get(DEFAULT.as_bytes()) {
            Some(user) if user.needs_no_password() => Access::of(user),
            _ => Access::Unauthenticated,
        }
    }

    /// What a connection may do that gives this name and password. Whoever there is not is looked at as long as whoever
    /// there is.
    pub fn authenticate(&self, name: &[u8], password: &[u8]) -> Option<Access> {
        let hash = hash(password);
        let known = self.get(name);
        let nobody = User { hashes: vec![[0; 32]], ..User::new("") };
        let user = known.as_deref().unwrap_or(&nobody);
        let good = user.has_password(&hash) | user.no_password;
        known.filter(|user| good && user.on).map(Access::of)
    }
}
