//! JavaScript reducers: scripts, the realm they share on a thread, and their limits.
//!
//! A script is one file with one default export, a function. It is wrapped in a function that is called
//! anew for every event, so no variable of a script outlives an event. The realm is frozen (by
//! `realm.js`, after `web.js` is added), so nothing else does either, and all scripts of a thread can
//! share it.
//!
//! ```text
//! text ── is it a module? ── where is its export? ──▶ (function(){"use strict"; … return NAME;})
//!                                                        │ kept per realm, called per event
//! state, event ──────────────────────────────────────────▼──▶ state as JSON text
//! ```
//! Native calls that do not come back are not noticed here: see `process.rs`.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rquickjs::context::{EvalOptions, intrinsic};
use rquickjs::function::Args;
use rquickjs::{
    Array, Context, Ctx, Error, Function, Module, Persistent, Runtime, TypedArray, Value,
};
use rustix::time::{ClockId, clock_gettime};

use super::{Failure, Reduce, TIME_MAX, check_size, printable};
use crate::domain::event::{Event, EventId};
use crate::domain::hook::Source;
use crate::domain::json;

/// Memory that one event may use in addition to the realm and its scripts, in bytes.
const MEMORY_MAX: usize = 32 * 1024 * 1024;

/// Stack that one event may use, in bytes.
const STACK_MAX: usize = 256 * 1024;

/// Longest source text of a script, in bytes.
const SOURCE_MAX: usize = 1024 * 1024;

/// Number of scripts that a realm keeps; with one more a new realm is created.
const SCRIPTS_MAX: usize = 4096;

/// Number of places in a source text that are tried as its export.
const EXPORTS_MAX: usize = 32;

const PRELUDE: &str = include_str!("realm.js");

/// Added before the prelude freezes the realm.
const WEB: &str = include_str!("web.js");

/// File name of the prelude in messages.
const REALM: &str = "<realm>";

/// All intrinsics except `Performance`, `WeakRef` and `DOMException`, which have no use in a fold.
type Intrinsics = (
    intrinsic::Date,
    intrinsic::Eval,
    intrinsic::RegExpCompiler,
    intrinsic::RegExp,
    intrinsic::Json,
    intrinsic::Proxy,
    intrinsic::MapSet,
    intrinsic::TypedArrays,
    intrinsic::Promise,
);

/// A function that outlives the borrow of its context. The realm drops it before its runtime.
type Kept = Persistent<Function<'static>>;

/// Refuses a script that is too long.
pub(super) fn check_len(source: &Source) -> Result<(), String> {
    match source.text.len() <= SOURCE_MAX {
        true => Ok(()),
        false => Err(format!(
            "{}: a script has {SOURCE_MAX} bytes at most",
            source.file
        )),
    }
}

/// Compiles a script and finds its default export.
pub(super) fn inspect(source: &Arc<Source>) -> Result<(), String> {
    let outcome = Realm::new().and_then(|mut realm| realm.inspect(source));
    outcome.map_err(|failure| failure.to_string())
}

/// The compiled scripts of one thread.
#[derive(Default)]
pub(super) struct Scripts {
    realm: Option<Realm>,
}

impl Scripts {
    /// Compiles a script before its first event, whose time compiling would use. Errors are reported
    /// when it folds.
    pub(super) fn prepare(&mut self, source: &Arc<Source>) {
        let realm = match self.realm.take() {
            Some(realm) if !realm.is_full() => Ok(realm),
            _ => Realm::new(),
        };
        self.realm = realm.ok().map(|mut realm| {
            let _ = realm.script(source);
            realm
        });
    }

    /// Folds one event into a state, with `source` as the reducer.
    pub(super) fn reduce(
        &mut self,
        source: &Arc<Source>,
        state: Option<&str>,
        event: &Event,
    ) -> Result<String, Failure> {
        let was_used = self.realm.as_ref().is_some_and(|realm| !realm.is_new());
        match self.try_reduce(source, state, event) {
            // Tried again in a new realm, so that memory used by others does not count.
            Err(Failure::OutOfMemory(_)) if was_used => self.try_reduce(source, state, event),
            outcome => outcome,
        }
    }

    fn try_reduce(
        &mut self,
        source: &Arc<Source>,
        state: Option<&str>,
        event: &Event,
    ) -> Result<String, Failure> {
        let mut realm = match self.realm.take() {
            Some(realm) if !realm.is_full() => realm,
            _ => Realm::new()?,
        };
        let outcome = realm.reduce(source, state, event);
        match outcome {
            // After a failed allocation the realm may be inconsistent.
            Err(Failure::OutOfMemory(_)) => return outcome,
            // Unfinished cycles of the aborted script would count for the next one.
            Err(Failure::OutOfTime(_)) => realm.runtime.run_gc(),
            _ => {}
        }
        if realm.is_idle() {
            self.realm = Some(realm);
        }
        outcome
    }
}

/// One script as a reducer of one stream.
pub(super) struct ByScript<'a> {
    pub(super) scripts: &'a mut Scripts,
    pub(super) source: &'a Arc<Source>,
    pub(super) state: Option<String>,
}

impl Reduce for ByScript<'_> {
    fn reduce(&mut self, event: &Event) -> Result<(), Failure> {
        let state = self.state.as_deref();
        self.state = Some(self.scripts.reduce(self.source, state, event)?);
        Ok(())
    }

    fn state(&self) -> Option<String> {
        self.state.clone()
    }
}

/// Key of a compiled script: its source text.
#[derive(PartialEq, Eq)]
struct Script(Arc<Source>);

impl Hash for Script {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.0.text.hash(hasher);
    }
}

/// The environment of scripts. Fields are dropped in order, each before what it depends on.
struct Realm {
    /// The script that ran last, because it is often the next one too.
    last: Option<(Arc<Source>, Kept)>,
    scripts: HashMap<Script, Kept>,
    fold: Kept,
    inspect: Kept,
    alarm: Rc<Alarm>,
    context: Context,
    runtime: Runtime,
}

/// Tells when an event has used up its processor time; real time would depend on the load. The clock is
/// first read at the first check, which comes soon enough and usually not at all.
#[derive(Default)]
struct Alarm {
    begun: Cell<Option<Duration>>,
    has_rung: Cell<bool>,
}

impl Alarm {
    fn set(&self) {
        self.begun.set(None);
        self.has_rung.set(false);
    }

    fn rings(&self) -> bool {
        let now = clock_gettime(ClockId::ThreadCPUTime);
        let now = Duration::try_from(now).unwrap_or_default();
        let begun = self.begun.get().unwrap_or(now);
        self.begun.set(Some(begun));
        let rings = now.saturating_sub(begun) >= TIME_MAX;
        self.has_rung.set(self.has_rung.get() || rings);
        rings
    }
}

impl Realm {
    fn new() -> Result<Self, Failure> {
        Self::build().map_err(|_| Failure::OutOfMemory("no memory to run scripts".to_owned()))
    }

    fn build() -> Result<Self, Error> {
        let runtime = Runtime::new()?;
        runtime.set_max_stack_size(STACK_MAX);
        let context = Context::custom::<Intrinsics>(&runtime)?;
        let (fold, inspect) = context.with(|ctx| {
            ctx.eval_with_options::<(), _>(WEB, named(REALM))?;
            let parts: Array = ctx.eval_with_options(PRELUDE, named(REALM))?;
            let part = |i| Ok::<_, Error>(Persistent::save(&ctx, parts.get::<Function>(i)?));
            Ok::<_, Error>((part(0)?, part(1)?))
        })?;
        let alarm = Rc::<Alarm>::default();
        let ringing = Rc::clone(&alarm);
        runtime.set_interrupt_handler(Some(Box::new(move || ringing.rings())));
        let realm = Self {
            last: None,
            scripts: HashMap::new(),
            fold,
            inspect,
            alarm,
            context,
            runtime,
        };
        realm.limit_memory();
        Ok(realm)
    }

    /// Memory in use now belongs to the realm; an event may use [`MEMORY_MAX`] more.
    fn limit_memory(&self) {
        let in_use = self.runtime.memory_usage().malloc_size;
        let in_use = usize::try_from(in_use).unwrap_or(0);
        self.runtime.set_memory_limit(in_use + MEMORY_MAX);
    }

    fn is_new(&self) -> bool {
        self.scripts.is_empty()
    }

    fn is_full(&self) -> bool {
        self.scripts.len() >= SCRIPTS_MAX
    }

    /// Runs the jobs that a script has queued, whose results no one awaits; false if they do not end.
    fn is_idle(&self) -> bool {
        while self.runtime.is_job_pending() {
            if self.alarm.rings() {
                return false;
            }
            let _ = self.runtime.execute_pending_job();
        }
        true
    }

    fn reduce(
        &mut self,
        source: &Arc<Source>,
        state: Option<&str>,
        event: &Event,
    ) -> Result<String, Failure> {
        let factory = self.script(source)?;
        self.alarm.set();
        let outcome = self.context.with(|ctx| {
            call(&ctx, &self.fold, factory, state, event).map_err(|error| broken(&ctx, error))
        });
        let text = self.judge(source, outcome)?;
        if self.runtime.is_job_pending() {
            let reason = "it left something to be done later; a reducer cannot await";
            return Err(Failure::Rejected(format!("{}: {reason}", source.file)));
        }
        check_size(text.len())?;
        Ok(text)
    }

    /// Calls the script once to check that it returns a function.
    fn inspect(&mut self, source: &Arc<Source>) -> Result<(), Failure> {
        let factory = self.script(source)?;
        self.alarm.set();
        let outcome = self.context.with(|ctx| {
            let id = EventId::from_bytes([0; 16]).to_string();
            let answer = (self.inspect.clone().restore(&ctx))
                .and_then(|inspect| inspect.call((factory, id, 0)))
                .and_then(|answer| Answer::read(&answer));
            answer.map_err(|error| broken(&ctx, error))
        });
        self.judge(source, outcome).map(|_| ())
    }

    /// Interprets the answer of the realm.
    fn judge(&self, source: &Source, outcome: Result<Answer, Thrown>) -> Result<String, Failure> {
        let thrown = match outcome {
            Ok(Answer::Text(text)) if !self.alarm.has_rung.get() => return Ok(text),
            Ok(Answer::Text(_)) => Thrown::default(),
            Ok(Answer::Thrown(thrown)) | Err(thrown) => thrown,
        };
        if self.alarm.has_rung.get() {
            let place = thrown.place(&source.file);
            return Err(Failure::OutOfTime(format!(
                "still running after {} ms in {place}",
                TIME_MAX.as_millis()
            )));
        }
        let message = thrown.message(&source.file);
        if thrown.is_out_of_memory() {
            return Err(Failure::OutOfMemory(message));
        }
        Err(Failure::Rejected(message))
    }

    /// The script as a function of this realm; compiled at its first use.
    fn script(&mut self, source: &Arc<Source>) -> Result<Kept, Failure> {
        if let Some((last, factory)) = &self.last
            && Arc::ptr_eq(last, source)
        {
            return Ok(factory.clone());
        }
        let key = Script(Arc::clone(source));
        let factory = match self.scripts.get(&key) {
            Some(factory) => factory.clone(),
            None => {
                let factory = self.compile(source)?;
                self.scripts.insert(key, factory.clone());
                factory
            }
        };
        self.last = Some((Arc::clone(source), factory.clone()));
        Ok(factory)
    }

    /// Compiles without a memory limit, because texts are short and the parser handles failed
    /// allocations badly.
    fn compile(&self, source: &Source) -> Result<Kept, Failure> {
        self.alarm.set();
        self.runtime.set_memory_limit(0);
        let outcome = self.try_compile(source);
        self.limit_memory();
        outcome
    }

    fn try_compile(&self, source: &Source) -> Result<Kept, Failure> {
        let rejected = |thrown: Thrown| Failure::Rejected(thrown.message(&source.file));
        self.parse_as_module(source).map_err(rejected)?;
        let mut failed = Thrown::new(
            "it has no default export: write `export default function reduce(state, event) { … }`",
        );
        for text in wrapped(&source.text).take(EXPORTS_MAX) {
            let outcome = self.context.with(|ctx| {
                (ctx.eval_with_options(text, named(&source.file)))
                    .map(|factory: Function| Persistent::save(&ctx, factory))
                    .map_err(|error| broken(&ctx, error))
            });
            match outcome {
                Ok(factory) => return Ok(factory),
                Err(thrown) => failed = thrown,
            }
        }
        Err(rejected(failed))
    }

    /// Reports syntax errors with their place before the text is split up. Text that would end the
    /// wrapping function is such an error too.
    fn parse_as_module(&self, source: &Source) -> Result<(), Thrown> {
        type Parser = (intrinsic::Eval, intrinsic::RegExpCompiler);
        let aside = Context::custom::<Parser>(&self.runtime)
            .map_err(|_| Thrown::new("no memory to compile it"))?;
        aside.with(|ctx| {
            Module::declare(ctx.clone(), source.file.as_str(), source.text.as_str())
                .map(|_| ())
                .map_err(|error| match broken(&ctx, error) {
                    thrown if thrown.message.starts_with("could not load module") => {
                        Thrown::new("import is not available: make it one file")
                    }
                    thrown => thrown,
                })
        })
    }
}

/// Calls the realm's `fold` with one event.
fn call<'js>(
    ctx: &Ctx<'js>,
    fold: &Kept,
    factory: Kept,
    state: Option<&str>,
    event: &Event,
) -> Result<Answer, Error> {
    let text = String::from_utf8_lossy(&event.body);
    let is_json = json::text(&event.body).is_ok();
    let bytes = match &text {
        Cow::Borrowed(_) => None,
        Cow::Owned(_) => Some(TypedArray::new(ctx.clone(), &*event.body)?),
    };
    let mut args = Args::new(ctx.clone(), 10);
    args.push_arg(factory)?;
    args.push_arg(state)?;
    args.push_arg(event.id.to_string())?;
    args.push_arg(event.seq.0)?;
    args.push_arg(event.received_at.as_millis())?;
    args.push_arg(&*event.headers)?;
    args.push_arg(&*text)?;
    args.push_arg(is_json)?;
    args.push_arg(bytes)?;
    args.push_arg(event.is_marked_late())?;
    let answer: Value = fold.clone().restore(ctx)?.call_arg(args)?;
    Answer::read(&answer)
}

/// Return value of the realm's functions.
enum Answer {
    Text(String),
    Thrown(Thrown),
}

impl Answer {
    fn read(answer: &Value<'_>) -> Result<Self, Error> {
        if let Some(text) = answer.as_string() {
            return Ok(Self::Text(text.to_string()?));
        }
        let Some(parts) = answer.as_array() else {
            return Ok(Self::Text(String::new()));
        };
        Ok(Self::Thrown(Thrown {
            name: parts.get(0)?,
            message: parts.get(1)?,
            stack: parts.get(2)?,
        }))
    }
}

/// An error thrown in a script.
#[derive(Default)]
struct Thrown {
    name: String,
    message: String,
    stack: String,
}

impl Thrown {
    fn new(message: &str) -> Self {
        Self {
            message: message.to_owned(),
            ..Self::default()
        }
    }

    /// True if the engine had no memory left, not even for a message.
    fn is_out_of_memory(&self) -> bool {
        let message = self.message.as_str();
        self.name == "InternalError" && (message.is_empty() || message.starts_with("out of memory"))
    }

    /// Place of the error: `sum.js:12`, or without the line if that is unknown.
    fn place(&self, file: &str) -> String {
        // The constructor of an error is not where it was thrown.
        let maker = format!("    at {} (", self.name);
        let thrown_at = self.stack.lines().filter(|line| !line.starts_with(&maker));
        let found = thrown_at.flat_map(|line| line.split_once(&format!("{file}:")));
        let mut lines = found.map(|(_, rest)| rest.split(':').next().unwrap_or_default());
        match lines.next() {
            Some(line) => format!("{file}:{line}"),
            None => file.to_owned(),
        }
    }

    /// The error on one line: `TypeError in sum.js:12: cannot read property 'x' of undefined`.
    fn message(&self, file: &str) -> String {
        let place = self.place(file);
        let message = match self.name.as_str() {
            "" => format!("{place}: {}", self.message),
            name => format!("{name} in {place}: {}", self.message),
        };
        printable(&message)
    }
}

/// An error thrown past the realm's own functions; such errors come from the engine, never from a
/// script.
fn broken(ctx: &Ctx<'_>, error: Error) -> Thrown {
    if !matches!(error, Error::Exception | Error::Unknown) {
        return Thrown::new(&error.to_string());
    }
    let value = ctx.catch();
    let Some(exception) = value.as_exception() else {
        return Thrown {
            name: "InternalError".to_owned(),
            message: "out of memory".to_owned(),
            stack: String::new(),
        };
    };
    Thrown {
        name: exception.get("name").unwrap_or_default(),
        message: exception.message().unwrap_or_default(),
        stack: exception.stack().unwrap_or_default(),
    }
}

fn named(file: &str) -> EvalOptions {
    let mut options = EvalOptions::default();
    options.filename = Some(file.to_owned());
    options
}

/// The text as a function that returns its default export, once for each place where the export may be.
/// Only the right one compiles, because `export` is invalid inside a function: if a place in a comment
/// or a string is tried, the real `export` remains. Line numbers are preserved.
fn wrapped(text: &str) -> impl Iterator<Item = String> {
    text.match_indices("export").filter_map(move |(at, word)| {
        let (before, rest) = (&text[..at], &text[at + word.len()..]);
        let (cut, instead, name) = export(rest)?;
        let lines: String = rest[..cut].chars().filter(|c| *c == '\n').collect();
        let after = &rest[cut..];
        Some(format!(
            "(function(){{\"use strict\";{before}{lines}{instead}{after}\nreturn {name};\n}})"
        ))
    })
}

/// Name of the export in the wrapped text if it has none of its own.
const NAME: &str = "$default";

/// Parses what follows the word `export`: how much to cut, what to insert, and the export's name.
fn export(rest: &str) -> Option<(usize, Cow<'static, str>, Cow<'_, str>)> {
    let skip = |text: &str| text.len() - text.trim_start().len();
    let body = rest.trim_start();
    if let Some(list) = body.strip_prefix('{') {
        let (inside, after) = list.split_once('}')?;
        let name = default_of(inside)?;
        return Some((rest.len() - after.len(), "".into(), name.into()));
    }
    let value = body.strip_prefix("default")?;
    let cut = rest.len() - value.len();
    let function = value.trim_start().strip_prefix("function");
    match function.map(|rest| (rest, identifier(rest.trim_start()))) {
        Some((rest, "")) if rest.trim_start().starts_with('(') => {
            let cut = cut + skip(value) + "function".len();
            Some((cut, format!("function {NAME}").into(), NAME.into()))
        }
        Some((rest, name)) if !name.is_empty() && skip(rest) > 0 => {
            Some((cut, "".into(), name.into()))
        }
        _ => Some((cut, format!("const {NAME} =").into(), NAME.into())),
    }
}

/// The name in `NAME as default`, if that is the whole list.
fn default_of(list: &str) -> Option<&str> {
    let list = list.trim();
    let mut words = list.strip_suffix(',').unwrap_or(list).split_whitespace();
    let name = words.next()?;
    (words.eq(["as", "default"]) && identifier(name) == name).then_some(name)
}

/// The identifier at the beginning of `text`; empty when there is none.
fn identifier(text: &str) -> &str {
    let end = text.find(|c: char| !(c.is_alphanumeric() || "_$".contains(c)));
    &text[..end.unwrap_or(text.len())]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::engine::reduce::check;
    use crate::engine::reduce::tests::{event, source};

    const BODIES: [&str; 7] = [
        "const m = new Map(); for (let i = 0; i < 300; i++) m.set('k' + i, { i });
         return [...m].map(([k, v]) => ({ k, ...v })).sort((a, b) => a.k < b.k ? -1 : 1);",
        "class A { #p = [1, 2]; get p() { return this.#p; } }
         const a = []; for (let i = 0; i < 50; i++) a.push(new A().p); return a;",
        "let s = ''; for (let i = 0; i < 500; i++) s += 'abc' + i;
         return s.replace(/b(c)/g, (m, x) => x + m).split('c').map((x) => x.padStart(10, 'é'));",
        "function* g(n) { for (let i = 0; i < n; i++) { try { yield [i, [i]]; } finally { i; } } }
         const out = []; for (const [a, [b]] of g(100)) out.push(`${a}:${b}`); return out;",
        "const b = new Float64Array(500).fill(2.5); return [Array.from(b), String(2n ** 500n)];",
        "(async () => { await 1; })(); const p = new Proxy({}, { get: (t, k) => k });
         const o = { w: new WeakMap() }; o.w.set(o, o); return [p.foo, new Error('x').stack];",
        "const a = []; try { for (;;) a.push('y' + a.length); } catch { return a.length; }",
    ];

    /// Whatever allocation is the first to fail, the thread lives and the realm can be dropped.
    #[test]
    fn every_allocation_may_fail() {
        let sources = BODIES.map(|body| {
            source(&format!(
                "export default function reduce(state, event) {{ {body} }}"
            ))
        });
        let event = event(1, r#"{"a":[1,{"b":"héllo €"}]}"#);
        let mut failed = 0;
        for extra in (0..300_000).step_by(9973) {
            let mut realm = Realm::new().unwrap();
            for source in &sources {
                realm.script(source).unwrap();
                let in_use = realm.runtime.memory_usage().malloc_size;
                let limit = usize::try_from(in_use).unwrap() + extra;
                realm.runtime.set_memory_limit(limit);
                match realm.reduce(source, Some("[1]"), &event) {
                    Err(Failure::OutOfMemory(_)) => failed += 1,
                    Err(failure) => assert!(failure.to_string().contains("await"), "{failure}"),
                    Ok(_) => {}
                }
                realm.is_idle();
            }
        }
        assert!(failed > 20, "{failed}");
    }

    #[test]
    fn a_thousand_scripts_share_a_realm_of_a_few_megabytes() {
        let mut realm = Realm::new().unwrap();
        for n in 0..1_000 {
            let text = format!(
                "const NAME = 'hook {n}';
                 export default function reduce(state, event) {{
                   state ??= {{ count: 0, total: 0 }};
                   state.count += 1;
                   state.total += event.body.amount;
                   return {{ ...state, name: NAME }};
                 }}"
            );
            let state = realm.reduce(&source(&text), None, &event(1, r#"{"amount":2}"#));
            assert!(state.unwrap().contains(&format!("hook {n}\"")));
        }
        assert_eq!(realm.scripts.len(), 1_000);
        let in_use = realm.runtime.memory_usage().malloc_size;
        assert!(in_use < 10 * 1024 * 1024, "{in_use}");
    }

    #[test]
    fn an_export_is_found_wherever_it_stands() {
        for text in [
            "export default function reduce(s, e) { return 7; }",
            "export default function (s, e) { return 7; }",
            "export\n default\n function(s, e) { return 7; }",
            "export default (s, e) => 7",
            "export default s => 7; // end",
            "const f = () => 7; export default f;",
            "const f = () => 7;\nexport { f as default };\n",
            "const f = () => 7;\nexport {\n  f as default,\n}",
            "export default later; function later() { return 7; }",
            "// export default wrong\nconst s = `export default ${1}`; export default function $(s, e) { return 7; }",
            "/* export { x as default } */ export default function é() { return 7 }",
        ] {
            let source = source(text);
            assert_eq!(check(&source), Ok(()), "{text}");
            let state = Scripts::default().reduce(&source, None, &event(1, "{}"));
            assert_eq!(state.as_deref(), Ok("7"), "{text}");
        }
    }

    #[test]
    fn what_is_no_reducer_is_refused_with_its_line() {
        for (text, reason) in [
            ("", "x.js: it has no default export: write"),
            ("const a = 1", "x.js: it has no default export"),
            (
                "\nexport default 3",
                "x.js: its default export is not a function",
            ),
            ("export default async () => 1", "is async or a generator"),
            ("export default function* f() {}", "is async or a generator"),
            ("export default class {}", "its default export is a class"),
            (
                "import a from 'b';\nexport default () => a",
                "import is not available",
            ),
            ("export const a = 1;\nexport default () => a", "in x.js:1"),
            (
                "export default () => 1;\nexport default () => 2",
                "in x.js:2",
            ),
            (
                "let a;\n\nexport default () => 1 +;",
                "SyntaxError in x.js:3: unexpected token",
            ),
            (
                "let a;\nlet a;\nexport default () => 1",
                "SyntaxError in x.js:2",
            ),
            (
                "}); (function () { export default () => 1",
                "SyntaxError in x.js:1",
            ),
            ("return 1; export default () => 1", "SyntaxError in x.js:1"),
            (
                "let a = 1;\nnull.x;\nexport default () => 1",
                "TypeError in x.js:2",
            ),
            (
                "for (;;);\nexport default () => 1",
                "still running after 50 ms in x.js:1",
            ),
            ("export default () => 1; \0", "x.js"),
        ] {
            let answer = check(&source(text));
            assert!(
                answer.as_ref().is_err_and(|error| error.contains(reason)),
                "{text:?} gave {answer:?}"
            );
        }
    }

    #[test]
    fn a_check_ends_even_if_the_script_does_not() {
        let text = "[].reverse.call({ length: 2 ** 53 - 1 }); export default () => 1";
        assert_eq!(
            check(&source(text)).unwrap_err(),
            "x.js does not even begin"
        );
    }
}
