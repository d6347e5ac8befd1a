//! JSON documents that are changed in places and stay as they were sent everywhere else.
//!
//! A tree keeps numbers, strings and names as text, so nothing that is not touched changes: a number of
//! thirty digits, `1E2` and `"\ud800"` stay to the byte. Only the white space between them goes. Nodes
//! stand in one list and nothing here calls itself, so depth costs no stack.

use std::borrow::Cow;
use std::hash::{Hash, Hasher};

use indexmap::IndexMap;
use indexmap::map::Entry;
use serde::de::{Deserializer as _, Visitor};

use crate::domain::json;

/// A node of a [`Tree`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct At(usize);

/// Value that is removed from its object at the end of a merge.
const REMOVED: At = At(usize::MAX);

/// Documents over texts that live for `'t`.
#[derive(Default)]
pub(super) struct Tree<'t> {
    nodes: Vec<Node<'t>>,
}

pub(super) type Members<'t> = IndexMap<Name<'t>, At>;

pub(super) enum Node<'t> {
    /// A string, a number, `true`, `false` or `null`, as written.
    Scalar(&'t str),
    Array(Vec<At>),
    Object(Box<Members<'t>>),
}

/// The name of a member. Two are the same when they mean the same text, however it is escaped.
#[derive(Clone)]
pub(super) struct Name<'t> {
    /// As written, with its quotes.
    written: Cow<'t, str>,
    /// The decoded string in UTF-8, except for halves of surrogate pairs.
    text: Cow<'t, [u8]>,
}

impl PartialEq for Name<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Name<'_> {}

impl Hash for Name<'_> {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.text.hash(hasher);
    }
}

impl indexmap::Equivalent<Name<'_>> for [u8] {
    fn equivalent(&self, name: &Name<'_>) -> bool {
        *self == *name.text
    }
}

impl<'t> Name<'t> {
    fn read(written: &'t str) -> Self {
        Self {
            written: written.into(),
            text: meaning(written),
        }
    }

    /// The name that means `text`.
    pub(super) fn meaning(text: Vec<u8>) -> Self {
        Self {
            written: quoted(&text).into(),
            text: text.into(),
        }
    }
}

/// Decodes a string to UTF-8, except for halves of surrogate pairs.
pub(super) fn meaning(written: &str) -> Cow<'_, [u8]> {
    struct Bytes;
    impl<'de> Visitor<'de> for Bytes {
        type Value = Cow<'de, [u8]>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a string")
        }

        fn visit_borrowed_bytes<E>(self, bytes: &'de [u8]) -> Result<Self::Value, E> {
            Ok(bytes.into())
        }

        fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Self::Value, E> {
            Ok(bytes.to_vec().into())
        }
    }
    let plain = written
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'));
    if let Some(plain) = plain.filter(|text| !text.contains('\\')) {
        return plain.as_bytes().into();
    }
    let mut json = serde_json::Deserializer::from_str(written);
    let read = json.deserialize_bytes(Bytes);
    read.unwrap_or(Cow::Borrowed(written.as_bytes()))
}

/// The JSON string that means `text`.
fn quoted(text: &[u8]) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    let mut rest = text;
    while let Some(first) = rest.first() {
        // Half a surrogate pair takes three bytes that begin so; nothing else begins so.
        if let [0xed, high @ 0xa0..=0xbf, low, ..] = rest {
            let half = 0xd000 | u32::from(high & 0x3f) << 6 | u32::from(low & 0x3f);
            out.push_str(&format!("\\u{half:04x}"));
            rest = &rest[3..];
            continue;
        }
        let is_half = |pair: &[u8]| matches!(pair, [0xed, 0xa0..=0xbf]);
        let end = match first {
            0xed => rest[1..].windows(2).position(is_half).map(|at| at + 1),
            _ => rest.windows(2).position(is_half),
        };
        let (plain, after) = rest.split_at(end.unwrap_or(rest.len()));
        let plain = serde_json::Value::from(String::from_utf8_lossy(plain)).to_string();
        out.push_str(&plain[1..plain.len() - 1]);
        rest = after;
    }
    out.push('"');
    out
}

impl<'t> Tree<'t> {
    /// Reads a document, which must be JSON already: it is not checked again.
    pub(super) fn read(&mut self, text: &'t str) -> At {
        let root = At(self.nodes.len());
        let bytes = text.as_bytes();
        let mut open: Vec<(At, Option<Name<'t>>)> = Vec::new();
        let mut from = 0;
        while let Some(byte) = bytes.get(from) {
            let until = match byte {
                b'"' => from + string_len(&bytes[from..]),
                b'{' | b'[' | b'}' | b']' | b',' | b':' | b' ' | b'\t' | b'\n' | b'\r' => from + 1,
                _ => from + scalar_len(&bytes[from..]),
            };
            let token = &text[from..until];
            from = until;
            match byte {
                b',' | b':' | b' ' | b'\t' | b'\n' | b'\r' => {}
                b'}' | b']' => drop(open.pop()),
                b'{' => {
                    let at = self.hang(Node::Object(Box::default()), &mut open);
                    open.push((at, None));
                }
                b'[' => {
                    let at = self.hang(Node::Array(Vec::new()), &mut open);
                    open.push((at, None));
                }
                b'"' if self.expects_name(&open) => {
                    if let Some((_, name)) = open.last_mut() {
                        *name = Some(Name::read(token));
                    }
                }
                _ => drop(self.hang(Node::Scalar(token), &mut open)),
            }
        }
        root
    }

    fn expects_name(&self, open: &[(At, Option<Name<'t>>)]) -> bool {
        let innermost = open.last();
        innermost
            .is_some_and(|(at, name)| name.is_none() && matches!(self.node(*at), Node::Object(_)))
    }

    /// Adds a node, and hangs it into the container that is open.
    fn hang(&mut self, node: Node<'t>, open: &mut [(At, Option<Name<'t>>)]) -> At {
        let at = self.add(node);
        if let Some((parent, name)) = open.last_mut() {
            match self.node_mut(*parent) {
                Node::Array(items) => items.push(at),
                Node::Object(members) => {
                    // Of members with one name the last one counts.
                    if let Some(name) = name.take() {
                        members.insert(name, at);
                    }
                }
                Node::Scalar(_) => {}
            }
        }
        at
    }

    pub(super) fn add(&mut self, node: Node<'t>) -> At {
        self.nodes.push(node);
        At(self.nodes.len() - 1)
    }

    pub(super) fn node(&self, at: At) -> &Node<'t> {
        &self.nodes[at.0]
    }

    pub(super) fn node_mut(&mut self, at: At) -> &mut Node<'t> {
        &mut self.nodes[at.0]
    }

    /// Takes a node out and leaves `null`.
    pub(super) fn take(&mut self, at: At) -> Node<'t> {
        std::mem::replace(&mut self.nodes[at.0], Node::Scalar("null"))
    }

    /// Merges `patch` into `target` (RFC 7396); `patch` is used up.
    pub(super) fn merge(&mut self, target: At, patch: At) {
        let mut open = vec![(target, patch)];
        while let Some((target, patch)) = open.pop() {
            let changes = match self.take(patch) {
                Node::Object(changes) => changes,
                other => {
                    *self.node_mut(target) = other;
                    continue;
                }
            };
            let mut members = match self.take(target) {
                Node::Object(members) => members,
                _ => Box::default(),
            };
            let mut has_removed = false;
            for (name, change) in *changes {
                match self.node(change) {
                    Node::Scalar("null") => {
                        if let Some(at) = members.get_mut(&name) {
                            *at = REMOVED;
                            has_removed = true;
                        }
                    }
                    Node::Object(_) => {
                        let below = match members.entry(name) {
                            Entry::Occupied(there) => *there.get(),
                            Entry::Vacant(free) => *free.insert(self.add(Node::Scalar("null"))),
                        };
                        open.push((below, change));
                    }
                    _ => drop(members.insert(name, change)),
                }
            }
            if has_removed {
                members.retain(|_, at| *at != REMOVED);
            }
            *self.node_mut(target) = Node::Object(members);
        }
    }

    /// A copy of all that is below a node, unless it has more than `room` bytes; and how many it has.
    pub(super) fn copy(&mut self, from: At, room: usize) -> Option<(At, usize)> {
        let root = self.add(Node::Scalar("null"));
        let mut open = vec![(from, root)];
        let mut size = 0;
        while let Some((from, to)) = open.pop() {
            let (node, more) = match &self.nodes[from.0] {
                Node::Scalar(text) => (Node::Scalar(text), text.len()),
                Node::Array(items) => (Node::Array(items.clone()), 2),
                Node::Object(members) => {
                    let names = members.keys().map(|name| name.written.len() + 1);
                    (Node::Object(members.clone()), 2 + names.sum::<usize>())
                }
            };
            size += more;
            if size > room {
                return None;
            }
            *self.node_mut(to) = node;
            let first = self.nodes.len();
            let children = match &mut self.nodes[to.0] {
                Node::Scalar(_) => continue,
                Node::Array(items) => number(items.iter_mut(), first),
                Node::Object(members) => number(members.values_mut(), first),
            };
            let copies = children.len();
            open.extend(children);
            self.nodes.extend((0..copies).map(|_| Node::Scalar("null")));
        }
        Some((root, size))
    }

    /// True when both mean the same: numbers by value, strings by text, members in any order.
    pub(super) fn equal(&self, left: At, right: At) -> bool {
        let mut open = vec![(left, right)];
        while let Some((left, right)) = open.pop() {
            match (self.node(left), self.node(right)) {
                (Node::Scalar(left), Node::Scalar(right)) if same(left, right) => {}
                (Node::Array(left), Node::Array(right)) if left.len() == right.len() => {
                    open.extend(left.iter().copied().zip(right.iter().copied()));
                }
                (Node::Object(left), Node::Object(right)) if left.len() == right.len() => {
                    for (name, at) in left.iter() {
                        match right.get(name) {
                            Some(other) => open.push((*at, *other)),
                            None => return false,
                        }
                    }
                }
                _ => return false,
            }
        }
        true
    }

    /// The document below a node, without white space.
    pub(super) fn write(&self, root: At) -> String {
        let mut out = String::new();
        // Nodes that are begun, with how many of their children are written.
        let mut open: Vec<(&Node<'t>, usize)> = vec![(self.node(root), 0)];
        while let Some((node, done)) = open.last_mut() {
            let (node, at) = (*node, *done);
            *done += 1;
            let (brackets, child) = match node {
                Node::Scalar(text) => {
                    out.push_str(text);
                    open.pop();
                    continue;
                }
                Node::Array(items) => (['[', ']'], items.get(at).map(|child| (None, *child))),
                Node::Object(members) => (
                    ['{', '}'],
                    members
                        .get_index(at)
                        .map(|(name, child)| (Some(name), *child)),
                ),
            };
            if at == 0 {
                out.push(brackets[0]);
            }
            let Some((name, child)) = child else {
                out.push(brackets[1]);
                open.pop();
                continue;
            };
            if at > 0 {
                out.push(',');
            }
            if let Some(name) = name {
                out.push_str(&name.written);
                out.push(':');
            }
            open.push((self.node(child), 0));
        }
        out
    }
}

/// Points children at new nodes from `first` on, and says which node is whose copy.
fn number<'c>(children: impl Iterator<Item = &'c mut At>, first: usize) -> Vec<(At, At)> {
    let numbered = (first..).map(At).zip(children);
    numbered
        .map(|(new, child)| (std::mem::replace(child, new), new))
        .collect()
}

fn same(left: &str, right: &str) -> bool {
    if left == right {
        return true;
    }
    match (left.as_bytes().first(), right.as_bytes().first()) {
        (Some(b'"'), Some(b'"')) => meaning(left) == meaning(right),
        (Some(b'-' | b'0'..=b'9'), Some(b'-' | b'0'..=b'9')) => {
            json::number(left) == json::number(right)
        }
        _ => false,
    }
}

/// The length of the string at the front, with its quotes.
fn string_len(bytes: &[u8]) -> usize {
    let mut at = 1;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// The length of the number, `true`, `false` or `null` at the front.
fn scalar_len(bytes: &[u8]) -> usize {
    let is_end = |byte: &u8| b",]} \t\n\r".contains(byte);
    bytes.iter().position(is_end).unwrap_or(bytes.len())
}
