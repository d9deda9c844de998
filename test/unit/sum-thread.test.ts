/** Sums of files that a thread of its own makes, and what becomes of them where there is no thread. */
import { execFile } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { createReadStream, mkdtempSync, readdirSync, readlinkSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import type { Worker, WorkerOptions } from 'node:worker_threads'
import { crc32 } from 'node:zlib'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { BodySums } from '../../src/storage/body-sums.ts'
import { SumThread } from '../../src/storage/sum-thread.ts'
import { eventually } from '../support/tus-client.ts'

const { threads, rules } = vi.hoisted(() => ({ threads: [] as Worker[], rules: { areAllowed: true } }))

vi.mock('node:worker_threads', async (original) => {
  const real = await original<typeof import('node:worker_threads')>()
  class Watched extends real.Worker {
    constructor(source: string, options: WorkerOptions) {
      if (!rules.areAllowed) throw new Error('ERR_ACCESS_DENIED')
      super(source, options)
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
  rules.areAllowed = true
  threads.length = 0
  await thread.close()
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
    const sums = await thread.sumsOf({ path, size, crc32: true }, forever)
    expect(sums).toMatchObject({ ...sumsOf(content), read: size })
    expect(await thread.sumsOf({ path, size, crc32: false }, forever)).toMatchObject({ crc32: 0 })
  })

  it('tells how much there was of a file that is shorter', async () => {
    expect(await thread.sumsOf({ path: file(randomBytes(100)), size: 101, crc32: false }, forever)).toMatchObject({
      read: 100,
    })
  })

  it('says what is wrong with a file, and goes on with the others', async () => {
    const content = randomBytes(1000)
    const sums = ['missing', file(content), '.', 'also-missing', file(content)].map((path) =>
      thread.sumsOf({ path: path.startsWith('/') ? path : join(folder, path), size: 1000, crc32: true }, forever),
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
    const ask = (name: string, path: string, size: number) =>
      thread.sumsOf({ path, size, crc32: true }, forever).then((sums) => {
        order.push(name)
        return sums
      })
    const [long, ...short] = await Promise.all([
      ask('long', sparse(64 * MiB), 64 * MiB),
      ...Array.from({ length: 5 }, () => ask('short', file(content), MiB)),
    ])
    expect(order).toEqual(['short', 'short', 'short', 'short', 'short', 'long'])
    expect(long).toMatchObject(sumsOf(Buffer.alloc(64 * MiB)))
    for (const each of short) expect(each).toMatchObject(sumsOf(content))
  })

  it('leaves off when nobody wants the sum any more', async () => {
    const path = sparse(100 * 1024 * MiB)
    const stop = new AbortController()
    const unwanted = thread.sumsOf({ path, size: 100 * 1024 * MiB, crc32: false }, stop.signal)
    unwanted.catch(() => {})
    await eventually(() => expect(openFiles()).toBe(1))
    const reason = new Error('enough')
    stop.abort(reason)
    await expect(unwanted).rejects.toBe(reason)
    await eventually(() => expect(openFiles()).toBe(0))
    const content = randomBytes(100)
    expect(await thread.sumsOf({ path: file(content), size: 100, crc32: true }, forever)).toMatchObject(sumsOf(content))
  })

  it('does not begin with what nobody wants', async () => {
    const reason = new Error('enough')
    const file = { path: 'missing', size: 1, crc32: false }
    await expect(thread.sumsOf(file, AbortSignal.abort(reason))).rejects.toBe(reason)
    expect(threads).toEqual([])
  })

  it('is not asked any more once it has ended by itself', async () => {
    const waiting = thread.sumsOf({ path: sparse(1024 * MiB), size: 1024 * MiB, crc32: false }, forever)
    await threads[0]?.terminate()
    expect(await waiting).toBe(null)
    expect(await thread.sumsOf({ path: file(randomBytes(1)), size: 1, crc32: false }, forever)).toBe(null)
    expect(threads).toHaveLength(1)
  })

  it('is not asked for where it is not allowed, nor after it was closed', async () => {
    rules.areAllowed = false
    expect(await thread.sumsOf({ path: file(randomBytes(1)), size: 1, crc32: false }, forever)).toBe(null)
    rules.areAllowed = true
    const other = new SumThread()
    await other.close()
    expect(await other.sumsOf({ path: file(randomBytes(1)), size: 1, crc32: false }, forever)).toBe(null)
    expect(threads).toEqual([])
  })

  it('holds the process while it works, and no longer', async () => {
    const source = fileURLToPath(new URL('../../src/storage/sum-thread.ts', import.meta.url))
    const path = sparse(64 * MiB)
    const script = `
      import { SumThread } from ${JSON.stringify(source)}
      const file = { path: ${JSON.stringify(path)}, size: ${64 * MiB}, crc32: false }
      new SumThread().sumsOf(file, new AbortController().signal).then(({ md5 }) => console.log(md5))`
    const command = ['--import', 'tsx', '--input-type=module', '-e', script]
    const { stdout } = await promisify(execFile)(process.execPath, command, { timeout: 30_000 })
    expect(stdout.trim()).toBe(sumsOf(Buffer.alloc(64 * MiB)).md5)
  })
})

describe('sums of a body', () => {
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
    const sums = new BodySums()
    const given = body()
    expect(await sums.ofBody(given, true, forever)).toMatchObject(sumsOf(content))
    expect(given.opened.times).toBe(0)
    await sums.close()
  })

  it.each([
    ['it lies in several', true, { path: null }],
    ['there is no thread', false, {}],
  ])('are made here when %s', async (_, areAllowed, more) => {
    rules.areAllowed = areAllowed
    const sums = new BodySums()
    const given = body(more)
    expect(await sums.ofBody(given, true, forever)).toEqual(sumsOf(content))
    expect(given.opened.times).toBe(1)
    expect(threads).toEqual([])
    await sums.close()
  })

  it.each([
    ['in the thread', {}],
    ['here', { path: null }],
  ])('are refused when it is too short: %s', async (_, more) => {
    const sums = new BodySums()
    const short = body({ size: content.length + 1, ...more })
    await expect(sums.ofBody(short, false, forever)).rejects.toMatchObject({
      name: 'SourceError',
      message: `the data has ${content.length} of the announced ${content.length + 1} bytes`,
    })
    await sums.close()
  })

  it('tell of a file that is not there', async () => {
    const sums = new BodySums()
    const missing = body({ path: join(folder, 'missing') })
    await expect(sums.ofBody(missing, false, forever)).rejects.toMatchObject({ name: 'SourceError' })
    await sums.close()
  })
})
