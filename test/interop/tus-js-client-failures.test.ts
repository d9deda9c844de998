/** What tus-js-client makes of a server in trouble: it must neither lose a file nor report one that is not there. */
import { type IncomingHttpHeaders, request } from 'node:http'
import { describe, expect, it } from 'vitest'
import { ProcessingError } from '../../src/errors.ts'
import { MemoryLocker } from '../../src/locks/memory-locker.ts'
import { tusHandler } from '../../src/tus.ts'
import { bytes, sha256 } from '../support/random.ts'
import {
  clientUpload,
  failingStorage,
  type MakeSite,
  MiB,
  type Site,
  type SiteOptions,
  shortRetries,
  sites,
} from '../support/tus-js.ts'

const file = bytes(12 * MiB + 345, 3)

/** Retries that a client with the default delays would make too, without its waits. */
const fewRetries = [0, 1, 2, 3]

async function expectStored(site: Site, content: Buffer): Promise<void> {
  expect(site.completed).toHaveLength(1)
  const key = site.completed[0]?.object.key
  expect(await site.objects()).toEqual([{ key, sha256: sha256(content) }])
}

/** A request beside the client's own. */
function send(method: string, url: string, headers: Record<string, string>, body?: Buffer) {
  return new Promise<{ status: number; headers: IncomingHttpHeaders }>((resolve, reject) => {
    const outgoing = request(url, { method, headers: { 'Tus-Resumable': '1.0.0', ...headers } }, (response) => {
      response.resume().on('end', () => resolve({ status: response.statusCode ?? 0, headers: response.headers }))
    })
    outgoing.on('error', reject).end(body)
  })
}

describe.each(sites)('tus-js-client and %s in trouble', (_, make: MakeSite) => {
  const site = (options?: SiteOptions) => make((engine) => tusHandler(engine), { partSize: 5 * MiB, ...options })

  it('HEAD 423 while somebody holds the upload: the client asks again and goes on, with no new upload', async () => {
    const locker = new MemoryLocker()
    const here = await site({ locker })
    const first = await new Promise<ReturnType<typeof clientUpload>>((resolve) => {
      const started = clientUpload(file, {
        endpoint: here.url,
        chunkSize: 4 * MiB,
        onChunkComplete: () => void started.upload.abort().then(() => resolve(started)),
      })
    })
    const { signal } = new AbortController()
    // It does not do as it is asked.
    const lock = await locker.acquire(here.created[0]?.id ?? '', { signal, onReleaseRequested: () => {} })
    const second = clientUpload(file, {
      endpoint: here.url,
      uploadUrl: first.upload.url,
      onAfterResponse: async (_request, response) => {
        if (response.getStatus() === 423) await lock.release()
      },
    })
    await second.done
    expect(second.exchanges()).toEqual(['HEAD 423', 'HEAD 200', 'PATCH 204'])
    expect(here.created).toHaveLength(1)
    await expectStored(here, file)
  })

  it('PATCH 409 because somebody else was faster: the client asks for the offset and goes on', async () => {
    const here = await site()
    let patches = 0
    const { done, exchanges } = clientUpload(file, {
      endpoint: here.url,
      chunkSize: 4 * MiB,
      onBeforeRequest: async (own) => {
        if (own.getMethod() !== 'PATCH') return
        patches += 1
        if (patches !== 2) return
        const headers = { 'Content-Type': 'application/offset+octet-stream', 'Upload-Offset': String(4 * MiB) }
        const answer = await send('PATCH', own.getURL(), headers, file.subarray(4 * MiB, 7 * MiB))
        expect([answer.status, answer.headers['upload-offset']]).toEqual([204, String(7 * MiB)])
      },
    })
    await done
    const rest = ['PATCH 204', 'PATCH 204']
    expect(exchanges()).toEqual(['POST 201', 'PATCH 204', 'PATCH 409', 'HEAD 200', ...rest])
    await expectStored(here, file)
  })

  it('a storage that fails for a while: success is told only once the object is there', async () => {
    const tries: number[] = []
    const fails = (attempt: number) => tries.push(attempt) <= 4
    const here = await site({ wrap: (storage) => failingStorage(storage, fails) })
    const { done, exchanges } = clientUpload(file, { endpoint: here.url })
    const last = await done
    // Before anything else runs: what was there when success was told.
    expect(here.completed).toHaveLength(1)
    expect(last.getHeader('Content-Location')).toBe(here.completed[0]?.object.url)
    await expectStored(here, file)
    expect(tries).toEqual([1, 2, 3, 4, 5])
    const [created, patch, ...heads] = exchanges()
    expect([created, heads.at(-1)]).toEqual(['POST 201', 'HEAD 200'])
    expect(patch).toMatch(/^PATCH 50[234]$/)
    expect(heads.slice(0, -1)).toEqual(Array(heads.length - 1).fill('HEAD 423'))
    expect(here.created).toHaveLength(1)
  })

  it.each([
    ['in one PATCH', {}],
    ['in chunks', { chunkSize: 3 * MiB }],
    ['with the creation', { uploadDataDuringCreation: true }],
    ['in parallel', { parallelUploads: 3 }],
  ])('a storage that always fails: a file sent %s is never told to be complete', async (_name, options) => {
    const here = await site({ wrap: (storage) => failingStorage(storage, () => true) })
    const { done } = clientUpload(file, { endpoint: here.url, retryDelays: fewRetries, ...options })
    await expect(done).rejects.toThrow(/tus: /)
    expect(here.completed).toEqual([])
    expect(await here.objects()).toEqual([])
  })

  it('a storage that always fails: an empty file is never told to be complete', async () => {
    const here = await site({ wrap: (storage) => failingStorage(storage, () => true) })
    const { done } = clientUpload(Buffer.alloc(0), { endpoint: here.url, retryDelays: fewRetries })
    await expect(done).rejects.toThrow(/tus: /)
    expect(here.completed).toEqual([])
  })

  it('a storage that fails after it has stored: the client gets the object, once', async () => {
    const fails = (attempt: number) => attempt <= 2
    const here = await site({ wrap: (storage) => failingStorage(storage, fails, 'after') })
    const { done } = clientUpload(file, { endpoint: here.url })
    const last = await done
    expect(last.getHeader('Content-Location')).toBe(here.completed[0]?.object.url)
    await expectStored(here, file)
  })

  it('data sent with the creation is not sent again when the storage fails for a while', async () => {
    const here = await site({ wrap: (storage) => failingStorage(storage, (attempt) => attempt <= 2) })
    const { done, count } = clientUpload(file, { endpoint: here.url, uploadDataDuringCreation: true })
    await done
    expect([count('POST'), count('PATCH'), here.created.length]).toEqual([1, 0, 1])
    await expectStored(here, file)
  })

  it.each(['before', 'after'] as const)(
    'the final POST of a parallel upload that fails once, %s the object is made, ends with one object',
    async (when) => {
      const here = await site({ wrap: (storage) => failingStorage(storage, (attempt) => attempt === 1, when) })
      const { done, log, count } = clientUpload(file, { endpoint: here.url, parallelUploads: 3 })
      await done
      const finals = log.filter((entry) => entry.header('Upload-Concat')?.startsWith('final'))
      expect(finals.map(({ status }) => status)).toEqual([expect.any(Number), 201])
      expect(finals[0]?.status).toBeGreaterThanOrEqual(500)
      expect([count('PATCH'), count('HEAD')]).toEqual([3, 3])
      await expectStored(here, file)
      expect(here.created.filter(({ sources }) => sources)).toHaveLength(1)
    },
  )

  it('a final POST whose answer is lost finds its upload again', async () => {
    const here = await site()
    const { done, log } = clientUpload(file, {
      endpoint: here.url,
      parallelUploads: 2,
      onBeforeRequest: async (own) => {
        const concat = own.getHeader('Upload-Concat') ?? ''
        if (!concat.startsWith('final')) return
        expect((await send('POST', here.url, { 'Upload-Concat': concat })).status).toBe(201)
      },
    })
    await done
    expect(log.at(-1)?.answer('Location')).toContain(here.created.at(-1)?.id)
    expect(here.created).toHaveLength(3)
    await expectStored(here, file)
  })

  it('a file that the application refuses is an error at once, and its upload is gone', async () => {
    const onComplete = () => {
      throw new ProcessingError('There is a virus in it.')
    }
    const here = await site({ hooks: { onComplete } })
    const { done, exchanges, upload } = clientUpload(file, { endpoint: here.url, retryDelays: shortRetries })
    await expect(done).rejects.toThrow(/There is a virus in it/)
    expect(exchanges()).toEqual(['POST 201', 'PATCH 422'])
    expect((await send('HEAD', upload.url ?? '', {})).status).toBe(410)
    expect(await here.objects()).toEqual([])
    expect(await here.leftovers()).toEqual([])
  })

  it('a refused creation is an error at once', async () => {
    const here = await site({ maxFileSize: file.length - 1 })
    const { done, exchanges } = clientUpload(file, { endpoint: here.url })
    await expect(done).rejects.toThrow(/response code: 413/)
    expect(exchanges()).toEqual(['POST 413'])
  })
})
