/** What a disk can do to a call, for `watchFs`. */
import type { FsCall, Interceptor, Proceed } from './hook-fs.ts'

export type Errno = 'ENOSPC' | 'EDQUOT' | 'EIO' | 'EMFILE' | 'EROFS' | 'EACCES' | 'EBUSY'

export interface Fault {
  readonly name: string
  /** Of an answer that the fault is the reason for. */
  readonly status: 503 | 507
  strike(call: FsCall, proceed: (limit?: number) => Promise<unknown>): Promise<unknown>
  /** The same for a call that is made synchronously. */
  strikeSync?(call: FsCall): never
  /** Which later calls fail as well; `null`: it happens once. */
  readonly lasts: ((call: FsCall) => boolean) | null
}

const numbers: Readonly<Record<Errno | 'EXDEV', number>> = {
  ...{ EIO: -5, EACCES: -13, EBUSY: -16, EXDEV: -18, EMFILE: -24, ENOSPC: -28, EROFS: -30, EDQUOT: -122 },
}

/** As Node makes them: with a number, a system call and, in the message, a path. */
export function errnoError(code: Errno | 'EXDEV', { op, path }: Pick<FsCall, 'op' | 'path'>): NodeJS.ErrnoException {
  const syscall = op.replace('handle.', '')
  const error = new Error(`${code}: injected, ${syscall} '${path}'`)
  return Object.assign(error, { code, errno: numbers[code], syscall, path })
}

const statusOf = (code: Errno) => (code === 'ENOSPC' || code === 'EDQUOT' ? 507 : 503)

/** The call is not made. */
function refuses(code: Errno, lasts: Fault['lasts'] = null): Fault {
  return {
    name: lasts ? `${code} from here on` : code,
    status: statusOf(code),
    lasts,
    async strike(call, proceed) {
      // What is not closed leaks in the test, not in what is tested.
      if (call.op === 'handle.close' || call.op === 'close') await proceed()
      throw errnoError(code, call)
    },
    strikeSync(call) {
      throw errnoError(code, call)
    },
  }
}

/** The call is made, and says that it was not. */
const liesAbout: Fault = {
  name: 'EIO after it was done',
  status: 503,
  lasts: null,
  async strike(call, proceed) {
    const result = await flushesNothing(call, proceed)
    // Calls that run side by side may have changed places, and this be an open file that nobody gets.
    if (call.op === 'open') await (result as { close?: () => Promise<void> }).close?.()
    throw errnoError('EIO', call)
  },
}

/** A write takes only this share of what it was given and says so. */
function takes(share: number): Fault {
  return {
    name: `${Math.round(share * 100)} % of the bytes`,
    status: 507,
    lasts: null,
    strike: ({ size }, proceed) => proceed(Math.floor(size * share)),
  }
}

const always = () => true
const noRoom = [refuses('ENOSPC'), refuses('EDQUOT'), refuses('ENOSPC', (call) => call.grows)]
const broken = [refuses('EIO'), refuses('EIO', always)]
const refused = [refuses('EACCES'), refuses('EROFS', (call) => call.changes)]

/** Everything that can happen to this call on a real disk. */
export function faultsFor({ op, changes, grows, size }: FsCall): readonly Fault[] {
  if (op === 'handle.close') return [refuses('EIO'), refuses('EDQUOT')]
  if (op === 'open') {
    if (grows)
      return [...noRoom, ...broken, ...refused, refuses('EMFILE'), refuses('EMFILE', (call) => call.op === 'open')]
    return [...broken, ...(changes ? refused : [refuses('EACCES')]), refuses('EMFILE')]
  }
  if (/^handle\.write/.test(op) || op === 'handle.appendFile') {
    return [...noRoom, ...broken, takes(0.5), ...(size > 1 ? [takes(1 / size)] : [])]
  }
  if (/^handle\.(data)?sync$/.test(op)) return [...broken, refuses('ENOSPC'), liesAbout]
  if (/^(unlink|rmdir|rm)$/.test(op)) return [...broken, ...refused, refuses('EBUSY'), liesAbout]
  if (op === 'rename') return [...noRoom, ...broken, ...refused, refuses('EBUSY'), liesAbout]
  if (grows) return [...noRoom, ...broken, ...refused, liesAbout]
  if (changes) return [...broken, ...refused]
  if (op === 'readdir') return [...broken, refuses('EACCES'), refuses('EMFILE')]
  return [...broken, refuses('EACCES')]
}

/** Lets the fault strike at call `n`; `struck` tells which call that was. */
export function faultAt(n: number, fault: Fault) {
  const state: { struck: FsCall | null; readonly intercept: Interceptor } = {
    struck: null,
    intercept: Object.assign(
      async (call: FsCall, proceed: Proceed) =>
        strikes(call) ? fault.strike(call, proceed) : flushesNothing(call, proceed),
      // Calls that run side by side may have changed places, and this be one that the fault is nothing for.
      {
        sync: (call: FsCall, proceed: () => unknown) =>
          strikes(call) && fault.strikeSync ? fault.strikeSync(call) : proceed(),
      },
    ),
  }
  const strikes = (call: FsCall) => {
    if (call.n === n) state.struck = call
    return call.n === n || (call.n > n && fault.lasts?.(call))
  }
  return state
}

/** Flushing costs milliseconds and changes nothing that these tests look at. */
export const flushesNothing: Interceptor = async ({ op }, proceed) =>
  op === 'handle.sync' || op === 'handle.datasync' ? undefined : proceed()
