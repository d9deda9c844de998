/** Uploads of which only the last request is missing, the one that makes the object. */
import { ietfClient } from './ietf-client.ts'
import { nativeClient } from './native-client.ts'
import { cut } from './random.ts'
import { chunkCount, resumableClient } from './resumable-client.ts'
import { tusClient } from './tus-client.ts'
import { uppyClient } from './uppy-client.ts'

export const endings = ['raw', 'tus', 'ietf', 'resumable', 'uppy'] as const

export interface Unfinished {
  /** The last request, to this node; `url` when there is an object. A client asks again with it as long as there is none. */
  finish(base: string): Promise<{ readonly status: number; readonly url: string | undefined }>
}

/** `base` is the node that gets everything but the end. */
export function unfinished(
  wire: (typeof endings)[number],
  base: string,
  file: Buffer,
  chunkSize: number,
  name: string,
): Promise<Unfinished> {
  if (wire === 'raw') return raw(base, file, chunkSize, name)
  if (wire === 'tus') return tus(base, file, chunkSize)
  if (wire === 'ietf') return ietf(base, file, chunkSize)
  if (wire === 'resumable') return resumable(base, file, chunkSize, name)
  return uppy(base, file, chunkSize, name)
}

async function raw(base: string, file: Buffer, chunkSize: number, fileName: string): Promise<Unfinished> {
  const client = nativeClient(base)
  const id = await client.start(file.length, { fileName, chunkSize })
  for (const [index, data] of cut(file, chunkSize).entries()) await client.raw(id, index, data)
  return {
    async finish(url) {
      const { status, body } = await nativeClient(url).complete(id)
      return { status, url: body?.url }
    },
  }
}

async function tus(base: string, file: Buffer, chunkSize: number): Promise<Unfinished> {
  const client = tusClient(`${base}/files`)
  const location = await client.create(file.length)
  const last = file.length - chunkSize
  for (let at = 0; at < last; at += chunkSize) {
    await client.patch(location, at, file.subarray(at, Math.min(at + chunkSize, last)))
  }
  return {
    async finish(url) {
      const there = location.replace(base, url)
      const head = await client.head(there)
      const offset = Number(head.headers['upload-offset'])
      const end =
        head.status === 200 && offset < file.length ? await client.patch(there, offset, file.subarray(offset)) : head
      return { status: end.status, url: end.headers['content-location'] }
    },
  }
}

async function ietf(base: string, file: Buffer, chunkSize: number): Promise<Unfinished> {
  const client = ietfClient(`${base}/files`, 9)
  const location = await client.create({ 'Upload-Length': file.length })
  const last = file.length - chunkSize
  for (let at = 0; at < last; at += chunkSize) {
    await client.append(location, at, file.subarray(at, Math.min(at + chunkSize, last)), false)
  }
  return {
    async finish(url) {
      const there = location.replace(base, url)
      const head = await client.head(there)
      const isOver = head.status !== 204 || head.headers['upload-complete'] === '?1'
      const offset = Number(head.headers['upload-offset'])
      const end = isOver ? head : await client.append(there, offset, file.subarray(offset), true)
      const found = end.headers['content-location'] as string | undefined
      return { status: end.status, url: end.status < 300 ? found : undefined }
    },
  }
}

async function resumable(base: string, data: Buffer, chunkSize: number, name: string): Promise<Unfinished> {
  const sending = { data, chunkSize, name }
  const count = chunkCount(sending)
  const client = (url: string) => resumableClient(`${url}/resumable`, 'resumable', 'octet')
  for (let number = 1; number < count; number++) await client(base).send(sending, number)
  return {
    async finish(url) {
      const { status, body } = await client(url).send(sending, count)
      return { status, url: body?.url }
    },
  }
}

async function uppy(base: string, file: Buffer, chunkSize: number, filename: string): Promise<Unfinished> {
  const client = uppyClient(`${base}/companion`)
  const upload = await client.start({ filename, type: 'application/octet-stream', metadata: {} })
  const parts = await Promise.all(cut(file, chunkSize).map((data, i) => client.part(upload, i + 1, data)))
  return {
    async finish(url) {
      const { status, body } = await uppyClient(`${url}/companion`).complete(upload, parts)
      return { status, url: body?.location }
    },
  }
}
