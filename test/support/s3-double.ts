/**
 * An S3 server inside the test process, strict about what AWS is strict about (signatures, part rules, checksums), with
 * faults on order and a log of every request. Path style only. What it promises is checked by `s3-contract.test.ts`,
 * which also runs against real servers.
 */
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import {
  type DoubleBucket,
  type DoubleObject,
  type DoubleUpload,
  MIN_PART,
  type PartRules,
  readObject,
} from './s3-bucket.ts'
import { FaultOrders, type OrderedFault, S3Fault } from './s3-fault.ts'
import { errorReply, faultReply, notDone, spoil } from './s3-fault-reply.ts'
import { type Call, operationOf, operations, type Reply } from './s3-operations.ts'
import { decode, type SigningKeys, verifySignature } from './s3-signature.ts'

export interface S3DoubleOptions {
  /** Where bodies are kept. `disk` for more than some 64 MiB. Default `memory`. */
  store?: 'memory' | 'disk'
  /** Refuse parts of different sizes (but the last), as Cloudflare R2 does. */
  equalParts?: boolean
  /** Smallest part but the last, bytes. Default 5 MiB, as S3 has it. */
  minPart?: number
}

export interface LoggedRequest {
  readonly op: string
  readonly bucket: string
  readonly key: string
  readonly partNumber: number | null
  /** Announced size of the body, bytes. */
  readonly size: number
  /** When it arrived, ms since the epoch. */
  readonly time: number
  readonly headers: IncomingMessage['headers']
  /** 0 until it is answered, and for good when the connection was cut. */
  status: number
}

export class S3Double {
  readonly endpoint: string
  readonly keys: SigningKeys
  readonly requests: LoggedRequest[] = []
  readonly buckets = new Map<string, DoubleBucket>()
  readonly rules: PartRules
  readonly folder: string | null
  /** Most entries in one page of a listing, whatever the client asks for. */
  pageSize = 1000
  /** The rules of every bucket, as S3 prints them; `null`: there are none. */
  lifecycle: string | null =
    '<Rule><Status>Enabled</Status><AbortIncompleteMultipartUpload><DaysAfterInitiation>7</DaysAfterInitiation></AbortIncompleteMultipartUpload></Rule>'
  /** Most requests that were open at the same time. */
  peak = 0
  #open = 0
  readonly #server: Server
  readonly #faults = new FaultOrders()

  private constructor(server: Server, folder: string | null, rules: PartRules) {
    this.#server = server
    this.folder = folder
    this.rules = rules
    this.endpoint = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
    this.keys = { accessKeyId: 'doublekey', secretAccessKey: 'doublesecret0123456789', region: 'us-east-1' }
  }

  static async start({
    store = 'memory',
    equalParts = false,
    minPart = MIN_PART,
  }: S3DoubleOptions = {}): Promise<S3Double> {
    const server = createServer()
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject)
      server.listen(0, '127.0.0.1', resolve)
    })
    const folder = store === 'disk' ? await mkdtemp(join(tmpdir(), 's3-double-')) : null
    const double = new S3Double(server, folder, { equalParts, minPart })
    server.on('request', (request, response) => {
      double.#serve(request, response).catch(() => response.destroy())
    })
    return double
  }

  /** Orders a fault for the next requests of an operation (`UploadPart`, `HeadObject`, …), or of any: `*`. */
  fail(operation: string, fault: OrderedFault): void {
    this.#faults.add(operation, fault)
  }

  /** Forgets the faults that are still on order. */
  recover(): void {
    this.#faults.clear()
  }

  /** Forgets the faults that are still on order, the page size, whether it names objects, and the log. */
  reset(): void {
    this.#faults.clear()
    this.requests.length = 0
    this.pageSize = 1000
  }

  /** One operation's part of the log. */
  log(operation: string): LoggedRequest[] {
    return this.requests.filter((request) => request.op === operation)
  }

  object(bucket: string, key: string): DoubleObject | undefined {
    return this.buckets.get(bucket)?.objects.get(key)
  }

  async read(bucket: string, key: string): Promise<Buffer> {
    const object = this.object(bucket, key)
    if (!object) throw new Error(`there is no object ${key}`)
    const chunks: Buffer[] = []
    for await (const chunk of readObject(object)) chunks.push(chunk)
    return Buffer.concat(chunks)
  }

  /** Multipart uploads that are neither completed nor aborted. */
  openUploads(bucket: string): DoubleUpload[] {
    return [...(this.buckets.get(bucket)?.uploads.values() ?? [])]
  }

  /** Requests that wait for an answer. */
  get openRequests(): number {
    return this.#open
  }

  /** Closes kept-alive connections, as servers do after a while. */
  closeIdleConnections(): void {
    this.#server.closeIdleConnections()
  }

  async close(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()))
    this.#server.closeAllConnections()
    await closed
    if (this.folder !== null) await rm(this.folder, { recursive: true, force: true })
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    request.on('error', () => {})
    response.on('error', () => {})
    this.#open += 1
    this.peak = Math.max(this.peak, this.#open)
    response.once('close', () => {
      this.#open -= 1
    })
    const call = this.#read(request)
    const entry = log(call)
    this.requests.push(entry)
    const fault = this.#faults.take(call.op)
    const drips = fault?.status === 'drip' || fault?.status === 'drip-error'
    if (fault?.delayMs !== undefined && !drips) await sleep(fault.delayMs, undefined, { ref: false })
    if (fault?.status === 'hang') return
    if (fault?.status === 'reset') return void request.socket.resetAndDestroy()
    if (fault?.status === 'close') return void request.socket.destroy()
    const reply = fault && notDone(fault) ? faultReply(call, fault) : await this.#answer(call)
    if (fault && reply.status < 300) spoil(call, fault, reply)
    if (fault?.status === 'lost-response') return void request.socket.resetAndDestroy()
    entry.status = reply.status
    // The rest of a body that nobody read: the connection stays usable, as with AWS.
    request.resume()
    await send(response, reply, drips ? (fault.delayMs ?? 100) : 0)
  }

  #read(request: IncomingMessage): Call {
    const [path = '', search = ''] = (request.url ?? '').split('?', 2)
    const [, bucket = '', ...segments] = path.split('/')
    const query = new URLSearchParams(search)
    const method = request.method ?? ''
    const key = segments.map(decode).join('/')
    return { op: operationOf(method, key, query), bucket, key, query, request, double: this }
  }

  async #answer(call: Call): Promise<Reply> {
    try {
      const payload = verifySignature(call.request, this.keys)
      const operation = operations[call.op]
      if (!operation) throw new S3Fault('NotImplemented', `${call.op} is not part of this double`)
      return await operation(call, payload)
    } catch (error) {
      if (error instanceof S3Fault) return errorReply(call, error.code, error.status, error.message)
      // The client cut the connection in the middle of its body.
      if (call.request.destroyed && !call.request.complete) return { status: 400, headers: {}, body: '' }
      return errorReply(call, 'InternalError', 500, String(error))
    }
  }
}

function log({ op, bucket, key, query, request }: Call): LoggedRequest {
  const partNumber = query.get('partNumber')
  return {
    op,
    bucket,
    key,
    partNumber: partNumber === null ? null : Number(partNumber),
    size: Number(request.headers['x-amz-decoded-content-length'] ?? request.headers['content-length'] ?? 0),
    time: Date.now(),
    headers: request.headers,
    status: 0,
  }
}

/** Writes the answer; with `dripMs`, white space first and the body only then, as AWS does while it completes. */
async function send(response: ServerResponse, reply: Reply, dripMs: number): Promise<void> {
  // As of a bucket whose CORS rules let browsers send parts.
  const cors = { 'access-control-allow-origin': '*', 'access-control-expose-headers': 'ETag' }
  response.writeHead(reply.status, { 'x-amz-request-id': 'tx0000double', ...cors, ...reply.headers })
  if (dripMs > 0) {
    for (let part = 0; part < 4; part++) {
      response.write(' ')
      await sleep(dripMs / 4, undefined, { ref: false })
    }
  }
  if (typeof reply.body === 'string') {
    response.end(reply.body)
    return
  }
  await pipeline(Readable.from(reply.body), response)
}
