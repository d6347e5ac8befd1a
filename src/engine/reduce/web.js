// What scripts know from browsers and servers and JavaScript itself does not have: texts as bytes,
// base 64, forms. Plain functions of their arguments, so they are as deterministic as the rest. The
// realm (realm.js) freezes them with everything else that is global.
(function () {
  "use strict";
  const { fromCharCode } = String;
  const define = (name, value) =>
    Object.defineProperty(globalThis, name, { value, writable: true, enumerable: false, configurable: true });

  // ---- UTF-8

  const utf8 = (text) => {
    const bytes = [];
    for (const c of text.toWellFormed()) {
      const code = c.codePointAt(0);
      if (code < 0x80) bytes.push(code);
      else if (code < 0x800) bytes.push(0xc0 | (code >> 6), 0x80 | (code & 63));
      else if (code < 0x10000) bytes.push(0xe0 | (code >> 12), 0x80 | ((code >> 6) & 63), 0x80 | (code & 63));
      else bytes.push(0xf0 | (code >> 18), 0x80 | ((code >> 12) & 63), 0x80 | ((code >> 6) & 63), 0x80 | (code & 63));
    }
    return Uint8Array.from(bytes);
  };

  // What can follow the first byte of a sequence: how many bytes, and the range of the first of them,
  // which rules out longer forms than needed, halves of surrogate pairs and all beyond U+10FFFF.
  const sequence = (first) => {
    if (first >= 0xc2 && first <= 0xdf) return [1, 0x80, 0xbf];
    if (first >= 0xe0 && first <= 0xef) return [2, first === 0xe0 ? 0xa0 : 0x80, first === 0xed ? 0x9f : 0xbf];
    if (first >= 0xf0 && first <= 0xf4) return [3, first === 0xf0 ? 0x90 : 0x80, first === 0xf4 ? 0x8f : 0xbf];
    return undefined;
  };

  // Each longest beginning of a sequence that is not UTF-8 becomes one U+FFFD, as the Encoding Standard says.
  const text_of = (bytes, fatal) => {
    let text = "";
    for (let at = 0; at < bytes.length; ) {
      const first = bytes[at++];
      if (first < 0x80) {
        text += fromCharCode(first);
        continue;
      }
      const found = sequence(first);
      let code = -1;
      if (found !== undefined) {
        let [left, low, high] = found;
        code = first & (0x3f >> left);
        for (; left > 0 && at < bytes.length && bytes[at] >= low && bytes[at] <= high; left--) {
          code = (code << 6) | (bytes[at++] & 63);
          [low, high] = [0x80, 0xbf];
        }
        if (left > 0) code = -1;
      }
      if (code < 0 && fatal) throw new TypeError("these bytes are not UTF-8");
      text += String.fromCodePoint(code < 0 ? 0xfffd : code);
    }
    return text;
  };

  const bytes_of = (data) => {
    if (data === undefined) return new Uint8Array(0);
    if (ArrayBuffer.isView(data)) return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    if (data instanceof ArrayBuffer) return new Uint8Array(data);
    throw new TypeError("it takes an ArrayBuffer, a typed array or a DataView");
  };

  define("TextEncoder", class TextEncoder {
    get encoding() { return "utf-8"; }
    encode(text = "") { return utf8(`${text}`); }
  });

  define("TextDecoder", class TextDecoder {
    #fatal;
    #ignoreBOM;
    constructor(label = "utf-8", options = {}) {
      if (!/^\s*(unicode-1-1-)?utf-?8\s*$/i.test(label)) throw new RangeError(`there is only utf-8, not ${label}`);
      this.#fatal = Boolean(options?.fatal);
      this.#ignoreBOM = Boolean(options?.ignoreBOM);
    }
    get encoding() { return "utf-8"; }
    get fatal() { return this.#fatal; }
    get ignoreBOM() { return this.#ignoreBOM; }
    decode(data) {
      const text = text_of(bytes_of(data), this.#fatal);
      return !this.#ignoreBOM && text.startsWith("\ufeff") ? text.slice(1) : text;
    }
  });

  // ---- base 64, as the Infra Standard forgives it

  const DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  const invalid = (why) => {
    const error = new Error(why);
    error.name = "InvalidCharacterError";
    return error;
  };

  define("btoa", function btoa(data) {
    if (arguments.length === 0) throw new TypeError("btoa needs a text");
    const text = `${data}`;
    let out = "";
    for (let at = 0; at < text.length; at += 3) {
      const [a, b, c] = [text.charCodeAt(at), text.charCodeAt(at + 1), text.charCodeAt(at + 2)];
      if (a > 255 || b > 255 || c > 255) throw invalid("btoa takes characters up to U+00FF");
      out += DIGITS[a >> 2] + DIGITS[((a & 3) << 4) | (b >> 4)];
      out += at + 1 < text.length ? DIGITS[((b & 15) << 2) | (c >> 6)] : "=";
      out += at + 2 < text.length ? DIGITS[c & 63] : "=";
    }
    return out;
  });

  define("atob", function atob(data) {
    if (arguments.length === 0) throw new TypeError("atob needs a text");
    let text = `${data}`.replace(/[\t\n\f\r ]/g, "");
    if (text.length % 4 === 0) text = text.replace(/==?$/, "");
    if (text.length % 4 === 1) throw invalid("this is not base 64: its length");
    let [out, gathered, bits] = ["", 0, 0];
    for (const c of text) {
      const digit = DIGITS.indexOf(c);
      if (digit < 0) throw invalid("this is not base 64: a character");
      gathered = ((gathered << 6) | digit) & 0xffff;
      bits += 6;
      if (bits >= 8) {
        bits -= 8;
        out += fromCharCode((gathered >> bits) & 255);
      }
    }
    return out;
  });

  // ---- forms and queries, as the URL Standard reads and writes them

  const unescaped = (text) => {
    const spaced = text.replaceAll("+", " ");
    if (!spaced.includes("%")) return spaced.toWellFormed();
    const bytes = [];
    const given = utf8(spaced);
    const hex = (byte) => "0123456789abcdef".indexOf(fromCharCode(byte).toLowerCase());
    for (let at = 0; at < given.length; at++) {
      const [high, low] = at + 2 < given.length ? [hex(given[at + 1]), hex(given[at + 2])] : [-1, -1];
      if (given[at] === 0x25 && high >= 0 && low >= 0) {
        bytes.push(high * 16 + low);
        at += 2;
      } else bytes.push(given[at]);
    }
    return text_of(bytes, false);
  };
  const escaped = (text) => {
    let out = "";
    for (const byte of utf8(text)) {
      const c = fromCharCode(byte);
      if (/[A-Za-z0-9*\-._]/.test(c)) out += c;
      else if (c === " ") out += "+";
      else out += `%${byte < 16 ? "0" : ""}${byte.toString(16).toUpperCase()}`;
    }
    return out;
  };
  const read = (text) =>
    text.split("&").filter((part) => part !== "").map((part) => {
      const end = part.indexOf("=");
      return end < 0 ? [unescaped(part), ""] : [unescaped(part.slice(0, end)), unescaped(part.slice(end + 1))];
    });
  const pairs = (init) => {
    if (init === undefined || init === null) return [];
    if (typeof init !== "object" && typeof init !== "function") return read(`${init}`.replace(/^\?/, ""));
    if (init[Symbol.iterator] === undefined) return Object.keys(init).map((name) => [`${name}`, `${init[name]}`]);
    return Array.from(init, (pair) => {
      const [name, value, ...more] = Array.from(pair);
      if (value === undefined || more.length > 0) throw new TypeError("each pair is a name and a value");
      return [`${name}`, `${value}`];
    });
  };

  class URLSearchParams {
    #pairs;
    constructor(init = "") { this.#pairs = pairs(init); }
    get size() { return this.#pairs.length; }
    append(name, value) { this.#pairs.push([`${name}`, `${value}`]); }
    delete(name, value) { this.#pairs = this.#pairs.filter((pair) => !this.#is(pair, name, value)); }
    get(name) { return this.#pairs.find((pair) => this.#is(pair, name))?.[1] ?? null; }
    getAll(name) { return this.#pairs.filter((pair) => this.#is(pair, name)).map(([, value]) => value); }
    has(name, value) { return this.#pairs.some((pair) => this.#is(pair, name, value)); }
    set(name, value) {
      const first = this.#pairs.findIndex((pair) => this.#is(pair, name));
      if (first < 0) return this.append(name, value);
      this.#pairs = this.#pairs.filter((pair, at) => at <= first || !this.#is(pair, name));
      this.#pairs[first] = [`${name}`, `${value}`];
    }
    sort() { this.#pairs.sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0)); }
    forEach(callback, that) { for (const [name, value] of this.#pairs) callback.call(that, value, name, this); }
    keys() { return this.#pairs.map(([name]) => name).values(); }
    values() { return this.#pairs.map(([, value]) => value).values(); }
    entries() { return this.#pairs.map(([name, value]) => [name, value]).values(); }
    [Symbol.iterator]() { return this.entries(); }
    toString() { return this.#pairs.map(([name, value]) => `${escaped(name)}=${escaped(value)}`).join("&"); }
    #is([name, value], wanted, also) { return name === `${wanted}` && (also === undefined || value === `${also}`); }
  }
  define("URLSearchParams", URLSearchParams);
})();
