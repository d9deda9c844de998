/** Interim responses, status 104 (Upload Resumption Supported): where the upload is, and how far it has come. */
import type { IncomingMessage, ServerResponse } from 'node:http'
import { type Dialect, versionField } from './interop.ts'

type Headers = Readonly<Record<string, string>>

/** Sends one, if the client can make sense of it; tells whether it did. */
export type Interim = (headers: Headers) => boolean

/** What newer versions of Node, HTTP/2, and HTTP/1.1 of older versions of Node have for it. */
interface Informational {
  writeInformation?: (status: number, headers: Headers) => void
  stream?: { additionalHeaders?: (headers: Record<string, string | number>) => void }
  _writeRaw?: (text: string, encoding: 'latin1') => void
}

const status = 104
const silent: Interim = () => false

/** A client that does not name a draft spoken here must not get any, and HTTP/1.0 knows no interim responses. */
export function interimOf(
  request: IncomingMessage,
  response: ServerResponse,
  { interop, standing }: Dialect,
  allowed: boolean,
): Interim {
  const { httpVersionMajor: major, httpVersionMinor: minor } = request
  if (!allowed || standing !== 'announced' || major < 1 || (major === 1 && minor < 1)) return silent
  return (fields) => {
    if (response.headersSent || response.destroyed || response.writableEnded) return false
    const headers = { ...fields, [versionField]: String(interop.version) }
    if (!Object.values(headers).every(isSafe)) return false
    try {
      return write(response as Informational, headers)
    } catch {
      // The connection ended meanwhile; whoever writes the answer finds out.
      return false
    }
  }
}

/** Printable ASCII: nothing that could end the header. */
function isSafe(value: string): boolean {
  return /^[\x20-\x7e]*$/.test(value)
}

function write(response: Informational, headers: Headers): boolean {
  if (response.writeInformation) {
    response.writeInformation(status, headers)
    return true
  }
  if (response.stream?.additionalHeaders) {
    response.stream.additionalHeaders({ ...headers, ':status': status })
    return true
  }
  if (!response._writeRaw) return false
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`)
  response._writeRaw(`HTTP/1.1 ${status} Upload Resumption Supported\r\n${lines.join('')}\r\n`, 'latin1')
  return true
}
