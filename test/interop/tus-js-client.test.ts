/** The real tus-js-client against `tusHandler`, on local disk and on S3. */
import { createReadStream } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { tusHandler } from '../../src/tus.ts'
import { cuttingProxy } from '../support/cutting-proxy.ts'
import { bytes, sha256 } from '../support/random.ts'
import { tempFolder } from '../support/temp-folder.ts'
import {
  clientUpload,
  type MakeSite,
  MiB,
  type Site,
  type SiteOptions,
  sites,
  streamOf,
  urlStorage,
} from '../support/tus-js.ts'

/** Larger than a part and no multiple of anything. */
const file = bytes(12 * MiB + 345, 3)

async function expectStored(site: Site, content: Buffer): Promise<void> {
  expect(site.completed).toHaveLength(1)
  const key = site.completed[0]?.object.key
  expect(await site.objects()).toEqual([{ key, sha256: sha256(content) }])
}

async function statusOf(url: string, method = 'HEAD'): Promise<number> {
  return (await fetch(url, { method, headers: { 'Tus-Resumable': '1.0.0' } })).status
}

describe.each(sites)('tus-js-client and %s', (_, make: MakeSite) => {
  const site = (options?: SiteOptions) => make((engine) => tusHandler(engine), { partSize: 5 * MiB, ...options })

  it('a file in chunks arrives whole, and the last answer tells where it is', async () => {
    const here = await site()
    const { done, exchanges } = clientUpload(file, { endpoint: here.url, chunkSize: MiB })
    const last = await done
    expect(exchanges()).toEqual(['POST 201', ...Array(13).fill('PATCH 204')])
    await expectStored(here, file)
    expect(last.getHeader('Content-Location')).toBe(here.completed[0]?.object.url)
    expect(await here.leftovers()).toEqual([])
  })

  it('a file in one PATCH arrives whole', async () => {
    const here = await site()
    const { done, exchanges } = clientUpload(file, { endpoint: here.url })
    await done
    expect(exchanges()).toEqual(['POST 201', 'PATCH 204'])
    await expectStored(here, file)
  })

  it('a file read from disk arrives whole', async () => {
    const here = await site({ on: 'bare' })
    const path = join(tempFolder(), 'file')
    await writeFile(path, file)
    const { done } = clientUpload(createReadStream(path), { endpoint: here.url, chunkSize: 5 * MiB + 1 })
    await done
    await expectStored(here, file)
  })

  it('an empty file is complete with its creation', async () => {
    const here = await site()
    const { done, exchanges } = clientUpload(Buffer.alloc(0), { endpoint: here.url })
    const last = await done
    expect(exchanges()).toEqual(['POST 201'])
    await expectStored(here, Buffer.alloc(0))
    expect(last.getHeader('Content-Location')).toBe(here.completed[0]?.object.url)
  })

  it.each([
    ['shorter than a chunk', 1000],
    ['of several chunks', 2 * MiB + 7],
    ['of several parts', file.length],
  ])('a stream of unknown length, %s, arrives whole', async (_name, size) => {
    const here = await site()
    const content = file.subarray(0, size)
    const options = { endpoint: here.url, uploadLengthDeferred: true, chunkSize: 800_000 }
    const { done, log } = clientUpload(streamOf(content), options)
    await done
    expect(log[0]?.header('Upload-Defer-Length')).toBe('1')
    expect(log.at(-1)?.header('Upload-Length')).toBe(String(size))
    await expectStored(here, content)
  })

  it('a file in 4 parallel uploads becomes one object', async () => {
    const here = await site()
    const metadata = { filename: 'parallel.bin' }
    const { done, count, log } = clientUpload(file, { endpoint: here.url, parallelUploads: 4, metadata })
    const last = await done
    expect([count('POST'), count('PATCH'), here.created.length]).toEqual([5, 4, 5])
    expect(log.at(-1)?.header('Upload-Concat')).toMatch(/^final;http/)
    await expectStored(here, file)
    expect(here.completed[0]?.session.fileName).toBe('parallel.bin')
    expect(last.getHeader('Content-Location')).toBe(here.completed[0]?.object.url)
  })

  it('a file in 4 parallel uploads of small chunks becomes one object', async () => {
    const here = await site()
    const { done, count } = clientUpload(file, { endpoint: here.url, parallelUploads: 4, chunkSize: 700_000 })
    await done
    expect(count('PATCH')).toBe(20)
    await expectStored(here, file)
  })

  it.each([0, 1, 3])('%i bytes in 2 parallel uploads become one object', async (size) => {
    const here = await site()
    const content = file.subarray(0, size)
    const { done } = clientUpload(content, { endpoint: here.url, parallelUploads: 2 })
    await done
    expect(here.created.map(({ totalSize }) => totalSize).sort()).toEqual(
      [Math.floor(size / 2), Math.ceil(size / 2), size].sort(),
    )
    await expectStored(here, content)
  })

  it('data sent with the creation is kept: all of it', async () => {
    const here = await site()
    const { done, exchanges } = clientUpload(file, { endpoint: here.url, uploadDataDuringCreation: true })
    const last = await done
    expect(exchanges()).toEqual(['POST 201'])
    await expectStored(here, file)
    expect(last.getHeader('Content-Location')).toBe(here.completed[0]?.object.url)
  })

  it('data sent with the creation is kept: the first chunk of it', async () => {
    const here = await site()
    const options = { endpoint: here.url, uploadDataDuringCreation: true, chunkSize: 5 * MiB }
    const { done, exchanges, log } = clientUpload(file, options)
    await done
    expect(exchanges()).toEqual(['POST 201', 'PATCH 204', 'PATCH 204'])
    expect(log[0]?.answer('Upload-Offset')).toBe(String(5 * MiB))
    await expectStored(here, file)
  })

  it('data "during creation" of a stream of unknown length follows the creation', async () => {
    const here = await site()
    const { done, exchanges } = clientUpload(streamOf(file.subarray(0, MiB + 5)), {
      endpoint: here.url,
      uploadDataDuringCreation: true,
      uploadLengthDeferred: true,
      chunkSize: 600_000,
    })
    await done
    expect(exchanges()).toEqual(['POST 201', 'PATCH 204', 'PATCH 204'])
    await expectStored(here, file.subarray(0, MiB + 5))
  })

  it('POST with X-HTTP-Method-Override does for PATCH', async () => {
    const here = await site()
    const options = { endpoint: here.url, overridePatchMethod: true, chunkSize: 5 * MiB }
    const { done, exchanges, log } = clientUpload(file, options)
    await done
    expect(exchanges()).toEqual(['POST 201', 'PATCH 204', 'PATCH 204', 'PATCH 204'])
    expect(log[1]?.header('X-HTTP-Method-Override')).toBe('PATCH')
    await expectStored(here, file)
  })

  it('an upload paused between chunks goes on from its URL and sends only the rest', async () => {
    const here = await site()
    const proxy = await cuttingProxy(here.server.port, { seed: 1, cutAfter: () => Number.POSITIVE_INFINITY })
    const endpoint = `http://127.0.0.1:${proxy.port}/files`
    const { upload } = await new Promise<ReturnType<typeof clientUpload>>((resolve) => {
      const first = clientUpload(file, {
        endpoint,
        chunkSize: MiB,
        onChunkComplete: (_size, accepted) => {
          if (accepted === 5 * MiB) void first.upload.abort().then(() => resolve(first))
        },
      })
    })
    const before = proxy.bytesFromClient
    const second = clientUpload(file, { uploadUrl: upload.url, chunkSize: MiB })
    await second.done
    expect(second.exchanges()).toEqual(['HEAD 200', ...Array(8).fill('PATCH 204')])
    expect(second.log[0]?.answer('Upload-Offset')).toBe(String(5 * MiB))
    const rest = file.length - 5 * MiB
    expect(proxy.bytesFromClient - before).toBeGreaterThan(rest)
    expect(proxy.bytesFromClient - before).toBeLessThan(rest + 8000)
    await expectStored(here, file)
  })

  it('an upload paused in the middle of its only PATCH goes on from its URL and sends only the rest', async () => {
    const here = await site()
    const large = bytes(40 * MiB + 1, 5)
    const proxy = await cuttingProxy(here.server.port, { seed: 1, cutAfter: () => Number.POSITIVE_INFINITY })
    const first = clientUpload(large, { endpoint: `http://127.0.0.1:${proxy.port}/files` })
    await new Promise((resolve) => here.engine.events.once('appended', resolve))
    await first.upload.abort()
    // What the client had given away by then still arrives.
    let before = -1
    while (before !== proxy.bytesFromClient) {
      before = proxy.bytesFromClient
      await new Promise((resolve) => setTimeout(resolve, 200))
    }
    expect(before).toBeLessThan(large.length)
    const second = clientUpload(large, { uploadUrl: first.upload.url })
    await second.done
    expect(second.exchanges()).toEqual(['HEAD 200', 'PATCH 204'])
    const offset = Number(second.log[0]?.answer('Upload-Offset'))
    expect(offset).toBeGreaterThanOrEqual(5 * MiB)
    expect(proxy.bytesFromClient - before).toBeLessThan(large.length - offset + 2000)
    expect(second.log[1]?.header('Upload-Offset')).toBe(String(offset))
    await expectStored(here, large)
  })

  it('a parallel upload paused in the middle goes on with its partial uploads', async () => {
    const here = await site()
    const options = { endpoint: here.url, parallelUploads: 3, chunkSize: 500_000, urlStorage: urlStorage() }
    let chunks = 0
    const first = await new Promise<ReturnType<typeof clientUpload>>((resolve) => {
      const onChunkComplete = () => {
        chunks += 1
        if (chunks === 9) void started.upload.abort().then(() => resolve(started))
      }
      const started = clientUpload(file, { ...options, onChunkComplete })
    })
    expect(first.count('POST')).toBe(3)
    const second = clientUpload(file, options, true)
    await second.done
    expect([second.count('HEAD'), second.count('POST')]).toEqual([3, 1])
    // 9 chunks to a partial upload; at most three were under way when it was paused.
    expect(second.count('PATCH')).toBeGreaterThanOrEqual(27 - 9 - 3)
    expect(second.count('PATCH')).toBeLessThanOrEqual(27 - 9)
    await expectStored(here, file)
  })

  it('the client finds a file that it had begun, by what it remembers', async () => {
    const here = await site()
    const options = { endpoint: here.url, chunkSize: 4 * MiB, urlStorage: urlStorage() }
    await new Promise<void>((resolve) => {
      const first = clientUpload(file, { ...options, onChunkComplete: () => void first.upload.abort().then(resolve) })
    })
    const second = clientUpload(file, options, true)
    await second.done
    expect(second.exchanges()).toEqual(['HEAD 200', 'PATCH 204', 'PATCH 204', 'PATCH 204'])
    await expectStored(here, file)
  })

  it('resuming an upload that is complete succeeds at once with the URL of the object', async () => {
    const here = await site()
    const first = clientUpload(file, { endpoint: here.url })
    await first.done
    const second = clientUpload(file, { endpoint: here.url, uploadUrl: first.upload.url })
    const last = await second.done
    expect(second.exchanges()).toEqual(['HEAD 200'])
    expect(last.getHeader('Content-Location')).toBe(here.completed[0]?.object.url)
    await expectStored(here, file)
  })

  it('terminating an upload between chunks leaves nothing of it', async () => {
    const here = await site()
    const { upload, count } = await new Promise<ReturnType<typeof clientUpload>>((resolve, reject) => {
      const started = clientUpload(file, {
        endpoint: here.url,
        chunkSize: 3 * MiB,
        onChunkComplete: (_size, accepted) => {
          if (accepted === 9 * MiB) started.upload.abort(true).then(() => resolve(started), reject)
        },
      })
    })
    expect(count('DELETE')).toBe(1)
    expect([404, 410]).toContain(await statusOf(upload.url ?? ''))
    expect(await here.leftovers()).toEqual([])
    expect(await here.objects()).toEqual([])
  })

  it('terminating an upload in the middle of its only PATCH leaves nothing of it', async () => {
    const here = await site()
    const { upload, log } = clientUpload(bytes(40 * MiB, 5), { endpoint: here.url })
    await new Promise((resolve) => here.engine.events.once('appended', resolve))
    await upload.abort(true)
    expect(log.at(-1)).toMatchObject({ method: 'DELETE', status: 204 })
    expect([404, 410]).toContain(await statusOf(upload.url ?? ''))
    expect(await here.leftovers()).toEqual([])
    expect(await here.objects()).toEqual([])
  })

  it('metadata arrives as it was given, whatever the script', async () => {
    const seen: Record<string, string>[] = []
    const hooks = { onCreate: (draft: { metadata: Record<string, string> }) => void seen.push({ ...draft.metadata }) }
    const here = await site({ hooks })
    const metadata = {
      filename: 'Žluťoučký kůň – ファイル 🐎.tar.gz',
      filetype: 'application/x-tar',
      empty: '',
      note: 'line one\nline "two", \\ and = signs; 100 %',
      rtl: 'מסמך خاص',
      pair: '👩‍👩‍👧',
    }
    const { done, upload } = clientUpload(file.subarray(0, 1000), { endpoint: here.url, metadata })
    await done
    expect(seen).toEqual([metadata])
    const session = here.completed[0]?.session
    expect([session?.fileName, session?.mimeType]).toEqual([metadata.filename, metadata.filetype])
    expect(session?.metadata).toEqual(metadata)
    const again = await fetch(upload.url ?? '', { method: 'HEAD', headers: { 'Tus-Resumable': '1.0.0' } })
    const sent = Object.entries(metadata).map(([key, value]) => `${key} ${Buffer.from(value).toString('base64')}`)
    expect(again.headers.get('Upload-Metadata')).toBe(sent.join(','))
  })
})
