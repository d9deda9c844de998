/** Interim responses with status 104 (Upload Resumption Supported). Node 20 has no public call for them. */
import type { ServerResponse } from 'node:http'

type Headers = Readonly<Record<string, string>>

interface Writable {
  writeInformation?: (status: number, headers: Headers) => void
  _writeRaw?: (data: string, encoding: string) => void
  stream?: { additionalHeaders?: (headers: Record<string, string | number>) => void }
}

/** Sends one, if the connection can carry it and nothing final has been sent. Losing one is harmless. */
export function sendInterim(response: ServerResponse, headers: Headers): void {
  const { req } = response
  if (response.headersSent || response.destroyed || response.writableEnded) return
  if (req.httpVersionMajor < 1 || (req.httpVersionMajor === 1 && req.httpVersionMinor === 0)) return
  if (Object.values(headers).some((value) => /[\r\n]/.test(value))) return
  const writable = response as unknown as Writable
  if (writable.writeInformation) writable.writeInformation(104, headers)
  else if (writable.stream?.additionalHeaders) writable.stream.additionalHeaders({ ':status': 104, ...headers })
  else if (writable._writeRaw) {
    const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`)
    writable._writeRaw(`HTTP/1.1 104 Upload Resumption Supported\r\n${lines.join('')}\r\n`, 'latin1')
  }
}
