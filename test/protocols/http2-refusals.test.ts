/** Refusals of bodies that are still coming, over HTTP/2. */
import { constants, createServer, connect as http2Connect } from 'node:http2'
import type { AddressInfo } from 'node:net'
import { expect, it } from 'vitest'
import { tusHandler } from '../../src/protocols/tus/handler.ts'
import { testEngine } from '../support/engine.ts'

it('a refused body over HTTP/2 gets its answer, ends its own stream and nothing else', { timeout: 5_000 }, async () => {
  const uncaught: unknown[] = []
  const before = process.rawListeners('uncaughtException')
  process.removeAllListeners('uncaughtException')
  process.on('uncaughtException', (error) => uncaught.push(error))
  const handler = tusHandler(testEngine().engine)
  const server = createServer((request, response) => handler(request as never, response as never))
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const session = http2Connect(`http://127.0.0.1:${(server.address() as AddressInfo).port}`)
  const refusal = () =>
    new Promise<{ status: unknown; end: number | undefined }>((resolve, reject) => {
      let status: unknown
      const stream = session.request({
        ':method': 'PATCH',
        ':path': '/files/6b6d1a3c-5b1e-4b8e-9d53-0a3a4f3f0a11',
        'tus-resumable': '1.0.0',
        'upload-offset': '0',
        'content-type': 'application/offset+octet-stream',
        'content-length': String(2 ** 30),
      })
      stream.on('response', (fields) => {
        status = fields[':status']
      })
      stream.on('error', reject)
      stream.on('close', () => resolve({ status, end: stream.rstCode }))
      stream.resume()
      stream.write(Buffer.alloc(1024))
    })
  try {
    const refused = { status: 404, end: constants.NGHTTP2_NO_ERROR }
    expect(await refusal()).toEqual(refused)
    expect(await refusal()).toEqual(refused)
    session.destroy()
    await new Promise((resolve) => setTimeout(resolve, 100))
    expect(uncaught).toEqual([])
  } finally {
    session.destroy()
    server.close()
    process.removeAllListeners('uncaughtException')
    for (const listener of before) process.on('uncaughtException', listener as (error: Error) => void)
  }
})
