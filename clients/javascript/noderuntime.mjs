// A custom node in JavaScript, and a client of the store: everything of docs/store-api.md, in one file.
//
//     import { Node } from "./noderuntime.mjs";
//     const node = await Node.open();
//     for await (const event of node) {
//       if (event.type === "INPUT") await node.send("doubled", 2 * event.value);
//     }

import fs from "node:fs";
import path from "node:path";
import { randomUUID } from "node:crypto";
import { decode, encode } from "@msgpack/msgpack";
import { Dealer } from "zeromq";

const VERSION = 1;
const FENCED = 75;
const WAIT_S = 20;
const REPEAT_MS = 1000;

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

  async receive() {
    const [frame] = await this.socket.receive();
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
    this.reading = this.#read();
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
  }

  /** Carry out one operation. Changing ones count once, however often they are repeated. One after the other. */
  async request(operation, args = {}) {
    const number = ++this.number;
    const waits = (args.wait ?? 0) * 1000;
    const answered = new Promise((resolve, reject) => this.pending.set(number, { resolve, reject }));
    const frame = ["request", VERSION, this.client, number, operation, args];
    await this.channel.send(...frame);
    const timer = setInterval(() => this.channel.send(...frame).catch(() => {}), waits + REPEAT_MS);
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
    return (await this.request("kvs_set", { key, value, ttl, expect })).revision;
  }

  async delete(key) {
    return (await this.request("kvs_delete", { key })).deleted;
  }

  /** merge("n", "add", 1); also max, min, union. */
  async merge(key, kind, amount) {
    return (await this.request("kvs_merge", { key, merge: [kind, amount] })).revision;
  }

  /** The changes of keys with these prefixes, from now on: [key, value or null, revision]. */
  async *watch(...prefixes) {
    let { cursor } = await this.request("kvs_watch", { prefixes, cursor: null });
    while (!this.closed) {
      const found = await this.request("kvs_watch", { prefixes, cursor, wait: WAIT_S });
      cursor = found.cursor;
      yield* found.updates;
    }
  }

  close() {
    this.closed = true;
    this.channel.close();
  }
}

/** This process as a custom node. Iterate over it for its events. At least once: an event counts as handled when the
 *  next one is asked for. */
export class Node {
  static async open() {
    const { NODERUNTIME_RUN_DIR: runDir, NODERUNTIME_NODE: id, NODERUNTIME_LIFE: life } = process.env;
    if (!runDir || !id) throw new Error("this program is a node of a dataflow: start it with `noderuntime run FILE`");
    const node = new Node();
    node.id = id;
    node.runtime = new Channel(path.join(runDir, "runtime.sock"));
    await node.runtime.send("hello", VERSION, id, "node", process.pid, Number(life ?? 0));
    const [kind, ...fields] = await node.runtime.receive();
    if (kind !== "welcome") {
      console.error(`noderuntime: ${fields[0]}`);
      process.exit(FENCED);
    }
    [node.incarnation, node.wiring, , node.attempts] = fields;
    node.config = node.wiring.config;
    node.store = new Store(runDir);
    node.inHand = [];
    node.stopId = null;
    node.open = new Set(node.wiring.inputs.filter((input) => !input.period_ns).map((input) => input.name));
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

  async #control() {
    try {
      for (;;) {
        const [kind, ...fields] = await this.runtime.receive();
        if (kind === "stop") this.stopId = fields[0];
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

  async *[Symbol.asyncIterator]() {
    for (;;) {
      if (this.stopId !== null || this.open.size === 0) {
        const id = this.stopId ?? "ALL_INPUTS_CLOSED";
        await this.#ask("node_next", { ack: this.inHand, limit: 1 });
        this.inHand = [];
        yield { type: "STOP", id };
        return;
      }
      const { events } = await this.#ask("node_next", { ack: this.inHand, limit: 1, wait: 1 });
      this.inHand = events.map((event) => event.place);
      for (const event of events) {
        if (event.type === "INPUT_CLOSED" && !event.failed) this.open.delete(event.id);
        if (event.type === "INPUT") {
          event.value = event.kind === "msgpack" ? decode(event.body) : event.body;
          event.metadata = event.metadata.length ? decode(event.metadata) : {};
        }
        yield event;
      }
    }
  }

  /** Send a value (anything that MessagePack carries; a Uint8Array travels as bytes); waits while there is no room. */
  async send(output, value, metadata = {}) {
    const binary = value instanceof Uint8Array;
    const number = (this.sent[output] ?? 0) + 1;
    const message = [
      output, number, binary ? "bytes" : "msgpack", new Uint8Array(), binary ? value : encode(value), encode(metadata),
    ];
    for (;;) {
      const { sent, done } = await this.#ask("node_send", { messages: [message], wait: WAIT_S });
      this.sent = sent;
      if (done) return;
    }
  }

  /** Leave: this node has ended. */
  async close() {
    await this.runtime.send("bye", this.stopId === null, "");
    this.store.close();
    this.runtime.close();
  }
}
