//! No file of `src` imports, by its `use` lists and over others, from itself: a circle can only be read as
//! a whole. A `pub use` is no import: it passes a name on, and the name leads to the file that defines it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The path of a file's module, from the root of the crate.
type Module = Vec<String>;

/// One name that a file has in use.
struct Use {
    is_passed_on: bool,
    path: Vec<String>,
    name: String,
}

struct Sources(BTreeMap<Module, Vec<Use>>);

#[test]
fn no_file_imports_from_itself_over_others() {
    let sources = Sources::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    let found = sources.circles();
    assert!(found.is_empty(), "these files import each other: {found:?}");
}

#[test]
fn a_circle_is_found_over_names_that_are_passed_on() {
    let text = |module: &str, text: &str| (path(module), uses(text));
    let sources = Sources(BTreeMap::from([
        text("", ""),
        text("a", "pub use b::{B, c};\nuse self::b::Other;\n"),
        text(
            "a/b",
            "use super::{\n    // a comment\n    c::{self, C as D},\n};\n",
        ),
        text(
            "a/c",
            "use crate::a::B;\n#[cfg(test)]\nmod tests {\n    use crate::d::D;\n}\n",
        ),
        text("d", "use crate::a::c;\n"),
    ]));
    assert_eq!(sources.circles(), [names(&["a/b", "a/c"])]);
}

impl Sources {
    fn read(src: &Path) -> Self {
        let mut modules = BTreeMap::new();
        let mut dirs = vec![src.to_owned()];
        while let Some(dir) = dirs.pop() {
            for entry in std::fs::read_dir(dir).unwrap() {
                let file = entry.unwrap().path();
                if file.is_dir() {
                    dirs.push(file);
                } else if file.extension().is_some_and(|end| end == "rs") {
                    let text = std::fs::read_to_string(&file).unwrap();
                    modules.insert(module(src, &file), uses(&text));
                }
            }
        }
        Self(modules)
    }

    /// The sets of files each of which imports, directly or over others, from all of its set.
    fn circles(&self) -> Vec<BTreeSet<String>> {
        let modules = self.0.keys();
        let reached: BTreeMap<_, _> = modules.map(|from| (from, self.reached(from))).collect();
        let mut circles = BTreeSet::new();
        for (from, to) in &reached {
            if to.contains(*from) {
                let circle = to.iter().filter(|to| reached[to].contains(*from));
                circles.insert(circle.map(|module| module.join("/")).collect());
            }
        }
        circles.into_iter().collect()
    }

    fn reached(&self, from: &Module) -> BTreeSet<Module> {
        let mut reached = BTreeSet::new();
        let mut next = vec![from.clone()];
        while let Some(module) = next.pop() {
            for used in self.0[&module].iter().filter(|used| !used.is_passed_on) {
                let file = self.file(&module, &used.path, 0).filter(|to| *to != module);
                next.extend(file.filter(|to| reached.insert(to.clone())));
            }
        }
        reached
    }

    /// The file that defines what `path` names in `module`; none where another crate does.
    fn file(&self, module: &Module, path: &[String], depth: usize) -> Option<Module> {
        let mut at = module.clone();
        let mut path = path.iter().peekable();
        match path.peek()?.as_str() {
            "crate" => at.clear(),
            "self" | "super" => {}
            child
                if self
                    .0
                    .contains_key(&[&module[..], &[child.into()]].concat()) => {}
            _ => return None,
        }
        for step in path {
            let child = [&at[..], std::slice::from_ref(step)].concat();
            match step.as_str() {
                "crate" | "self" => {}
                "super" => drop(at.pop()),
                _ if self.0.contains_key(&child) => at = child,
                name => {
                    let mut uses = self.0[&at].iter();
                    let own = |used: &&Use| used.name == name && used.path.len() > 1;
                    return match uses.find(own) {
                        Some(used) if depth < 9 => self.file(&at, &used.path, depth + 1),
                        _ => Some(at),
                    };
                }
            }
        }
        Some(at)
    }
}

fn module(src: &Path, file: &Path) -> Module {
    let file = file.strip_prefix(src).unwrap().with_extension("");
    match file.to_str().unwrap() {
        "lib" => Module::new(),
        name => path(name),
    }
}

fn path(name: &str) -> Module {
    let steps = name.split('/').filter(|step| !step.is_empty());
    steps.map(str::to_owned).collect()
}

fn names(circle: &[&str]) -> BTreeSet<String> {
    circle.iter().copied().map(str::to_owned).collect()
}

/// The names that a file has in use, but for those of its tests, which stand at its end.
fn uses(text: &str) -> Vec<Use> {
    let lines = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    let code: Vec<&str> = lines
        .take_while(|line| !line.starts_with("mod tests {"))
        .collect();
    let mut uses = Vec::new();
    for statement in code.join("\n").split(';') {
        let at = statement.rfind("\nuse ").map_or(0, |at| at + 1);
        let passed_on = statement.rfind("\npub use ").map(|at| at + 1);
        let statement = &statement[passed_on.unwrap_or(at)..];
        let statement = statement.trim_start();
        let is_passed_on = statement.starts_with("pub use ");
        let statement = statement.strip_prefix("pub ").unwrap_or(statement);
        if let Some(tree) = statement.strip_prefix("use ") {
            let tree: String = tree.split_whitespace().collect::<Vec<_>>().join(" ");
            expand(&tree, &mut |path| uses.push(used(path, is_passed_on)));
        }
    }
    uses
}

/// Tells `each` of every path of a tree such as `a::{b, c::{self, d}}`.
fn expand(tree: &str, each: &mut impl FnMut(&str)) {
    let Some((before, inside)) = tree.split_once('{') else {
        return each(tree);
    };
    let (inside, _) = inside.rsplit_once('}').unwrap();
    let (mut depth, mut begin) = (0, 0);
    for (at, letter) in inside.char_indices().chain([(inside.len(), ',')]) {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                let part = inside[begin..at].trim();
                if !part.is_empty() {
                    expand(&format!("{before}{part}"), each);
                }
                begin = at + 1;
            }
            _ => {}
        }
    }
}

fn used(path: &str, is_passed_on: bool) -> Use {
    let (path, alias) = match path.split_once(" as ") {
        Some((path, alias)) => (path, Some(alias)),
        None => (path, None),
    };
    let path = path.strip_suffix("::self").unwrap_or(path);
    let path: Vec<String> = path.split("::").map(str::to_owned).collect();
    let name = alias.map_or_else(|| path.last().cloned(), |alias| Some(alias.to_owned()));
    Use {
        is_passed_on,
        name: name.unwrap_or_default(),
        path,
    }
}
