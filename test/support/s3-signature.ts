/** AWS Signature Version 4, checked from the server's side, strictly: what AWS refuses is refused here. */
import { createHash, createHmac, timingSafeEqual } from 'node:crypto'
import type { IncomingMessage } from 'node:http'
import { S3Fault } from './s3-fault.ts'

export interface SigningKeys {
  readonly accessKeyId: string
  readonly secretAccessKey: string
  readonly region: string
}

/** Throws an `S3Fault` unless the request is signed with these keys; returns the payload's hash word. */
export function verifySignature(request: IncomingMessage, keys: SigningKeys): string {
  const query = new URLSearchParams((request.url ?? '').split('?', 2)[1] ?? '')
  return query.has('X-Amz-Signature') ? verifyQuery(request, query, keys) : verifyHeader(request, keys)
}

/** A presigned URL: the signature is in the query, with how long it is good, and says nothing about the body. */
function verifyQuery(request: IncomingMessage, query: URLSearchParams, keys: SigningKeys): string {
  const word = (name: string) => query.get(`X-Amz-${name}`) ?? ''
  if (word('Algorithm') !== 'AWS4-HMAC-SHA256' || request.headers.authorization !== undefined) {
    throw new S3Fault('InvalidRequest', 'Only one auth mechanism allowed')
  }
  const date = word('Date')
  const names = word('SignedHeaders').split(';')
  const day = checkScope(word('Credential'), keys)
  const seconds = Number(word('Expires'))
  if (!(seconds >= 1 && seconds <= 604_800)) throw new S3Fault('InvalidRequest', 'X-Amz-Expires')
  if (timeOf(date, day) + seconds * 1000 < Date.now()) throw new S3Fault('AccessDenied', 'Request has expired')
  checkSigned(request, names)
  checkSum(request, { date, day, names, payload: 'UNSIGNED-PAYLOAD', signature: word('Signature') }, keys)
  return 'UNSIGNED-PAYLOAD'
}

function verifyHeader(request: IncomingMessage, keys: SigningKeys): string {
  const { headers } = request
  const match = /^AWS4-HMAC-SHA256 Credential=([^,]+), ?SignedHeaders=([^,]+), ?Signature=([0-9a-f]{64})$/.exec(
    headers.authorization ?? '',
  )
  if (!match) throw new S3Fault('AccessDenied', 'Anonymous requests and other signatures are not accepted')
  const [, credential = '', signedHeaders = '', signature = ''] = match
  const day = checkScope(credential, keys)
  const date = String(headers['x-amz-date'] ?? '')
  if (Math.abs(Date.now() - timeOf(date, day)) > 15 * 60_000) throw new S3Fault('RequestTimeTooSkewed')
  const payload = String(headers['x-amz-content-sha256'] ?? '')
  if (payload === '') throw new S3Fault('InvalidRequest', 'Missing required header: x-amz-content-sha256')
  const names = signedHeaders.split(';')
  checkSigned(request, names)
  checkSum(request, { date, day, names, payload, signature }, keys)
  return payload
}

function checkScope(credential: string, keys: SigningKeys): string {
  const [accessKeyId, day = '', region = '', service, terminator] = credential.split('/')
  if (accessKeyId !== keys.accessKeyId) throw new S3Fault('InvalidAccessKeyId')
  if (region !== keys.region || service !== 's3' || terminator !== 'aws4_request') {
    throw new S3Fault('AuthorizationHeaderMalformed', `expecting ${keys.region}`)
  }
  return day
}

function checkSigned({ headers }: IncomingMessage, names: readonly string[]): void {
  const unsigned = Object.keys(headers).filter((name) => name.startsWith('x-amz-') && !names.includes(name))
  if (unsigned.length > 0 || !names.includes('host')) {
    throw new S3Fault('AccessDenied', `There were headers present in the request which were not signed: ${unsigned}`)
  }
}

interface Signed {
  readonly date: string
  readonly day: string
  readonly names: readonly string[]
  readonly payload: string
  readonly signature: string
}

function checkSum(request: IncomingMessage, signed: Signed, keys: SigningKeys): void {
  const { date, day, names, payload, signature } = signed
  const scope = `${day}/${keys.region}/s3/aws4_request`
  const toSign = `AWS4-HMAC-SHA256\n${date}\n${scope}\n${sha256(canonicalRequest(request, names, payload))}`
  const key = ['s3', 'aws4_request'].reduce(hmac, hmac(hmac(`AWS4${keys.secretAccessKey}`, day), keys.region))
  const given = Buffer.from(signature, 'hex')
  const expected = hmac(key, toSign)
  if (given.length !== expected.length || !timingSafeEqual(expected, given)) throw new S3Fault('SignatureDoesNotMatch')
}

/** Ms since the epoch. */
function timeOf(date: string, day: string): number {
  const parts = /^(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z$/.exec(date)
  if (!parts || !date.startsWith(day)) throw new S3Fault('AccessDenied', 'AWS authentication requires a valid Date')
  const [, year, month, dayOfMonth, hour, minute, second] = parts.map(Number)
  return Date.UTC(year ?? 0, (month ?? 1) - 1, dayOfMonth, hour, minute, second)
}

function canonicalRequest(request: IncomingMessage, names: readonly string[], payload: string): string {
  const [path = '', query = ''] = (request.url ?? '').split('?', 2)
  const pairs =
    query === '' ? [] : query.split('&').map((pair) => pair.split('=', 2).map((word) => encode(decode(word))))
  const sorted = pairs
    .filter(([name]) => name !== 'X-Amz-Signature')
    .map(([name = '', value = '']) => `${name}=${value}`)
    .sort()
  const headers = names.map(
    (name) =>
      `${name}:${String(request.headers[name] ?? '')
        .trim()
        .replace(/\s+/g, ' ')}\n`,
  )
  const canonicalPath = path
    .split('/')
    .map((segment) => encode(decode(segment)))
    .join('/')
  return [request.method, canonicalPath, sorted.join('&'), headers.join(''), names.join(';'), payload].join('\n')
}

function encode(word: string): string {
  return encodeURIComponent(word).replace(/[!'()*]/g, (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`)
}

export function decode(word: string): string {
  try {
    return decodeURIComponent(word)
  } catch {
    throw new S3Fault('InvalidURI')
  }
}

function hmac(key: string | Buffer, data: string): Buffer {
  return createHmac('sha256', key).update(data).digest()
}

function sha256(data: string): string {
  return createHash('sha256').update(data).digest('hex')
}
