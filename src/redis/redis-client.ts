/**
 * What is used of a Redis client. Neither client is a dependency of this package: whoever has Redis brings one. Both are
 * made to look alike here, and nothing outside this file knows which it is.
 */

type Listener = (...details: unknown[]) => void

interface Emitter {
  on(event: string, listener: Listener): unknown
  off(event: string, listener: Listener): unknown
}

/** A client of the package `redis`, version 5 or newer. It must have been told to `connect()`. */
export interface NodeRedisClient extends Emitter {
  readonly isOpen: boolean
  readonly isReady: boolean
  sendCommand(args: readonly string[], options?: { abortSignal?: AbortSignal }): Promise<unknown>
  connect(): Promise<unknown>
  destroy(): unknown
  duplicate(): object
  subscribe(channel: string, listener: (message: string) => void): Promise<unknown>
}

/** A cluster of the package `redis`, version 5 or newer. */
export interface NodeRedisCluster extends Emitter {
  readonly isOpen: boolean
  readonly isReady: boolean
  sendCommand(key: string, isReadonly: boolean, args: string[]): Promise<unknown>
  connect(): Promise<unknown>
  destroy(): unknown
  duplicate(): object
  subscribe(channel: string, listener: (message: string) => void): Promise<unknown>
  getSlotMaster(slot: number): unknown
}

/** A client or cluster of the package `ioredis`, version 5 or newer. */
export interface IoRedisClient extends Emitter {
  readonly status: string
  call(command: string, args: string[]): Promise<unknown>
  connect(): Promise<unknown>
  disconnect(): unknown
  duplicate(): object
  subscribe(channel: string): Promise<unknown>
}

export type RedisClient = NodeRedisClient | NodeRedisCluster | IoRedisClient

/** One connection, whichever client made it. */
export interface RedisConnection {
  isReady(): boolean
  /** Whether it was not opened yet, or will not become ready by itself any more. */
  isClosed(): boolean
  /** Begins to connect if nobody has. */
  open(): void
  /** `key` tells a cluster where to send the command. `signal` takes a command back that was not written yet. */
  send(args: string[], key: string, signal: AbortSignal): Promise<unknown>
  /** `changed`: it may be ready, or closed, now. `lost`: answers may have been lost. Returns what ends it. */
  watch(listeners: { changed: () => void; lost: () => void }): () => void
  /** Another connection to the same place, for messages; not open yet. */
  duplicate(): RedisConnection
  /** Repeating it is no error. */
  subscribe(channel: string, listener: (message: string) => void): Promise<unknown>
  disconnect(): void
}

/** @throws TypeError when it is neither a client of `redis` nor of `ioredis` */
export function connectionOf(client: RedisClient): RedisConnection {
  if (isFunction(client, 'call') && 'status' in client) return ioRedis(client)
  if (isFunction(client, 'sendCommand') && 'isReady' in client) return nodeRedis(client)
  // Without its value: a URL in it may hold a password.
  throw new TypeError('client must be a client of the package redis (5 or newer) or ioredis (5 or newer)')
}

function isFunction(client: unknown, name: string): boolean {
  return typeof (client as Record<string, unknown> | null | undefined)?.[name] === 'function'
}

function nodeRedis(client: NodeRedisClient | NodeRedisCluster): RedisConnection {
  return {
    isReady: () => client.isReady,
    isClosed: () => !client.isOpen,
    open() {
      if (!client.isOpen) ignore(client.connect())
    },
    send: (args, key, abortSignal) =>
      isCluster(client) ? client.sendCommand(key, false, args) : client.sendCommand(args, { abortSignal }),
    watch: ({ changed, lost }) =>
      listen(client, {
        ...{ ready: changed, connect: changed, 'node-ready': changed, end: changed, terminated: changed },
        ...{ reconnecting: lost, 'node-reconnecting': lost, disconnect: changed },
      }),
    duplicate: () => nodeRedis(client.duplicate() as NodeRedisClient),
    subscribe: (channel, listener) => client.subscribe(channel, listener),
    disconnect() {
      if (client.isOpen) client.destroy()
    },
  }
}

function isCluster(client: NodeRedisClient | NodeRedisCluster): client is NodeRedisCluster {
  return 'getSlotMaster' in client
}

function ioRedis(client: IoRedisClient): RedisConnection {
  let onMessage: Listener | null = null
  return {
    isReady: () => client.status === 'ready',
    isClosed: () => client.status === 'end',
    open() {
      if (client.status === 'wait') ignore(client.connect())
    },
    send: ([command = '', ...args]) => client.call(command, args),
    watch: ({ changed, lost }) => listen(client, { ready: changed, end: changed, close: lost }),
    duplicate: () => ioRedis(client.duplicate() as IoRedisClient),
    subscribe(channel, listener) {
      if (onMessage) client.off('message', onMessage)
      onMessage = (from, message) => {
        if (from === channel) listener(String(message))
      }
      client.on('message', onMessage)
      return client.subscribe(channel)
    },
    disconnect: () => void client.disconnect(),
  }
}

/** Listens for errors too: a client of `redis` without such a listener ends the process when its connection breaks. */
function listen(emitter: Emitter, listeners: Readonly<Record<string, Listener>>): () => void {
  const all = Object.entries({ error: () => {}, ...listeners })
  for (const [event, listener] of all) emitter.on(event, listener)
  return () => {
    for (const [event, listener] of all) emitter.off(event, listener)
  }
}

/** What goes wrong with a connection is told by its events. */
function ignore(promise: Promise<unknown>): void {
  promise.catch(() => {})
}
