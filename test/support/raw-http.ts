import { connect, type Socket } from 'node:net'

/** A bare socket that says what it is told, and collects what comes back. */
export async function rawSocket(port: number) {
  const socket: Socket = connect(port, '127.0.0.1')
  let received = ''
  let closed = false
  let failed = false
  socket.setEncoding('latin1')
  socket.on('data', (data) => {
    received += data
  })
  socket.on('error', () => {
    failed = true
  })
  socket.on('close', () => {
    closed = true
  })
  await new Promise((resolve) => socket.once('connect', resolve))
  return {
    socket,
    send: (data: string | Buffer) => socket.write(data),
    received: () => received,
    failed: () => failed,
    /** Resolves with all that came, once the connection is closed or `text` has come. */
    async until(text: string | null, timeout = 10_000): Promise<string> {
      const deadline = Date.now() + timeout
      while (Date.now() < deadline) {
        if (closed || (text !== null && received.includes(text))) return received
        await new Promise((resolve) => setTimeout(resolve, 5))
      }
      throw new Error(`waited ${timeout} ms in vain; received: ${received.slice(0, 500)}`)
    },
    isClosed: () => closed,
  }
}

/** A chunk form by hand, so that it can be wrong. */
export function chunkForm(uploadId: string, index: number, data: Buffer, boundary = 'xxBOUNDARYxx'): Buffer {
  const field = (name: string, value: string) =>
    `--${boundary}\r\nContent-Disposition: form-data; name="${name}"\r\n\r\n${value}\r\n`
  const head =
    `${field('uploadId', uploadId)}${field('chunkIndex', String(index))}--${boundary}\r\n` +
    'Content-Disposition: form-data; name="chunk"; filename="blob"\r\nContent-Type: application/octet-stream\r\n\r\n'
  return Buffer.concat([Buffer.from(head), data, Buffer.from(`\r\n--${boundary}--\r\n`)])
}

export function chunkHead(contentLength: number | 'chunked', boundary = 'xxBOUNDARYxx'): string {
  const length = contentLength === 'chunked' ? 'Transfer-Encoding: chunked' : `Content-Length: ${contentLength}`
  return `POST /upload/chunk HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=${boundary}\r\n${length}\r\n\r\n`
}
