/** What Node has and browsers have not: paths, and bodies that are written piece by piece. */

import type { HttpAnswer, HttpRequest, Platform } from '../platform.ts'
import { bytesOf, randomWord } from '../resume-key.ts'
import { openInBrowser } from '../sources.ts'
import { answerOf, sendByFetch, watched } from '../transport.ts'
import { openPath } from './path-source.ts'

/** Bytes that are handed to the socket at a time. */
const pieceSize = 64 * 1024
let secret: string | undefined

export const nodePlatform: Platform = {
  send(request) {
    return request.onSent && !(request.body instanceof FormData) ? sendInPieces(request) : sendByFetch(request)
  },
  open(source, options) {
    if (typeof source === 'string') return openPath(source, options)
    return openInBrowser(source, options, () => {
      secret ??= randomWord()
      return secret
    })
  },
}

async function sendInPieces(request: HttpRequest): Promise<HttpAnswer> {
  const body = await bytesOf(request.body as Uint8Array)
  const headers = { ...request.headers, 'Content-Length': `${body.length}` }
  return watched(request, (signal, alive) => {
    async function* pieces() {
      for (let at = 0; at < body.length; at += pieceSize) {
        yield body.subarray(at, at + pieceSize)
        alive()
        request.onSent?.(Math.min(at + pieceSize, body.length))
      }
    }
    return answerOf({ ...request, headers, signal, body: pieces(), duplex: 'half' })
  })
}
