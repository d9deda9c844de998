/**
 * A temp folder with uploads in many states, as this release writes it. What is in `test/fixtures/temp-folder-format-1` was
 * made by it once, and every later release has to go on with that: `npx tsx test/support/temp-folder-fixture.ts <folder>`
 * makes the next one.
 */
import { cp, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { createUploadEngine } from '../../src/create-upload-engine.ts'
import { FileSessionStore } from '../../src/sessions/file-session-store.ts'
import { MemoryStorageAdapter } from '../../src/storage/memory-storage.ts'

/** When the fixture was written, ms since the epoch. */
export const fixtureTime = Date.UTC(2026, 0, 15)
export type FixtureName = 'declared' | 'loose' | 'appended' | 'completed' | 'refused'
export type FixtureIds = Record<FixtureName, string>

export function fixtureBytes(size: number, seed: number): Buffer {
  return Buffer.from(Array.from({ length: size }, (_, i) => (i * 7 + seed * 13 + (i >> 5)) & 255))
}

export function bodyOf(data: Buffer): Readable {
  return Readable.from([data], { objectMode: false })
}

async function write(tempDir: string): Promise<FixtureIds> {
  // The smallest journals: records in two files.
  const sessions = new FileSessionStore({ directory: join(tempDir, 'sessions'), journalLimit: 1 })
  const storage = new MemoryStorageAdapter({ multipart: false })
  const engine = createUploadEngine({ storage, tempDir, sessions, clock: () => fixtureTime, verifyMimeType: true })
  const create = async (file: Partial<Parameters<typeof engine.create>[0]>, totalSize: number) => {
    const { session } = await engine.create({ fileName: 'a.bin', protocol: 'native', totalSize, ...file })
    return session.id
  }
  const chunk = (uploadId: string, index: number, data: Buffer) =>
    engine.writeChunk({ uploadId, index, protocol: 'native', body: bodyOf(data) })

  const metadata = { from: 'somewhere' }
  const declared = await create({ chunkSize: 200, resumeKey: 'a key', mimeType: 'text/plain', metadata }, 600)
  await chunk(declared, 2, fixtureBytes(600, 1).subarray(400))
  await chunk(declared, 0, fixtureBytes(600, 1).subarray(0, 200))

  const loose = await create({}, 500)
  await chunk(loose, 2, fixtureBytes(500, 2).subarray(300))
  await chunk(loose, 0, fixtureBytes(500, 9).subarray(0, 100))
  await chunk(loose, 0, fixtureBytes(500, 2).subarray(0, 100))

  const appended = await create({ protocol: 'tus', wire: { metadata: 'a YQ==' } }, 400)
  const body = bodyOf(fixtureBytes(400, 3).subarray(0, 250))
  await engine.append({ protocol: 'tus', uploadId: appended, offset: 0, body })

  const completed = await create({ recognizable: true }, 50)
  await chunk(completed, 0, fixtureBytes(50, 4))
  await engine.complete({ uploadId: completed, protocol: 'native' })

  const refused = await create({ mimeType: 'image/png' }, 100)
  await chunk(refused, 0, Buffer.from('%PDF-1.4'.padEnd(100))).catch(() => {})
  await engine.close()
  return { declared, loose, appended, completed, refused }
}

async function main(target: string): Promise<void> {
  const tempDir = await mkdtemp(join(tmpdir(), 'nexus-fixture-'))
  const ids = await write(tempDir)
  await writeFile(join(tempDir, 'uploads.json'), `${JSON.stringify(ids, null, 2)}\n`)
  await cp(tempDir, target, { recursive: true })
  await rm(tempDir, { recursive: true })
}

const [, script = '', target] = process.argv
if (script.endsWith('temp-folder-fixture.ts') && target) await main(target)
