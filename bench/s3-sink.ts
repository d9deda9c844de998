/**
 * An S3 for measurements, in a process of its own: the rules and answers of the tests' double, but bodies are kept as
 * they come off the socket, unchecked and with their framing, and are looked at only after the clock has stopped. It
 * counts the calls. Everything stays in memory: as much as the file has. `s3-sink.ts <latency> <etag>`: how long it waits
 * before it answers a call, ms; with `md5`, ETags are what they are with S3, so that nobody has to look what was stored.
 */
import { createHash } from 'node:crypto'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { Readable } from 'node:stream'
import { finished, pipeline } from 'node:stream/promises'
import { setTimeout as wait } from 'node:timers/promises'
import type { StoredBytes } from '../test/support/s3-body.ts'
import { DoubleBucket, readObject } from '../test/support/s3-bucket.ts'
import { S3Double } from '../test/support/s3-double.ts'
import { S3Fault } from '../test/support/s3-fault.ts'
import { type Call, operationOf, operations, type Reply } from '../test/support/s3-operations.ts'
import { bucket, type SinkMessage } from './messages.ts'

// Its own server is not used: it hashes every body three times.
const double = await S3Double.start()
const files = new DoubleBucket()
double.buckets.set(bucket, files)
const calls: Record<string, number> = {}
let bodies = 0
const latency = Number(process.argv[2] ?? 0)
const hashes = process.argv[3] === 'md5'

const own: typeof operations = { UploadPart: uploadPart, PutObject: putObject }

async function serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
  const { pathname, searchParams: query } = new URL(request.url ?? '', 'http://s3')
  const [, bucketName = '', ...segments] = pathname.split('/')
  const key = decodeURIComponent(segments.join('/'))
  const op = operationOf(request.method ?? '', key, query)
  calls[op] = (calls[op] ?? 0) + 1
  const reply = await answer({ op, bucket: bucketName, key, query, request, double })
  if (latency > 0) await wait(latency)
  response.writeHead(reply.status, reply.headers)
  if (typeof reply.body === 'string') response.end(reply.body)
  else await pipeline(Readable.from(reply.body), response)
}

async function answer(call: Call): Promise<Reply> {
  const operation = own[call.op] ?? operations[call.op]
  try {
    if (!operation) throw new S3Fault('NotImplemented', call.op)
    return await operation(call, String(call.request.headers['x-amz-content-sha256']))
  } catch (error) {
    if (!(error instanceof S3Fault)) throw error
    const body = `<Error><Code>${error.code}</Code><Message>${error.message}</Message></Error>`
    return { status: error.status, headers: {}, body: call.request.method === 'HEAD' ? '' : body }
  }
}

async function uploadPart({ key, query, request }: Call): Promise<Reply> {
  const [id, partNumber] = [query.get('uploadId') ?? '', Number(query.get('partNumber'))]
  const etag = await files.putPart(key, id, partNumber, await receive(request))
  return { status: 200, headers: { etag }, body: '' }
}

async function putObject({ key, request }: Call): Promise<Reply> {
  const metadata = Object.entries(request.headers).filter(([name]) => name.startsWith('x-amz-meta-'))
  const { etag } = files.put(key, Object.fromEntries(metadata) as Record<string, string>, await receive(request))
  return { status: 200, headers: { etag }, body: '' }
}

async function receive(request: IncomingMessage): Promise<StoredBytes> {
  const { headers } = request
  const pieces: Buffer[] = []
  request.on('data', (piece: Buffer) => pieces.push(piece))
  await finished(request)
  const isFramed = String(headers['x-amz-content-sha256']).startsWith('STREAMING-')
  bodies += 1
  return {
    size: Number(headers[isFramed ? 'x-amz-decoded-content-length' : 'content-length']),
    // Not always a hash, but as unique as one.
    md5: hashes && !isFramed ? md5Of(pieces) : bodies.toString(16).padStart(32, '0'),
    crc32: null,
    async *read(start, end) {
      const received = Buffer.concat(pieces)
      yield (isFramed ? withoutFraming(received) : received).subarray(start, end)
    },
    async discard() {},
  }
}

function md5Of(pieces: readonly Buffer[]): string {
  const hash = createHash('md5')
  for (const piece of pieces) hash.update(piece)
  return hash.digest('hex')
}

/** Takes aws-chunked framing off: `size in hex CRLF bytes CRLF`, then a chunk of size 0 and trailers. */
function withoutFraming(framed: Buffer): Buffer {
  const pieces: Buffer[] = []
  for (let at = 0; ; ) {
    const lineEnd = framed.indexOf('\r\n', at)
    const size = Number.parseInt(framed.toString('latin1', at, lineEnd), 16)
    if (!(size > 0)) return Buffer.concat(pieces)
    pieces.push(framed.subarray(lineEnd + 2, lineEnd + 2 + size))
    at = lineEnd + 2 + size + 2
  }
}

async function describe(keys: readonly string[]): Promise<SinkMessage> {
  const objects: { sha256: string; parts: number }[] = []
  for (const key of keys) {
    const object = files.object(key)
    const hash = createHash('sha256')
    for await (const bytes of readObject(object)) hash.update(bytes)
    objects.push({ sha256: hash.digest('hex'), parts: object.pieces.length })
  }
  return { type: 'stored', objects, calls }
}

function tell(message: SinkMessage): void {
  process.send?.(message)
}

const server = createServer((request, response) => {
  serve(request, response).catch(() => response.destroy())
})
process.on('disconnect', () => process.exit(0))
process.on('message', (keys: readonly string[]) => {
  const described = describe(keys)
  described.then(tell, () => process.exit(1))
})
server.listen(0, '127.0.0.1', () => {
  tell({ type: 'ready', endpoint: `http://127.0.0.1:${(server.address() as AddressInfo).port}` })
})
