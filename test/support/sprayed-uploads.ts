/**
 * Uploads whose every request goes to a node at random, on every wire, by clients that come again as long as an answer says
 * so. They fail at once when something that was acknowledged is not there any more.
 */
import { setTimeout as pause } from 'node:timers/promises'
import { expect } from 'vitest'
import { ietfClient } from './ietf-client.ts'
import { nativeClient } from './native-client.ts'
import type { Fleet } from './node-fleet.ts'
import { bytes, cut, seeded, sha256 } from './random.ts'
import { chunkCount, resumableClient } from './resumable-client.ts'
import { tusClient } from './tus-client.ts'
import { putBytes, uppyClient } from './uppy-client.ts'

export const wires = [
  'form',
  'raw',
  'tus',
  'ietf',
  'resumable form',
  'resumable raw',
  'uppy through the server',
  'uppy straight to the storage',
] as const
export type Wire = (typeof wires)[number]

export interface Sprayed {
  readonly wire: Wire
  /** Of the file; no other upload has it. */
  readonly name: string
  readonly file: Buffer
  readonly chunkSize: number
  readonly random: ReturnType<typeof seeded>
  /** A node, another one every time. */
  any(): string
  /** Something was acknowledged. */
  onAcknowledged?(): void
  /** Every answer that is no success. */
  onRefused?(status: number, text: string): void
  /** How long a client comes again, ms. Default two minutes. */
  readonly patience?: number
}

/** One upload for each wire. */
export function uploadsOf(fleet: Fleet, seed: number, more: Partial<Sprayed> = {}): Sprayed[] {
  const { partSize } = fleet
  return wires.map((wire, i) => {
    const random = seeded(seed * 97 + i)
    const sizes =
      wire === 'uppy straight to the storage' ? [partSize] : [Math.ceil(partSize / 3), partSize, 2 * partSize]
    const chunkSize = sizes[random.integer(0, sizes.length - 1)] ?? partSize
    const file = bytes(random.integer(8, 16) * partSize + random.integer(1, 999), seed * 100 + i)
    const name = `${wire.replaceAll(' ', '-')}-${seed}.bin`
    return { wire, name, file, chunkSize, random, any: () => fleet.any(random), ...more }
  })
}

/** There is one object with the bytes of the file, and one URL. */
export async function expectStored(fleet: Fleet, { name, file }: Sprayed, urls: readonly string[]): Promise<void> {
  const keys = await fleet.filesNamed(name)
  expect(keys, name).toHaveLength(1)
  expect(sha256(await fleet.read(keys[0] ?? '')), name).toBe(sha256(file))
  expect([...new Set(urls)], name).toHaveLength(1)
  expect(decodeURIComponent(urls[0] ?? ''), name).toContain(keys[0])
}

/** All of them at once; the first failure when none is under way any more. */
export async function sprayAll(fleet: Fleet, uploads: readonly Sprayed[]): Promise<void> {
  const run = async (upload: Sprayed) => expectStored(fleet, upload, await spray(upload))
  for (const result of await Promise.allSettled(uploads.map(run))) if (result.status === 'rejected') throw result.reason
}

/** The server does not know the upload any more. */
export class UploadLost extends Error {}

interface Answered {
  readonly status: number
  readonly headers: Headers | Readonly<Record<string, unknown>>
}

const passing = [423, 429, 502, 503, 504, 507]

/** Resolves with the URLs that were told, when the client may believe that its file is stored. */
export function spray(upload: Sprayed): Promise<string[]> {
  const { wire } = upload
  if (wire === 'form' || wire === 'raw') return native(upload)
  if (wire === 'tus') return tus(upload)
  if (wire === 'ietf') return ietf(upload)
  if (wire === 'resumable form' || wire === 'resumable raw') return resumable(upload)
  return uppy(upload)
}

/** Asks until there is one of the answers that are `expected`; `null` from `ask` and broken lines are asked again. */
async function insist<Answer extends Answered>(
  upload: Sprayed,
  what: string,
  ask: () => Promise<Answer>,
  expected: readonly number[],
): Promise<Answer> {
  const deadline = performance.now() + (upload.patience ?? 120_000)
  for (;;) {
    const answer = await tried(upload, what, ask, expected)
    if (answer) return answer
    if (performance.now() > deadline) throw new Error(`${upload.name}: ${what} never succeeded`)
    await pause(upload.random.integer(10, 80))
  }
}

/** `null` when the client has to come again. */
async function tried<Answer extends Answered>(
  upload: Sprayed,
  what: string,
  ask: () => Promise<Answer>,
  expected: readonly number[],
): Promise<Answer | null> {
  const answer = await ask().catch((error: Error) => {
    if (error instanceof UploadLost || error.name === 'AssertionError') throw error
    return null
  })
  if (answer === null || expected.includes(answer.status)) return answer
  const { status, headers } = answer
  const text = String((answer as { text?: string; body?: unknown }).text ?? (answer as { body?: unknown }).body ?? '')
  upload.onRefused?.(status, text)
  if (status === 404 || status === 410) throw new UploadLost(`${upload.name}: ${what}: ${status} ${text}`)
  expect(passing, `${upload.name}: ${what}: ${status} ${text}`).toContain(status)
  const retryAfter = headers instanceof Headers ? headers.get('retry-after') : headers['retry-after']
  expect(Number(retryAfter), `${upload.name}: Retry-After of ${what}: ${status}`).toBeGreaterThan(0)
  return null
}

async function inParallel(queue: IterableIterator<number>, task: (index: number) => Promise<unknown>): Promise<void> {
  const worker = async () => {
    for (const index of queue) await task(index)
  }
  // All are awaited even when one fails: none may go on behind the test's back.
  const results = await Promise.allSettled([worker(), worker(), worker()])
  for (const result of results) if (result.status === 'rejected') throw result.reason
}

/** Every chunk once, and some of them twice, in any order. */
function inAnyOrder({ random }: Sprayed, count: number): IterableIterator<number> {
  const indexes = Array.from({ length: count }, (_, index) => index)
  return random.shuffle([...indexes, ...indexes.filter(() => random.next() < 0.2)]).values()
}

async function native(upload: Sprayed): Promise<string[]> {
  const { file, name, random, wire, chunkSize } = upload
  const client = () => nativeClient(upload.any())
  const declared = random.next() < 0.7
  const init = { fileName: name, totalSize: file.length, mimeType: 'application/octet-stream' }
  const begin = { ...init, ...(declared && { chunkSize }) }
  const { body } = await insist(upload, 'init', () => client().init(begin), [200])
  const id: string = body.uploadId
  const chunks = cut(file, chunkSize)
  const acknowledged = new Set<number>()
  const check = async () => {
    const expected = [...acknowledged]
    const progress = await insist(upload, 'progress', () => client().progress(id), [200])
    const received: [number, number][] = progress.body.received
    const lost = expected.filter((index) => !received.some(([first, last]) => first <= index && index <= last))
    expect(lost, `${name}: acknowledged chunks that are gone`).toEqual([])
  }
  await inParallel(inAnyOrder(upload, chunks.length), async (index) => {
    const data = chunks[index] as Buffer
    const order = random.next() < 0.5 ? 'fields first' : 'file first'
    const send = () => (wire === 'raw' ? client().raw(id, index, data) : client().chunk(id, index, data, order))
    const answer = await insist(upload, `chunk ${index}`, send, [200])
    expect(answer.body.success).toBe(true)
    acknowledged.add(index)
    upload.onAcknowledged?.()
    if (random.next() < 0.2) await check()
  })
  await check()
  const ends = await Promise.all([0, 1, 2].map(() => insist(upload, 'complete', () => client().complete(id), [200])))
  return ends.map((end) => end.body.url)
}

async function tus(upload: Sprayed): Promise<string[]> {
  const { file, name, random, chunkSize } = upload
  const client = () => tusClient(`${upload.any()}/files`)
  const metadata = { 'Upload-Metadata': `filename ${Buffer.from(name).toString('base64')}` }
  const create = () => client().post({ 'Upload-Length': file.length, ...metadata })
  const { headers } = await insist(upload, 'creation', create, [201])
  const path = new URL(headers.location ?? '', upload.any()).pathname
  const url = () => `${upload.any()}${path}`
  let offset = 0
  const head = async () => {
    const answer = await insist(upload, 'HEAD', () => client().head(url()), [200])
    const reached = Number(answer.headers['upload-offset'])
    expect(reached, `${name}: the offset went back`).toBeGreaterThanOrEqual(offset)
    offset = reached
    return answer.headers['content-location']
  }
  const urls: (string | undefined)[] = []
  while (offset < file.length) {
    const data = file.subarray(offset, offset + random.integer(1, 2 * chunkSize))
    if (random.next() < 0.2) {
      const open = client().openPatch(url(), offset, data, file.length - offset)
      await pause(random.integer(0, 40))
      // Sometimes the other end hears of the broken line, and sometimes a newcomer is the first to tell.
      if (random.next() < 0.5) open.request.destroy()
      urls.push(await head())
      open.request.destroy()
      await open.answer
    } else {
      const patched = await tried(upload, 'PATCH', () => client().patch(url(), offset, data), [204, 409])
      if (patched?.status !== 204) urls.push(await head())
      else {
        offset = Number(patched.headers['upload-offset'])
        urls.push(patched.headers['content-location'])
      }
    }
    upload.onAcknowledged?.()
  }
  for (let again = 0; again < 3; again++) urls.push(await head())
  return urls.filter((told) => told !== undefined)
}

async function ietf(upload: Sprayed): Promise<string[]> {
  const { file, name, random, chunkSize } = upload
  const client = () => ietfClient(`${upload.any()}/files`, 9)
  const create = () =>
    client().begin('', false, {
      'Upload-Length': file.length,
      'Content-Disposition': `attachment; filename="${name}"`,
    })
  const { headers } = await insist(upload, 'creation', create, [201])
  const path = new URL(headers.location ?? '', upload.any()).pathname
  const url = () => `${upload.any()}${path}`
  let offset = 0
  let isOver = false
  const urls: (string | undefined)[] = []
  const head = async () => {
    const answer = await insist(upload, 'HEAD', () => client().head(url()), [204])
    const reached = Number(answer.headers['upload-offset'])
    expect(reached, `${name}: the offset went back`).toBeGreaterThanOrEqual(offset)
    offset = reached
    isOver = answer.headers['upload-complete'] === '?1'
    urls.push(answer.headers['content-location'] as string | undefined)
  }
  while (!isOver) {
    const data = file.subarray(offset, offset + random.integer(1, 2 * chunkSize))
    const isLast = offset + data.length === file.length
    const at = offset
    if (!isLast && random.next() < 0.2) {
      const open = client().openAppend(url(), at, data, false)
      await pause(random.integer(0, 40))
      if (random.next() < 0.5) open.request.destroy()
      await head()
      open.request.destroy()
      await open.answer
    } else {
      const send = () => client().append(url(), at, data, isLast)
      const answer = await tried(upload, 'append', send, [200, 201, 204, 409])
      // 400 is what says that it is complete already.
      if (answer === null || answer.status === 409) await head()
      else if (isLast) {
        isOver = true
        offset = file.length
        urls.push(answer.headers['content-location'] as string | undefined)
      } else offset = at + data.length
    }
    upload.onAcknowledged?.()
  }
  for (let again = 0; again < 3; again++) await head()
  expect(offset).toBe(file.length)
  return urls.filter((told) => told !== undefined)
}

async function resumable(upload: Sprayed): Promise<string[]> {
  const { file, name, random, chunkSize, wire } = upload
  const method = wire === 'resumable raw' ? 'octet' : 'multipart'
  const client = () => resumableClient(`${upload.any()}/resumable`, 'resumable', method)
  const sending = { data: file, chunkSize, name, type: 'application/octet-stream' }
  const count = chunkCount(sending)
  const urls: string[] = []
  const send = async (index: number) => {
    const number = index + 1
    const answer = await insist(upload, `chunk ${number}`, () => client().send(sending, number), [200])
    upload.onAcknowledged?.()
    if (answer.body?.url) urls.push(answer.body.url)
    return number
  }
  // A test after the end is the beginning of a new run; so one chunk is held back as long as there are tests.
  const [held = 0, ...others] = inAnyOrder(upload, count)
  const early = others.filter((index) => index !== held)
  await inParallel(early.values(), async (index) => {
    const number = await send(index)
    if (random.next() > 0.3) return
    const tested = await insist(upload, `test of ${number}`, () => client().test(sending, number), [200, 204])
    if (tested.status !== 200) throw new UploadLost(`${name}: chunk ${number} was acknowledged and is gone`)
  })
  await inParallel([held, held, early.at(-1) ?? held].values(), send)
  return urls
}

async function uppy(upload: Sprayed): Promise<string[]> {
  const { file, name, chunkSize, wire, random } = upload
  const isDirect = wire === 'uppy straight to the storage'
  const client = () => uppyClient(`${upload.any()}${isDirect ? '/direct' : '/companion'}`)
  const body = { filename: name, type: 'application/octet-stream', metadata: {} }
  const started = (await insist(upload, 'create', () => client().create(body), [200])).body
  const chunks = cut(file, chunkSize)
  const etags = new Map<number, string | null>()
  const order = random.shuffle([...chunks.keys()]).values()
  await inParallel(order, async (index) => {
    const send = async () => {
      const signed = await insist(upload, 'sign', () => client().sign(started, index + 1), [200])
      const at = new URL(signed.body.url)
      const target = isDirect ? at.href : `${upload.any()}${at.pathname}${at.search}`
      return putBytes(target, chunks[index] as Buffer)
    }
    const { headers } = await insist(upload, `part ${index + 1}`, send, [200])
    etags.set(index + 1, headers.get('etag'))
    upload.onAcknowledged?.()
    if (random.next() > 0.2) return
    const known = [...etags.keys()]
    const listed = await insist(upload, 'list', () => client().list(started), [200])
    const numbers = listed.body.map(({ PartNumber }: { PartNumber: number }) => PartNumber)
    expect(
      known.filter((number) => !numbers.includes(number)),
      `${name}: parts that are gone`,
    ).toEqual([])
  })
  const parts = [...chunks.keys()].map((index) => ({ PartNumber: index + 1, ETag: etags.get(index + 1) }))
  const complete = () => client().complete(started, parts)
  const ends = await Promise.all([0, 1, 2].map(() => insist(upload, 'complete', complete, [200])))
  return ends.map((end) => end.body.location)
}
