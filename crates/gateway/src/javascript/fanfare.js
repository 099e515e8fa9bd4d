// A client of Fanfare for browsers, and for whatever else has WebSocket or EventSource. No dependencies.
//
//   import { Fanfare } from "http://127.0.0.1:8080/fanfare.js";
//   const fanfare = new Fanfare();
//   fanfare.subscribe("ticker.*", ({ topic, offset, data }) => console.log(topic, offset, data));
//
//   subscribe ─► Subscription ◄─ messages ── Position (repeats, holes) ◄─ WebSocketLink   /ws, fanfare.v1.json
//                                               │                   or ◄─ EventsLink      /events, publish by POST
//                                               └─ (epoch, offset) of every topic ─► the next link resumes from there
//
// After a lost connection every topic goes on from its last offset. What cannot be brought back is told: `gap`, `reset`.
// Docs: docs/JAVASCRIPT.md.

/**
 * A position in a topic.
 * @typedef {{ epoch: string, offset: number }} Place
 *
 * One message. Within a topic and epoch offsets are strictly increasing. `data` is what was posted as JSON, a string for
 * text, a Uint8Array for binary.
 * @typedef {{ topic: string, epoch: string, offset: number, event?: string, data: any }} Message
 *
 * Messages `from` to `to` of a topic were lost. `reason` is the server's word, or "unannounced" if it gave none.
 * @typedef {{ topic: string, epoch: string, from: number, to: number, reason: string }} Gap
 *
 * A topic with a limit of age went stale, or is live again.
 * @typedef {{ topic: string, status: "stale" | "live", ageMs: number }} Status
 *
 * What was known of a topic no longer holds: a fresh snapshot follows. `previous` is where this client was.
 * @typedef {{ topic: string, epoch: string, offset: number, previous: Place }} Reset
 *
 * A topic that a pattern matches.
 * @typedef {{ topic: string, epoch: string, offset: number }} Topic
 *
 * A topic that the server refused; it is asked for again with the next connection.
 * @typedef {{ topic: string, error: { code: string, message: string } }} Refused
 *
 * `waiting`: the next attempt is `retryMs` away. `closed`: there is none, the server said stop or close() was called.
 * @typedef {{ state: "connecting" | "open" | "waiting" | "closed", transport: "websocket" | "events",
 *   reason?: string, code?: number, retryMs?: number }} Connection
 *
 * @typedef {{ gap: Gap, status: Status, reset: Reset, topic: Topic, refused: Refused, connection: Connection,
 *   error: { code: string, message: string } }} Events
 *
 * `from`: where to begin; an epoch and an offset resume. `policy` "latest": only the newest message when this client is
 * slow. `maxHz`: at most so many times a second the newest. With several subscriptions of one topic the first one's count.
 * @typedef {{ from?: "last" | "live" | "earliest" | Place, policy?: "queue" | "latest", maxHz?: number }} SubscribeOptions
 *
 * @typedef {object} Options
 * @property {number} [webSocketAttempts] how many WebSockets may fail before events are tried (2)
 * @property {number} [heartbeatSeconds] how often the server is to be heard; after 2.5 times it counts as gone (15)
 * @property {number} [backOffBaseMs] the first bound of the time between attempts (250)
 * @property {number} [backOffMaxMs] its last (10,000)
 * @property {typeof WebSocket | null} [WebSocket] in place of the global one; null: none
 * @property {typeof EventSource | null} [EventSource] in place of the global one; null: none
 * @property {typeof fetch} [fetch] in place of the global one
 * @property {() => number} [random] in place of Math.random
 * @property {string | (() => string | Promise<string>)} [token] a token or a key, or what gets one: asked for each
 *   connection, and before a token expires
 *
 * An answer, or a message, with whatever keys it has.
 * @typedef {Record<string, any>} Frame
 *
 * Why a link ended.
 * @typedef {{ code: number, reason: string, retryMs?: number, refused?: boolean }} End
 *
 * @typedef {object} Owner what a link tells
 * @property {(welcome: Frame) => void} opened
 * @property {(frame: Frame) => void} received
 * @property {(end: End) => void} ended once, and nothing after it
 */

const SUBPROTOCOL = "fanfare.v1.json";
/** What stands before a token among the subprotocols: a browser's WebSocket sends no other header. */
const BEARER = "fanfare.bearer.";
/** An `EventSource` that was refused. One that was not reached, or has ended, would come back by itself. */
const EVENT_SOURCE_CLOSED = 2;
const TIMEOUT_MAX_MS = 2 ** 31 - 1;
const REFRESH_MIN_MS = 1_000;
const OPEN_TIMEOUT_MS = 10_000;
const SETTLED_MS = 5_000;
const UNSETTLED_WAIT_MS = 1_000;
const MESSAGE_BYTES_MAX = 65_536;
const PENDING_PUBLISHES_MAX = 1_000;
/** Protocol errors: the same again would end the same. */
const FAULTS = [1002, 1003, 1007, 1009];

/** A refusal by the server, or a publish that nobody answered. */
export class FanfareError extends Error {
  /**
   * @param {string} code the server's, or `disconnected` and `busy` (surely not published) or `unknown_outcome`
   * @param {string} message
   */
  constructor(code, message) {
    super(message);
    this.name = "FanfareError";
    this.code = code;
  }
}

/**
 * How long to wait before the next connection; undefined: stay away.
 * @param {End} end
 * @param {number} attempt how many connections in a row did not last, before this one
 * @param {{ backOffBaseMs: number, backOffMaxMs: number, random: () => number }} options
 * @returns {number | undefined}
 */
export function retryDelayMs({ code, retryMs }, attempt, { backOffBaseMs, backOffMaxMs, random }) {
  // Full jitter: anywhere between at once and a bound that doubles.
  const backOff = random() * Math.min(backOffMaxMs, backOffBaseMs * 2 ** Math.min(attempt, 30));
  if ((code >= 4500 && code <= 4999) || FAULTS.includes(code)) return undefined;
  if (Number.isFinite(retryMs)) return retryMs;
  if (code >= 4100 && code <= 4199) return UNSETTLED_WAIT_MS + backOff;
  return backOff;
}

/** How long a token is good for; undefined if it does not say. @param {string} token */
function lifeMs(token) {
  try {
    const claims = JSON.parse(atob(token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/")));
    return Number.isFinite(claims.exp) ? claims.exp * 1000 - Date.now() : undefined;
  } catch {
    return undefined; // a key, or a token for the server's eyes only
  }
}

/**
 * Whether a topic or pattern (`*` one segment, `>` one or more at the end) means a topic.
 * @param {string} pattern
 * @param {string} topic
 */
export function matches(pattern, topic) {
  if (!isPattern(pattern)) return pattern === topic;
  const wanted = pattern.split(".");
  const segments = topic.split(".");
  if (wanted.at(-1) === ">") {
    wanted.pop();
    if (segments.length <= wanted.length) return false;
  } else if (segments.length !== wanted.length) {
    return false;
  }
  return wanted.every((segment, index) => segment === "*" || segment === segments[index]);
}

/** @param {string} topic */
function isPattern(topic) {
  return topic.includes("*") || topic.includes(">");
}

/** What is known of one topic: the place to resume from, and what would be a repeat or a hole. */
export class Position {
  /** @type {string | undefined} */
  epoch;
  /** Where to resume from. */
  offset = 0;
  /** The highest offset that was delivered or announced as lost: what is not above it is a repeat. */
  floor = 0;
  /** Acknowledged: a message above it is live. */
  live = 0;
  /** No live message yet: what a replay leaves out is not lost. */
  fresh = true;
  /** Offsets may jump: only the newest is kept for the slow. */
  conflates = false;
  /** The connection that announced it last. */
  connection = 0;
  /** @type {Message | undefined} for those who subscribe to it once more */
  last;
  /** @type {Subscription[] | undefined} who gets its messages; found when the next one comes */
  subscriptions;

  /**
   * An acknowledgement, or a topic that a pattern matches. Returns where this client was if that no longer holds.
   * @param {{ epoch: string, offset: number, replay?: number, recovered?: boolean, policy?: string }} announced
   * @param {{ floor?: number, conflates?: boolean }} [own]
   * @returns {Place | undefined}
   */
  announce({ epoch, offset, replay = 0, recovered, policy }, { floor = 0, conflates = false } = {}) {
    this.conflates = policy === "conflate" || conflates;
    if (epoch === this.epoch && recovered !== false) return undefined;
    const previous = this.epoch === undefined ? undefined : { epoch: this.epoch, offset: this.offset };
    this.epoch = epoch;
    // Who is cut off before the replay asks for it again.
    this.offset = Math.max(0, floor, offset - replay);
    this.floor = floor;
    this.live = offset;
    this.fresh = true;
    this.last = undefined;
    return previous;
  }

  /** A place from before: what follows it is asked for. @param {Place} place */
  resume({ epoch, offset }) {
    this.epoch = epoch;
    this.offset = this.floor = this.live = offset;
    this.fresh = false;
  }

  /** The replay is over: what it did not bring is not there. */
  settle() {
    if (this.fresh && this.floor === 0) this.offset = this.live;
  }

  /**
   * A message came. "repeat": it, or what is newer, was here before; else the offsets before it that nobody accounted for.
   * @param {number} offset
   * @returns {"repeat" | { from: number, to: number } | undefined}
   */
  advance(offset) {
    if (offset <= this.floor) return "repeat";
    const before = this.fresh ? Math.max(this.floor, this.live) : this.floor;
    this.offset = this.floor = offset;
    if (offset >= this.live) this.fresh = false;
    return offset > before + 1 && !this.conflates ? { from: before + 1, to: offset - 1 } : undefined;
  }

  /** A gap was announced. @param {{ epoch?: string, to: number }} gap */
  skip({ epoch, to }) {
    if (epoch && epoch !== this.epoch) this.floor = 0;
    this.epoch = epoch || this.epoch;
    this.offset = this.floor = Math.max(this.floor, to);
    this.fresh = false;
  }
}

/** Listeners by the name of what they hear. */
class Listeners {
  /** @type {Map<string, Set<(event: any) => void>>} */
  #byName = new Map();

  /** @param {string} name @param {(event: any) => void} listener */
  add(name, listener) {
    const listeners = this.#byName.get(name) ?? new Set();
    this.#byName.set(name, listeners.add(listener));
    return () => { listeners.delete(listener); };
  }

  /** @param {string} name @param {any} event */
  tell(name, event) {
    for (const listener of this.#byName.get(name) ?? []) call(listener, event);
  }
}

/**
 * A handler that throws is its own matter: the error goes where uncaught ones go, the next handler is called.
 * @param {(event: any) => void} handler
 * @param {any} event
 */
function call(handler, event) {
  try {
    handler(event);
  } catch (error) {
    queueMicrotask(() => { throw error; });
  }
}

/** One handler of one topic or pattern. */
export class Subscription {
  /** @type {(() => void) | undefined} */
  #end;
  /** @internal */
  listeners = new Listeners();

  /**
   * @internal
   * @param {string} topic
   * @param {SubscribeOptions} options
   * @param {(message: Message) => void} handler
   * @param {() => void} end
   */
  constructor(topic, options, handler, end) {
    /** The topic or pattern. */
    this.topic = topic;
    this.options = options;
    this.handler = handler;
    this.#end = end;
  }

  /**
   * Calls `listener` with what happens to the topics of this subscription. Returns what ends that.
   * @template {"gap" | "status" | "reset" | "topic" | "refused"} Name
   * @param {Name} name
   * @param {(event: Events[Name]) => void} listener
   * @returns {() => void}
   */
  on(name, listener) {
    return this.listeners.add(name, listener);
  }

  /** The handler is not called again. */
  unsubscribe() {
    this.#end?.();
    this.#end = undefined;
  }

  /** @internal */
  get active() {
    return this.#end !== undefined;
  }
}

/** A client: one connection, kept up, and the subscriptions on it. */
export class Fanfare {
  #url;
  #options;
  #listeners = new Listeners();
  /** @type {Map<string, Set<Subscription>>} by topic or pattern */
  #wanted = new Map();
  /** @type {Set<string>} wanted, but not asked for yet */
  #added = new Set();
  /** @type {Map<string, number>} patterns, by the connection that acknowledged them first */
  #followed = new Map();
  /** @type {Map<string, Position>} by topic */
  #positions = new Map();
  /** @type {Map<number, { resolve: (place: Place) => void, reject: (error: Error) => void }>} unanswered publishes */
  #publishes = new Map();
  /** @type {Map<number, string[]>} unanswered subscribes */
  #subscribes = new Map();
  /** @type {WebSocketLink | EventsLink | undefined} */
  #link;
  /** @type {Connection} */
  #connection = { state: "connecting", transport: "websocket" };
  #connections = 0;
  #commands = 0;
  /** Connections in a row that did not last. */
  #attempts = 0;
  /** WebSockets in a row that never opened. */
  #webSocketFailures = 0;
  /** One has opened, and none has failed since while a stream could open. */
  #webSocketWorks = false;
  #messageBytesMax = MESSAGE_BYTES_MAX;
  #lastEventId = "";
  #settled = false;
  /** Topics that patterns match, and that are not announced yet. */
  #awaited = 0;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  #token = "";
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #refreshTimer;
  #online = () => { if (this.#connection.state === "waiting") this.reconnect(); };

  /**
   * Connects at once, and again whenever the connection is lost.
   * @param {string | URL} [url] the gateway; the one this module came from
   * @param {Options} [options]
   */
  constructor(url = new URL(".", import.meta.url), options = {}) {
    const base = new URL(url);
    if (!/^(http|ws)s?:$/.test(base.protocol)) throw new TypeError(`${base} is not the URL of a gateway`);
    base.protocol = base.protocol.replace("ws", "http");
    base.search = base.hash = "";
    if (!base.pathname.endsWith("/")) base.pathname += "/";
    this.#url = base;
    this.#options = {
      webSocketAttempts: 2,
      heartbeatSeconds: 15,
      backOffBaseMs: 250,
      backOffMaxMs: 10_000,
      random: Math.random,
      WebSocket: globalThis.WebSocket,
      EventSource: globalThis.EventSource,
      fetch: globalThis.fetch?.bind(globalThis),
      ...options,
    };
    if (!this.#options.WebSocket && !this.#options.EventSource) {
      throw new TypeError("there is neither WebSocket nor EventSource here: give one as an option");
    }
    globalThis.addEventListener?.("online", this.#online);
    // Who makes the client gets to listen before it begins.
    queueMicrotask(() => { if (this.#connection.state === "connecting") this.#connect(); });
  }

  /** The newest `connection` event. */
  get connection() {
    return this.#connection;
  }

  /**
   * Calls `listener` with what happens to any topic, or to the connection. Returns what ends that.
   * @template {keyof Events} Name
   * @param {Name} name
   * @param {(event: Events[Name]) => void} listener
   * @returns {() => void}
   */
  on(name, listener) {
    return this.#listeners.add(name, listener);
  }

  /**
   * Resolves when the connection is open; rejects when it is closed for good.
   * @returns {Promise<void>}
   */
  ready() {
    return new Promise((resolve, reject) => {
      const look = () => {
        if (this.#connection.state === "open") resolve();
        else if (this.#connection.state === "closed") reject(this.#disconnected());
        else return false;
        return true;
      };
      if (look()) return;
      const off = this.on("connection", () => { if (look()) off(); });
    });
  }

  /**
   * Calls `handler` with each message of a topic, or of all topics that a pattern matches.
   * @overload
   * @param {string} topic
   * @param {(message: Message) => void} handler
   * @returns {Subscription}
   */
  /**
   * @overload
   * @param {string} topic
   * @param {SubscribeOptions} options
   * @param {(message: Message) => void} handler
   * @returns {Subscription}
   */
  /**
   * @param {string} topic
   * @param {SubscribeOptions | ((message: Message) => void)} options
   * @param {(message: Message) => void} [handler]
   */
  subscribe(topic, options, handler) {
    if (typeof options === "function") return this.subscribe(topic, {}, options);
    if (typeof handler !== "function") throw new TypeError("a subscription needs a handler");
    /** @type {Subscription} */
    const subscription = new Subscription(topic, options, handler, () => this.#unsubscribe(subscription));
    const others = this.#wanted.get(topic);
    if (others) {
      others.add(subscription);
    } else {
      this.#wanted.set(topic, new Set([subscription]));
      if (this.#added.size === 0) queueMicrotask(() => this.#ask());
      this.#added.add(topic);
    }
    // What is here already is not sent again: its newest message is handed on.
    const known = isPattern(topic) ? [...this.#positions.keys()].filter((name) => matches(topic, name)) : [topic];
    for (const name of known) {
      const position = this.#positions.get(name);
      if (!position) continue;
      position.subscriptions = undefined;
      const { last } = position;
      if (last && options.from !== "live") {
        queueMicrotask(() => { if (subscription.active && position.last === last) call(handler, last); });
      }
    }
    return subscription;
  }

  /** @param {Subscription} subscription */
  #unsubscribe(subscription) {
    const { topic } = subscription;
    const subscriptions = this.#wanted.get(topic);
    if (!subscriptions?.delete(subscription)) return;
    if (subscriptions.size === 0) {
      this.#wanted.delete(topic);
      this.#followed.delete(topic);
      if (!this.#added.delete(topic)) this.#command({ type: "unsubscribe", topics: [topic] });
    }
    for (const [name, position] of this.#positions) {
      position.subscriptions = undefined;
      if (subscriptions.size === 0 && this.#subscriptions(name).length === 0) this.#positions.delete(name);
    }
  }

  /**
   * Publishes one message: JSON, or bytes. Resolves when it has its place. Rejects at once when there is no connection; with
   * the code `unknown_outcome` when the connection was lost before the answer: it may have been published, or not.
   * @param {string} topic
   * @param {any} data
   * @param {{ key?: string, event?: string }} [options] the conflation key, the event name
   * @returns {Promise<Place>}
   */
  async publish(topic, data, { key, event } = {}) {
    if (this.#connection.state !== "open") throw this.#disconnected();
    if (this.#publishes.size >= PENDING_PUBLISHES_MAX) {
      throw new FanfareError("busy", `${PENDING_PUBLISHES_MAX} publishes are not answered yet`);
    }
    const id = this.#commands += 1;
    const isBytes = data instanceof Uint8Array;
    if (isBytes || this.#connection.transport === "events") {
      const pending = { resolve() {}, reject() {} };
      this.#publishes.set(id, pending);
      try {
        return await this.#post(topic, isBytes ? data : json(data), isBytes, key, event);
      } finally {
        this.#publishes.delete(id);
      }
    }
    const text = JSON.stringify({ type: "publish", id, topic, data: checked(data), event, key });
    // The server would close on it, and not listen again.
    if (bytes(text) > this.#messageBytesMax) {
      throw new FanfareError("too_large", `a message has at most ${this.#messageBytesMax} bytes`);
    }
    return new Promise((resolve, reject) => {
      this.#publishes.set(id, { resolve, reject });
      this.#link?.send(text);
    });
  }

  /**
   * @param {string} topic
   * @param {any} body
   * @param {boolean} isBytes
   * @param {string} [key]
   * @param {string} [event]
   * @returns {Promise<Place>}
   */
  async #post(topic, body, isBytes, key, event) {
    /** @type {Record<string, string>} */
    const headers = { ...this.#authorization(), "Content-Type": isBytes ? "application/octet-stream" : "application/json" };
    if (key !== undefined) headers["Fanfare-Key"] = key;
    if (event !== undefined) headers["Fanfare-Event"] = event;
    let response;
    let answer;
    try {
      response = await this.#options.fetch(this.#at(`topics/${encodeURIComponent(topic)}`), {
        method: "POST", body, headers, signal: AbortSignal.timeout(OPEN_TIMEOUT_MS),
      });
      answer = await response.json();
    } catch (error) {
      throw new FanfareError("unknown_outcome", `no answer to a publish: ${error}`);
    }
    if (!response.ok) {
      throw new FanfareError(answer.error?.code ?? "unavailable", answer.error?.message ?? `HTTP ${response.status}`);
    }
    return { epoch: answer.epoch, offset: answer.offset };
  }

  /** Connects now: not after the wait, and also after the server said stop. */
  reconnect() {
    const link = this.#link;
    this.#link = undefined;
    link?.close();
    this.#abandon("the client reconnects");
    this.#connect();
  }

  /** Ends it all. */
  close() {
    const link = this.#link;
    this.#link = undefined;
    link?.close();
    clearTimeout(this.#timer);
    clearTimeout(this.#refreshTimer);
    globalThis.removeEventListener?.("online", this.#online);
    this.#wanted.clear();
    this.#added.clear();
    this.#followed.clear();
    this.#positions.clear();
    this.#abandon("the client was closed");
    this.#changed({ state: "closed", transport: this.#connection.transport, reason: "closed by the client" });
  }

  // --- Connection --------------------------------------------------------------------------------------------------

  /** @param {string} path @returns {URL} */
  #at(path) {
    return new URL(path, this.#url);
  }

  /** @param {Connection} connection */
  #changed(connection) {
    this.#connection = connection;
    this.#listeners.tell("connection", connection);
  }

  #connect() {
    clearTimeout(this.#timer);
    // What a pattern matched and was not announced the last time has gone.
    for (const [topic, { connection }] of this.#positions) {
      if (this.#settled && this.#awaited <= 0 && connection !== this.#connections) this.#positions.delete(topic);
    }
    this.#connections += 1;
    this.#settled = false;
    this.#awaited = 0;
    this.#subscribes.clear();
    const { WebSocket, EventSource, webSocketAttempts } = this.#options;
    const events = EventSource && (!WebSocket || this.#webSocketFailures >= webSocketAttempts);
    this.#changed({ state: "connecting", transport: events ? "events" : "websocket" });
    if (this.#connection.state !== "connecting" || this.#link) return; // a listener changed its mind
    const { token } = this.#options;
    if (typeof token !== "function") return this.#open(Boolean(events), token ?? "");
    const connection = this.#connections;
    const isWanted = () => connection === this.#connections && this.#connection.state === "connecting" && !this.#link;
    Promise.resolve().then(token).then(
      (token) => { if (isWanted()) this.#open(Boolean(events), token); },
      (error) => { if (isWanted()) this.#ended({ code: 1006, reason: `there is no token: ${error}` }); },
    );
  }

  /** @param {boolean} events @param {string} token */
  #open(events, token) {
    this.#token = token;
    try {
      if (events) this.#openEvents();
      else this.#openWebSocket();
    } catch (error) {
      // A page over HTTPS may not open what is not.
      this.#webSocketFailures += 1;
      this.#ended({ code: 1006, reason: String(error) });
    }
  }

  /** Gets the next token before this one expires. A stream cannot: it ends, and comes back with another one. */
  #refreshInTime() {
    clearTimeout(this.#refreshTimer);
    const { token } = this.#options;
    const life = lifeMs(this.#token);
    if (typeof token !== "function" || life === undefined || this.#connection.transport !== "websocket") return;
    const connection = this.#connections;
    this.#refreshTimer = setTimeout(async () => {
      try {
        const next = await token();
        if (connection !== this.#connections || this.#connection.state !== "open") return;
        this.#token = next;
        this.#command({ type: "auth", token: next });
      } catch {
        // The connection goes on for as long as it may.
      }
      if (connection === this.#connections) this.#refreshInTime();
    }, Math.min(Math.max(life * 0.8, REFRESH_MIN_MS), TIMEOUT_MAX_MS));
  }

  /** What an HTTP request says of who sends it. @returns {Record<string, string>} */
  #authorization() {
    return this.#token ? { Authorization: `Bearer ${this.#token}` } : {};
  }

  #openWebSocket() {
    const url = this.#at(`ws?heartbeat=${this.#options.heartbeatSeconds}`);
    url.protocol = url.protocol.replace("http", "ws");
    const WebSocketClass = /** @type {typeof WebSocket} */ (this.#options.WebSocket);
    let open = false;
    /** @type {WebSocketLink} */
    const link = new WebSocketLink(url, WebSocketClass, this.#token, this.#options.heartbeatSeconds, {
      opened: (welcome) => {
        if (link !== this.#link) return;
        open = true;
        this.#webSocketFailures = 0;
        this.#webSocketWorks = true;
        this.#lastEventId = "";
        if (welcome.max_message > 0) this.#messageBytesMax = welcome.max_message;
        this.#opened();
        this.#added.clear();
        this.#subscribe([...this.#wanted.keys()]);
      },
      received: (frame) => { if (link === this.#link) this.#received(frame); },
      ended: (end) => {
        if (!open) this.#webSocketFailures += 1;
        if (link === this.#link) this.#ended(end);
      },
    });
    this.#link = link;
  }

  #openEvents() {
    // Nobody wants anything yet: there is no stream of nothing.
    this.#added.clear();
    if (this.#wanted.size === 0) return this.#opened();
    const url = this.#at("events");
    for (const topic of this.#wanted.keys()) url.searchParams.append("topic", topic);
    const from = this.#lastEventId ? "" : this.#widest();
    if (from) url.searchParams.set("from", from);
    if (this.#lastEventId) url.searchParams.set("last_event_id", this.#lastEventId);
    url.searchParams.set("heartbeat", String(this.#options.heartbeatSeconds));
    if (this.#token) url.searchParams.set("access_token", this.#token);
    const EventSourceClass = /** @type {typeof EventSource} */ (this.#options.EventSource);
    /** @type {EventsLink} */
    const link = new EventsLink(url, EventSourceClass, this.#options.heartbeatSeconds, {
      opened: () => {
        if (link !== this.#link || !this.#webSocketWorks) return;
        // The network was away and is back: what used to work has its chance before its substitute.
        this.#webSocketWorks = false;
        this.#webSocketFailures = Math.max(0, this.#options.webSocketAttempts - 1);
        this.#link = undefined;
        link.close();
        this.#connect();
      },
      received: (frame) => {
        if (link !== this.#link) return;
        if (link.lastEventId) this.#lastEventId = link.lastEventId;
        const first = this.#connection.state !== "open";
        if (first) this.#opened();
        this.#received(frame, from);
        // Some were wanted while the stream opened.
        if (first) this.#ask();
      },
      ended: (end) => {
        // A WebSocket gets its chance after every stream.
        this.#webSocketFailures = Math.max(0, this.#options.webSocketAttempts - 1);
        // An id that the server does not take must not keep it away for ever. Who was not reached has not looked at it.
        if (end.refused) this.#lastEventId = "";
        if (link === this.#link) this.#ended(end);
      },
    });
    this.#link = link;
  }

  /** Where a stream has to begin, so that no topic of it begins too late. */
  #widest() {
    const wanted = [...this.#wanted.keys()].map((topic) => this.#from(topic));
    if (wanted.includes("earliest") || this.#positions.size > 0) return "earliest";
    return wanted.every((from) => from === "live") ? "live" : "last";
  }

  /** @param {string} topic as it is wanted */
  #from(topic) {
    const from = this.#request(topic)?.from;
    return typeof from === "object" ? "earliest" : from ?? "last";
  }

  /** The first subscription's options. @param {string} topic @returns {SubscribeOptions | undefined} */
  #request(topic) {
    for (const { options } of this.#wanted.get(topic) ?? []) return options;
    return undefined;
  }

  #opened() {
    const connection = this.#connections;
    this.#timer = setTimeout(() => {
      if (connection !== this.#connections) return;
      this.#attempts = 0;
      this.#settled = true;
      for (const position of this.#positions.values()) position.settle();
    }, SETTLED_MS);
    this.#changed({ state: "open", transport: this.#connection.transport });
    this.#refreshInTime();
  }

  /** @param {End} end */
  #ended(end) {
    clearTimeout(this.#timer);
    this.#link = undefined;
    this.#abandon(end.reason || `the connection was closed (${end.code})`);
    const { transport } = this.#connection;
    // A token that has expired is no reason to stay away for who can get another one.
    const isExpired = end.code === 4501 && typeof this.#options.token === "function";
    const retryMs = retryDelayMs(isExpired ? { ...end, code: 4101 } : end, this.#attempts, this.#options);
    const { code, reason } = end;
    if (retryMs === undefined) return this.#changed({ state: "closed", transport, reason, code });
    this.#attempts += 1;
    this.#timer = setTimeout(() => this.#connect(), retryMs);
    this.#changed({ state: "waiting", transport, reason, code, retryMs });
  }

  #disconnected() {
    const { reason } = this.#connection;
    return new FanfareError("disconnected", `there is no connection${reason ? `: ${reason}` : ""}`);
  }

  /** Nobody answers these publishes any more. @param {string} why */
  #abandon(why) {
    const error = new FanfareError("unknown_outcome", `a publish may have happened or not: ${why}`);
    for (const { reject } of this.#publishes.values()) reject(error);
    this.#publishes.clear();
  }

  // --- Commands ----------------------------------------------------------------------------------------------------

  /** @param {Frame} command @returns {number} its id */
  #command(command) {
    const id = this.#commands += 1;
    if (this.#connection.state === "open") this.#link?.send(JSON.stringify({ ...command, id }));
    return id;
  }

  /** Asks for what was subscribed to since the last time. */
  #ask() {
    if (this.#added.size === 0 || this.#connection.state !== "open") return;
    const added = [...this.#added];
    this.#added.clear();
    if (this.#connection.transport === "websocket") return this.#subscribe(added);
    // A stream's topics are in its URL: it is opened anew, and goes on where it was.
    const link = this.#link;
    this.#link = undefined;
    link?.close();
    clearTimeout(this.#timer);
    this.#connections += 1;
    const resumes = this.#lastEventId !== "";
    this.#changed({ state: "connecting", transport: "events" });
    this.#openEvents();
    // It replays what is newer than its place. What is older is read by itself.
    if (resumes) for (const topic of added) this.#readLast(topic);
  }

  /** The last value of a topic, over HTTP. @param {string} topic */
  async #readLast(topic) {
    if (isPattern(topic) || this.#from(topic) === "live") return;
    try {
      const response = await this.#options.fetch(this.#at(`topics/${encodeURIComponent(topic)}`), { headers: this.#authorization() });
      const place = /^"([^:"]+):(\d+)"$/.exec(response.headers.get("etag") ?? "");
      if (!response.ok || !place) return;
      const type = response.headers.get("content-type") ?? "";
      const data = type.startsWith("application/json") ? await response.json()
        : type.startsWith("text/") ? await response.text() : new Uint8Array(await response.arrayBuffer());
      const [, epoch, offset] = place;
      const position = this.#positions.get(topic);
      // The stream may have been faster.
      if (position && (position.epoch !== epoch || position.floor >= Number(offset))) return;
      if (!position) this.#announce({ topic, epoch, offset: Number(offset), replay: 1 });
      this.#message({ topic, offset: Number(offset), data });
    } catch {
      // It was only the newest of the past.
    }
  }

  /** @param {string[]} topics */
  #subscribe(topics) {
    const room = this.#messageBytesMax - 100;
    /** @type {string[]} */
    let batch = [];
    let length = 0;
    const send = () => {
      if (batch.length === 0) return;
      const names = batch;
      const id = this.#command({ type: "subscribe", topics: names.map((topic) => entries.get(topic)) });
      this.#subscribes.set(id, names);
      batch = [];
      length = 0;
    };
    /** @type {Map<string, string | Frame>} */
    const entries = new Map();
    for (const topic of topics) {
      const entry = this.#entry(topic, room);
      const entryLength = JSON.stringify(entry).length + 1;
      if (length + entryLength > room) send();
      entries.set(topic, entry);
      batch.push(topic);
      length += entryLength;
    }
    send();
  }

  /**
   * What is asked of one topic or pattern.
   * @param {string} topic
   * @param {number} room bytes
   * @returns {string | Frame}
   */
  #entry(topic, room) {
    const { from, policy, maxHz } = this.#request(topic) ?? {};
    /** @type {Frame} */
    const entry = {};
    const known = this.#positions.get(topic);
    if (isPattern(topic)) {
      /** @type {Record<string, Place>} */
      const positions = {};
      let left = room - 2 * topic.length - 200;
      for (const [name, { epoch, offset }] of this.#positions) {
        if (epoch === undefined || !matches(topic, name)) continue;
        left -= name.length + epoch.length + 45;
        // Those left out begin anew; what they miss is a hole, and told.
        if (left < 0) break;
        positions[name] = { epoch, offset };
      }
      if (Object.keys(positions).length > 0) entry.positions = positions;
      const isWhole = left >= 0 && policy !== "latest" && maxHz === undefined;
      // Topics without a position were born while nobody listened: all of them is wanted.
      if (this.#wasFollowed(topic) && isWhole) entry.from = "earliest";
      else if (typeof from === "string") entry.from = from;
    } else if (known?.epoch !== undefined) {
      Object.assign(entry, { epoch: known.epoch, offset: known.offset });
    } else if (typeof from === "object") {
      const position = new Position();
      position.resume(from);
      this.#positions.set(topic, position);
      Object.assign(entry, { epoch: from.epoch, offset: from.offset });
    } else if (from !== undefined) {
      entry.from = from;
    }
    if (policy !== undefined) entry.policy = policy;
    if (maxHz !== undefined) entry.max_hz = maxHz;
    return Object.keys(entry).length === 0 ? topic : { topic, ...entry };
  }

  // --- Frames ------------------------------------------------------------------------------------------------------

  /**
   * @param {Frame} frame
   * @param {string} [from] what the stream was asked for
   */
  #received(frame, from) {
    switch (frame.type) {
      case undefined: return this.#message(frame);
      case "subscribed":
        this.#subscribes.delete(frame.id);
        for (const answer of frame.topics) this.#acknowledged(answer, from);
        return;
      case "topic":
        if (this.#subscriptions(frame.topic).length === 0) return;
        // How long its replay is, is not said: one, mostly.
        this.#awaited -= 1;
        this.#announce({ replay: this.#from(this.#subscriptions(frame.topic)[0].topic) === "live" ? 0 : 1, ...frame }, from);
        return this.#tell("topic", frame.topic, { topic: frame.topic, epoch: frame.epoch, offset: frame.offset });
      case "gap": return this.#gap(frame);
      case "status":
        return this.#tell("status", frame.topic,
          { topic: frame.topic, status: frame.status, ageMs: frame.age_ms ?? 0 });
      case "published":
        this.#publishes.get(frame.id)?.resolve({ epoch: frame.epoch, offset: frame.offset });
        this.#publishes.delete(frame.id);
        return;
      case "error": return this.#error(frame);
      default: // welcome, pong, heartbeat, and what later versions say
    }
  }

  /** @param {Frame} answer @param {string} [from] */
  #acknowledged(answer, from) {
    const { topic, error } = answer;
    if (error) this.#tellRefused(topic, error);
    else if (answer.matched !== undefined) {
      this.#awaited += answer.matched;
      if (!this.#followed.has(topic)) this.#followed.set(topic, this.#connections);
    }
    else if (answer.epoch !== undefined) this.#announce(answer, from);
  }

  /** Whether an earlier connection had the pattern: what was born since is its from the first message. @param {string} topic */
  #wasFollowed(topic) {
    return (this.#followed.get(topic) ?? Infinity) < this.#connections;
  }

  /** @param {Frame} announced @param {string} [from] */
  #announce(announced, from) {
    const { topic, epoch } = announced;
    let position = this.#positions.get(topic);
    const subscriptions = this.#subscriptions(topic);
    if (subscriptions.length === 0) return;
    if (!position) this.#positions.set(topic, position = new Position());
    position.connection = this.#connections;
    const conflates = subscriptions.some(({ options }) => options.policy === "latest" || options.maxHz !== undefined);
    // A stream has one beginning for all: those who asked for less are spared the rest.
    const own = this.#from(subscriptions[0].topic);
    // Without a place, it begins at the first message that there is: of a topic that was not there, all of them are news.
    const isNews = (from === "" || own === "last") && this.#wasFollowed(subscriptions[0].topic);
    const spared = from === undefined || from === own || own === "earliest" || isNews ? 0
      : own === "live" ? announced.offset : Math.max(0, announced.offset - 1);
    const previous = position.announce(/** @type {any} */ (announced), { floor: spared, conflates });
    if (!previous) return;
    this.#tell("reset", topic, { topic, epoch, offset: announced.offset, previous });
  }

  /** @param {Frame} frame */
  #message(frame) {
    const { topic, offset } = frame;
    const position = this.#positions.get(topic);
    // Not announced: left over from a subscription that is no more.
    if (!position || position.epoch === undefined) return;
    const hole = position.advance(offset);
    if (hole === "repeat") return;
    const { epoch } = position;
    if (hole) this.#tell("gap", topic, { topic, epoch, ...hole, reason: "unannounced" });
    const data = frame.data64 === undefined ? frame.data : fromBase64(frame.data64);
    /** @type {Message} */
    const message = frame.event === undefined ? { topic, epoch, offset, data }
      : { topic, epoch, offset, event: frame.event, data };
    position.last = message;
    position.subscriptions ??= this.#subscriptions(topic);
    for (const subscription of position.subscriptions) {
      if (subscription.active) call(subscription.handler, message);
    }
  }

  /** @param {Frame} frame */
  #gap({ topic, epoch, from, to, reason }) {
    const position = this.#positions.get(topic);
    if (!position) return;
    position.skip({ epoch, to });
    this.#tell("gap", topic, { topic, epoch: epoch ?? position.epoch, from, to, reason: reason ?? "" });
  }

  /** @param {Frame} frame */
  #error({ id, code, message }) {
    const publish = this.#publishes.get(id);
    const topics = this.#subscribes.get(id);
    this.#publishes.delete(id);
    this.#subscribes.delete(id);
    if (publish) publish.reject(new FanfareError(code, message));
    else if (topics) for (const topic of topics) this.#tellRefused(topic, { code, message });
    else this.#listeners.tell("error", { code, message });
  }

  /** @param {string} topic or pattern @param {{ code: string, message: string }} error */
  #tellRefused(topic, error) {
    const refused = { topic, error };
    this.#listeners.tell("refused", refused);
    for (const { listeners } of this.#wanted.get(topic) ?? []) listeners.tell("refused", refused);
  }

  /** @param {string} name @param {string} topic @param {object} event */
  #tell(name, topic, event) {
    this.#listeners.tell(name, event);
    for (const { listeners } of this.#subscriptions(topic)) listeners.tell(name, event);
  }

  /** Who wants a topic, by its name or by a pattern. @param {string} topic @returns {Subscription[]} */
  #subscriptions(topic) {
    const found = [...this.#wanted.get(topic) ?? []];
    for (const [pattern, subscriptions] of this.#wanted) {
      if (pattern !== topic && isPattern(pattern) && matches(pattern, topic)) found.push(...subscriptions);
    }
    return found;
  }
}

/** `/ws`: frames as they are. */
class WebSocketLink {
  #socket;
  #owner;
  /** @type {Frame | undefined} what a bye advised */
  #advised;
  #over = false;
  #heartbeatSeconds;
  /** Halves of a heartbeat's interval since the last frame. */
  #silence = 0;
  /** @type {ReturnType<typeof setInterval> | undefined} */
  #watch;
  #openTimer;

  /**
   * @param {URL} url
   * @param {typeof WebSocket} WebSocketClass
   * @param {string} token
   * @param {number} heartbeatSeconds
   * @param {Owner} owner
   */
  constructor(url, WebSocketClass, token, heartbeatSeconds, owner) {
    this.#owner = owner;
    this.#socket = new WebSocketClass(url.href, token ? [SUBPROTOCOL, BEARER + token] : SUBPROTOCOL);
    // Something on the way may let a WebSocket open, and then let nothing through.
    this.#openTimer = setTimeout(() => this.#end(1006, "it did not open in time"), OPEN_TIMEOUT_MS);
    this.#socket.onmessage = ({ data }) => this.#read(data);
    this.#socket.onclose = ({ code, reason }) => this.#end(code, reason);
    this.#socket.onerror = () => {}; // a close follows
    this.#heartbeatSeconds = heartbeatSeconds;
  }

  /** @param {string} text */
  send(text) {
    // Closing, but not closed: who waits for an answer hears of the close.
    if (this.#socket.readyState === 1) this.#socket.send(text);
  }

  close() {
    this.#over = true;
    clearTimeout(this.#openTimer);
    clearInterval(this.#watch);
    this.#socket.close();
  }

  /** Counting is right also where timers are late: a hidden page, a machine that slept. */
  #tick() {
    this.#silence += 1;
    // A server that knows no heartbeat answers this.
    if (this.#silence === 3) this.send('{"type":"ping"}');
    if (this.#silence >= 5) this.#end(1006, "the server is silent");
  }

  /** @param {any} data */
  #read(data) {
    if (this.#over) return;
    this.#silence = 0;
    const frame = parse(data);
    if (!frame) return this.#end(1006, "what came is not JSON");
    if (frame.type === "bye") this.#advised = frame;
    if (frame.type === "welcome") {
      clearTimeout(this.#openTimer);
      this.#watch ??= setInterval(() => this.#tick(), this.#heartbeatSeconds * 500);
      this.#owner.opened(frame);
    }
    this.#owner.received(frame);
  }

  /** @param {number} code @param {string} reason */
  #end(code, reason) {
    if (this.#over) return;
    this.close();
    this.#owner.ended({ code, reason: this.#advised?.reason || reason, retryMs: this.#advised?.retry_ms });
  }
}

/** `/events`: named events are frames with that `type`, the rest are messages. */
class EventsLink {
  lastEventId = "";
  #source;
  #owner;
  #over = false;
  #openTimer;
  #heartbeatSeconds;
  /** Halves of a heartbeat's interval since the last event. */
  #silence = 0;
  /** @type {ReturnType<typeof setInterval> | undefined} */
  #watch;

  /** @param {URL} url @param {typeof EventSource} EventSourceClass @param {number} heartbeatSeconds @param {Owner} owner */
  constructor(url, EventSourceClass, heartbeatSeconds, owner) {
    this.#owner = owner;
    this.#heartbeatSeconds = heartbeatSeconds;
    this.#source = new EventSourceClass(url.href);
    this.#openTimer = setTimeout(() => this.#end("it did not open in time"), OPEN_TIMEOUT_MS);
    this.#source.onopen = () => {
      clearTimeout(this.#openTimer);
      if (!this.#over) owner.opened({});
    };
    // It would come back by itself, but without back-off, and with nothing but a stream.
    this.#source.onerror = () => this.#end("the stream ended", this.#source.readyState === EVENT_SOURCE_CLOSED);
    for (const type of ["message", "subscribed", "topic", "gap", "status", "heartbeat"]) {
      this.#source.addEventListener(type, (event) => this.#read(type, /** @type {MessageEvent} */ (event)));
    }
  }

  /** A stream goes one way. @param {string} _text */
  send(_text) {}

  close() {
    this.#over = true;
    clearTimeout(this.#openTimer);
    clearInterval(this.#watch);
    this.#source.close();
  }

  /** @param {string} type @param {MessageEvent} event */
  #read(type, event) {
    if (this.#over) return;
    const frame = parse(event.data);
    if (!frame) return this.#end("what came is not JSON");
    if (event.lastEventId) this.lastEventId = event.lastEventId;
    this.#silence = 0;
    // From a server that has been heard to send them.
    if (type === "heartbeat") this.#watch ??= setInterval(() => this.#tick(), this.#heartbeatSeconds * 500);
    this.#owner.received(type === "message" ? frame : { ...frame, type });
  }

  #tick() {
    this.#silence += 1;
    if (this.#silence >= 5) this.#end("the server is silent");
  }

  /** @param {string} reason @param {boolean} [refused] */
  #end(reason, refused = false) {
    if (this.#over) return;
    this.close();
    this.#owner.ended({ code: 1006, reason, refused });
  }
}

/** @param {any} text @returns {Frame | undefined} */
function parse(text) {
  try {
    const frame = JSON.parse(text);
    return typeof frame === "object" && frame !== null ? frame : undefined;
  } catch {
    return undefined;
  }
}

/** @param {any} data @returns {any} */
function checked(data) {
  if (data === undefined || typeof data === "function") throw new TypeError("a message is JSON or a Uint8Array");
  return data;
}

/** @param {any} data @returns {string} */
function json(data) {
  return JSON.stringify(checked(data));
}

/** How long it is in UTF-8. @param {string} text */
function bytes(text) {
  return new TextEncoder().encode(text).length;
}

/** @param {string} text @returns {Uint8Array} */
function fromBase64(text) {
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}
