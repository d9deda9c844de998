/** The settings that the documents print, as they stand there, with the real libraries. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { StorageUnavailableError } from '../../src/errors.ts'
import { MemoryStorageAdapter } from '../../src/storage/memory-storage.ts'
import { bytes } from '../support/random.ts'
import { resumableServer } from '../support/resumable-client.ts'
import { browserFile, loadLibrary, seen } from '../support/xml-http-request.ts'

const MiB = 1024 * 1024
const guide = readFileSync(join(import.meta.dirname, '../../docs/protocols/resumablejs.md'), 'utf8')

interface Client {
  on(event: string, listener: () => void): void
  addFile(file: File): void
  upload(): void
}
type Report = (file: unknown, about: unknown) => void
type Make = (library: unknown, onStored: Report, onFailed: Report) => Client

/** The function of this name in the guide, for a server at `url`. */
function printed(name: string, url: string): Make {
  const [, code = ''] = new RegExp(`export (function ${name}[\\s\\S]*?)\\n\`\`\``).exec(guide) ?? []
  return new Function(`return ${code.replace("'/resumable'", JSON.stringify(url))}`)()
}

it.each([
  ['makeResumable', 'resumablejs', 'filesAdded'],
  ['makeFlow', '@flowjs/flow.js', 'filesSubmitted'],
] as const)(
  '%s stores a file, over a storage that fails at first, and gives up where it is no use',
  async (name, library, added) => {
    let failures = 1
    const memory = new MemoryStorageAdapter({ multipart: false })
    const server = await resumableServer({
      allowedMimeTypes: ['video/mp4'],
      storage: {
        upload: (key, stream, type, info) => {
          failures -= 1
          if (failures < 0) return memory.upload(key, stream, type, info)
          stream.resume()
          return Promise.reject(new StorageUnavailableError())
        },
      },
    })
    const run = (type: string) =>
      new Promise<['stored' | 'failed', unknown]>((resolve) => {
        const client = printed(name, server.url)(
          loadLibrary(library),
          (_, about) => resolve(['stored', about]),
          (_, about) => resolve(['failed', about]),
        )
        client.on(added, () => setTimeout(() => client.upload(), 20))
        client.addFile(browserFile(bytes(5 * MiB), 'a.mp4', type))
        if (library !== 'resumablejs') client.upload()
      })
    expect(await run('video/mp4')).toEqual(['stored', expect.stringContaining('a.mp4')])
    seen.splice(0)
    expect(await run('text/plain')).toEqual(['failed', expect.objectContaining({ code: 'INVALID_FILE_TYPE' })])
    await new Promise((resolve) => setTimeout(resolve, 1_500))
    expect(seen.length).toBeLessThanOrEqual(5)
  },
)
