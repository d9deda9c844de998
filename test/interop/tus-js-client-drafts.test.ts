/** tus-js-client in its two modes for drafts of the IETF protocol against `ietfHandler`, on local disk and on S3. */
import { describe, expect, it } from 'vitest'
import { ietfHandler } from '../../src/ietf.ts'
import { tusHandler } from '../../src/tus.ts'
import { cuttingProxy } from '../support/cutting-proxy.ts'
import { bytes, sha256 } from '../support/random.ts'
import {
  clientUpload,
  failingStorage,
  type MakeSite,
  MiB,
  type Protocol,
  type Site,
  type SiteOptions,
  sites,
  streamOf,
} from '../support/tus-js.ts'

const file = bytes(12 * MiB + 345, 3)
const protocols: readonly Protocol[] = ['ietf-draft-03', 'ietf-draft-05']
const cases = sites.flatMap(([storage, make]) => protocols.map((protocol) => [protocol, storage, make] as const))

async function expectStored(site: Site, content: Buffer): Promise<void> {
  expect(site.completed).toHaveLength(1)
  const key = site.completed[0]?.object.key
  expect(await site.objects()).toEqual([{ key, sha256: sha256(content) }])
}

describe.each(cases)('tus-js-client as %s and %s', (protocol: Protocol, _storage, make: MakeSite) => {
  const site = (options?: SiteOptions) => make((engine) => ietfHandler(engine), { partSize: 5 * MiB, ...options })
  const methods = (upload: ReturnType<typeof clientUpload>) => upload.log.map(({ method }) => method)

  it('a file in one PATCH arrives whole, with its name, and the last answer tells where it is', async () => {
    const here = await site()
    const metadata = { filename: 'Žluťoučký 🐎.mov', filetype: 'video/quicktime' }
    const upload = clientUpload(file, { endpoint: here.url, protocol, metadata })
    const last = await upload.done
    expect(methods(upload)).toEqual(['POST', 'PATCH'])
    expect(upload.log.map((entry) => entry.header('Upload-Complete'))).toEqual(['?0', '?1'])
    await expectStored(here, file)
    const { session, object } = here.completed[0] ?? {}
    expect([session?.fileName, session?.mimeType]).toEqual([metadata.filename, metadata.filetype])
    expect(last.getHeader('Content-Location')).toBe(object?.url)
    expect(await here.leftovers()).toEqual([])
  })

  it('a file in chunks arrives whole', async () => {
    const here = await site()
    const upload = clientUpload(file, { endpoint: here.url, protocol, chunkSize: 5 * MiB })
    await upload.done
    expect(methods(upload)).toEqual(['POST', 'PATCH', 'PATCH', 'PATCH'])
    await expectStored(here, file)
  })

  it('an empty file is complete with its creation', async () => {
    const here = await site()
    const upload = clientUpload(Buffer.alloc(0), { endpoint: here.url, protocol })
    await upload.done
    expect(methods(upload)).toEqual(['POST'])
    await expectStored(here, Buffer.alloc(0))
  })

  it('a file sent with its creation arrives whole', async () => {
    const here = await site()
    const upload = clientUpload(file, { endpoint: here.url, protocol, uploadDataDuringCreation: true })
    const last = await upload.done
    expect(methods(upload)).toEqual(['POST'])
    await expectStored(here, file)
    expect(last.getHeader('Content-Location')).toBe(here.completed[0]?.object.url)
  })

  it('a file whose first chunk is sent with its creation arrives whole', async () => {
    const here = await site()
    const options = { uploadDataDuringCreation: true, chunkSize: 5 * MiB }
    const upload = clientUpload(file, { endpoint: here.url, protocol, ...options })
    await upload.done
    expect(methods(upload)).toEqual(['POST', 'PATCH', 'PATCH'])
    await expectStored(here, file)
  })

  it.each([1000, 2 * MiB + 7, file.length])('a stream of unknown length, %i bytes, arrives whole', async (size) => {
    const here = await site()
    const content = file.subarray(0, size)
    const options = { uploadLengthDeferred: true, chunkSize: 800_000 }
    const upload = clientUpload(streamOf(content), { endpoint: here.url, protocol, ...options })
    await upload.done
    expect(upload.log.at(-1)?.header('Upload-Complete')).toBe('?1')
    await expectStored(here, content)
  })

  it('an upload paused in the middle goes on from its URL and sends only the rest', async () => {
    const here = await site()
    const proxy = await cuttingProxy(here.server.port, { seed: 1, cutAfter: () => Number.POSITIVE_INFINITY })
    const endpoint = `http://127.0.0.1:${proxy.port}/files`
    const first = await new Promise<ReturnType<typeof clientUpload>>((resolve) => {
      const started = clientUpload(file, {
        endpoint,
        protocol,
        chunkSize: MiB,
        onChunkComplete: (_size, accepted) => {
          if (accepted === 5 * MiB) void started.upload.abort().then(() => resolve(started))
        },
      })
    })
    const before = proxy.bytesFromClient
    // Whatever path the server gave: through the proxy again.
    const { pathname } = new URL(first.upload.url ?? '')
    const second = clientUpload(file, { uploadUrl: `http://127.0.0.1:${proxy.port}${pathname}`, protocol })
    await second.done
    expect(methods(second)).toEqual(['HEAD', 'PATCH'])
    expect(second.log[0]?.answer('Upload-Offset')).toBe(String(5 * MiB))
    const rest = file.length - 5 * MiB
    expect(proxy.bytesFromClient - before).toBeGreaterThan(rest)
    expect(proxy.bytesFromClient - before).toBeLessThan(rest + 4000)
    await expectStored(here, file)
  })

  it('resuming an upload that is complete succeeds at once with the URL of the object', async () => {
    const here = await site()
    const first = clientUpload(file, { endpoint: here.url, protocol })
    await first.done
    const second = clientUpload(file, { endpoint: here.url, protocol, uploadUrl: first.upload.url })
    const last = await second.done
    expect(methods(second)).toEqual(['HEAD'])
    expect(last.getHeader('Content-Location')).toBe(here.completed[0]?.object.url)
    await expectStored(here, file)
  })

  it('terminating an upload in the middle leaves nothing of it', async () => {
    const here = await site()
    const { upload, log } = clientUpload(bytes(40 * MiB, 5), { endpoint: here.url, protocol })
    await new Promise((resolve) => here.engine.events.once('appended', resolve))
    await upload.abort(true)
    expect(log.at(-1)).toMatchObject({ method: 'DELETE', status: 204 })
    const again = await fetch(upload.url ?? '', { method: 'HEAD' })
    expect([404, 410]).toContain(again.status)
    expect(await here.leftovers()).toEqual([])
    expect(await here.objects()).toEqual([])
  })

  it('a storage that fails for a while: success is told only once the object is there', async () => {
    const here = await site({ wrap: (storage) => failingStorage(storage, (attempt) => attempt <= 3) })
    const { done } = clientUpload(file, { endpoint: here.url, protocol })
    await done
    expect(here.completed).toHaveLength(1)
    expect(here.created).toHaveLength(1)
    await expectStored(here, file)
  })

  it.each([
    ['in one PATCH', {}],
    ['in chunks', { chunkSize: 3 * MiB }],
    ['with the creation', { uploadDataDuringCreation: true }],
  ])('a storage that always fails: a file sent %s is never told to be complete', async (_name, options) => {
    const here = await site({ wrap: (storage) => failingStorage(storage, () => true) })
    const { done } = clientUpload(file, { endpoint: here.url, protocol, retryDelays: [0, 1, 2], ...options })
    await expect(done).rejects.toThrow(/tus: /)
    expect(here.completed).toEqual([])
    expect(await here.objects()).toEqual([])
  })
})

describe.each(sites)('both protocols at one address and %s', (_storage, make: MakeSite) => {
  it.each(['tus-v1', ...protocols] as const)('serve tus-js-client as %s', async (protocol) => {
    const here = await make((engine) => ietfHandler(engine, { others: tusHandler(engine) }), { partSize: 5 * MiB })
    const first = await new Promise<ReturnType<typeof clientUpload>>((resolve) => {
      const started = clientUpload(file, {
        endpoint: here.url,
        protocol,
        chunkSize: 7 * MiB,
        onChunkComplete: () => void started.upload.abort().then(() => resolve(started)),
      })
    })
    const second = clientUpload(file, { uploadUrl: first.upload.url, protocol })
    await second.done
    expect(second.log.map(({ method }) => method)).toEqual(['HEAD', 'PATCH'])
    await expectStored(here, file)
  })
})
