/** Node cuts requests that take longer than `server.requestTimeout` (five minutes by default): long uploads, that is. */
import type { IncomingMessage } from 'node:http'

const warned = new WeakSet<object>()

/** What a phone on a bad line sends, bytes per second. */
const slowLine = 64 * 1024

/**
 * Warns once for each server that would cut bodies of up to `largest` bytes on a slow line; default: of any size. What its
 * requests do is not changed.
 */
export function warnAboutRequestTimeout(request: IncomingMessage, largest: number = Number.POSITIVE_INFINITY): void {
  const { server } = request.socket as { server?: { requestTimeout?: unknown } }
  const timeout = server?.requestTimeout
  if (!server || warned.has(server) || typeof timeout !== 'number' || timeout <= 0) return
  if ((timeout / 1000) * slowLine >= largest) return
  warned.add(server)
  const message =
    `The HTTP server cuts every request after ${timeout / 1000} s, also uploads that are getting on. ` +
    'Set server.requestTimeout = 0; the upload routes end silent requests themselves.'
  process.emitWarning(message, { code: 'NEXUS_REQUEST_TIMEOUT' })
}
