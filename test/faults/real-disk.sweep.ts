/** Disks that really fail, fill up, become read-only, belong to somebody else or are taken away, under a server process. */
import { execFileSync } from 'node:child_process'
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  readdirSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as wait } from 'node:timers/promises'
import { afterEach, describe, expect, it } from 'vitest'
import { createUploadEngine, LocalStorageAdapter } from '../../src/index.ts'
import { unmount } from '../support/crash-disk.ts'
import { DiskHistory, nothingMore } from '../support/disk-history.ts'
import { epilogue, openFiles } from '../support/epilogue.ts'
import { survived } from '../support/fault-points.ts'
import { checkPromises, Ledger } from '../support/ledger.ts'
import { type Answer, nativeClient } from '../support/native-client.ts'
import { type ServerProcess, startServer } from '../support/process.ts'
import { bytes, cut, sha256 } from '../support/random.ts'
import { readTrace, straceMissing, watchFiles } from '../support/system-calls.ts'
import { tempFolder } from '../support/temp-folder.ts'

const isRoot = process.platform === 'linux' && process.getuid?.() === 0
const noStrace = straceMissing()
if (!isRoot) console.log('real-disk: mounts and other users are left out, they need root on Linux')
if (noStrace) console.log(`real-disk: failing flushes are left out, ${noStrace}`)

const mounts: string[] = []

afterEach(() => {
  for (const path of mounts.splice(0).reverse()) unmount(path)
})

/** A file system in memory of its own, gone after the test. */
function tmpfs(options: string): string {
  const path = tempFolder()
  execFileSync('mount', ['-t', 'tmpfs', '-o', options, 'tmpfs', path])
  mounts.push(path)
  return path
}

/** A disk on which a record is open, as those are that were changed last, is busy for ten seconds at most. */
async function remount(path: string, mode: 'ro' | 'rw'): Promise<void> {
  for (const end = Date.now() + 15_000; ; ) {
    try {
      return void execFileSync('mount', ['-o', `remount,${mode}`, path], { stdio: 'pipe' })
    } catch (error) {
      if (Date.now() > end) throw error
      await wait(100)
    }
  }
}

/** A refusal that a client repeats, and in which nothing of the server is told. */
function expectRefusal({ status, text, headers }: Answer, expected: readonly number[], folder: string): void {
  expect(expected, text).toContain(status)
  expect(Number(headers.get('retry-after'))).toBeGreaterThan(0)
  expect(text).not.toContain(folder)
  expect(text).not.toMatch(/ENOSPC|EACCES|EROFS|EMFILE|ENOENT|at .*\.ts|node:/)
}

const file = bytes(300_000, 5)
const pieces = cut(file, 100_000)

/** Sends every chunk until it is taken, completes, and looks at the file. */
async function finish(server: ServerProcess, id: string, directory: string): Promise<void> {
  const client = nativeClient(server.url)
  for (const [index, data] of pieces.entries()) {
    expect((await client.raw(id, index, data)).body, `chunk ${index}`).toMatchObject({ success: true })
  }
  const { status, body, text } = await client.complete(id)
  expect(status, text).toBe(200)
  expect(sha256(await readFile(join(directory, body.key)))).toBe(sha256(file))
}

const readIn = (directory: string) => (key: string) => readFile(join(directory, key))

/** In one thread, so that the n-th call is always the same one. */
const oneThread = ['env', 'UV_THREADPOOL_SIZE=1']
const foldersIn = (root: string) => ({ tempDir: join(root, 'temp'), directory: join(root, 'files') })

async function untilTaken(send: () => Promise<{ status: number }>): Promise<void> {
  for (let refusals = 0; ; refusals++) {
    const { status } = await send()
    if (status < 300) return
    expect(status).toBe(503)
    expect(refusals).toBeLessThan(5)
  }
}

describe.skipIf(noStrace)('a flush that fails', () => {
  it.each(['fsync', 'fdatasync'])(
    'is no acknowledgement, and what it was to flush is written anew [E02]: %s',
    async (call) => {
      for (let n = 1; ; n++) {
        const root = tempFolder()
        const output = join(tempFolder(), 'calls')
        const ledger = new Ledger()
        const server = await startServer({ ...foldersIn(root), config: { durability: 'power' } }, undefined, oneThread)
        const tracer = await watchFiles(server.pid, output, ['-e', `inject=${call}:error=EIO:when=${n}`])
        try {
          let upload = await ledger.startNative(server.url, file, [100_000], n % 2 === 0)
          if (upload.id === '') {
            upload = await ledger.startNative(server.url, file, [100_000], n % 2 === 0)
          }
          for (const index of [0, 2, 1]) await untilTaken(() => ledger.chunk(server.url, upload, index))
          await untilTaken(() => ledger.complete(server.url, upload))
          expect(await readFile(join(foldersIn(root).directory, keyOf(ledger)))).toEqual(file)
        } finally {
          await tracer.detach()
          await server.kill()
        }
        // A flush that failed has cast off what it was to write: only what was written again can be flushed.
        const history = new DiskHistory(root, readTrace(output))
        const left = join(tempFolder(), 'left')
        mkdirSync(left)
        history.materialize(Number.POSITIVE_INFINITY, left, nothingMore)
        const { tempDir, directory } = foldersIn(left)
        const engine = createUploadEngine({ storage: new LocalStorageAdapter({ directory }), tempDir })
        await checkPromises(engine, directory, ledger.entries, (entry) => entry.acknowledged).catch((cause) => {
          throw new Error(`${call} ${n}: ${cause.message}`, { cause })
        })
        await engine.close()
        survived('power', `${call} ${n} fails`)
        if (history.failedFlushes === 0) {
          expect(n).toBeGreaterThan(4)
          return
        }
      }
    },
  )
})

function keyOf({ entries }: Ledger): string {
  const { promised } = entries.at(-1) ?? {}
  return promised?.kind === 'object' ? promised.key : ''
}

describe.skipIf(!isRoot)('a disk that is full', () => {
  const fill: Readonly<Record<string, { mount: string; minFreeBytes?: number }>> = {
    'of bytes': { mount: 'size=2m', minFreeBytes: 0 },
    'of bytes, as minFreeBytes sees it': { mount: 'size=24m' },
    'of files': { mount: 'nr_inodes=64', minFreeBytes: 0 },
  }
  it.each(Object.keys(fill))('%s is 507, nothing acknowledged is lost, and it recovers [E03]', async (kind) => {
    const { mount, minFreeBytes } = fill[kind] ?? { mount: '' }
    const tempDir = tmpfs(`${mount},mode=700`)
    const directory = tempFolder()
    const server = await startServer({ tempDir, directory, config: minFreeBytes === 0 ? { minFreeBytes } : {} })
    const client = nativeClient(server.url)
    const filesBefore = openFiles(server.pid)
    const id = await client.start(file.length)
    expect((await client.raw(id, 0, pieces[0] as Buffer)).status).toBe(200)
    const ballast = join(tempDir, 'ballast')
    mkdirSync(ballast)
    if (kind === 'of files') fillWithFiles(ballast)
    else fillWithBytes(join(ballast, 'bytes'), minFreeBytes === 0 ? Number.POSITIVE_INFINITY : 12 * 2 ** 20)
    // What is known of the room may be half a second old.
    await wait(600)
    const answers = [
      ...(await Promise.all([1, 2].map((index) => client.raw(id, index, pieces[index] as Buffer)))),
      await client.chunk(id, 1, pieces[1] as Buffer),
    ]
    for (const answer of answers) if (answer.status !== 200) expectRefusal(answer, [507], tempDir)
    expect(answers.filter(({ status }) => status === 507).length).toBeGreaterThan(0)
    expect((await client.progress(id)).body.uploadedChunks, 'the one before').toBeGreaterThanOrEqual(1)
    const doomed = await client.init({ fileName: 'x', totalSize: 10, mimeType: 'text/plain' })
    if (doomed.status !== 200) expectRefusal(doomed, [507], tempDir)
    else expect((await client.abort(doomed.body.uploadId)).status).toBe(204)
    rmSync(ballast, { recursive: true })
    await wait(600)
    await finish(server, id, directory)
    await epilogue({ url: server.url, tempDir, pid: server.pid, filesBefore, read: readIn(directory) })
    survived('fs', `a disk full ${kind}`)
  })

  function fillWithFiles(folder: string): void {
    try {
      for (let i = 0; ; i++) writeFileSync(join(folder, String(i)), '')
    } catch {}
  }

  function fillWithBytes(path: string, most: number): void {
    try {
      for (let size = 0; size < most; size += 4096) writeFileSync(path, Buffer.alloc(4096, 1), { flag: 'a' })
    } catch {}
  }

  it('lets an upload be removed, which makes room [E03]', async () => {
    const tempDir = tmpfs('nr_inodes=48,mode=700')
    const directory = tempFolder()
    const server = await startServer({ tempDir, directory, config: { minFreeBytes: 0 } })
    const client = nativeClient(server.url)
    const ids: string[] = []
    for (;;) {
      const init = await client.init({ fileName: 'x', totalSize: file.length, mimeType: 'text/plain' })
      if (init.status !== 200) break
      ids.push(init.body.uploadId)
      if ((await client.raw(init.body.uploadId, 0, pieces[0] as Buffer)).status !== 200) break
    }
    expect(ids.length).toBeGreaterThan(3)
    for (const id of ids) expect((await client.abort(id)).status, 'abort').toBe(204)
    const id = await client.start(file.length)
    await finish(server, id, directory)
    survived('fs', 'removing uploads on a disk without inodes')
  })
})

describe.skipIf(!isRoot)('a disk that becomes read-only', () => {
  it.each(['tempDir', 'the storage'])('is 503 until it is writable again: %s [E05]', async (which) => {
    const [tempDir, directory] = [tmpfs('size=64m,mode=700'), tmpfs('size=64m,mode=700')]
    const server = await startServer({ tempDir, directory, config: { minFreeBytes: 0 } })
    const client = nativeClient(server.url)
    const id = await client.start(file.length)
    const disk = which === 'tempDir' ? tempDir : directory
    expect((await client.raw(id, 0, pieces[0] as Buffer)).status).toBe(200)
    if (which === 'the storage') for (const i of [1, 2]) await client.raw(id, i, pieces[i] as Buffer)
    await remount(disk, 'ro')
    if (which === 'tempDir') {
      expectRefusal(await client.raw(id, 1, pieces[1] as Buffer), [503], tempDir)
      expectRefusal(await client.init({ fileName: 'x', totalSize: 1, mimeType: 'text/plain' }), [503], tempDir)
      expect((await client.progress(id)).body).toMatchObject({ uploadedChunks: 1 })
    } else expectRefusal(await client.complete(id), [503], directory)
    await remount(disk, 'rw')
    await finish(server, id, directory)
    await epilogue({ url: server.url, tempDir, pid: server.pid, read: readIn(directory) })
    survived('fs', `${which} read-only`)
  })
})

describe.skipIf(!isRoot)('a process without descriptors', () => {
  it('refuses the excess with 503, and recovers [E04]', async () => {
    const [tempDir, directory] = [tempFolder(), tempFolder()]
    const server = await startServer({ tempDir, directory }, undefined, ['prlimit', '--nofile=64'])
    const client = nativeClient(server.url)
    const id = await client.start(file.length)
    const many = Array.from({ length: 200 }, (_, i) => i)
    const small = await client.start(200 * 1_000, { chunkSize: 1_000 })
    const all = bytes(200_000, 9)
    const send = (index: number) =>
      client.raw(small, index, all.subarray(index * 1_000, (index + 1) * 1_000)).catch(() => null)
    const taken = new Set<number>()
    const statuses = new Set<number>()
    for (let round = 0; taken.size < many.length; round++) {
      expect(round, `${taken.size} taken, ${[...statuses]}`).toBeLessThan(100)
      // At first all at once; then as clients do that have been told to wait. Idle connections take descriptors for five seconds.
      if (round > 0) await wait(250)
      const open = many.filter((index) => !taken.has(index)).slice(0, round === 0 ? 200 : 10)
      for (const [i, answer] of (await Promise.all(open.map(send))).entries()) {
        if (answer?.status === 200) taken.add(open[i] as number)
        else if (answer) expectRefusal(answer, [503], tempDir)
        statuses.add(answer?.status ?? 0)
      }
    }
    expect([...statuses].some((status) => status !== 200)).toBe(true)
    const { status, body } = await client.complete(small)
    expect(status).toBe(200)
    expect((await readFile(join(directory, body.key))).equals(all)).toBe(true)
    await finish(server, id, directory)
    await epilogue({ url: server.url, tempDir, pid: server.pid, read: readIn(directory) })
    survived('fs', 'no descriptors left')
  })
})

describe.skipIf(!isRoot)('a server that is not root', () => {
  const nobody = 65534
  const asNobody = ['setpriv', `--reuid=${nobody}`, `--regid=${nobody}`, '--clear-groups']

  /** A folder that the user may reach and own. */
  function theirFolder(): string {
    const path = tempFolder()
    chownSync(path, nobody, nobody)
    return path
  }

  it('that may not write to tempDir any more says 503, and goes on when it may [E05]', async () => {
    const [tempDir, directory] = [theirFolder(), theirFolder()]
    const server = await startServer({ tempDir, directory }, undefined, asNobody)
    const client = nativeClient(server.url)
    const id = await client.start(file.length)
    expect((await client.raw(id, 0, pieces[0] as Buffer)).status).toBe(200)
    for (const folder of [`staging/${id}`, 'staging', 'sessions', '.']) chmodSync(join(tempDir, folder), 0o500)
    chmodSync(join(tempDir, 'staging', id, 'claims'), 0o500)
    expectRefusal(await client.raw(id, 1, pieces[1] as Buffer), [503], tempDir)
    expectRefusal(await client.init({ fileName: 'x', totalSize: 1, mimeType: 'text/plain' }), [503], tempDir)
    expect((await client.progress(id)).body).toMatchObject({ uploadedChunks: 1 })
    for (const folder of ['.', 'sessions', 'staging', `staging/${id}`, `staging/${id}/claims`]) {
      chmodSync(join(tempDir, folder), 0o700)
    }
    await finish(server, id, directory)
    await epilogue({ url: server.url, tempDir, pid: server.pid, read: readIn(directory) })
    survived('fs', 'tempDir not writable')
  })

  it('that may not touch its staged file or its record any more says 503, and goes on when it may [E05]', async () => {
    const [tempDir, directory] = [theirFolder(), theirFolder()]
    const server = await startServer({ tempDir, directory }, undefined, asNobody)
    const client = nativeClient(server.url)
    const id = await client.start(file.length)
    expect((await client.raw(id, 0, pieces[0] as Buffer)).status).toBe(200)
    const [record = ''] = readdirSync(join(tempDir, 'sessions', id))
    for (const path of [join('staging', id, 'part-1'), join('sessions', id, record)]) {
      chmodSync(join(tempDir, path), 0)
      expectRefusal(await client.raw(id, 1, pieces[1] as Buffer), [503], tempDir)
      chmodSync(join(tempDir, path), 0o600)
    }
    await finish(server, id, directory)
    await epilogue({ url: server.url, tempDir, pid: server.pid, read: readIn(directory) })
    survived('fs', 'files without permissions', 2)
  })

  it('does not begin with a tempDir of somebody else, and says so to its operator only [E05]', async () => {
    const [tempDir, directory] = [tempFolder(), theirFolder()]
    chmodSync(tempDir, 0o777)
    const server = await startServer({ tempDir, directory }, undefined, asNobody)
    const client = nativeClient(server.url)
    expectRefusal(await client.init({ fileName: 'x', totalSize: 1, mimeType: 'text/plain' }), [503], tempDir)
    expect(readdirSync(tempDir)).toEqual([])
    chownSync(tempDir, nobody, nobody)
    chmodSync(tempDir, 0o700)
    await epilogue({ url: server.url, tempDir, pid: server.pid, read: readIn(directory) })
    survived('fs', 'tempDir of another user')
  })
})

describe('a tempDir that is taken away', () => {
  /** The folder is looked at five times a second at most, ms. */
  const untilNoticed = 250
  const replacements: Readonly<Record<string, (tempDir: string, elsewhere: string) => void>> = {
    'moved away': () => {},
    'replaced by a file': (tempDir) => writeFileSync(tempDir, ''),
    'replaced by a symbolic link': (tempDir, elsewhere) => symlinkSync(elsewhere, tempDir),
    'replaced by an empty folder': (tempDir) => mkdirSync(tempDir, { mode: 0o700 }),
  }

  it.each(Object.keys(replacements))(
    'is 503 for what was in it, and goes on when it is back: %s [E06]',
    async (kind) => {
      const root = tempFolder()
      const [tempDir, away, elsewhere] = [join(root, 'temp'), join(root, 'away'), join(root, 'elsewhere')]
      const directory = tempFolder()
      mkdirSync(elsewhere, { mode: 0o700 })
      const server = await startServer({ tempDir, directory })
      const client = nativeClient(server.url)
      const filesBefore = openFiles(server.pid)
      const id = await client.start(file.length)
      expect((await client.raw(id, 0, pieces[0] as Buffer)).status).toBe(200)
      renameSync(tempDir, away)
      replacements[kind]?.(tempDir, elsewhere)
      await wait(untilNoticed)
      expectRefusal(await client.raw(id, 1, pieces[1] as Buffer), [503], root)
      expectRefusal(await client.complete(id), [503], root)
      expectRefusal(await client.progress(id), [503], root)
      if (/by a (file|symbolic link)/.test(kind)) {
        expectRefusal(await client.init({ fileName: 'x', totalSize: 1, mimeType: 'text/plain' }), [503], root)
      }
      expect(readdirSync(elsewhere), 'nothing is made behind a link').toEqual([])
      rmSync(tempDir, { recursive: true, force: true })
      renameSync(away, tempDir)
      await finish(server, id, directory)
      await epilogue({ url: server.url, tempDir, pid: server.pid, filesBefore, read: readIn(directory) })
      survived('fs', `tempDir ${kind}`)
    },
  )

  it('by a cleaner of temporary files is made again for new uploads [E06]', async () => {
    const tempDir = join(tempFolder(), 'temp')
    const directory = tempFolder()
    const server = await startServer({ tempDir, directory })
    const client = nativeClient(server.url)
    expect(await client.start(file.length)).toMatch(/-/)
    rmSync(tempDir, { recursive: true })
    await wait(untilNoticed)
    await epilogue({ url: server.url, tempDir, pid: server.pid, read: readIn(directory) })
    // Whose fields come last: these bytes have to wait in a folder of their own.
    const id = await client.start(10)
    expect((await client.chunk(id, 0, bytes(10), 'file first')).status).toBe(200)
    expect(existsSync(join(tempDir, 'sessions'))).toBe(true)
    survived('fs', 'tempDir removed')
  })

  it.skipIf(!isRoot)('with its disk is not made anew on the disk below [E06]', async () => {
    const disk = tmpfs('size=64m,mode=700')
    const [tempDir, directory] = [join(disk, 'temp'), tempFolder()]
    const server = await startServer({ tempDir, directory, config: { minFreeBytes: 0 } })
    const client = nativeClient(server.url)
    const id = await client.start(file.length)
    // What is bound over a mount point hides it, as an unmounted disk would.
    const bare = tempFolder()
    execFileSync('mount', ['--bind', bare, disk])
    mounts.push(disk)
    await wait(untilNoticed)
    expectRefusal(await client.init({ fileName: 'x', totalSize: 1, mimeType: 'text/plain' }), [503], disk)
    expectRefusal(await client.raw(id, 0, pieces[0] as Buffer), [503], disk)
    expect(readdirSync(bare)).toEqual([])
    unmount(disk)
    await finish(server, id, directory)
    survived('fs', 'the disk of tempDir unmounted')
  })
})
