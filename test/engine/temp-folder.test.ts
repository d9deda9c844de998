import { mkdirSync, readdirSync, renameSync, rmSync, symlinkSync, unlinkSync } from 'node:fs'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { setTimeout as wait } from 'node:timers/promises'
import { describe, expect, it } from 'vitest'
import { createUploadEngine, MemoryStorageAdapter } from '../../src/index.ts'
import { bytes } from '../support/random.ts'
import { tempFolder } from '../support/temp-folder.ts'

const data = bytes(1_000)
/** Until the folder is looked at again, ms. */
const untilLook = 250
const draft = { protocol: 'native', fileName: 'a.bin', mimeType: 'text/plain', totalSize: data.length }

describe('a tempDir that is changed while the engine runs', () => {
  it('into a link is refused: nothing is made behind it, and what was there goes on when it is back', async () => {
    const root = tempFolder()
    const [tempDir, away, elsewhere] = [join(root, 'temp'), join(root, 'away'), join(root, 'elsewhere')]
    mkdirSync(elsewhere, { mode: 0o700 })
    const engine = createUploadEngine({ storage: new MemoryStorageAdapter(), tempDir })
    const { session } = await engine.create(draft)
    const ref = { protocol: 'native', uploadId: session.id } as const
    renameSync(tempDir, away)
    symlinkSync(elsewhere, tempDir)
    await wait(untilLook)
    await expect(engine.create(draft)).rejects.toMatchObject({ status: 503, code: 'TEMP_DIR_REFUSED' })
    await expect(engine.get(ref)).rejects.toMatchObject({ status: 503 })
    expect(readdirSync(elsewhere)).toEqual([])
    unlinkSync(tempDir)
    renameSync(away, tempDir)
    await engine.writeChunk({ ...ref, index: 0, body: Readable.from([data]) })
    expect((await engine.complete(ref)).size).toBe(data.length)
    await engine.close()
  })

  it('and removed is made again with everything in it', async () => {
    const tempDir = join(tempFolder(), 'temp')
    const engine = createUploadEngine({ storage: new MemoryStorageAdapter(), tempDir })
    await engine.create(draft)
    rmSync(tempDir, { recursive: true })
    await wait(untilLook)
    const spooled = await engine.spool(Readable.from([data]), { maxSize: data.length })
    expect(spooled.size).toBe(data.length)
    expect((await engine.create(draft)).session.state).toBe('active')
    await spooled.discard()
    await engine.close()
  })
})
