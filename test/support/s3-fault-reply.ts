/** What the S3 double answers when it fails, and how it spoils what it has done. */
import type { StoredBytes } from './s3-body.ts'
import { codeOfStatus, type OrderedFault, S3Fault } from './s3-fault.ts'
import type { Call, Reply } from './s3-operations.ts'

const done = new Set<OrderedFault['status']>([
  'ok',
  'drip',
  'lost-response',
  'no-etag',
  'wrong-etag',
  'no-checksum',
  'truncated',
  'damaged',
])

export function notDone({ status }: OrderedFault): boolean {
  return !done.has(status)
}

export function faultReply(call: Call, { status, location = '', reply }: OrderedFault): Reply {
  if (status === 'html') {
    return { status: 503, headers: { 'content-type': 'text/html' }, body: '<html><body>Bad gateway</body></html>' }
  }
  if (status === 'empty-200') return { status: 200, headers: {}, body: '' }
  if (status === 'reply' && reply) return { headers: { 'content-type': 'application/xml' }, ...reply }
  if (status === 'redirect-301' || status === 'redirect-307') {
    const refused = errorReply(call, 'PermanentRedirect', Number(status.slice(-3)), 'ordered by the test')
    return { ...refused, headers: { ...refused.headers, location, 'x-amz-bucket-region': 'eu-west-1' } }
  }
  if (status === 'error-in-200' || status === 'drip-error') {
    const error = errorReply(call, 'InternalError', 200, 'We encountered an internal error. Please try again.')
    const start = status === 'drip-error' ? '' : '<?xml version="1.0" encoding="UTF-8"?>\n   '
    return { ...error, body: start + error.body }
  }
  if (typeof status === 'number') return errorReply(call, codeOfStatus(status), status, 'ordered by the test')
  const fault = new S3Fault(status)
  return errorReply(call, fault.code, fault.status, 'ordered by the test')
}

export function errorReply({ bucket, key, request, double }: Call, code: string, status: number, text: string): Reply {
  const message = text.replace(/[<&>]/g, '?')
  // AWS names what the request came with, too.
  const names = `<BucketName>${bucket}</BucketName><Key>${encodeURI(key)}</Key><AWSAccessKeyId>${double.keys.accessKeyId}</AWSAccessKeyId>`
  const body = `<Error><Code>${code}</Code><Message>${message}</Message>${names}<RequestId>tx0000${code}</RequestId></Error>`
  return { status, headers: { 'content-type': 'application/xml' }, body: request.method === 'HEAD' ? '' : body }
}

/** After the request was carried out: what is stored, or told of it, is not what it should be. */
export function spoil({ double, bucket, key, query }: Call, { status }: OrderedFault, reply: Reply): void {
  if (status === 'no-etag') delete reply.headers.etag
  if (status === 'wrong-etag') reply.headers.etag = '"00000000000000000000000000000000"'
  if (status === 'no-checksum') delete reply.headers['x-amz-checksum-crc32']
  if (status !== 'truncated' && status !== 'damaged') return
  const change = status === 'truncated' ? cutShort : flipFirst
  const { objects, uploads } = double.buckets.get(bucket) ?? { objects: new Map(), uploads: new Map() }
  const partNumber = Number(query.get('partNumber'))
  const parts = uploads.get(query.get('uploadId') ?? '')?.parts
  const part = parts?.get(partNumber)
  const object = objects.get(key)
  if (part) parts?.set(partNumber, change(part))
  else if (object) {
    const pieces = object.pieces.map(change)
    const size = pieces.reduce((sum: number, piece: StoredBytes) => sum + piece.size, 0)
    objects.set(key, { ...object, pieces, size, etag: `"${pieces[0]?.md5}"` })
  }
  // What arrived is what such a server makes the ETag of.
  reply.headers.etag = part ? `"${parts?.get(partNumber)?.md5}"` : (objects.get(key)?.etag ?? '')
}

const otherSum = 'f'.repeat(32)

function cutShort(bytes: StoredBytes): StoredBytes {
  const size = Math.floor(bytes.size / 2)
  return { ...bytes, size, md5: otherSum, read: (start, end) => bytes.read(start, Math.min(end, size)) }
}

function flipFirst(bytes: StoredBytes): StoredBytes {
  const read = async function* (start: number, end: number) {
    let at = start
    for await (const data of bytes.read(start, end)) {
      const copy = Buffer.from(data)
      if (at === 0 && copy.length > 0) copy[0] = (copy[0] ?? 0) ^ 1
      at += copy.length
      yield copy
    }
  }
  return { ...bytes, md5: otherSum, read }
}
