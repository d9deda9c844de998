/** With `durability: 'power'` a name is flushed before what it leads to counts: a file in a lost folder is lost. */
import { mkdirSync, realpathSync } from 'node:fs'
import { join, relative } from 'node:path'
import { Readable } from 'node:stream'
import { beforeEach, describe, expect, it, vi } from 'vitest'
import { createUploadEngine, LocalStorageAdapter } from '../../src/index.ts'
import { bytes } from '../support/random.ts'
import { tempFolder } from '../support/temp-folder.ts'

const flushed = vi.hoisted(() => ({ paths: new Set<string>() }))

vi.mock('node:fs/promises', async (importOriginal) => {
  const real = await importOriginal<typeof import('node:fs/promises')>()
  const open: typeof real.open = async (path, ...args) => {
    const handle = await real.open(path, ...args)
    const sync = handle.sync.bind(handle)
    handle.sync = async () => {
      await sync()
      flushed.paths.add(String(path))
    }
    return handle
  }
  return { ...real, open, default: { ...real, open } }
})

beforeEach(() => flushed.paths.clear())

const data = bytes(1_000)
const draft = { protocol: 'native', fileName: 'a.bin', mimeType: 'text/plain', totalSize: data.length }

async function uploadBelow(root: string) {
  const [directory, tempDir] = [join(root, 'x/files'), join(root, 'y/z/temp')]
  const storage = new LocalStorageAdapter({ directory, durability: 'power' })
  const engine = createUploadEngine({ storage, tempDir, durability: 'power' })
  const { session } = await engine.create(draft)
  const ref = { protocol: 'native', uploadId: session.id } as const
  await engine.writeChunk({ ...ref, index: 0, body: Readable.from([data]) })
  const beforeCompletion = new Set([...flushed.paths].map((path) => relative(root, path)))
  await engine.complete(ref)
  await engine.close()
  return { id: session.id, beforeCompletion, after: new Set([...flushed.paths].map((path) => relative(root, path))) }
}

describe('durability power', () => {
  it('flushes every folder that got a name, up to one that was there before', async () => {
    const root = realpathSync(tempFolder())
    const { id, beforeCompletion, after } = await uploadBelow(root)
    const staged = `y/z/temp/staging/${id}`
    expect([...beforeCompletion]).toEqual(
      expect.arrayContaining(['', 'y', 'y/z', 'y/z/temp', 'y/z/temp/staging', staged, 'y/z/temp/sessions']),
    )
    expect([...after]).toEqual(expect.arrayContaining(['x', 'x/files', 'x/files/uploads']))
  })

  it('also flushes names in folders that somebody else has made a moment ago', async () => {
    const root = realpathSync(tempFolder())
    for (const folder of ['x/files/uploads', 'y/z/temp/staging', 'y/z/temp/sessions']) {
      mkdirSync(join(root, folder), { recursive: true, mode: 0o700 })
    }
    const { after } = await uploadBelow(root)
    expect([...after]).toEqual(expect.arrayContaining(['y/z/temp', 'y/z/temp/staging', 'x/files', 'x/files/uploads']))
  })
})
