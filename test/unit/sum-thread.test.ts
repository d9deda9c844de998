/** Sums of files that a thread of its own makes, and what becomes of them where there is no thread. */
import { execFile, execFileSync } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { getEventListeners } from 'node:events'
import {
  closeSync,
  constants,
  createReadStream,
  mkdtempSync,
  openSync,
  readdirSync,
  readlinkSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import type { Worker, WorkerOptions } from 'node:worker_threads'
import { crc32 } from 'node:zlib'
import crc32c from 'crc-32/crc32c.js'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { parseChecksum } from '../../src/engine/body.ts'
import { FileChecks } from '../../src/engine/file-checks.ts'
import { BodySums } from '../../src/storage/body-sums.ts'
import { SumThread } from '../../src/sums/sum-thread.ts'
import { eventually } from '../support/tus-client.ts'

const { threads, rules } = vi.hoisted(() => ({ threads: [] as Worker[], rules: { areAllowed: true, prelude: '' } }))

vi.mock('node:worker_threads', async (original) => {
  const real = await original<typeof import('node:worker_threads')>()
  class Watched extends real.Worker {
    constructor(source: string, options: WorkerOptions) {
      if (!rules.areAllowed) throw new Error('ERR_ACCESS_DENIED')
      super(rules.prelude + source, options)
      threads.push(this)
    }
  }
  return { ...real, Worker: Watched }
})

const MiB = 1024 * 1024
const forever = new AbortController().signal

let folder: string
let thread: SumThread

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'sums-'))
  thread = new SumThread()
})
afterEach(async () => {
  Object.assign(rules, { areAllowed: true, prelude: '' })
  threads.length = 0
  vi.useRealTimers()
  await thread.end()
  rmSync(folder, { recursive: true, force: true })
})

function file(content: Buffer): string {
  const path = join(folder, randomBytes(8).toString('hex'))
  writeFileSync(path, content)
  return path
}

/** A file of zeros that nobody has to write. */
function sparse(size: number): string {
  const path = file(Buffer.alloc(0))
  truncateSync(path, size)
  return path
}

/** MD5 and CRC-32 of the beginning of a file. */
async function ask(path: string, size: number, signal = forever) {
  const job = { pieces: [{ path, start: 0, size }], algorithms: ['md5', 'crc32'] }
  const found = await thread.digestsOf(job, signal)
  const [md5, crc] = found?.digests.map((digest) => Buffer.from(digest)) ?? []
  return found && { md5: md5?.toString('hex'), crc32: crc?.readUInt32BE(), read: found.read }
}

function sumsOf(content: Buffer) {
  return { md5: createHash('md5').update(content).digest('hex'), crc32: crc32(content) }
}

/** How many files of the folder this process has open; threads share them. */
function openFiles(): number {
  const link = (fd: string) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`)
    } catch {
      return ''
    }
  }
  return readdirSync('/proc/self/fd').filter((fd) => link(fd).startsWith(folder)).length
}

describe('the thread', () => {
  it.each([0, 1, MiB / 2, MiB / 2 + 1, 16 * MiB + 5])('sums %i bytes of a file that goes on', async (size) => {
    const content = randomBytes(size)
    const path = file(Buffer.concat([content, randomBytes(10)]))
    expect(await ask(path, size)).toEqual({ ...sumsOf(content), read: size })
  })

  it('sums pieces of several files as one, with any algorithms', async () => {
    const content = randomBytes(17 * MiB)
    const cuts = [0, 1, 5 * MiB, 5 * MiB, 16 * MiB, 17 * MiB]
    const pieces = cuts.slice(1).map((end, i) => {
      const start = cuts[i] ?? 0
      const own = content.subarray(start, end)
      return { path: file(Buffer.concat([randomBytes(i), own, randomBytes(3)])), start: i, size: own.length }
    })
    const algorithms = ['sha256', 'crc32', 'sha512', 'md5', 'sha1']
    const found = await thread.digestsOf({ pieces, algorithms }, forever)
    const expected = algorithms.map((name) => {
      if (name !== 'crc32') return createHash(name).update(content).digest('hex')
      return crc32(content).toString(16).padStart(8, '0')
    })
    expect(found?.read).toBe(content.length)
    expect(found?.digests.map((digest) => Buffer.from(digest).toString('hex'))).toEqual(expected)
    expect(openFiles()).toBe(0)
  })

  it('tells how much there was of a file that is shorter', async () => {
    expect(await ask(file(randomBytes(100)), 101)).toMatchObject({ read: 100 })
    expect(openFiles()).toBe(0)
  })

  it('says what is wrong with a file, and goes on with the others', async () => {
    const content = randomBytes(1000)
    const sums = ['missing', file(content), '.', 'also-missing', file(content)].map((path) =>
      ask(path.startsWith('/') ? path : join(folder, path), 1000),
    )
    const [missing, first, directory, again, second] = await Promise.allSettled(sums)
    expect(missing).toMatchObject({ reason: { code: 'ENOENT' } })
    expect(directory).toMatchObject({ reason: { code: 'EISDIR' } })
    expect(again).toMatchObject({ reason: { code: 'ENOENT' } })
    for (const each of [first, second]) expect(each).toMatchObject({ value: sumsOf(content) })
    expect(threads).toHaveLength(1)
    expect(openFiles()).toBe(0)
  })

  it('lets others go before the rest of a long file', async () => {
    const content = randomBytes(MiB)
    const order: string[] = []
    const named = (name: string, path: string, size: number) =>
      ask(path, size).then((sums) => {
        order.push(name)
        return sums
      })
    const [long, ...short] = await Promise.all([
      named('long', sparse(64 * MiB), 64 * MiB),
      ...Array.from({ length: 5 }, () => named('short', file(content), MiB)),
    ])
    expect(order).toEqual(['short', 'short', 'short', 'short', 'short', 'long'])
    expect(long).toMatchObject(sumsOf(Buffer.alloc(64 * MiB)))
    for (const each of short) expect(each).toMatchObject(sumsOf(content))
  })

  it('leaves off when nobody wants the sum any more', async () => {
    const path = sparse(100 * 1024 * MiB)
    const stop = new AbortController()
    const unwanted = ask(path, 100 * 1024 * MiB, stop.signal)
    unwanted.catch(() => {})
    await eventually(() => expect(openFiles()).toBe(1))
    const reason = new Error('enough')
    stop.abort(reason)
    await expect(unwanted).rejects.toBe(reason)
    await eventually(() => expect(openFiles()).toBe(0))
    const content = randomBytes(100)
    expect(await ask(file(content), 100)).toMatchObject(sumsOf(content))
  })

  it('does not begin with what nobody wants', async () => {
    const reason = new Error('enough')
    await expect(ask('missing', 1, AbortSignal.abort(reason))).rejects.toBe(reason)
    expect(threads).toEqual([])
  })

  it('reads short files while many long ones are read', async () => {
    const stop = new AbortController()
    const long = Array.from({ length: 20 }, () => ask(sparse(100 * 1024 * MiB), 100 * 1024 * MiB, stop.signal))
    const unwanted = Promise.allSettled(long)
    const content = randomBytes(2 * MiB + 1)
    const short = Array.from({ length: 20 }, () => ask(file(content), content.length))
    for (const each of await Promise.all(short)) expect(each).toEqual({ ...sumsOf(content), read: content.length })
    stop.abort(new Error('enough'))
    await unwanted
    await eventually(() => expect(openFiles()).toBe(0))
  })

  it('tells of a failure as the file system does', async () => {
    const path = join(folder, 'missing')
    const error = await ask(path, 1).catch((error: unknown) => error)
    expect(error).toMatchObject({ code: 'ENOENT', errno: expect.any(Number), syscall: 'open', path })
    expect(error).toBeInstanceOf(Error)
  })

  it('goes on after there was no memory for a while', async () => {
    rules.prelude = `
      const allocate = Buffer.allocUnsafeSlow
      let failures = 20
      Buffer.allocUnsafeSlow = (size) => {
        if (failures-- > 0) throw new RangeError('Array buffer allocation failed')
        return allocate(size)
      };`
    const content = randomBytes(100)
    const path = file(content)
    for (let i = 0; i < 20; i++) await expect(ask(path, 100)).rejects.toThrow('allocation failed')
    expect(await ask(path, 100)).toMatchObject(sumsOf(content))
    expect(openFiles()).toBe(0)
  })

  it('waits for no answer to what cannot be posted', async () => {
    const job = { pieces: [{ path: (() => {}) as unknown as string, start: 0, size: 1 }], algorithms: ['md5'] }
    await expect(thread.digestsOf(job, forever)).rejects.toThrow('could not be cloned')
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    const path = file(randomBytes(1))
    await ask(path, 1)
    vi.advanceTimersByTime(10_000)
    vi.useRealTimers()
    await eventually(() => expect(threads.map(({ threadId }) => threadId)).toEqual([-1]))
  })

  it('reads others while one cannot be read, and may be ended then', async () => {
    const path = join(folder, 'fifo')
    execFileSync('mkfifo', [path])
    const stop = new AbortController()
    const stuck = ask(path, 1, stop.signal)
    stuck.catch(() => {})
    const content = randomBytes(100)
    expect(await ask(file(content), 100)).toMatchObject(sumsOf(content))
    stop.abort(new Error('enough'))
    await expect(stuck).rejects.toThrow('enough')
    expect(await ask(file(content), 100)).toMatchObject(sumsOf(content))
    // Or nothing of this process could end.
    closeSync(openSync(path, constants.O_WRONLY))
  })

  it('is not asked any more once it has ended by itself', async () => {
    const warnings = vi.spyOn(process, 'emitWarning').mockImplementation(() => {})
    const waiting = ask(sparse(1024 * MiB), 1024 * MiB)
    await threads[0]?.terminate()
    expect(await waiting).toBe(null)
    expect(await ask(file(randomBytes(1)), 1)).toBe(null)
    expect(threads).toHaveLength(1)
    expect(warnings.mock.calls).toEqual([[expect.stringMatching(/is lost/), { code: 'NEXUS_SUM_THREAD_LOST' }]])
    warnings.mockRestore()
  })

  it('is not asked any more after an error of its own, which ends nothing else', async () => {
    const warnings = vi.spyOn(process, 'emitWarning').mockImplementation(() => {})
    const waiting = ask(sparse(1024 * MiB), 1024 * MiB)
    threads[0]?.emit('error', new Error('out of memory'))
    expect(await waiting).toBe(null)
    expect(await ask(file(randomBytes(1)), 1)).toBe(null)
    await eventually(() => expect(threads.map(({ threadId }) => threadId)).toEqual([-1]))
    expect(warnings).toHaveBeenCalledTimes(1)
    warnings.mockRestore()
  })

  it('ends when it had nothing to do for ten seconds, and another begins', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    const content = randomBytes(100)
    const path = file(content)
    const stop = new AbortController()
    expect(await ask(path, 100)).toMatchObject(sumsOf(content))
    const long = ask(sparse(100 * 1024 * MiB), 100 * 1024 * MiB, stop.signal).catch(() => 'aborted')
    vi.advanceTimersByTime(60_000)
    expect(await ask(path, 100)).toMatchObject(sumsOf(content))
    stop.abort()
    expect(await long).toBe('aborted')
    vi.advanceTimersByTime(9_999)
    expect(await ask(path, 100)).toMatchObject(sumsOf(content))
    vi.advanceTimersByTime(9_999)
    expect(await ask(path, 100)).toMatchObject(sumsOf(content))
    expect(threads).toHaveLength(1)
    vi.advanceTimersByTime(10_000)
    vi.useRealTimers()
    await eventually(() => expect(threads.map(({ threadId }) => threadId)).toEqual([-1]))
    expect(await ask(path, 100)).toMatchObject(sumsOf(content))
    expect(threads).toHaveLength(2)
  })

  it('gives up what is asked when it is ended', async () => {
    const waiting = ask(sparse(1024 * MiB), 1024 * MiB)
    await thread.end()
    expect(await waiting).toBe(null)
    expect(threads.map(({ threadId }) => threadId)).toEqual([-1])
  })

  it('listens to no signal that it need not hear any more', async () => {
    const { signal } = new AbortController()
    await ask(file(randomBytes(10)), 10, signal)
    expect(getEventListeners(signal, 'abort')).toEqual([])
  })

  it('is not asked for where it is not allowed', async () => {
    const warnings = vi.spyOn(process, 'emitWarning').mockImplementation(() => {})
    rules.areAllowed = false
    expect(await ask(file(randomBytes(1)), 1)).toBe(null)
    rules.areAllowed = true
    expect(await ask(file(randomBytes(1)), 1)).toBe(null)
    expect(warnings.mock.calls).toEqual([[expect.stringMatching(/is lost/), { code: 'NEXUS_SUM_THREAD_LOST' }]])
    warnings.mockRestore()
    thread = new SumThread()
    vi.stubEnv('NEXUS_UPLOADER_SUM_THREAD', 'off')
    expect(await ask(file(randomBytes(1)), 1)).toBe(null)
    vi.unstubAllEnvs()
    // Node's permission model: it would not hold for the thread.
    Object.defineProperty(process, 'permission', { value: {}, configurable: true })
    expect(await ask(file(randomBytes(1)), 1)).toBe(null)
    Reflect.deleteProperty(process, 'permission')
    expect(threads).toEqual([])
  })

  it('holds the process while it works, and no longer', async () => {
    const source = fileURLToPath(new URL('../../src/sums/sum-thread.ts', import.meta.url))
    const [short, long] = [sparse(MiB), sparse(64 * MiB)]
    const script = `
      import { SumThread } from ${JSON.stringify(source)}
      const thread = new SumThread()
      const { signal } = new AbortController()
      const tell = (path, size) =>
        thread.digestsOf({ pieces: [{ path, start: 0, size }], algorithms: ['md5'] }, signal)
          .then(({ digests }) => console.log(Buffer.from(digests[0]).toString('hex')))
      tell(${JSON.stringify(short)}, ${MiB})
      tell(${JSON.stringify(long)}, ${64 * MiB})`
    const command = ['--import', 'tsx', '--input-type=module', '-e', script]
    const { stdout } = await promisify(execFile)(process.execPath, command, { timeout: 30_000 })
    expect(stdout.trim().split('\n')).toEqual([MiB, 64 * MiB].map((size) => sumsOf(Buffer.alloc(size)).md5))
  })
})

describe('checksums of files', () => {
  const content = randomBytes(3 * MiB)
  const given = (algorithm: string, of = content) =>
    parseChecksum(
      `${algorithm}:${
        algorithm === 'crc32'
          ? Buffer.from(crc32(of).toString(16).padStart(8, '0'), 'hex').toString('base64')
          : algorithm === 'crc32c'
            ? Buffer.from((crc32c.buf(of) >>> 0).toString(16).padStart(8, '0'), 'hex').toString('base64')
            : createHash(algorithm).update(of).digest('base64')
      }`,
    )
  const pieces = () => [
    { path: file(content.subarray(0, MiB)), start: 0, size: MiB },
    { path: file(content.subarray(MiB / 2)), start: MiB / 2, size: 2 * MiB },
  ]
  let checks: FileChecks
  beforeEach(() => {
    checks = new FileChecks(thread)
  })

  it.each(['crc32', 'crc32c', 'md5', 'sha1', 'sha256', 'sha512'])('are compared: %s', async (algorithm) => {
    for (const areAllowed of [false, true]) {
      rules.areAllowed = areAllowed
      await checks.verify(pieces(), [given(algorithm)])
      const wrong = given(algorithm, content.subarray(1))
      await expect(checks.verify(pieces(), [wrong])).rejects.toMatchObject({ code: 'CHECKSUM_MISMATCH' })
      await expect(checks.verify(pieces(), [given('md5'), wrong])).rejects.toMatchObject({
        code: 'CHECKSUM_MISMATCH',
      })
      await expect(checks.verify(pieces(), [wrong, given('md5')], { wholeFile: true })).rejects.toMatchObject({
        code: 'CHECKSUM_MISMATCH',
      })
      thread = new SumThread()
      checks = new FileChecks(thread)
    }
  })

  it('are made by the thread when there is much to read, and here when there is little', async () => {
    await checks.verify(pieces(), [given('sha1'), given('crc32')])
    expect(threads).toHaveLength(1)
    threads.length = 0
    const other = new FileChecks(new SumThread())
    const few = { path: file(content), start: 0, size: MiB }
    await other.verify([few], [given('sha1', content.subarray(0, MiB))])
    await other.verify(pieces(), [given('sha1'), given('crc32c')])
    await other.verify(pieces(), [])
    expect(threads).toEqual([])
  })

  it.each([
    ['much', 2 * MiB],
    ['little', MiB],
  ])('do not count for files that are too short: %s to read', async (_, size) => {
    const short = { path: file(content.subarray(0, size - 1)), start: 0, size }
    for (const expected of [given('md5', content.subarray(0, size)), given('md5', content.subarray(0, size - 1))]) {
      await expect(checks.verify([short], [expected])).rejects.toMatchObject({ code: 'STAGING_LOST' })
    }
  })

  it('end when nobody waits for them any more', async () => {
    const reason = new Error('enough')
    const stop = new AbortController()
    const long = { path: sparse(100 * 1024 * MiB), start: 0, size: 100 * 1024 * MiB }
    for (const expected of [given('md5'), given('crc32c')]) {
      const waiting = checks.verify([long], [expected], { signal: stop.signal })
      setTimeout(() => stop.abort(reason), 20)
      await expect(waiting).rejects.toBe(reason)
    }
    await eventually(() => expect(openFiles()).toBe(0))
  })
})

describe('sums of a body', () => {
  const both = { md5: true, crc32: true }
  const onlyMd5 = { md5: true, crc32: false }
  const content = randomBytes(MiB)
  const body = (more: object = {}) => {
    const path = file(content)
    const opened = { times: 0 }
    const open = () => {
      opened.times += 1
      return createReadStream(path)
    }
    return { size: content.length, path, open, opened, ...more }
  }

  it('come from the thread when it lies in one file', async () => {
    const sums = new BodySums(thread)
    const given = body()
    expect(await sums.ofBody(given, both, forever)).toMatchObject(sumsOf(content))
    expect(given.opened.times).toBe(0)
  })

  it('are only those that are wanted', async () => {
    const sums = new BodySums(thread)
    const { md5, crc32 } = sumsOf(content)
    const wanted = { md5: false, crc32: true }
    for (const given of [body(), body({ path: null })]) {
      expect(await sums.ofBody(given, onlyMd5, forever)).toEqual({ md5, crc32: 0 })
      expect(await sums.ofBody(given, wanted, forever)).toEqual({ md5: null, crc32 })
      expect(given.opened.times).toBe(given.path === null ? 2 : 0)
    }
    expect(sums.of(content, wanted)).toEqual({ md5: null, crc32 })
    expect(sums.of(content, onlyMd5)).toEqual({ md5, crc32: 0 })
  })

  it.each([
    ['it lies in several', true, { path: null }],
    ['its path is not known', true, { path: '' }],
    ['there is no thread', false, {}],
  ])('are made here when %s', async (_, areAllowed, more) => {
    rules.areAllowed = areAllowed
    const sums = new BodySums(thread)
    const given = body(more)
    expect(await sums.ofBody(given, both, forever)).toEqual(sumsOf(content))
    expect(given.opened.times).toBe(1)
    expect(threads).toEqual([])
  })

  it.each([
    ['in the thread', {}],
    ['here', { path: null }],
  ])('are refused when it is too short: %s', async (_, more) => {
    const sums = new BodySums(thread)
    const short = body({ size: content.length + 1, ...more })
    await expect(sums.ofBody(short, onlyMd5, forever)).rejects.toMatchObject({
      name: 'SourceError',
      message: `the data has ${content.length} of the announced ${content.length + 1} bytes`,
    })
  })

  it('are not made when there is none to be had', async () => {
    const sums = new BodySums(thread)
    vi.spyOn(sums, 'newHash').mockReturnValue(null)
    const given = body()
    expect(await sums.ofBody(given, onlyMd5, forever)).toEqual({ md5: null, crc32: 0 })
    expect(given.opened.times).toBe(0)
    expect(await sums.ofBody(given, both, forever)).toEqual({ md5: null, crc32: crc32(content) })
    expect(sums.of(content, both)).toEqual({ md5: null, crc32: crc32(content) })
  })

  it('tell of a file that is not there', async () => {
    const sums = new BodySums(thread)
    const missing = body({ path: join(folder, 'missing') })
    await expect(sums.ofBody(missing, onlyMd5, forever)).rejects.toMatchObject({ name: 'SourceError' })
  })
})
