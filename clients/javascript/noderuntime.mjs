// A custom node in JavaScript, and a client of the store: everything of docs/store-api.md, in one file. See README.md.
//
//     import { Node } from "noderuntime";
//     const node = await Node.open();
//     for await (const event of node) {
//       if (event.type === "INPUT") await node.send("doubled", 2 * event.value);
//     }
//
// When the loop has come to its end, the node has left its run, and the program ends.

import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { randomUUID } from "node:crypto";
import { decode, encode } from "@msgpack/msgpack";
import { Dealer } from "zeromq";

const VERSION = 1;
const FENCED = 75;
const WAIT_S = 20;
const LOOK_S = 1; // how long one look for events waits, and so how late a stop may be seen
const REPEAT_MS = 1000;
const WELCOME_MS = 60_000;
const FRAME_BYTES_MAX = 16 << 20;

const TYPES = {
  "|u1": Uint8Array, "|i1": Int8Array, "<u2": Uint16Array, "<i2": Int16Array, "<u4": Uint32Array, "<i4": Int32Array,
  "<u8": BigUint64Array, "<i8": BigInt64Array, "<f4": Float32Array, "<f8": Float64Array, "|b1": Uint8Array,
};

/** An array with a shape, as numpy has it. `data`: a typed array, in C order; `dtype`: numpy's name, such as "<f8".
 *  Of a dtype that JavaScript has no typed array for, `data` holds the bytes; it can be sent on as it is. */
export class NDArray {
  constructor(data, shape = [data.length], dtype = dtypeOf(data)) {
    this.data = data;
    this.shape = shape;
    this.dtype = dtype;
    const items = shape.reduce((all, length) => all * length, 1);
    if (TYPES[dtype] && items !== data.length) {
      throw new RangeError(`an array of shape [${shape}] has ${items} elements, not ${data.length}`);
    }
  }

  /** The elements as nested lists. */
  toList() {
    const build = (axis, start) => {
      if (axis === this.shape.length) return this.data[start];
      const step = this.shape.slice(axis + 1).reduce((all, length) => all * length, 1);
      return Array.from({ length: this.shape[axis] }, (_, index) => build(axis + 1, start + index * step));
    };
    return build(0, 0);
  }
}

function dtypeOf(data) {
  for (const [dtype, type] of Object.entries(TYPES)) if (data instanceof type) return dtype;
  throw new TypeError(`${data?.constructor?.name} is not a typed array that can be sent`);
}

/** A value as MessagePack can carry it without a loss, or a TypeError. Whole numbers travel as such. */
function packable(value, where = "a value") {
  if (value === null || value === undefined) return null;
  if (typeof value === "number" && Number.isSafeInteger(value) && Math.abs(value) > 0x7fffffff) return BigInt(value);
  if (typeof value === "bigint") {
    if (BigInt.asIntN(64, value) === value || BigInt.asUintN(64, value) === value) return value;
    throw new RangeError(`${where}: ${value} does not fit 64 bits`);
  }
  if (["number", "string", "boolean"].includes(typeof value)) return value;
  if (value instanceof Uint8Array || value instanceof Date) return value;
  if (Array.isArray(value)) return value.map((item) => packable(item, where));
  const made = Object.getPrototypeOf(value);
  if (typeof value === "object" && (made === Object.prototype || made === null)) {
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, packable(item, where)]));
  }
  const kind = value.constructor?.name ?? typeof value;
  throw new TypeError(`${where}: a ${kind} cannot be sent inside of another value; send it alone, or as a list`);
}

const pack = (value, where) => encode(packable(value, where), { useBigInt64: true });

/** What was packed; numbers beyond 2**53 are BigInts, all others numbers. */
function unpack(packed) {
  const plain = (value) => {
    if (typeof value === "bigint") return Number.isSafeInteger(Number(value)) ? Number(value) : value;
    if (Array.isArray(value)) return value.map(plain);
    if (value === null || typeof value !== "object" || value instanceof Uint8Array || value instanceof Date) return value;
    if (Object.getPrototypeOf(value) !== Object.prototype) return value; // an extension type
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, plain(item)]));
  };
  return plain(decode(packed, { useBigInt64: true }));
}

/** [kind, head, body] of a value on its way. */
function encodeValue(value) {
  const none = new Uint8Array();
  if (value instanceof NDArray) {
    const { data } = value;
    const body = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    return ["ndarray", pack([value.dtype, value.shape]), body];
  }
  if (value instanceof Uint8Array) return ["bytes", none, value];
  if (value instanceof ArrayBuffer) return ["bytes", none, new Uint8Array(value)];
  if (ArrayBuffer.isView(value)) return encodeValue(new NDArray(value));
  return ["msgpack", none, pack(value)];
}

/** The value of an event. Views are bytes; of Arrow it is the IPC stream, for a library that reads it. */
function decodeValue(kind, head, body) {
  if (kind === "msgpack") return unpack(body);
  if (kind !== "ndarray") return body;
  const [dtype, shape] = unpack(head);
  const own = new Uint8Array(body); // a copy by itself, so that its elements are aligned
  const type = TYPES[dtype];
  return new NDArray(type ? new type(own.buffer, 0, own.byteLength / type.BYTES_PER_ELEMENT) : own, shape, dtype);
}

/** A reply that names an error: `name` is the class, such as RevisionConflict; `message` is for a person. */
export class StoreError extends Error {
  constructor(name, text) {
    super(text);
    this.name = name;
  }
}

/** One socket of the run directory. Paths of sockets hold 108 bytes, so it is reached through a descriptor. */
class Channel {
  constructor(file) {
    this.folder = fs.openSync(path.dirname(file), fs.constants.O_RDONLY | fs.constants.O_DIRECTORY);
    this.socket = new Dealer({ linger: 1000 });
    this.socket.connect(`ipc:///proc/self/fd/${this.folder}/${path.basename(file)}`);
  }

  async send(...message) {
    await this.socket.send(encode(message));
  }

  async sendFrame(frame) {
    await this.socket.send(frame);
  }

  /** The next message; null when none has come within `within` milliseconds. */
  async receive(within = -1) {
    this.socket.receiveTimeout = within;
    const [frame] = await this.socket.receive().catch((error) => {
      if (error.code === "EAGAIN") return [null];
      throw error;
    });
    if (frame === null) return null;
    return decode(frame, { useBigInt64: false });
  }

  close() {
    this.socket.close();
    fs.closeSync(this.folder);
  }
}

/** Requests to the store process. Each is repeated until it is answered: the store may be killed at any time. */
export class Store {
  constructor(runDir) {
    this.file = path.join(runDir, "store.sock");
    this.client = `js-${process.pid}-${randomUUID()}`;
    this.number = 0;
    this.pending = new Map();
    this.channel = new Channel(this.file);
    this.closed = false;
    this.changing = Promise.resolve(); // changes go one after the other: the store keeps the last of each client
    this.reading = this.#read();
  }

  /** One change, behind those that are under way. */
  #change(operation, args) {
    const made = this.changing.then(() => this.request(operation, args));
    this.changing = made.catch(() => {});
    return made;
  }

  async #read() {
    try {
      while (!this.closed) {
        const [kind, number, result, error, text] = await this.channel.receive();
        const asked = this.pending.get(number);
        if (kind !== "reply" || asked === undefined) continue; // a second answer to a request that was repeated
        this.pending.delete(number);
        if (error) asked.reject(new StoreError(error, text));
        else asked.resolve(result);
      }
    } catch (error) {
      if (!this.closed) throw error;
    }
    for (const { reject } of this.pending.values()) reject(new StoreError("NotRunning", "this client was closed"));
    this.pending.clear();
  }

  /** Carry out one operation. Changing ones count once, however often they are repeated. One after the other. */
  async request(operation, args = {}) {
    const number = ++this.number;
    const waits = (args.wait ?? 0) * 1000;
    const answered = new Promise((resolve, reject) => this.pending.set(number, { resolve, reject }));
    const frame = encode(["request", VERSION, this.client, number, operation, args]);
    if (frame.byteLength > FRAME_BYTES_MAX) {
      this.pending.delete(number);
      throw new RangeError(`a request of ${frame.byteLength} bytes; the limit is ${FRAME_BYTES_MAX}: send it in parts`);
    }
    await this.channel.sendFrame(frame);
    const timer = setInterval(() => this.channel.sendFrame(frame).catch(() => {}), waits + REPEAT_MS);
    try {
      return await answered;
    } finally {
      clearInterval(timer);
    }
  }

  async get(key) {
    const { entry } = await this.request("kvs_get", { key });
    return entry === null ? null : { value: entry[0], revision: entry[1] };
  }

  async set(key, value, { ttl = null, expect = null } = {}) {
    const bytes = typeof value === "string" ? new TextEncoder().encode(value) : value;
    return (await this.#change("kvs_set", { key, value: bytes, ttl, expect })).revision;
  }

  async delete(key) {
    return (await this.#change("kvs_delete", { key })).deleted;
  }

  /** merge("n", "add", 1); also max, min, union. */
  async merge(key, kind, amount) {
    return (await this.#change("kvs_merge", { key, merge: [kind, amount] })).revision;
  }

  /** The text of a key, null when there is none. */
  async text(key) {
    const found = await this.get(key);
    return found === null ? null : new TextDecoder().decode(found.value);
  }

  /** What a merge (or a MessagePack value) holds, null when there is none. */
  async decoded(key) {
    const found = await this.get(key);
    return found === null ? null : unpack(found.value);
  }

  /** All keys that begin with `prefix`, as a Map of key to { value, revision }. */
  async root(prefix = "") {
    const all = new Map();
    for (let after = null, more = true; more; ) {
      const page = await this.request("kvs_root", after === null ? { prefix } : { prefix, after });
      for (const [key, value, revision] of page.entries) {
        all.set(key, { value, revision });
        after = key;
      }
      more = page.more;
    }
    return all;
  }

  async version() {
    return (await this.request("kvs_version")).version;
  }

  /** What has changed since a version: { changed: { key: [value, revision, ...] }, deleted: [key], version }. */
  async diff(since) {
    return this.request("kvs_diff", { since });
  }

  /** The changes of keys with these prefixes, from now on: [key, value or null, revision]. */
  async *watch(...prefixes) {
    let { cursor } = await this.request("kvs_watch", { prefixes, cursor: null });
    while (!this.closed) {
      const found = await this.request("kvs_watch", { prefixes, cursor, wait: WAIT_S }).catch((error) => {
        if (this.closed) return { cursor, updates: [] };
        throw error;
      });
      cursor = found.cursor;
      yield* found.updates;
    }
  }

  close() {
    this.closed = true;
    this.channel.close();
  }
}

/** The folder of a run, by its name. */
function findRun(run) {
  const { NODERUNTIME_HOME: own, XDG_STATE_HOME: given = "" } = process.env;
  const state = given.startsWith("/") ? given : path.join(process.env.HOME || os.userInfo().homedir, ".local", "state");
  const shared = `/dev/shm/noderuntime-${process.getuid()}`;
  const homes = own ? [path.join(path.resolve(own), "runs")] : [shared, path.join(state, "noderuntime", "spaces")];
  for (const home of homes) {
    for (const folder of fs.existsSync(home) ? fs.readdirSync(home) : []) {
      try {
        const file = JSON.parse(fs.readFileSync(path.join(home, folder, "run.json"), "utf8"));
        if (file.name === run) return path.join(home, folder);
      } catch {
        // no run, or one that is just being made
      }
    }
  }
  throw new Error(`there is no run ${run}; \`noderuntime ps\` lists them`);
}

/** This process as a custom node. Iterate over it for its events. At least once: an event counts as handled when the
 *  next one is asked for. */
export class Node {
  /** The node that this program was started as; or, with an id and the name of a run, a dynamic one of that run. */
  static async open(given = "", { run = "" } = {}) {
    const { NODERUNTIME_RUN_DIR, NODERUNTIME_NODE, NODERUNTIME_LIFE } = process.env;
    const dynamic = Boolean(given) && given !== NODERUNTIME_NODE;
    if (dynamic && !run) throw new TypeError(`Node.open("${given}", { run: NAME }): the name of the run is missing`);
    if (!dynamic && !(NODERUNTIME_RUN_DIR && NODERUNTIME_NODE)) {
      throw new Error("this program is a node of a dataflow: start it with `noderuntime run FILE`");
    }
    const runDir = dynamic ? findRun(run) : NODERUNTIME_RUN_DIR;
    const node = new Node();
    node.id = dynamic ? given : NODERUNTIME_NODE;
    node.runtime = new Channel(path.join(runDir, "runtime.sock"));
    const life = dynamic ? 0 : Number(NODERUNTIME_LIFE ?? 0);
    await node.runtime.send("hello", VERSION, node.id, dynamic ? "dynamic" : "node", process.pid, life);
    const answer = await node.runtime.receive(WELCOME_MS);
    const [kind, ...fields] = answer ?? ["none", `the runtime did not answer ${node.id}`];
    if (kind !== "welcome") {
      node.runtime.close();
      if (dynamic) throw new Error(`node ${node.id} may not join: ${fields[0]}`);
      console.error(`noderuntime: ${fields[0]}`);
      process.exit(FENCED);
    }
    [node.incarnation, node.wiring, , node.attempts] = fields;
    node.config = node.wiring.config;
    node.store = node.kvs = new Store(runDir);
    node.inHand = [];
    node.stopId = null;
    node.closed = false;
    node.timers = [];
    node.timed = new Map();
    node.openInputs = new Set();
    node.#wire(node.wiring, []);
    await node.#begin();
    await node.runtime.send("ready", node.incarnation);
    node.#control();
    return node;
  }

  /** Tell the store who we are: at first, and again when it was killed. */
  async #begin() {
    const { wiring, incarnation, attempts } = this;
    const args = { wiring, incarnation, attempts, pid: process.pid, in_hand: this.inHand };
    this.sent = (await this.store.request("node_open", args)).sent;
  }

  /** Take up inputs and outputs: at first, and when the dataflow was changed while it runs. `before`: the inputs until now. */
  #wire(wiring, before) {
    this.wiring = wiring;
    const inputs = wiring.inputs.filter((input) => !input.leaving); // of one that leaves, the store hands out what waits
    const known = new Set(before.filter((input) => !input.leaving).map(({ name }) => name));
    const names = new Set(inputs.map(({ name }) => name));
    const timers = inputs.filter((input) => input.period_ns);
    const ticked = new Map(this.timers.map(({ name, last }) => [name, last]));
    this.timers = timers.map((input) => ({
      ...input, period: Number(input.period_ns) / 1e6, last: ticked.get(input.name) ?? Date.now(),
    }));
    // by input: `last`, when a message came (null until the first one, and while it is closed), and whether it timed out
    const timed = inputs.filter((input) => input.timeout_ns);
    const waited = this.timed;
    this.timed = new Map(timed.map(({ name, timeout_ns }) => [
      name, { last: null, out: false, ...waited.get(name), limit: Number(timeout_ns) / 1e6 },
    ]));
    this.hasInputs = timers.length < inputs.length;
    for (const { name, period_ns } of inputs) if (!period_ns && !known.has(name)) this.openInputs.add(name);
    for (const name of this.openInputs) if (!names.has(name)) this.openInputs.delete(name);
  }

  async #control() {
    try {
      for (;;) {
        const [kind, ...fields] = await this.runtime.receive();
        if (kind === "stop") this.stopId = fields[0];
        if (kind === "rewired") {
          this.#wire({ ...this.wiring, ...fields[1], version: fields[0] }, this.wiring.inputs);
        }
        if (kind === "refused") process.exit(FENCED);
      }
    } catch {
      // closed
    }
  }

  async #ask(operation, args) {
    for (;;) {
      try {
        return await this.store.request(operation, { node: this.id, incarnation: this.incarnation, ...args });
      } catch (error) {
        if (error.name === "Fenced") process.exit(FENCED);
        if (error.name !== "NodeNotOpen") throw error;
        await this.#begin();
      }
    }
  }

  /** Milliseconds until a timer is due (at multiples of its period, so that missed ticks are one) or an input times out. */
  #pause(now) {
    const ticks = this.timers.map(({ period, last }) => (Math.floor(last / period) + 1) * period - now);
    const silent = [...this.timed.values()].filter(({ last, out }) => last !== null && !out);
    return Math.min(...ticks, ...silent.map(({ limit, last }) => last + limit - now));
  }

  /** INPUT_CLOSED of each input that no message came from for its `input_timeout`. `until`: the time (ms) up to which all
   *  messages have been handled. They come in the order of sending, so what waits behind `until` cannot be earlier. */
  *#timeouts(until) {
    for (const [id, input] of this.timed) {
      if (input.last === null || input.out || until < input.last + input.limit) continue;
      input.out = true;
      yield { type: "INPUT_CLOSED", id };
    }
  }

  /** The ticks that are due. */
  *#ticks() {
    const now = Date.now();
    for (const timer of this.timers) {
      const due = Math.floor(now / timer.period) * timer.period;
      if (due <= timer.last) continue;
      timer.last = due;
      yield {
        type: "INPUT", id: timer.name, value: null, metadata: { due: new Date(due) }, source: timer.source,
        timestamp: new Date(now).toISOString(), attempt: 1,
      };
    }
  }

  async *[Symbol.asyncIterator]() {
    while (!this.closed) {
      if (this.stopId !== null || (this.hasInputs && this.openInputs.size === 0) || !this.wiring.inputs.length) {
        const id = this.stopId ?? "ALL_INPUTS_CLOSED";
        await this.#ask("node_next", { ack: this.inHand, limit: 1 });
        this.inHand = [];
        yield { type: "STOP", id };
        await this.close();
        return;
      }
      const wait = Math.max(0, Math.min(LOOK_S, this.#pause(Date.now()) / 1000));
      const { events } = await this.#ask("node_next", { ack: this.inHand, limit: 1, wait });
      this.inHand = events.map((event) => event.place);
      yield* this.#ticks();
      const sent = events.map(({ timestamp }) => (timestamp ? Date.parse(timestamp) : 0)); // a notice decides nothing
      yield* this.#timeouts(Math.min(Date.now(), ...sent));
      for (const event of events) {
        if (event.sizes && !(await this.#fetch(event))) continue;
        if (event.type === "INPUT_CLOSED" && !event.failed) this.openInputs.delete(event.id);
        if (event.type === "NODE_RESTARTED") this.#reopen(event.id);
        const timed = this.timed.get(event.id);
        if (event.type === "INPUT_CLOSED" && timed) Object.assign(timed, { last: null, out: false });
        if (event.type === "INPUT") {
          if (timed?.out) yield { type: "INPUT_RECOVERED", id: event.id };
          if (timed) Object.assign(timed, { last: Date.now(), out: false });
          event.value = decodeValue(event.kind, event.head, event.body);
          event.metadata = event.metadata.length ? unpack(event.metadata) : {};
        }
        yield event;
      }
    }
  }

  /** A node that had ended, and has come back, feeds its inputs again. */
  #reopen(sender) {
    for (const { name, source, period_ns } of this.wiring.inputs) {
      if (!period_ns && source.slice(0, source.lastIndexOf("/")) === sender) this.openInputs.add(name);
    }
  }

  /** Fetch what is too large to come with its event; false when the message was dropped meanwhile. */
  async #fetch(event) {
    for (const [part, size] of Object.entries(event.sizes)) {
      const whole = new Uint8Array(size);
      for (let offset = 0; offset < size; ) {
        const { bytes } = await this.#ask("node_part", { place: event.place, part, offset });
        if (bytes === null) return false;
        whole.set(bytes, offset);
        offset += bytes.length;
      }
      event[part] = whole;
    }
    return true;
  }

  /** Send a value: what MessagePack carries, a Uint8Array (bytes), a typed array or an NDArray (dtype and shape kept).
   *  Resolves when it is committed; waits while there is no room. Sends go out one after the other. */
  send(output, value, metadata = {}) {
    const [kind, head, body] = encodeValue(value);
    const packed = pack(metadata, "metadata");
    const made = (this.sending ?? Promise.resolve()).then(() => this.#send(output, kind, head, body, packed));
    this.sending = made.catch(() => {});
    return made;
  }

  async #send(output, kind, head, body, metadata) {
    const number = (this.sent[output] ?? 0) + 1;
    const message = [output, number, kind, head, body, metadata];
    for (;;) {
      const { sent, done } = await this.#ask("node_send", { messages: [message], wait: WAIT_S });
      this.sent = sent;
      if (done) return;
    }
  }

  /** Leave: this node has ended. The end of the loop does it by itself; a program without one calls it. */
  async close() {
    if (this.closed) return;
    this.closed = true;
    await this.sending;
    if (this.inHand.length) await this.#ask("node_next", { ack: this.inHand, limit: 1 });
    await this.runtime.send("bye", this.stopId === null, "");
    this.store.close();
    this.runtime.close();
  }
}
