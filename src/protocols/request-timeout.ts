/** Node cuts requests that take longer than `server.requestTimeout` (five minutes by default): long uploads, that is. */
import type { IncomingMessage } from 'node:http'

const warned = new WeakSet<object>()

/** Warns once for each server that would cut long uploads. What its requests do is not changed. */
export function warnAboutRequestTimeout(request: IncomingMessage): void {
  const { server } = request.socket as { server?: { requestTimeout?: unknown } }
  const timeout = server?.requestTimeout
  if (!server || warned.has(server) || typeof timeout !== 'number' || timeout <= 0) return
  warned.add(server)
  const message =
    `The HTTP server cuts every request after ${timeout / 1000} s, also uploads that are getting on. ` +
    'Set server.requestTimeout = 0; the upload routes end silent requests themselves.'
  process.emitWarning(message, { code: 'NEXUS_REQUEST_TIMEOUT' })
}
