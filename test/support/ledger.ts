/** What a server has promised by its answers, and whether what is left of its disk still keeps it. */
import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { type IncomingMessage, request } from 'node:http'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import type { UploadEngine } from '../../src/types.ts'

interface Upload {
  readonly protocol: 'native' | 'tus' | 'single'
  id: string
  readonly file: Buffer
  /** Native: where the chunks begin, and the end of the last. */
  readonly bounds: readonly number[]
}

type Promised =
  | { readonly kind: 'created' }
  | { readonly kind: 'chunk'; readonly index: number; readonly data: Buffer }
  | { readonly kind: 'offset'; readonly offset: number }
  | { readonly kind: 'object'; url: string; key: string }

export interface Entry {
  readonly upload: Upload
  readonly promised: Promised
  /** The client's, by which a trace knows the answer. */
  port: number
  acknowledged: boolean
}

interface Answer {
  readonly status: number
  readonly headers: IncomingMessage['headers']
  // biome-ignore lint/suspicious/noExplicitAny: what a test expects of a body is its assertion's business
  readonly body: any
}

const tus = { 'Tus-Resumable': '1.0.0' }

export class Ledger {
  readonly entries: Entry[] = []
  /** Answers that were neither 2xx nor expected. */
  readonly refusals: Answer[] = []

  get acknowledged(): number {
    return this.entries.filter((entry) => entry.acknowledged).length
  }

  async startNative(url: string, file: Buffer, sizes: readonly number[], declared: boolean): Promise<Upload> {
    const bounds = [0]
    for (let i = 0; (bounds.at(-1) ?? 0) < file.length; i++) {
      bounds.push(Math.min(file.length, (bounds.at(-1) ?? 0) + (sizes[Math.min(i, sizes.length - 1)] ?? 1)))
    }
    const upload: Upload = { protocol: 'native', id: '', file, bounds }
    const init = { fileName: 'a.bin', totalSize: file.length, mimeType: 'application/octet-stream' }
    const body = JSON.stringify({ ...init, ...(declared && { chunkSize: sizes[0] }) })
    await this.#note({ upload, promised: { kind: 'created' }, port: 0, acknowledged: false }, (entry) =>
      ask(entry, `${url}/upload/init`, 'POST', { 'Content-Type': 'application/json' }, body).then((answer) => {
        upload.id = answer.body?.uploadId ?? ''
        return answer
      }),
    )
    return upload
  }

  /** `data` other than the file's own bytes is to be replaced later. */
  chunk(url: string, upload: Upload, index: number, data = pieceOf(upload, index)): Promise<Answer> {
    const path = `${url}/upload/chunk?uploadId=${upload.id}&chunkIndex=${index}`
    const headers = { 'Content-Type': 'application/octet-stream' }
    return this.#note({ upload, promised: { kind: 'chunk', index, data }, port: 0, acknowledged: false }, (entry) =>
      ask(entry, path, 'POST', headers, data),
    )
  }

  complete(url: string, upload: Upload): Promise<Answer> {
    const promised = { kind: 'object' as const, url: '', key: '' }
    return this.#note({ upload, promised, port: 0, acknowledged: false }, async (entry) => {
      const headers = { 'Content-Type': 'application/json' }
      const answer = await ask(
        entry,
        `${url}/upload/complete`,
        'POST',
        headers,
        JSON.stringify({ uploadId: upload.id }),
      )
      Object.assign(promised, { url: answer.body?.url, key: answer.body?.key })
      return answer
    })
  }

  async startTus(url: string, file: Buffer): Promise<Upload> {
    const upload: Upload = { protocol: 'tus', id: '', file, bounds: [] }
    await this.#note({ upload, promised: { kind: 'created' }, port: 0, acknowledged: false }, async (entry) => {
      const answer = await ask(entry, `${url}/files`, 'POST', { ...tus, 'Upload-Length': file.length })
      upload.id = answer.headers.location?.split('/').at(-1) ?? ''
      return answer
    })
    return upload
  }

  /** The last bytes also make the object. */
  patch(url: string, upload: Upload, from: number, to: number): Promise<Answer> {
    const headers = { ...tus, 'Upload-Offset': from, 'Content-Type': 'application/offset+octet-stream' }
    return this.#note({ upload, promised: { kind: 'offset', offset: to }, port: 0, acknowledged: false }, (entry) =>
      ask(entry, `${url}/files/${upload.id}`, 'PATCH', headers, upload.file.subarray(from, to)),
    )
  }

  /** The whole file in one request. */
  single(url: string, file: Buffer): Promise<Answer> {
    const upload: Upload = { protocol: 'single', id: '', file, bounds: [] }
    const promised = { kind: 'object' as const, url: '', key: '' }
    return this.#note({ upload, promised, port: 0, acknowledged: false }, async (entry) => {
      const headers = { 'Content-Type': 'application/octet-stream' }
      const answer = await ask(entry, `${url}/upload?fileName=b.bin`, 'POST', headers, file)
      Object.assign(promised, { url: answer.body?.url, key: answer.body?.key })
      return answer
    })
  }

  async #note(entry: Entry, send: (entry: Entry) => Promise<Answer>): Promise<Answer> {
    this.entries.push(entry)
    const answer = await send(entry)
    entry.acknowledged = answer.status >= 200 && answer.status < 300
    if (!entry.acknowledged) this.refusals.push(answer)
    return answer
  }
}

function ask(
  entry: Entry,
  url: string,
  method: string,
  headers: Record<string, string | number>,
  body?: Buffer | string,
): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const length = { 'Content-Length': Buffer.byteLength(body ?? '') }
    const outgoing = request(url, { method, agent: false, headers: { ...headers, ...length } }, (response) => {
      const parts: Buffer[] = []
      response.on('data', (data: Buffer) => parts.push(data))
      response.on('error', reject)
      response.on('end', () => resolve(toAnswer(response, Buffer.concat(parts).toString())))
    })
    outgoing.on('socket', (socket) => {
      const note = () => {
        entry.port = socket.localPort ?? 0
      }
      if (socket.connecting) socket.once('connect', note)
      else note()
    })
    outgoing.on('error', reject)
    outgoing.end(body)
  })
}

function toAnswer({ statusCode, headers }: IncomingMessage, text: string): Answer {
  const isJson = headers['content-type']?.startsWith('application/json')
  return { status: statusCode ?? 0, headers, body: isJson ? JSON.parse(text) : null }
}

export function pieceOf({ file, bounds }: Upload, index: number): Buffer {
  return file.subarray(bounds[index], bounds[index + 1])
}

/**
 * Goes on with every upload where the client was, on what is left. Fails unless everything that was acknowledged is there
 * and whole. Returns how many promises were kept.
 */
export async function checkPromises(
  engine: UploadEngine,
  directory: string,
  entries: readonly Entry[],
  isAcknowledged: (entry: Entry) => boolean,
): Promise<number> {
  for (const upload of new Set(entries.map((entry) => entry.upload))) {
    const own = entries.filter((entry) => entry.upload === upload)
    const kept = own.filter(isAcknowledged)
    const object = kept.map(({ promised }) => promised).find((promised) => promised.kind === 'object')
    if (upload.protocol === 'single') {
      if (object) assert.ok(await isFile(directory, object.key, upload.file), 'the object of one request')
    } else if (kept.length > 0) {
      if (upload.protocol === 'tus') await checkTus(engine, directory, upload, kept)
      else await checkNative(engine, directory, upload, own, kept, object)
    }
  }
  return entries.filter(isAcknowledged).length
}

async function checkTus(
  engine: UploadEngine,
  directory: string,
  upload: Upload,
  kept: readonly Entry[],
): Promise<void> {
  const ref = { protocol: 'tus', uploadId: upload.id } as const
  const promised = Math.max(0, ...kept.map(({ promised }) => (promised.kind === 'offset' ? promised.offset : 0)))
  const { offset } = await engine.retrieveOffset(ref)
  assert.ok(offset >= promised, `the offset of a tus upload is ${offset}, ${promised} was told`)
  if (offset < upload.file.length) {
    const rest = upload.file.subarray(offset)
    await engine.append({ ...ref, offset, size: rest.length, body: Readable.from([rest]) })
  }
  const { key } = await engine.complete(ref)
  assert.ok(await isFile(directory, key, upload.file), 'the object of a tus upload')
}

async function checkNative(
  engine: UploadEngine,
  directory: string,
  upload: Upload,
  own: readonly Entry[],
  kept: readonly Entry[],
  object: { url: string; key: string } | undefined,
): Promise<void> {
  const ref = { protocol: 'native', uploadId: upload.id } as const
  const session = await engine.get(ref)
  const indexes = upload.bounds.slice(1).map((_, index) => index)
  const allowed = indexes.map((index) => versionsOf(index, own, kept))
  const isAsked = object !== undefined || session.state !== 'active' || session.object !== null
  for (const index of indexes) {
    if (isAsked) break
    const data = pieceOf(upload, index)
    const acknowledged = kept.some(({ promised }) => promised.kind === 'chunk' && promised.index === index)
    const run = session.chunks.find((chunk) => index >= chunk.index && index < chunk.index + chunk.count)
    if (acknowledged) assert.equal(run?.size, data.length, `chunk ${index} of ${upload.id}`)
    else {
      await engine.writeChunk({ ...ref, index, size: data.length, body: Readable.from([data]) })
      allowed[index] = [data]
    }
  }
  const { url, key } = await engine.complete(ref)
  if (object) assert.deepEqual([url, key], [object.url, object.key])
  const stored = await readFile(join(directory, key))
  assert.equal(stored.length, upload.file.length, `the size of ${key}`)
  for (const index of indexes) {
    const there = stored.subarray(upload.bounds[index], upload.bounds[index + 1])
    assert.ok(
      allowed[index]?.some((version) => version.equals(there)),
      `the bytes of chunk ${index}`,
    )
  }
}

/** What may be there: what was acknowledged last, or what was sent after that. */
function versionsOf(index: number, own: readonly Entry[], kept: readonly Entry[]): Buffer[] {
  const versions = own.filter(({ promised }) => promised.kind === 'chunk' && promised.index === index)
  const last = versions.findLastIndex((entry) => kept.includes(entry))
  return versions.slice(Math.max(0, last)).map(({ promised }) => (promised as { data: Buffer }).data)
}

async function isFile(directory: string, key: string, bytes: Buffer): Promise<boolean> {
  return (await readFile(join(directory, key))).equals(bytes)
}
