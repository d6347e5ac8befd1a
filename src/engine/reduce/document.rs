//! Reducers whose state is a document that bodies change: `merge` and `patch`.
//!
//! They accept every body that is JSON, of any depth and with any numbers. Parts of the state that an
//! event does not touch stay the same, byte for byte.

use std::time::Instant;

use super::tree::{At, Name, Node, Tree, meaning};
use super::{Failure, Reduce, STATE_MAX, TIME_MAX, check_size, printable};
use crate::domain::event::Event;
use crate::domain::json;

fn rejected(reason: impl Into<String>) -> Failure {
    Failure::Rejected(reason.into())
}

/// The state is a document that bodies change.
pub(super) struct Document {
    change: fn(&str, &str) -> Result<String, Failure>,
    /// The state before the first event.
    blank: &'static str,
    state: Option<String>,
}

impl Document {
    /// Merges bodies into the document (RFC 7396).
    pub(super) fn merged(state: Option<String>) -> Result<Self, Failure> {
        Self::new(merge, "null", state)
    }

    /// Applies bodies as patches (RFC 6902), the first one to an empty object.
    pub(super) fn patched(state: Option<String>) -> Result<Self, Failure> {
        Self::new(patch, "{}", state)
    }

    fn new(
        change: fn(&str, &str) -> Result<String, Failure>,
        blank: &'static str,
        state: Option<String>,
    ) -> Result<Self, Failure> {
        if let Some(text) = &state {
            json::text(text.as_bytes())
                .map_err(|_| rejected("the state is not JSON; rebuild it"))?;
        }
        Ok(Self {
            change,
            blank,
            state,
        })
    }
}

impl Reduce for Document {
    fn reduce(&mut self, event: &Event) -> Result<(), Failure> {
        let body = json::text(&event.body).map_err(|not_json| rejected(not_json.to_string()))?;
        let state = self.state.as_deref().unwrap_or(self.blank);
        let state = (self.change)(state, body)?;
        check_size(state.len())?;
        self.state = Some(state);
        Ok(())
    }

    fn state(&self) -> Option<String> {
        self.state.clone()
    }
}

fn merge(state: &str, body: &str) -> Result<String, Failure> {
    let mut tree = Tree::default();
    let (target, change) = (tree.read(state), tree.read(body));
    tree.merge(target, change);
    Ok(tree.write(target))
}

/// Applies the operations one by one, with limits, because a short patch can create a huge state or
/// take very long.
fn patch(state: &str, body: &str) -> Result<String, Failure> {
    let until = Instant::now() + TIME_MAX;
    let mut tree = Tree::default();
    let body = tree.read(body);
    let Node::Array(operations) = tree.take(body) else {
        return Err(rejected(
            "the body is not a JSON patch, an array of operations",
        ));
    };
    let mut document = Patched {
        root: tree.read(state),
        tree,
        copied: 0,
    };
    for (nth, at) in operations.into_iter().enumerate() {
        operation(&document.tree, at)
            .and_then(|operation| document.apply(operation))
            .map_err(|why| rejected(printable(&format!("operation {nth} of the patch: {why}"))))?;
        if Instant::now() >= until {
            let reason = format!("patching for more than {} ms", TIME_MAX.as_millis());
            return Err(Failure::OutOfTime(reason));
        }
    }
    Ok(document.tree.write(document.root))
}

/// A JSON pointer, split into its unescaped steps.
struct Path {
    written: String,
    steps: Vec<Vec<u8>>,
}

enum Operation {
    Add(Path, At),
    Remove(Path),
    Replace(Path, At),
    Move(Path, Path),
    Copy(Path, Path),
    Test(Path, At),
}

fn operation(tree: &Tree<'_>, at: At) -> Result<Operation, String> {
    let Node::Object(members) = tree.node(at) else {
        return Err("it is not an object".to_owned());
    };
    let member = |name: &str| {
        let at = members.get(name.as_bytes()).copied();
        at.ok_or_else(|| format!("it has no {name:?}"))
    };
    let text = |name: &str| match tree.node(member(name)?) {
        Node::Scalar(written) if written.starts_with('"') => Ok(meaning(written)),
        _ => Err(format!("its {name:?} is not a text")),
    };
    let path = |name: &str| path(&text(name)?);
    Ok(match &*text("op")? {
        b"add" => Operation::Add(path("path")?, member("value")?),
        b"remove" => Operation::Remove(path("path")?),
        b"replace" => Operation::Replace(path("path")?, member("value")?),
        b"move" => Operation::Move(path("from")?, path("path")?),
        b"copy" => Operation::Copy(path("from")?, path("path")?),
        b"test" => Operation::Test(path("path")?, member("value")?),
        other => {
            let other = String::from_utf8_lossy(other);
            return Err(format!("there is no operation {other:?}"));
        }
    })
}

fn path(text: &[u8]) -> Result<Path, String> {
    let written = String::from_utf8_lossy(text).into_owned();
    let mut parts = text.split(|byte| *byte == b'/');
    if parts.next().is_some_and(|before| !before.is_empty()) {
        return Err(format!(
            "the pointer {written:?} does not begin with a slash"
        ));
    }
    let steps = parts.map(|step| {
        unescaped(step)
            .ok_or_else(|| format!("the pointer {written:?} has a ~ before neither 0 nor 1"))
    });
    Ok(Path {
        steps: steps.collect::<Result<_, _>>()?,
        written,
    })
}

fn unescaped(step: &[u8]) -> Option<Vec<u8>> {
    let mut text = Vec::with_capacity(step.len());
    let mut bytes = step.iter();
    while let Some(byte) = bytes.next() {
        text.push(match byte {
            b'~' => match bytes.next()? {
                b'0' => b'~',
                b'1' => b'/',
                _ => return None,
            },
            plain => *plain,
        });
    }
    Some(text)
}

/// The array index of a step: digits without a leading zero.
fn index(step: &[u8]) -> Option<usize> {
    let is_plain = step == b"0"
        || step
            .first()
            .is_some_and(|first| (b'1'..=b'9').contains(first));
    let text = std::str::from_utf8(step).ok().filter(|_| is_plain)?;
    text.parse().ok()
}

/// The state while a patch is applied.
struct Patched<'t> {
    tree: Tree<'t>,
    root: At,
    /// Bytes created by `copy`, which limits how much a patch can enlarge a state.
    copied: usize,
}

impl<'t> Patched<'t> {
    fn apply(&mut self, operation: Operation) -> Result<(), String> {
        match operation {
            Operation::Add(path, value) => self.put(&path, value),
            Operation::Remove(path) => self.remove(&path).map(drop),
            Operation::Replace(path, value) => self.replace(&path, value),
            Operation::Move(from, path) => {
                if path.steps.len() > from.steps.len() && path.steps.starts_with(&from.steps) {
                    return Err(format!("{:?} cannot move into itself", from.written));
                }
                let value = self.remove(&from)?;
                self.put(&path, value)
            }
            Operation::Copy(from, path) => {
                let from = self.find(&from)?;
                let room = STATE_MAX - self.copied;
                let copy = self.tree.copy(from, room);
                let (value, size) =
                    copy.ok_or_else(|| format!("it copies more than {STATE_MAX} bytes"))?;
                self.copied += size;
                self.put(&path, value)
            }
            Operation::Test(path, value) => {
                let found = self.find(&path)?;
                match self.tree.equal(found, value) {
                    true => Ok(()),
                    false => Err(format!("the value at {:?} is another", path.written)),
                }
            }
        }
    }

    fn find(&self, path: &Path) -> Result<At, String> {
        self.descend(&path.steps).ok_or_else(|| nothing_at(path))
    }

    fn descend(&self, steps: &[Vec<u8>]) -> Option<At> {
        steps
            .iter()
            .try_fold(self.root, |at, step| match self.tree.node(at) {
                Node::Object(members) => members.get(step.as_slice()).copied(),
                Node::Array(items) => items.get(index(step)?).copied(),
                Node::Scalar(_) => None,
            })
    }

    /// The container that a path ends in, and the last step.
    fn parent<'p>(&self, path: &'p Path) -> Result<(At, &'p [u8]), String> {
        let (last, before) = path.steps.split_last().ok_or_else(|| nothing_at(path))?;
        let parent = self.descend(before).ok_or_else(|| nothing_at(path))?;
        Ok((parent, last))
    }

    fn put(&mut self, path: &Path, value: At) -> Result<(), String> {
        if path.steps.is_empty() {
            self.root = value;
            return Ok(());
        }
        let (parent, last) = self.parent(path)?;
        match self.tree.node_mut(parent) {
            Node::Object(members) => {
                members.insert(Name::meaning(last.to_vec()), value);
            }
            Node::Array(items) if last == b"-" => items.push(value),
            Node::Array(items) => match index(last) {
                Some(index) if index <= items.len() => items.insert(index, value),
                _ => return Err(nothing_at(path)),
            },
            Node::Scalar(_) => return Err(nothing_at(path)),
        }
        Ok(())
    }

    fn replace(&mut self, path: &Path, value: At) -> Result<(), String> {
        if path.steps.is_empty() {
            self.root = value;
            return Ok(());
        }
        let (parent, last) = self.parent(path)?;
        let place = match self.tree.node_mut(parent) {
            Node::Object(members) => members.get_mut(last),
            Node::Array(items) => index(last).and_then(|index| items.get_mut(index)),
            Node::Scalar(_) => None,
        };
        *place.ok_or_else(|| nothing_at(path))? = value;
        Ok(())
    }

    /// Removes a value. The whole document cannot be removed, because nothing would be left.
    fn remove(&mut self, path: &Path) -> Result<At, String> {
        let (parent, last) = self.parent(path)?;
        let removed = match self.tree.node_mut(parent) {
            Node::Object(members) => members.shift_remove(last),
            Node::Array(items) => index(last)
                .filter(|index| *index < items.len())
                .map(|index| items.remove(index)),
            Node::Scalar(_) => None,
        };
        removed.ok_or_else(|| nothing_at(path))
    }
}

fn nothing_at(path: &Path) -> String {
    format!("there is nothing at {:?}", path.written)
}
