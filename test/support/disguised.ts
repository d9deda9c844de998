/** Files that are not what they are called. */
import { request as httpRequest } from 'node:http'
import { setTimeout as wait } from 'node:timers/promises'
import { bytes } from './random.ts'

/** The beginning of a Windows program, then anything. */
export function program(size: number): Buffer {
  const data = bytes(size, 5)
  data.fill(0, 0, Math.min(size, 512))
  data.write('MZ\x90\0\x03', 'latin1')
  return data
}

const pngHeader = '89504e470d0a1a0a0000000d494844520000000100000001080600000 01f15c4890000000a49444154'.replace(' ', '')

/** The beginning of a picture, then anything. */
export function picture(size: number): Buffer {
  const data = bytes(size, 6)
  Buffer.from(pngHeader, 'hex').copy(data)
  return data
}

export interface Streamed {
  readonly status: number
  readonly code: string
  /** Bytes that were sent before the answer came. */
  readonly sent: number
}

/** Sends a body of `size` bytes piece by piece, as a slow line does, and stops when the answer comes. */
export async function sendSlowly(
  method: string,
  url: string,
  headers: Record<string, string | number>,
  body: { readonly start: Buffer; readonly size: number },
): Promise<Streamed> {
  const request = httpRequest(url, { method, agent: false, headers: { ...headers, 'Content-Length': body.size } })
  let sent = 0
  const answered = new Promise<Streamed>((resolve, reject) => {
    request.on('error', reject)
    request.on('response', (response) => {
      const at = sent
      let text = ''
      response.setEncoding('utf8').on('data', (data) => {
        text += data
      })
      const finish = () => resolve({ status: response.statusCode ?? 0, code: JSON.parse(text || '{}').code, sent: at })
      response.on('end', finish).on('error', finish)
    })
  })
  let over = false
  answered.then(
    () => (over = true),
    () => (over = true),
  )
  const filler = Buffer.alloc(64 * 1024, 1)
  for (let piece = body.start; !over && sent < body.size; piece = filler.subarray(0, body.size - sent)) {
    request.write(piece)
    sent += piece.length
    await wait(2)
  }
  return answered.finally(() => request.destroy())
}
