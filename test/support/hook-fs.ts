/**
 * A file system in which every call can be counted, refused, cut short, delayed or made the last one of the process. It sits
 * on `node:fs` itself, so that what is tested needs no seam for it: import it before everything else, since fs-extra takes
 * its functions when it is loaded.
 *
 * Calls count that touch the watched folders or a file that was opened there. Calls are passed on unchanged while nobody
 * watches. `statSync` and `fstatSync` count only for a watcher that says what becomes of them: it cannot let them wait, and
 * they change nothing.
 */
import fs from 'node:fs'
import { syncBuiltinESMExports } from 'node:module'
import { resolve, sep } from 'node:path'
import { setTimeout as wait } from 'node:timers/promises'

export interface FsCall {
  /** From 1, in the order in which the calls begin. */
  readonly n: number
  /** As in `node:fs`; calls of an open file begin with `handle.`. */
  readonly op: string
  readonly path: string
  /** Whether it changes something: of `open`, whether the file is opened for writing. */
  readonly changes: boolean
  /** Whether it needs room: of `open`, whether it may make the file. */
  readonly grows: boolean
  /** Bytes to be written. */
  readonly size: number
}

/** `limit`: how many bytes of a write are written. What it resolves with is what the caller gets. */
export type Proceed = (limit?: number) => Promise<unknown>
export interface Interceptor {
  (call: FsCall, proceed: Proceed): Promise<unknown>
  /** Of calls that are made synchronously. */
  readonly sync?: (call: FsCall, proceed: () => unknown) => unknown
}

interface Watch {
  readonly folders: readonly string[]
  readonly intercept: Interceptor
  readonly rewrite: ((path: string) => string) | undefined
  calls: number
}

type Arguments = unknown[]
type Callable = (...args: Arguments) => unknown
type Members = Record<string, unknown>

let watch: Watch | null = null
let handlesPatched = false
const handles = new WeakMap<object, string>()
const descriptors = new Map<number, string>()
const opened = new Map<object, string>()

/**
 * Puts `intercept` between the code and the folders until the returned function is called, which tells how many calls there
 * were. `rewrite` stands for a file system with a mind of its own about names: it changes every path below the folders.
 */
export function watchFs(
  folders: readonly string[],
  intercept: Interceptor = (_call, proceed) => proceed(),
  rewrite?: (path: string) => string,
): () => number {
  const own: Watch = { folders: folders.map((folder) => resolve(folder)), intercept, rewrite, calls: 0 }
  watch = own
  return () => {
    if (watch === own) watch = null
    return own.calls
  }
}

function isWatched(path: unknown): path is string {
  if (typeof path !== 'string') return false
  const full = resolve(path)
  return watch?.folders.some((folder) => full === folder || full.startsWith(folder + sep)) ?? false
}

/** Where an operation's paths are among its arguments. */
const pathsAt: Readonly<Record<string, readonly number[]>> = {
  rename: [0, 1],
  link: [0, 1],
  copyFile: [0, 1],
  symlink: [1],
}
const reading = /^(handle\.)?(access|close|lstat|read|readFile|readdir|readlink|readv|realpath|stat|statfs|statSync)$/
const growing =
  /^(handle\.)?(appendFile|copyFile|link|mkdir|mkdtemp|rename|symlink|write|writeFile|writev|sync|datasync)$/

function describe(op: string, path: string, args: Arguments): FsCall {
  const n = (watch as Watch).calls++ + 1
  if (op !== 'open') {
    return { n, op, path, changes: !reading.test(op), grows: growing.test(op), size: sizeOf(op, args) }
  }
  const flags = args[1] ?? 'r'
  const { O_WRONLY, O_RDWR, O_CREAT } = fs.constants
  const bits = typeof flags === 'number' ? flags : flags === 'r' ? 0 : O_RDWR | (flags === 'r+' ? 0 : O_CREAT)
  return { n, op, path, changes: (bits & (O_WRONLY | O_RDWR)) !== 0, grows: (bits & O_CREAT) !== 0, size: 0 }
}

const writing = /^(handle\.)?(appendFile|write|writeFile|writev)$/
/** Which argument of a write holds the bytes: not the first one when that says where. */
const dataAt = (op: string) => (op.startsWith('handle.') ? 0 : 1)

function sizeOf(op: string, args: Arguments): number {
  if (!writing.test(op)) return 0
  return buffersOf(args[dataAt(op)]).reduce((sum, buffer) => sum + buffer.length, 0) - offsetOf(op, args)
}

/** `write(buffer, offset, …)` writes what lies behind `offset`. */
function offsetOf(op: string, args: Arguments): number {
  const offset = args[dataAt(op) + 1]
  return /write$/.test(op) && typeof offset === 'number' ? offset : 0
}

function buffersOf(data: unknown): Buffer[] {
  if (Array.isArray(data)) return data as Buffer[]
  return [Buffer.isBuffer(data) ? data : Buffer.from(String(data))]
}

/** The arguments with only `limit` bytes of what was to be written. */
function shortened(op: string, args: Arguments, limit: number): Arguments {
  const at = dataAt(op)
  const offset = offsetOf(op, args)
  const data = Buffer.concat(buffersOf(args[at])).subarray(offset, offset + limit)
  if (/writev$/.test(op)) return args.map((arg, i) => (i === at ? [data] : arg))
  if (!/write$/.test(op)) return args.map((arg, i) => (i === at ? data : arg))
  const position = typeof args[at + 1] === 'number' || args[at + 1] === null ? args[at + 3] : undefined
  const callback = args.at(-1)
  const rest = typeof callback === 'function' ? [callback] : []
  return [...args.slice(0, at), data, 0, data.length, position ?? null, ...rest]
}

/** Through the interceptor when somebody watches this path; else `call` as it is. */
function through(op: string, path: string | undefined, args: Arguments, call: (args: Arguments) => Promise<unknown>) {
  if (watch === null || path === undefined || !isWatched(path)) return call(args)
  const { intercept } = watch
  const described = describe(op, path, args)
  const proceed: Proceed = (limit) => call(limit !== undefined && writing.test(op) ? shortened(op, args, limit) : args)
  return new Promise((resolve) => resolve(intercept(described, proceed)))
}

function pathOf(op: string, args: Arguments): string | undefined {
  const at = (pathsAt[op] ?? [0]).find((i) => isWatched(args[i]))
  return at === undefined ? undefined : (args[at] as string)
}

function rewritten(op: string, args: Arguments): Arguments {
  const { rewrite } = watch ?? {}
  if (!rewrite) return args
  const places = pathsAt[op] ?? [0]
  return args.map((arg, i) => (places.includes(i) && isWatched(arg) ? rewrite(resolve(arg)) : arg))
}

const pathOperations =
  'access chmod copyFile link lstat lutimes mkdir open readFile readdir readlink realpath rename rm rmdir stat statfs symlink truncate unlink utimes writeFile'

const handleOperations = 'appendFile chmod close datasync read readFile readv stat sync truncate write writeFile writev'
const descriptorOperations: Readonly<Record<string, string>> = {
  close: 'close',
  fchmod: 'chmod',
  fdatasync: 'datasync',
  fstat: 'stat',
  fsync: 'sync',
  ftruncate: 'truncate',
  read: 'read',
  readv: 'readv',
  write: 'write',
  writev: 'writev',
}

const plain = { ...fs.promises } as unknown as Record<string, (...args: Arguments) => Promise<unknown>>

async function openHandle(args: Arguments): Promise<unknown> {
  const handle = (await plain.open?.(...args)) as object
  // The class of open files is not exported anywhere; their first one leads to it.
  if (!handlesPatched) patchHandles(Object.getPrototypeOf(handle) as Members)
  handlesPatched = true
  // In Node 20 each file has a `close` of its own.
  if (Object.hasOwn(handle, 'close')) patchHandles(handle as Members, ['close'])
  if (typeof args[0] !== 'string') return handle
  handles.set(handle, args[0])
  descriptors.set((handle as { fd: number }).fd, args[0])
  if (isWatched(args[0])) opened.set(handle, args[0])
  return handle
}

/** Files below watched folders that were opened with `node:fs/promises` since the last call, and that nobody closes. */
export async function leakedFiles(): Promise<string[]> {
  // What goes on in the background closes them in a moment.
  for (const end = Date.now() + 3_000; opened.size > 0 && Date.now() < end; ) await wait(5)
  const paths = [...opened.values()]
  opened.clear()
  return paths
}

/** `rm` of a folder is many calls, and each of them may be the one. */
async function removeTree(path: string, force: boolean): Promise<void> {
  const patched = fs.promises
  const missing = (error: NodeJS.ErrnoException) => {
    if (error.code !== 'ENOENT' || !force) throw error
    return null
  }
  const info = await patched.lstat(path).catch(missing)
  if (info === null) return
  if (!info.isDirectory()) return void (await patched.unlink(path).catch(missing))
  for (let attempt = 0; ; attempt++) {
    for (const name of await patched.readdir(path)) await removeTree(resolve(path, name), true)
    try {
      return await patched.rmdir(path)
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOTEMPTY' || attempt > 3) throw error
    }
  }
}

async function callPath(op: string, args: Arguments): Promise<unknown> {
  const path = pathOf(op, args)
  const options = args[1] as { recursive?: boolean; force?: boolean } | undefined
  if (op === 'rm' && path !== undefined && options?.recursive) return removeTree(path, options.force === true)
  const call = (own: Arguments) => (op === 'open' ? openHandle(own) : (plain[op] as Callable)(...own))
  return through(op, path, rewritten(op, args), call as (own: Arguments) => Promise<unknown>)
}

function patchPromises(): void {
  for (const op of pathOperations.split(' ')) {
    Object.assign(fs.promises, { [op]: (...args: Arguments) => callPath(op, args) })
  }
}

function patchHandles(members: Members, operations = handleOperations.split(' ')): void {
  for (const op of operations) {
    const original = members[op] as Callable | undefined
    if (!original) continue
    members[op] = function (this: object, ...args: Arguments) {
      const call = (own: Arguments) => original.apply(this, own) as Promise<unknown>
      if (op === 'close') {
        opened.delete(this)
        descriptors.delete((this as { fd: number }).fd)
      }
      return through(`handle.${op}`, handles.get(this), args, call)
    }
  }
}

/** The original with a callback, as a promise; what it calls back with beside the result is kept for the caller. */
function promised(original: Callable, self: unknown, args: Arguments): Promise<Arguments> {
  return new Promise((done, failed) => {
    original.apply(self, [...args, (error: unknown, ...results: Arguments) => (error ? failed(error) : done(results))])
  })
}

function patchCallback(
  name: string,
  wrapped: (original: Callable, self: unknown, args: Arguments) => Promise<unknown>,
) {
  const members = fs as unknown as Members
  const original = members[name] as Callable
  function patched(this: unknown, ...args: Arguments) {
    const callback = args.at(-1)
    if (watch === null || typeof callback !== 'function') return original.apply(this, args)
    wrapped(original, this, args.slice(0, -1)).then(
      (results) => process.nextTick(callback as Callable, null, ...((results ?? []) as Arguments)),
      (error) => process.nextTick(callback as Callable, error),
    )
  }
  // What `util.promisify` and `realpath.native` need.
  const {
    length,
    name: _name,
    prototype: _prototype,
    ...rest
  } = Object.getOwnPropertyDescriptors(original) as Record<string, PropertyDescriptor>
  Object.defineProperties(patched, rest)
  members[name] = patched
}

function patchCallbacks(): void {
  for (const op of pathOperations.split(' ')) {
    patchCallback(op, async (original, self, args) => {
      const path = pathOf(op, args)
      const options = args[1] as { recursive?: boolean; force?: boolean } | undefined
      if (op === 'rm' && path !== undefined && options?.recursive) {
        await removeTree(path, options.force === true)
        return []
      }
      const results = await through(op, path, rewritten(op, args), (own) => promised(original, self, own))
      if (op === 'open' && typeof args[0] === 'string') descriptors.set((results as [number])[0], args[0])
      return results
    })
  }
  for (const [name, op] of Object.entries(descriptorOperations)) {
    patchCallback(name, async (original, self, args) => {
      const descriptor = args[0] as number
      const call = (own: Arguments) => promised(original, self, [descriptor, ...own])
      const path = descriptors.get(descriptor)
      if (op === 'close') descriptors.delete(descriptor)
      return through(`handle.${op}`, path, args.slice(1), call)
    })
  }
}

function patchSync(name: 'statSync' | 'fstatSync', op: string, pathOfCall: (args: Arguments) => unknown): void {
  const members = fs as unknown as Members
  const original = members[name] as Callable
  members[name] = (...args: Arguments) => {
    const path = pathOfCall(args)
    const proceed = () => original(...(name === 'statSync' ? rewritten(op, args) : args))
    if (watch === null || !isWatched(path)) return original(...args)
    return watch.intercept.sync ? watch.intercept.sync(describe(op, path, args), proceed) : proceed()
  }
}

patchPromises()
patchCallbacks()
patchSync('statSync', 'statSync', ([path]) => path)
patchSync('fstatSync', 'handle.statSync', ([descriptor]) => descriptors.get(descriptor as number))
syncBuiltinESMExports()
