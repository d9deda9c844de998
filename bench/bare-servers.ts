/** The least that a server can do, on bare `node:http`, without any check: the limits that others are compared with. */
import { randomUUID } from 'node:crypto'
import { createWriteStream } from 'node:fs'
import { type FileHandle, mkdir, open, rename } from 'node:fs/promises'
import type { IncomingMessage, RequestListener } from 'node:http'
import { basename, join } from 'node:path'
import type { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { createS3Client } from './bench-s3.ts'
import { bucket } from './messages.ts'

const MiB = 1024 * 1024

/** The body of one PUT goes to one file. */
export function barePipe(directory: string): RequestListener {
  return (request, response) => {
    pipeline(request, createWriteStream(join(directory, basename(request.url ?? '')))).then(
      () => response.writeHead(201).end(),
      () => response.destroy(),
    )
  }
}

interface Init {
  readonly totalSize: number
  readonly chunkSize: number
}

interface ChunkServer<Upload> {
  start(id: string, init: Init): Promise<Upload> | Upload
  receive(upload: Upload, index: number, body: IncomingMessage): Promise<unknown>
  /** The URL. */
  complete(upload: Upload): Promise<string>
}

/** The routes of this package, as far as the bench needs them, for chunks as raw bodies. */
function chunkServer<Upload>({ start, receive, complete }: ChunkServer<Upload>): RequestListener {
  const uploads = new Map<string, Upload>()
  const uploadOf = (id: unknown) => {
    const upload = uploads.get(String(id))
    if (!upload) throw new Error('unknown upload')
    return upload
  }
  const serve = async (request: IncomingMessage): Promise<object> => {
    const { pathname, searchParams: query } = new URL(request.url ?? '', 'http://127.0.0.1')
    if (pathname === '/upload/chunk') {
      await receive(uploadOf(query.get('uploadId')), Number(query.get('chunkIndex')), request)
      return { success: true }
    }
    const body = JSON.parse((await bytesOf(request)).toString())
    if (pathname !== '/upload/init') return { url: await complete(uploadOf(body.uploadId)) }
    const uploadId = randomUUID()
    uploads.set(uploadId, await start(uploadId, body))
    return { uploadId }
  }
  return (request, response) => {
    serve(request).then(
      (answer) => response.setHeader('Content-Type', 'application/json').end(JSON.stringify(answer)),
      () => response.destroy(),
    )
  }
}

async function bytesOf(body: Readable): Promise<Buffer> {
  const pieces: Buffer[] = []
  for await (const piece of body) pieces.push(piece)
  return Buffer.concat(pieces)
}

/** Every chunk becomes a file under another name first. They stay what they are: nothing is joined. */
export function chunkFiles(directory: string): RequestListener {
  return chunkServer<string>({
    async start(id) {
      await mkdir(join(directory, 'incoming', id), { recursive: true })
      return id
    },
    async receive(id, index, body) {
      const path = join(directory, 'incoming', id, String(index))
      await pipeline(body, createWriteStream(`${path}.tmp`))
      await rename(`${path}.tmp`, path)
    },
    async complete(id) {
      await rename(join(directory, 'incoming', id), join(directory, id))
      return `/${id}`
    },
  })
}

/** Every chunk goes to its place in one file, by writes of 1 MiB. */
export function writesAtOffset(directory: string): RequestListener {
  return chunkServer<Init & { id: string; handle: FileHandle }>({
    start: async (id, init) => ({ ...init, id, handle: await open(join(directory, `${id}.tmp`), 'w') }),
    receive: ({ handle, chunkSize }, index, body) => writeBatches(handle, body, index * chunkSize),
    async complete({ id, handle }) {
      await handle.close()
      await rename(join(directory, `${id}.tmp`), join(directory, id))
      return `/${id}`
    },
  })
}

/** One batch is written while the next comes in. */
export async function writeBatches(handle: FileHandle, body: Readable, start: number): Promise<void> {
  let [batch, size, position] = [[] as Buffer[], 0, start]
  let writing: Promise<unknown> = Promise.resolve()
  for await (const piece of body) {
    batch.push(piece)
    size += piece.length
    if (size < MiB) continue
    await writing
    writing = handle.writev(batch, position)
    position += size
    batch = []
    size = 0
  }
  await writing
  if (size > 0) await handle.writev(batch, position)
}

const smallestPart = 5 * MiB

interface Relayed extends Init {
  readonly key: string
  readonly multipartId: string | undefined
  /** By number of the part, from 0. */
  readonly waiting: Map<number, Buffer[]>
  readonly etags: string[]
}

/** A chunk is a part, or as many as make a part are held in memory. A file of one part is one PutObject. */
export async function relay(_directory: string, endpoint: string): Promise<RequestListener> {
  const { client, sdk } = await createS3Client(endpoint)
  const chunksOfPart = ({ chunkSize }: Init) => Math.ceil(smallestPart / chunkSize)
  const place = (key: string) => ({ Bucket: bucket, Key: key })
  return chunkServer<Relayed>({
    async start(key, init) {
      const isSmall = init.totalSize <= init.chunkSize * chunksOfPart(init)
      const created = isSmall ? null : await client.send(new sdk.CreateMultipartUploadCommand(place(key)))
      return { ...init, key, multipartId: created?.UploadId, waiting: new Map(), etags: [] }
    },
    async receive(upload, index, body) {
      const part = Math.floor(index / chunksOfPart(upload))
      const first = part * chunksOfPart(upload)
      const chunks = Math.ceil(upload.totalSize / upload.chunkSize)
      const count = Math.min(chunksOfPart(upload), chunks - first)
      const held = upload.waiting.get(part) ?? []
      upload.waiting.set(part, held)
      held[index - first] = await bytesOf(body)
      if (Object.keys(held).length < count) return
      upload.waiting.delete(part)
      const [only] = held
      const Body = only && held.length === 1 ? only : Buffer.concat(held)
      const { key, multipartId: UploadId } = upload
      if (UploadId === undefined) return client.send(new sdk.PutObjectCommand({ ...place(key), Body }))
      const sent = new sdk.UploadPartCommand({ ...place(key), UploadId, PartNumber: part + 1, Body })
      upload.etags[part] = (await client.send(sent)).ETag ?? ''
    },
    async complete({ key, multipartId: UploadId, etags }) {
      if (UploadId !== undefined) {
        const Parts = etags.map((ETag, part) => ({ ETag, PartNumber: part + 1 }))
        await client.send(
          new sdk.CompleteMultipartUploadCommand({ ...place(key), UploadId, MultipartUpload: { Parts } }),
        )
      }
      return `/${bucket}/${key}`
    },
  })
}
