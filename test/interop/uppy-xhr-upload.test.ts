/** The real `@uppy/xhr-upload` against the main uploader. */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { LocalStorageAdapter } from '../../src/storage/local-storage.ts'
import type { UploadSession } from '../../src/types.ts'
import { bytes, sha256 } from '../support/random.ts'
import { testServer } from '../support/server.ts'
import { filesBelow, tempFolder } from '../support/temp-folder.ts'
import { fileOf, loadUppy, silent, type UppyFile } from '../support/uppy.ts'
import { installXhr } from '../support/xhr.ts'

let xhr: ReturnType<typeof installXhr>
beforeEach(() => {
  xhr = installXhr()
})
afterEach(() => xhr.remove())

const { Uppy, plugin: XHRUpload } = await loadUppy(6, '@uppy/xhr-upload')

async function setUp(config: Parameters<typeof testServer>[0] = {}) {
  const directory = tempFolder()
  const sessions: UploadSession[] = []
  const server = await testServer({
    storage: new LocalStorageAdapter({ directory, baseUrl: 'https://cdn.example.com' }),
    hooks: { onComplete: (session) => void sessions.push(session) },
    ...config,
  })
  // As the app's own CORS middleware would.
  server.server.prependListener('request', (_request, response) => {
    response.setHeader('Access-Control-Allow-Origin', '*')
  })
  const uppyWith = (options: object) =>
    new Uppy({ logger: silent }).use(XHRUpload, { endpoint: `${server.url}/upload`, ...options })
  return { ...server, directory, sessions, uppyWith }
}

const name = 'ä photo.png'

describe('Uppy XHRUpload', () => {
  it.each([0, 1, 3_000_000])('stores a file of %i bytes and gets its URL', async (size) => {
    const { uppyWith, directory, sessions } = await setUp()
    const uppy = uppyWith({})
    const data = bytes(size)
    const many = Object.fromEntries(Array.from({ length: 30 }, (_, i) => [`field${i}`, `value ${i}`]))
    uppy.addFile(fileOf(data, name, 'image/png', { ...many, nothing: null, tags: ['a', 'b'], 'list[]': ['c', 'd'] }))
    const result = await uppy.upload()
    expect(result.failed).toEqual([])
    const url = result.successful[0]?.uploadURL ?? ''
    expect(url).toMatch(/^https:\/\/cdn\.example\.com\/uploads\/.*photo\.png$/)
    const [path = ''] = await filesBelow(join(directory, 'uploads'))
    expect(sha256(await readFile(join(directory, 'uploads', path)))).toBe(sha256(data))
    expect(sessions[0]).toMatchObject({ fileName: 'ä photo.png', mimeType: 'image/png' })
    expect(sessions[0]?.metadata).toMatchObject({ name: 'ä photo.png', field29: 'value 29', tags: '["a","b"]' })
    expect(sessions[0]?.metadata).toMatchObject({ list: '["c","d"]' })
    expect(sessions[0]?.metadata).not.toHaveProperty('nothing')
  })

  it('sends the plain bytes with formData: false, and the name in the URL', async () => {
    const { uppyWith, url, sessions, directory } = await setUp({ json: false })
    const endpoint = (file: UppyFile) => `${url}/upload?fileName=${encodeURIComponent(file.name)}`
    const uppy = uppyWith({ formData: false, endpoint })
    const data = bytes(2_000_000)
    uppy.addFile(fileOf(data, name, 'image/png'))
    expect((await uppy.upload()).failed).toEqual([])
    expect(sessions[0]).toMatchObject({ fileName: 'ä photo.png', mimeType: 'image/png' })
    const [path = ''] = await filesBelow(join(directory, 'uploads'))
    expect(sha256(await readFile(join(directory, 'uploads', path)))).toBe(sha256(data))
  })

  it('without a name for the plain bytes, or with several files in one request, is told what to do', async () => {
    const { uppyWith, directory, tempDir } = await setUp()
    const raw = uppyWith({ formData: false, shouldRetry: () => false })
    raw.addFile(fileOf(bytes(100), name, 'image/png'))
    const refused = await raw.upload()
    expect(answerOf(refused.failed[0])).toMatchObject({
      code: 'INVALID_FORM',
      message: expect.stringContaining('?fileName='),
    })
    const bundle = uppyWith({ bundle: true, shouldRetry: () => false })
    bundle.addFile(fileOf(bytes(100), 'one.png', 'image/png'))
    bundle.addFile(fileOf(bytes(100), 'two.png', 'image/png'))
    await expect(bundle.upload()).rejects.toThrow()
    expect(answerOf(bundle.getFiles()[0])).toMatchObject({
      code: 'INVALID_FORM',
      message: 'The form has more than one file part. Send one file per request.',
    })
    expect(await filesBelow(join(directory, 'uploads'))).toEqual([])
    expect(await filesBelow(join(tempDir, 'staging'))).toEqual([])
  })

  it('repeats what was refused, and not one of these requests leaves anything behind', async () => {
    const { uppyWith, directory, tempDir, middleware } = await setUp({
      maxFileSize: 1_000_000,
      allowedMimeTypes: ['image/*'],
    })
    let created = 0
    middleware.engine.events.on('created', () => created++)
    const uppy = uppyWith({})
    uppy.addFile(fileOf(bytes(3_000_000), name, 'image/png'))
    const large = await uppy.upload()
    expect(large.failed[0]).toBeDefined()
    const other = uppyWith({})
    other.addFile(fileOf(bytes(1), 'a.txt', 'text/plain'))
    await other.upload()
    expect(xhr.log.map(({ status }) => status)).toEqual([413, 413, 413, 413, 415, 415, 415, 415])
    expect(created).toBe(0)
    expect(await filesBelow(join(directory, 'uploads'))).toEqual([])
    expect(await filesBelow(join(tempDir, 'staging'))).toEqual([])
  })
})

function answerOf(file: UppyFile | undefined): unknown {
  return JSON.parse(file?.response?.responseText ?? '{}')
}
