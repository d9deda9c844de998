/** Requests that cost next to nothing: one keep-alive connection, prepared buffers, no copies. */
import { once } from 'node:events'
import { Agent, type ClientRequest, type IncomingHttpHeaders, type IncomingMessage, request } from 'node:http'
import { sizeOfChunk, stamp } from './content.ts'
import type { ClientJob } from './messages.ts'

const agent = new Agent({ keepAlive: true, maxSockets: 1 })

export interface Answer {
  readonly headers: IncomingHttpHeaders
  readonly text: string
}

export function open(
  { port }: Pick<ClientJob, 'port'>,
  method: string,
  path: string,
  headers: Record<string, string | number>,
): ClientRequest {
  return request({ host: '127.0.0.1', port, path, method, headers, agent })
}

/** Throws when the server answers with another status. */
export async function answerOf(outgoing: ClientRequest, status: number): Promise<Answer> {
  const [response] = (await once(outgoing, 'response')) as [IncomingMessage]
  const pieces: Buffer[] = []
  for await (const piece of response) pieces.push(piece)
  const text = Buffer.concat(pieces).toString()
  if (response.statusCode === status) return { headers: response.headers, text }
  throw new Error(`${outgoing.method} ${outgoing.path} answered ${response.statusCode}: ${text}`)
}

/**
 * Sends the chunks from `first` up to but without `end` as one body. Each template is a buffer to stamp them in.
 * `waitMs` is the time from when the socket had taken the last byte until the answer.
 */
export async function sendChunks(
  outgoing: ClientRequest,
  { size, chunkSize }: ClientJob,
  templates: readonly Buffer[],
  [first, end]: readonly [first: number, end: number],
  status: number,
): Promise<{ answer: Answer; waitMs: number }> {
  // A buffer may be stamped again only when the socket has taken it.
  const ring = templates.map((template) => ({ template, free: Promise.resolve() }))
  const answer = answerOf(outgoing, status)
  // Awaited below; a server that ends the connection early must not be an unhandled rejection before that.
  answer.catch(() => {})
  for (let index = first; index < end; index++) {
    const slot = ring[index % ring.length]
    if (!slot) break
    await Promise.race([slot.free, answer])
    const bytes = stamp(slot.template, index).subarray(0, sizeOfChunk(index, size, chunkSize))
    slot.free = new Promise((resolve) => outgoing.write(bytes, () => resolve()))
  }
  await Promise.race([Promise.all(ring.map((slot) => slot.free)), answer])
  const written = performance.now()
  outgoing.end()
  return { answer: await answer, waitMs: performance.now() - written }
}
