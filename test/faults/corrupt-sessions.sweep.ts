/**
 * A session file damaged in every way: the upload is a 503 and never a 404, nothing is deleted, the damaged file is kept a second
 * time for whoever looks into it, and every other upload goes on.
 */
import { mkdir, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { MemoryStorageAdapter } from '../../src/storage/memory-storage.ts'
import { testEngine } from '../support/engine.ts'
import { survived } from '../support/fault-points.ts'
import { bytes } from '../support/random.ts'
import { filesBelow, tempFolder } from '../support/temp-folder.ts'

const unreadable = { code: 'STATE_UNREADABLE', status: 503, retryable: true }
const day = 24 * 60 * 60_000

/** Two uploads of which half has arrived, and the session file of the first. */
async function twoUploads() {
  const tempDir = tempFolder()
  const storage = new MemoryStorageAdapter({ multipart: false })
  const file = bytes(2_000)
  const half = async (sessionTtl: number) => {
    const { client, engine } = testEngine({ tempDir, storage, sessionTtl })
    const id = await client.create(file.length, { chunkSize: 1_000 })
    await client.write(id, 0, file.subarray(0, 1_000))
    await engine.close()
    return id
  }
  // A day later only the first would be swept, if it could be read.
  const victim = await half(1_000)
  const other = await half(20 * day)
  const folder = join(tempDir, 'sessions', victim)
  const [name = ''] = await readdir(folder)
  const path = join(folder, name)
  return { tempDir, storage, file, victim, other, folder, path, whole: await readFile(path) }
}

type Uploads = Awaited<ReturnType<typeof twoUploads>>

/** As after a restart; `check` can let a day go by and sweep. */
async function restarted(
  { tempDir, storage }: Uploads,
  check: (made: ReturnType<typeof testEngine>, sweep: () => Promise<void>) => Promise<void>,
) {
  let now = Date.now()
  const made = testEngine({ tempDir, storage, clock: () => now })
  try {
    await check(made, async () => {
      now += day
      await made.engine.sweep()
      now -= day
    })
  } finally {
    await made.engine.close()
  }
}

async function expectRefused(uploads: Uploads, what: string, sweeping = false): Promise<void> {
  const { victim, other, tempDir } = uploads
  await restarted(uploads, async ({ client, engine }, sweep) => {
    const refused = (call: Promise<unknown>) => expect(call, what).rejects.toMatchObject(unreadable)
    await refused(client.get(victim))
    await refused(client.write(victim, 1, bytes(1_000)))
    await refused(client.complete(victim))
    expect((await client.get(other)).id).toBe(other)
    if (!sweeping) return
    await sweep()
    expect((await client.get(other)).id).toBe(other)
    await refused(client.get(victim))
    await refused(engine.abort({ uploadId: victim, protocol: 'native' }))
    expect(await filesBelow(join(tempDir, 'staging', victim)), what).toEqual(['part-1'])
  })
}

/** With the right bytes back in place the upload goes on as if nothing had been. */
async function expectWhole(uploads: Uploads): Promise<void> {
  const { victim, file, storage } = uploads
  await restarted(uploads, async ({ client }) => {
    await client.write(victim, 1, file.subarray(1_000))
    const { key } = await client.complete(victim)
    expect(storage.read(key)?.equals(file)).toBe(true)
  })
}

describe('a session file', () => {
  it('cut off at each byte of its first line, and at each byte of its last [A13]', async () => {
    const uploads = await twoUploads()
    const { path, whole, victim } = uploads
    const last = whole.lastIndexOf(0x1e)
    for (let length = 0; length < whole.length; length++) {
      await writeFile(path, whole.subarray(0, length))
      // A line whose end was never written was never acknowledged: the version before it counts.
      if (length >= last - 1) {
        await restarted(uploads, async ({ client }) => {
          const { version } = await client.get(victim)
          expect(version, `cut at ${length}`).toBe(length === whole.length - 1 ? 1 : 0)
        })
      } else await expectRefused(uploads, `cut at ${length}`, length % 100 === 0)
    }
    await writeFile(path, whole)
    await expectWhole(uploads)
    survived('fs', 'session file cut off', whole.length)
  })

  it('with each byte flipped [A13]', async () => {
    const uploads = await twoUploads()
    const { path, whole, victim } = uploads
    for (const at of whole.keys()) {
      const damaged = Buffer.from(whole)
      damaged[at] = (damaged[at] ?? 0) ^ (1 << (at % 8))
      await writeFile(path, damaged)
      await expectRefused(uploads, `byte ${at}`, at % 100 === 0)
    }
    await writeFile(path, whole)
    await expectWhole(uploads)
    const kept = await filesBelow(join(uploads.tempDir, 'sessions', 'quarantine'))
    expect(kept).toEqual([expect.stringContaining(victim)])
    survived('fs', 'session file with a flipped byte', whole.length)
  })

  it.each<[string, (uploads: Uploads) => Promise<void>]>([
    ['that is empty', ({ path }) => writeFile(path, '')],
    ['of ten mebibytes of something else', ({ path }) => writeFile(path, Buffer.alloc(10 * 1024 * 1024, 'x'))],
    [
      'with ten mebibytes behind it',
      ({ path, whole }) => writeFile(path, Buffer.concat([whole, Buffer.alloc(10 * 1024 * 1024, 'x')])),
    ],
    [
      'with a folder in its place',
      async ({ path }) => {
        await rm(path)
        await mkdir(join(path, 'inner'), { recursive: true })
      },
    ],
    [
      'with a file in place of its folder',
      async ({ folder }) => {
        await rm(folder, { recursive: true })
        await writeFile(folder, 'x')
      },
    ],
    [
      'of another upload',
      async ({ path, tempDir, other }) => {
        const [name = ''] = await readdir(join(tempDir, 'sessions', other))
        await writeFile(path, await readFile(join(tempDir, 'sessions', other, name)))
      },
    ],
  ])('%s [A13]', async (what, damage) => {
    const uploads = await twoUploads()
    const before = await stat(uploads.path)
    await damage(uploads)
    await expectRefused(uploads, what, true)
    const aside = `${uploads.folder}-aside`
    await rename(uploads.folder, aside)
    await mkdir(uploads.folder, { mode: 0o700 })
    await writeFile(uploads.path, uploads.whole, { mode: before.mode })
    await expectWhole(uploads)
    survived('fs', `session file ${what}`)
  })
})
