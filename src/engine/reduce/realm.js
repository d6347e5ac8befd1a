// The realm in which every script of a thread folds. It is made once, then frozen through and
// through: a script can change nothing that another script, or its own next event, could see.
// What differs from plain JavaScript: the clock is the time at which the event was received, chance
// comes from the event's id, the time zone is UTC, and nothing can happen later or elsewhere.
// The value of this file is [fold, inspect] for the daemon; scripts cannot reach them.
(function () {
  "use strict";
  const { parse, stringify } = JSON;
  const { apply, construct, ownKeys } = Reflect;
  const { defineProperty, freeze, getOwnPropertyDescriptor, getPrototypeOf } = Object;
  const prototype_of = { promise: Promise.prototype, function: Function.prototype };
  const { slice, toWellFormed } = String.prototype;
  const NativeDate = Date;

  // What the event that is folded now gives to the realm.
  let now = 0;
  let seed = "";
  let dice;

  // Gives an object a property, as the language's own are: writable, not enumerable.
  const define = (object, key, value) =>
    defineProperty(object, key, { value, writable: true, enumerable: false, configurable: true });

  // ---- chance: sfc32, seeded from the event's id by FNV-1a when it is first asked for

  const throw_dice = (d) => {
    const t = (((d.a + d.b) | 0) + d.counter) | 0;
    d.counter = (d.counter + 1) | 0;
    d.a = d.b ^ (d.b >>> 9);
    d.b = (d.c + (d.c << 3)) | 0;
    d.c = (((d.c << 21) | (d.c >>> 11)) + t) | 0;
    return t >>> 0;
  };
  const imul = Math.imul;
  const charCodeAt = String.prototype.charCodeAt;
  const seeded = (text) => {
    const hash = (basis) => {
      for (let i = 0; i < text.length; i++) basis = imul(basis ^ apply(charCodeAt, text, [i]), 16777619);
      return basis | 0;
    };
    const d = { a: hash(0x811c9dc5), b: hash(0x01000193), c: hash(0x9e3779b9), counter: 1 };
    for (let i = 0; i < 12; i++) throw_dice(d);
    return d;
  };
  define(Math, "random", function random() {
    dice ??= seeded(seed);
    return ((throw_dice(dice) >>> 6) * 134217728 + (throw_dice(dice) >>> 5)) / 9007199254740992;
  });

  // ---- time: no clock but `now`, no zone but UTC

  const DateProto = NativeDate.prototype;
  const { getTime, toISOString, toUTCString, getTimezoneOffset } = DateProto;
  const exec = RegExp.prototype.exec;
  const zoned = /^\s*[+-]?\d{4,6}(-\d\d){0,2}\s*$|[+-]\d\d:?\d\d|\dZ|\b(Z|UTC?|GMT|[ECMP][SD]T)\b/i;
  const parts = /^(\w+), (\d+) (\w+) (-?\d+) (\S+) GMT$/;
  const native_parse = NativeDate.parse;
  const parse_date = (text) => {
    const time = native_parse(text);
    if (apply(exec, zoned, [text])) return time;
    return time - apply(getTimezoneOffset, new NativeDate(time), []) * 60000;
  };
  const date_text = (date, write) => {
    const found = apply(exec, parts, [apply(toUTCString, date, [])]);
    return found ? write(found) : "Invalid Date";
  };
  const day = ([, weekday, day, month, year]) => `${weekday} ${month} ${day} ${year}`;
  const time = (found) => `${found[5]} GMT+0000 (UTC)`;
  const day_and_time = (found) => `${day(found)} ${time(found)}`;
  function FoldDate(...fields) {
    if (new.target === undefined) return date_text(new NativeDate(now), day_and_time);
    if (fields.length === 0) fields = [now];
    else if (fields.length > 1) fields = [apply(NativeDate.UTC, undefined, fields)];
    else if (typeof fields[0] === "string") fields = [parse_date(fields[0])];
    return construct(NativeDate, fields, new.target);
  }
  define(FoldDate, "name", "Date");
  defineProperty(FoldDate, "length", { value: 7 });
  defineProperty(FoldDate, "prototype", { value: DateProto, writable: false });
  define(FoldDate, "UTC", NativeDate.UTC);
  define(FoldDate, "now", { now: () => now }.now);
  define(FoldDate, "parse", { parse: (text) => parse_date(`${text}`) }.parse);
  define(DateProto, "constructor", FoldDate);
  define(globalThis, "Date", FoldDate);
  for (const field of ["FullYear", "Month", "Date", "Day", "Hours", "Minutes", "Seconds", "Milliseconds"]) {
    define(DateProto, `get${field}`, DateProto[`getUTC${field}`]);
    if (field !== "Day") define(DateProto, `set${field}`, DateProto[`setUTC${field}`]);
  }
  const methods = {
    getTimezoneOffset() { return apply(getTime, this, []) === apply(getTime, this, []) ? 0 : NaN; },
    getYear() { return this.getUTCFullYear() - 1900; },
    toString() { return date_text(this, day_and_time); },
    toDateString() { return date_text(this, day); },
    toTimeString() { return date_text(this, time); },
  };
  for (const name of ownKeys(methods)) define(DateProto, name, methods[name]);
  define(DateProto, "toLocaleString", methods.toString);
  define(DateProto, "toLocaleDateString", methods.toDateString);
  define(DateProto, "toLocaleTimeString", methods.toTimeString);

  // ---- what is not there: code from text, things to do later, memory that is shared or watched

  const unavailable = function Function() {
    throw new TypeError("functions cannot be made from text in a reducer");
  };
  const made = [function () {}, function* () {}, async function () {}, async function* () {}];
  for (const sample of made) define(getPrototypeOf(sample), "constructor", unavailable);
  defineProperty(unavailable, "prototype", { value: prototype_of.function, writable: false });
  define(globalThis, "Function", unavailable);
  for (const method of ["then", "catch", "finally", "constructor"]) delete prototype_of.promise[method];
  delete Error.prepareStackTrace;
  delete Error.stackTraceLimit;
  for (const name of [
    "eval", "Promise", "queueMicrotask", "SharedArrayBuffer", "Atomics", "AsyncDisposableStack",
    "WeakRef", "FinalizationRegistry", "performance",
  ]) delete globalThis[name];
  // Scripts that were written elsewhere may talk; nobody listens.
  const silence = () => undefined;
  define(globalThis, "console", { log: silence, debug: silence, info: silence, warn: silence, error: silence });

  // ---- the frost

  // Every object that can be reached from a script: through a global name, or through syntax.
  const reachable = new Set();
  const reach = (value) => {
    if ((typeof value !== "object" && typeof value !== "function") || value === null) return;
    if (reachable.has(value)) return;
    reachable.add(value);
    reach(getPrototypeOf(value));
    for (const key of ownKeys(value)) {
      const held = getOwnPropertyDescriptor(value, key);
      reach(held.value);
      reach(held.get);
      reach(held.set);
    }
  };
  // Assigning to a name that a frozen prototype has would fail on the objects below it too, as in
  // `this.name = "Refused"` of an error. An accessor there gives the object a property of its own.
  const let_override = (object, key) => {
    const held = getOwnPropertyDescriptor(object, key);
    if (held === undefined || !("value" in held) || !held.configurable) return;
    const { value } = held;
    defineProperty(object, key, {
      get() { return value; },
      set(other) {
        if (this === object) throw new TypeError(`'${String(key)}' cannot be changed`);
        defineProperty(this, key, { value: other, writable: true, enumerable: true, configurable: true });
      },
      enumerable: held.enumerable,
      configurable: false,
    });
  };
  const names = ["constructor", "toString", "toLocaleString", "valueOf", "toJSON", "name", "message"];
  for (const key of ownKeys(globalThis)) {
    const object = globalThis[key]?.prototype;
    if (object) for (const name of names) let_override(object, name);
  }
  for (const key of ownKeys(Object.prototype)) let_override(Object.prototype, key);
  reach(globalThis);
  made.forEach(reach);
  [
    [].values(), ""[Symbol.iterator](), new Map().keys(), new Set().keys(), "".matchAll(/a/g),
    Iterator.from({ next() {} }), [].values().map((x) => x), (function* () {})(),
    (async function* () {})(), (async () => {})(), /a/.exec("a"), (function () { return arguments; })(),
  ].forEach(reach);
  for (const object of reachable) freeze(object);

  // ---- the fold

  // What went wrong as [name, message, stack]: texts, whatever was thrown.
  const describe = (thrown) => {
    // With no memory left for an error, the engine throws null.
    if (thrown === null) return ["InternalError", "out of memory, or null was thrown", ""];
    try {
      const text = (value) => apply(toWellFormed, typeof value === "string" ? value : "", []);
      const { name, message, stack } = Object(thrown);
      if (typeof message === "string") return [text(name), text(message), text(stack)];
      return ["", `it threw ${text(stringify(thrown) ?? String(thrown))}`, ""];
    } catch {
      return ["", "it threw something that cannot be shown", ""];
    }
  };

  // Why a value is no state; undefined when it may be one.
  const refusal = (value) => {
    switch (typeof value) {
      case "undefined": return "it returned nothing; a reducer returns the new state";
      case "function": return "it returned a function, which is not JSON";
      case "symbol": return "it returned a symbol, which is not JSON";
      case "bigint": return "it returned a BigInt, which is not JSON";
    }
    if (typeof value !== "object" || value === null) return undefined;
    if (getPrototypeOf(value) === prototype_of.promise) return "it returned a promise; a reducer cannot be async";
    return undefined;
  };

  // The daemon has said whether it is JSON, which a byte-order mark does not change.
  const read_body = (text, is_json) => {
    if (!is_json) return text;
    return parse(apply(charCodeAt, text, [0]) === 0xfeff ? apply(slice, text, [1]) : text);
  };

  // What an event has beside its own members: read when it is asked for, and in no copy of an event.
  let received = { headers: "{}", text: "", bytes: undefined, late: false };
  const beside = freeze({
    get late() { return received.late; },
    get query() { return parse(received.headers)[":query"] ?? ""; },
    get raw() { return received.bytes ?? received.text; },
  });
  for (const key of ownKeys(beside)) freeze(getOwnPropertyDescriptor(beside, key).get);

  // The query of the URL is kept with the headers and is none of them.
  const parse_headers = (text) => {
    const headers = parse(text);
    delete headers[":query"];
    return headers;
  };

  const begin = (id, at) => {
    now = at;
    seed = id;
    dice = undefined;
  };

  // One event: the new state as JSON text, or what went wrong as an array. `factory` is the script
  // as a function, called anew for each event, so none of its variables outlives one.
  const fold = (factory, before, id, seq, at, headers_text, text, is_json, bytes, late) => {
    begin(id, at);
    try {
      const state = before === undefined ? undefined : parse(before);
      let headers;
      received = { headers: headers_text, text, bytes, late };
      const event = {
        __proto__: beside,
        id,
        seq,
        received_at: apply(toISOString, new NativeDate(at), []),
        // Most reducers never look at them.
        get headers() { return (headers ??= parse_headers(headers_text)); },
        set headers(value) { headers = value; },
        body: read_body(text, is_json),
      };
      const after = factory()(state, event);
      const written = refusal(after) === undefined ? stringify(after) : undefined;
      if (written !== undefined) return written;
      return ["", refusal(after) ?? "its toJSON returned nothing", ""];
    } catch (error) {
      return describe(error);
    }
  };

  // Whether a script gives a reducer at all: undefined, or what is wrong as an array.
  const inspect = (factory, id, at) => {
    begin(id, at);
    try {
      const reduce = factory();
      if (typeof reduce !== "function") return ["", "its default export is not a function", ""];
      if (getOwnPropertyDescriptor(reduce, "prototype")?.writable === false)
        return ["", "its default export is a class", ""];
      if (getPrototypeOf(reduce) !== prototype_of.function) return ["", "its default export is async or a generator", ""];
      return undefined;
    } catch (error) {
      return describe(error);
    }
  };

  return [fold, inspect];
})();
