/** The real `@uppy/aws-s3`, 5 and 6, with no S3 anywhere: parts and forms go to this library's own routes. */
import { readFile } from 'node:fs/promises'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { join } from 'node:path'
import { setTimeout as wait } from 'node:timers/promises'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { StorageUnavailableError } from '../../src/errors.ts'
import { type UppyS3Options, uppyS3Handler } from '../../src/protocols/uppy/handler.ts'
import { MemoryStorageAdapter } from '../../src/storage/memory-storage.ts'
import type { UploadSession } from '../../src/types.ts'
import { protocolServer } from '../support/protocol-server.ts'
import { bytes, sha256 } from '../support/random.ts'
import { S3Fixture } from '../support/s3-fixture.ts'
import { doubleTarget } from '../support/s3-target.ts'
import { eventually } from '../support/tus-client.ts'
import { fileOf, loadUppy, silent, type UppyFile, type UppyInstance } from '../support/uppy.ts'
import { uppyServer } from '../support/uppy-client.ts'
import { installXhr } from '../support/xhr.ts'

const MiB = 1024 * 1024

let xhr: ReturnType<typeof installXhr>
beforeEach(() => {
  xhr = installXhr()
})
afterEach(() => xhr.remove())

const versions = { 5: await loadUppy(5, '@uppy/aws-s3'), 6: await loadUppy(6, '@uppy/aws-s3') }

function uppyFor(version: 5 | 6, url: string, options: object = {}): UppyInstance {
  const { Uppy, plugin } = versions[version]
  const endpoint = version === 5 ? { endpoint: url } : { companionEndpoint: url }
  return new Uppy({ logger: silent }).use(plugin, { ...endpoint, ...options })
}

type ServerOptions = NonNullable<Parameters<typeof uppyServer>[1]>

async function setUp(version: 5 | 6, handler: UppyS3Options = {}, options: ServerOptions = {}) {
  const server = await uppyServer(handler, options)
  return { ...server, client: (more: object = {}) => uppyFor(version, server.url, more) }
}

const always = { shouldUseMultipart: true }

function keyOf(successful: readonly UppyFile[]): string {
  return String(successful[0]?.response?.body?.key)
}

/** Something between the client and the handler; it says whether it has answered, or will never. */
function intercept(
  task: (request: IncomingMessage, response: ServerResponse) => boolean | Promise<boolean>,
): ServerOptions {
  return {
    prepare: (app) => {
      app.use(async (request, response, next) => {
        if (!(await task(request, response))) next()
      })
    },
  }
}

describe.each([5, 6] as const)('@uppy/aws-s3 %i', (version) => {
  it.each([1, 5 * MiB, 17 * MiB + 5])('sends a file of %i bytes in parts and gets its URL', async (size) => {
    const { client, directory } = await setUp(version)
    const uppy = client(always)
    const data = bytes(size)
    uppy.addFile(fileOf(data, 'a video.mp4', 'video/mp4', { caption: 'hello' }))
    const { failed, successful } = await uppy.upload()
    expect(failed).toEqual([])
    const key = keyOf(successful)
    expect(successful[0]?.uploadURL).toBe(`https://cdn.example.com/${key}`)
    expect(successful[0]?.response?.body?.location).toBe(successful[0]?.uploadURL)
    expect(sha256(await readFile(join(directory, key)))).toBe(sha256(data))
    expect(xhr.log.map(({ method }) => method)).toEqual(
      Array.from({ length: Math.ceil(size / (5 * MiB)) }, () => 'PUT'),
    )
  })

  it.each([0, 100_000])('sends a file of %i bytes in a form', async (size) => {
    const { client, directory } = await setUp(version)
    const uppy = client(size === 0 ? always : {})
    const data = bytes(size)
    uppy.addFile(fileOf(data, 'small.txt', 'text/plain'))
    const { failed, successful } = await uppy.upload()
    expect(failed).toEqual([])
    const key = keyOf(successful)
    expect(sha256(await readFile(join(directory, key)))).toBe(sha256(data))
  })

  it('goes on when parts fail for a while', async () => {
    let failures = 3
    const failing = intercept((request, response) => {
      if (request.method !== 'PUT' || failures-- <= 0) return false
      response.setHeader('Access-Control-Allow-Origin', '*')
      request.resume().once('end', () => response.writeHead(503).end())
      return true
    })
    const server = await setUp(version, {}, failing)
    const uppy = server.client(always)
    const data = bytes(11 * MiB)
    uppy.addFile(fileOf(data, 'a.bin'))
    const { successful } = await uppy.upload()
    const key = keyOf(successful)
    expect(sha256(await readFile(join(server.directory, key)))).toBe(sha256(data))
  })

  it('asks for what is there and sends the rest after a pause', async () => {
    let listed = 0
    const counting = intercept(({ method, url }) => {
      if (method === 'GET' && /multipart\/[^/]+\?key=/.test(url ?? '')) listed++
      return false
    })
    const server = await setUp(version, {}, counting)
    const uppy = server.client({ ...always, limit: 1 })
    const data = bytes(22 * MiB)
    uppy.addFile(fileOf(data, 'a.bin'))
    let sent = 0
    uppy.on('s3-multipart:part-uploaded', () => {
      if (++sent === 2) uppy.pauseAll()
    })
    const uploaded = uppy.upload()
    await eventually(() => expect(sent).toBe(2))
    uppy.resumeAll()
    const { successful } = await uploaded
    expect(listed).toBe(1)
    const key = keyOf(successful)
    expect(sha256(await readFile(join(server.directory, key)))).toBe(sha256(data))
  })

  it('shows an error when the file cannot be stored, and a retry needs no new bytes of whole parts', async () => {
    const memory = new MemoryStorageAdapter({ multipart: false })
    let fails = true
    const upload: MemoryStorageAdapter['upload'] = (...args) =>
      fails ? Promise.reject(new StorageUnavailableError()) : memory.upload(...args)
    const { client } = await setUp(version, {}, { storage: { upload } })
    const uppy = client(always)
    uppy.addFile(fileOf(bytes(6 * MiB), 'a.bin'))
    expect((await uppy.upload()).failed).toHaveLength(1)
    fails = false
    xhr.log.length = 0
    expect((await uppy.retryAll()).successful).toHaveLength(1)
    // Version 5 gives up the upload that failed and begins anew.
    expect(xhr.log.length).toBe(version === 5 ? 2 : 0)
  })

  it('takes an upload back when its file is removed', async () => {
    const { client, engine } = await setUp(version)
    const uppy = client({ ...always, limit: 1 })
    const id = uppy.addFile(fileOf(bytes(30 * MiB), 'a.bin'))
    const aborted = new Promise((resolve) => engine.events.once('aborted', resolve))
    uppy.on('s3-multipart:part-uploaded', () => uppy.removeFile(id))
    await uppy.upload()
    expect(await aborted).toMatchObject({ session: { state: 'aborted' } })
  })
})

describe('@uppy/aws-s3 5', () => {
  it('takes the URL of a small file from Location', async () => {
    const { client } = await setUp(5)
    const uppy = client()
    uppy.addFile(fileOf(bytes(100), 'small.txt', 'text/plain'))
    const { successful } = await uppy.upload()
    expect(successful[0]?.uploadURL).toMatch(/^https:\/\/cdn\.example\.com\/uploads\/.*-small\.txt$/)
  })

  it('gets a new URL for a part whose URL has expired', async () => {
    let waits = 1
    // As if the part had waited too long in the queue of the browser.
    const slow = intercept(async ({ method }) => {
      if (method === 'PUT' && waits-- > 0) await wait(500)
      return false
    })
    const server = await setUp(5, { urlTtl: 300 }, slow)
    const uppy = server.client({ ...always, limit: 1 })
    uppy.addFile(fileOf(bytes(100), 'a.bin'))
    expect((await uppy.upload()).successful).toHaveLength(1)
    expect(xhr.log.map(({ status }) => status)).toEqual([403, 200])
  })

  it('shows the message of a refusal', async () => {
    const { client } = await setUp(5, {}, { allowedMimeTypes: ['image/*'] })
    const uppy = client(always)
    uppy.addFile(fileOf(bytes(100), 'a.txt', 'text/plain'))
    expect((await uppy.upload()).failed[0]?.error).toContain('Files of type text/plain are not accepted.')
  })
})

describe('@uppy/aws-s3 6', () => {
  it('makes up the URL of a small file from formUrl, and it is the true one when that is where stored files are', async () => {
    const memory = new MemoryStorageAdapter({ multipart: false })
    let base = ''
    const upload: MemoryStorageAdapter['upload'] = async (key, stream, mimeType) => {
      await memory.upload(key, stream, mimeType)
      return `${base}/${key}`
    }
    // The address at which this server is thought to serve its files is known when it listens.
    const server = await protocolServer(
      (engine) => (request, response) => uppyS3Handler(engine, { formUrl: base })(request, response),
      { storage: { upload } },
    )
    base = `${server.url}/stored`
    const uppy = uppyFor(6, server.url)
    const stored = new Promise((resolve) => server.engine.events.once('completed', resolve))
    uppy.addFile(fileOf(bytes(100), "it's (small).txt", 'text/plain'))
    const { successful } = await uppy.upload()
    expect(successful[0]?.uploadURL).toMatch(/\/stored\/uploads\/.*small.*\.txt$/)
    expect(await stored).toMatchObject({ object: { url: successful[0]?.uploadURL } })
  })

  it.each([0, 100, 11 * MiB])('with signRequest sends a file of %i bytes as the logged-in user', async (size) => {
    const owner = 'alice'
    const server = await setUp(6, { owner: ({ headers }) => (headers.authorization === 'Bearer 1' ? owner : 'nobody') })
    const files = new Map<string, unknown>()
    const uppy = new versions[6].Uppy({ logger: silent }).use(versions[6].plugin, {
      shouldUseMultipart: true,
      generateObjectKey: ({ name, type, size, meta }: { name: string; type: string; size: number; meta: object }) => {
        const key = `${crypto.randomUUID()}-${name}`
        files.set(key, { name, type, size, meta })
        return key
      },
      signRequest: async (request: { key: string }) => {
        const answered = await fetch(`${server.url}/s3/sign`, {
          method: 'POST',
          headers: { 'Content-Type': 'application/json', Authorization: 'Bearer 1' },
          body: JSON.stringify({ ...request, file: files.get(request.key) }),
        })
        if (!answered.ok) throw new Error(await answered.text())
        return answered.json()
      },
    })
    const completed = new Promise<{ session: UploadSession }>((resolve) =>
      server.engine.events.once('completed', resolve),
    )
    const data = bytes(size)
    uppy.addFile(fileOf(data, "a & b's.mp4", 'video/mp4', { caption: 'hello' }))
    const { failed, successful } = await uppy.upload()
    expect(failed).toEqual([])
    const key = keyOf(successful)
    expect(sha256(await readFile(join(server.directory, key)))).toBe(sha256(data))
    expect((await completed).session).toMatchObject({ owner, mimeType: 'video/mp4', fileName: "a & b's.mp4", key })
    if (size > 0) expect(successful[0]?.uploadURL).toBe(`https://cdn.example.com/${key}`)
  })
})

describe('in direct mode', () => {
  it.each([5, 6] as const)('@uppy/aws-s3 %i sends the parts to S3 itself', async (version) => {
    const fixture = await S3Fixture.start(await doubleTarget())
    try {
      const { client } = await setUp(version, { direct: true }, { storage: fixture.storage, maxChunkSize: 1024 })
      const uppy = client(always)
      const data = bytes(11 * MiB)
      uppy.addFile(fileOf(data, 'a video.mp4', 'video/mp4'))
      const { failed, successful } = await uppy.upload()
      expect(failed).toEqual([])
      expect(sha256(await fixture.read(keyOf(successful)))).toBe(sha256(data))
      expect(new Set(xhr.log.map(({ url }) => new URL(url).origin))).toEqual(new Set([fixture.target.endpoint]))
      expect(successful[0]?.uploadURL).toContain(fixture.target.endpoint)
    } finally {
      await fixture.close()
    }
  })
})
