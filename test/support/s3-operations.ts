/** The operations of the S3 double: from a request to an answer. */
import type { IncomingMessage } from 'node:http'
import { receiveBody, type StoredBytes } from './s3-body.ts'
import { DoubleBucket, type DoubleObject, type NamedPart, type ObjectHeaders, readObject } from './s3-bucket.ts'
import type { S3Double } from './s3-double.ts'
import { S3Fault } from './s3-fault.ts'

export interface Call {
  readonly op: string
  readonly bucket: string
  readonly key: string
  readonly query: URLSearchParams
  readonly request: IncomingMessage
  readonly double: S3Double
}

export interface Reply {
  readonly status: number
  readonly headers: Record<string, string | number>
  readonly body: string | AsyncIterable<Buffer>
}

type Operation = (call: Call, payload: string) => Promise<Reply> | Reply

/** The name that S3 gives to a request. */
export function operationOf(method: string, key: string, query: URLSearchParams): string {
  const has = (name: string) => query.has(name)
  const table: readonly (readonly [boolean, string])[] = [
    [key === '' && method === 'PUT', 'CreateBucket'],
    [key === '' && method === 'HEAD', 'HeadBucket'],
    [key === '' && method === 'DELETE', 'DeleteBucket'],
    [key === '' && method === 'POST' && has('delete'), 'DeleteObjects'],
    [key === '' && method === 'GET' && has('uploads'), 'ListMultipartUploads'],
    [key === '' && method === 'GET' && query.get('list-type') === '2', 'ListObjectsV2'],
    [key === '' && method === 'GET' && has('lifecycle'), 'GetBucketLifecycleConfiguration'],
    [key === '', `Bucket:${method}`],
    [method === 'POST' && has('uploads'), 'CreateMultipartUpload'],
    [method === 'POST' && has('uploadId'), 'CompleteMultipartUpload'],
    [method === 'PUT' && has('uploadId') && has('partNumber'), 'UploadPart'],
    [method === 'GET' && has('uploadId'), 'ListParts'],
    [method === 'DELETE' && has('uploadId'), 'AbortMultipartUpload'],
    [['acl', 'tagging', 'partNumber', 'retention'].some(has), `Object:${method}`],
    [method === 'PUT', 'PutObject'],
    [method === 'GET', 'GetObject'],
    [method === 'HEAD', 'HeadObject'],
    [method === 'DELETE', 'DeleteObject'],
  ]
  return table.find(([matches]) => matches)?.[1] ?? `Object:${method}`
}

export const operations: Readonly<Record<string, Operation>> = {
  CreateBucket: async (call, payload) => {
    await receive(call, payload)
    if (!/^[a-z0-9][a-z0-9.-]{2,62}$/.test(call.bucket)) throw new S3Fault('InvalidRequest', 'bucket name')
    if (!call.double.buckets.has(call.bucket)) call.double.buckets.set(call.bucket, new DoubleBucket())
    return { status: 200, headers: {}, body: '' }
  },
  HeadBucket: (call) => {
    bucketOf(call)
    return { status: 200, headers: {}, body: '' }
  },
  GetBucketLifecycleConfiguration: (call) => {
    bucketOf(call)
    if (call.double.lifecycle === null) throw new S3Fault('NoSuchLifecycleConfiguration')
    return xml('LifecycleConfiguration', call.double.lifecycle)
  },
  DeleteBucket: (call) => {
    if (bucketOf(call).objects.size > 0) throw new S3Fault('BucketNotEmpty')
    call.double.buckets.delete(call.bucket)
    return { status: 204, headers: {}, body: '' }
  },
  DeleteObjects: async (call, payload) => {
    const bucket = bucketOf(call)
    const keys = elements(await text(await receive(call, payload)), 'Object').map((item) => element(item, 'Key') ?? '')
    for (const key of keys) bucket.objects.delete(key)
    return xml('DeleteResult', keys.map((key) => `<Deleted>${tag('Key', key)}</Deleted>`).join(''))
  },
  ListObjectsV2: (call) => {
    const after = call.query.get('continuation-token') ?? ''
    const prefix = call.query.get('prefix') ?? ''
    const all = [...bucketOf(call).objects.values()].filter(({ key }) => key.startsWith(prefix) && key > after)
    const { page, more } = cut(call, all.sort(byKey), call.query.get('max-keys'))
    const contents = page.map(
      ({ key, size, etag, modified }) =>
        `<Contents>${tag('Key', key)}${tag('Size', size)}${tag('ETag', etag)}${tag('LastModified', modified.toISOString())}</Contents>`,
    )
    const next = more ? tag('NextContinuationToken', page.at(-1)?.key ?? '') : ''
    return xml('ListBucketResult', `${contents.join('')}${tag('IsTruncated', more)}${next}`)
  },
  PutObject: async (call, payload) => {
    const { headers } = call.request
    const bucket = bucketOf(call)
    if (headers['x-amz-copy-source'] !== undefined) throw new S3Fault('NotImplemented', 'copy')
    const stored = objectHeaders(call.request)
    const body = await receive(call, payload)
    if (headers['if-none-match'] === '*' && bucket.objects.has(call.key)) throw new S3Fault('PreconditionFailed')
    return { status: 200, headers: { etag: bucket.put(call.key, stored, body).etag, ...summed(body) }, body: '' }
  },
  GetObject: (call) => {
    const object = bucketOf(call).object(call.key)
    const range = rangeOf(call.request.headers.range, object.size)
    const headers = describe(object)
    if (range === null) return { status: 200, headers, body: readObject(object) }
    const [start, end] = range
    return {
      status: 206,
      headers: {
        ...headers,
        'content-length': end - start,
        'content-range': `bytes ${start}-${end - 1}/${object.size}`,
      },
      body: readObject(object, start, end),
    }
  },
  HeadObject: (call) => ({ status: 200, headers: describe(bucketOf(call).object(call.key)), body: '' }),
  DeleteObject: (call) => {
    bucketOf(call).objects.delete(call.key)
    return { status: 204, headers: {}, body: '' }
  },
  CreateMultipartUpload: (call) => {
    const algorithm = call.request.headers['x-amz-checksum-algorithm']
    if (algorithm !== undefined && algorithm !== 'CRC32') throw new S3Fault('NotImplemented', String(algorithm))
    const upload = bucketOf(call).createUpload(call.key, objectHeaders(call.request), algorithm ?? null)
    return xml(
      'InitiateMultipartUploadResult',
      tag('Bucket', call.bucket) + tag('Key', call.key) + tag('UploadId', upload.id),
    )
  },
  UploadPart: async (call, payload) => {
    const bucket = bucketOf(call)
    const partNumber = Number(call.query.get('partNumber'))
    if (!Number.isInteger(partNumber) || partNumber < 1 || partNumber > 10_000) throw new S3Fault('InvalidArgument')
    if (call.request.headers['x-amz-copy-source'] !== undefined) throw new S3Fault('NotImplemented', 'copy')
    const id = call.query.get('uploadId') ?? ''
    bucket.upload(call.key, id)
    const body = await receive(call, payload)
    const etag = await bucket.putPart(call.key, id, partNumber, body)
    return { status: 200, headers: { etag, ...summed(body) }, body: '' }
  },
  ListParts: (call) => {
    const upload = bucketOf(call).upload(call.key, call.query.get('uploadId') ?? '')
    const after = Number(call.query.get('part-number-marker') ?? 0)
    const all = [...upload.parts].filter(([number]) => number > after).sort(([a], [b]) => a - b)
    const { page, more } = cut(call, all, call.query.get('max-parts'))
    const parts = page.map(([number, part]) => {
      const sum = part.crc32 === null ? '' : tag('ChecksumCRC32', part.crc32)
      return `<Part>${tag('PartNumber', number)}${tag('Size', part.size)}${tag('ETag', `"${part.md5}"`)}${sum}</Part>`
    })
    const next = tag('NextPartNumberMarker', page.at(-1)?.[0] ?? 0)
    return xml('ListPartsResult', `${tag('UploadId', upload.id)}${next}${tag('IsTruncated', more)}${parts.join('')}`)
  },
  ListMultipartUploads: (call) => {
    const prefix = call.query.get('prefix') ?? ''
    const place = [call.query.get('key-marker') ?? '', call.query.get('upload-id-marker') ?? '']
    const all = [...bucketOf(call).uploads.values()].filter(({ key }) => key.startsWith(prefix)).sort(byKey)
    const rest = all.filter(
      ({ key, id }) => key > (place[0] ?? '') || (key === place[0] && place[1] !== '' && id > (place[1] ?? '')),
    )
    const { page, more } = cut(call, rest, call.query.get('max-uploads'))
    const uploads = page.map(({ key, id, initiated }) => {
      return `<Upload>${tag('Key', key)}${tag('UploadId', id)}${tag('Initiated', initiated.toISOString())}</Upload>`
    })
    const last = page.at(-1)
    const next = more && last ? tag('NextKeyMarker', last.key) + tag('NextUploadIdMarker', last.id) : ''
    return xml('ListMultipartUploadsResult', `${next}${tag('IsTruncated', more)}${uploads.join('')}`)
  },
  CompleteMultipartUpload: async (call, payload) => {
    const bucket = bucketOf(call)
    const parts = elements(await text(await receive(call, payload)), 'Part').map(readNamedPart)
    const object = bucket.complete(call.key, call.query.get('uploadId') ?? '', parts, call.double.rules)
    const location = tag('Location', `${call.double.endpoint}/${call.bucket}/${call.key}`)
    const rest = tag('Bucket', call.bucket) + tag('Key', call.key) + tag('ETag', object.etag)
    return xml('CompleteMultipartUploadResult', location + rest)
  },
  AbortMultipartUpload: async (call) => {
    await bucketOf(call).abort(call.key, call.query.get('uploadId') ?? '')
    return { status: 204, headers: {}, body: '' }
  },
}

function bucketOf({ double, bucket }: Call): DoubleBucket {
  const found = double.buckets.get(bucket)
  if (!found) throw new S3Fault('NoSuchBucket')
  return found
}

function receive({ request, double }: Call, payload: string): Promise<StoredBytes> {
  // An empty body needs no length.
  if (request.headers['content-length'] === undefined && request.headers['transfer-encoding'] === undefined) {
    request.headers['content-length'] = '0'
  }
  return receiveBody(request, payload, double.folder)
}

async function text(body: StoredBytes): Promise<string> {
  const chunks: Buffer[] = []
  for await (const chunk of body.read(0, body.size)) chunks.push(chunk)
  await body.discard()
  return Buffer.concat(chunks).toString()
}

const keptHeader =
  /^(content-type|content-disposition|content-encoding|content-language|cache-control|expires)$|^x-amz-meta-/

function objectHeaders({ headers }: IncomingMessage): ObjectHeaders {
  const kept = Object.entries(headers).filter(([name]) => keptHeader.test(name)) as [string, string][]
  const metadata = kept.filter(([name]) => name.startsWith('x-amz-meta-'))
  const size = metadata.reduce(
    (sum, [name, value]) => sum + name.length - 'x-amz-meta-'.length + Buffer.byteLength(value),
    0,
  )
  if (size > 2048) throw new S3Fault('MetadataTooLarge')
  const encoding = String(headers['content-encoding'] ?? '').replace(/,?\s*aws-chunked$/, '')
  const result: Record<string, string> = Object.fromEntries(kept)
  delete result['content-encoding']
  return encoding === '' ? result : { ...result, 'content-encoding': encoding }
}

/** What was declared of a body, told again. */
function summed({ crc32 }: { readonly crc32: string | null }): Record<string, string> {
  return crc32 === null ? {} : { 'x-amz-checksum-crc32': crc32 }
}

function describe(object: DoubleObject): Record<string, string | number> {
  return {
    'content-type': 'binary/octet-stream',
    ...object.headers,
    etag: object.etag,
    'content-length': object.size,
    'accept-ranges': 'bytes',
    'last-modified': object.modified.toUTCString(),
  }
}

function rangeOf(header: string | undefined, size: number): [start: number, end: number] | null {
  const match = /^bytes=(\d*)-(\d*)$/.exec(header ?? '')
  if (!match || (match[1] === '' && match[2] === '')) return null
  const [, first = '', last = ''] = match
  const start = first === '' ? Math.max(size - Number(last), 0) : Number(first)
  const end = first === '' || last === '' ? size : Math.min(Number(last) + 1, size)
  if (start >= size || start >= end) throw new S3Fault('InvalidRange')
  return [start, end]
}

function readNamedPart(part: string): NamedPart {
  return {
    partNumber: Number(element(part, 'PartNumber')),
    etag: element(part, 'ETag') ?? '',
    crc32: element(part, 'ChecksumCRC32') ?? null,
  }
}

function cut<T>({ double }: Call, all: readonly T[], limit: string | null): { page: T[]; more: boolean } {
  const page = all.slice(0, Math.min(Number(limit ?? 1000), double.pageSize))
  return { page, more: page.length < all.length }
}

function byKey(a: { key: string; id?: string }, b: { key: string; id?: string }): number {
  return a.key < b.key ? -1 : a.key > b.key ? 1 : (a.id ?? '') < (b.id ?? '') ? -1 : 1
}

function elements(document: string, name: string): string[] {
  return [...document.matchAll(new RegExp(`<${name}>(.*?)</${name}>`, 'gs'))].map(([, inner = '']) => inner)
}

const entities: Readonly<Record<string, string>> = {
  '&lt;': '<',
  '&gt;': '>',
  '&quot;': '"',
  '&apos;': "'",
  '&amp;': '&',
}

function element(document: string, name: string): string | undefined {
  return elements(document, name)[0]?.replace(/&(?:lt|gt|quot|apos|amp);/g, (entity) => entities[entity] ?? entity)
}

function tag(name: string, value: string | number | boolean): string {
  const escaped = String(value).replace(/[<>&"']/g, (character) => `&#${character.charCodeAt(0)};`)
  return `<${name}>${escaped}</${name}>`
}

function xml(root: string, inner: string): Reply {
  const body = `<?xml version="1.0" encoding="UTF-8"?>\n<${root} xmlns="http://s3.amazonaws.com/doc/2006-03-01/">${inner}</${root}>`
  return { status: 200, headers: { 'content-type': 'application/xml' }, body }
}
