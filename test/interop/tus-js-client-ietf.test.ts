/** The IETF modes of the real tus-js-client against `ietfHandler` on local disk. */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { Upload, type UploadOptions } from 'tus-js-client'
import { describe, expect, it } from 'vitest'
import { ietfHandler } from '../../src/ietf.ts'
import { tusHandler } from '../../src/tus.ts'
import { type ProtocolServer, protocolServer } from '../support/protocol-server.ts'
import { bytes, sha256 } from '../support/random.ts'

const MiB = 1024 * 1024

function upload(server: ProtocolServer, file: Buffer | Readable, options: Partial<UploadOptions>) {
  return new Promise<string>((resolve, reject) => {
    new Upload(file as never, {
      endpoint: server.url,
      retryDelays: [0, 10, 20, 50],
      metadata: { filename: 'größe.bin', filetype: 'video/mp4' },
      onError: reject,
      onSuccess: ({ lastResponse }) => resolve(lastResponse.getHeader('Content-Location') ?? ''),
      ...options,
    }).start()
  })
}

async function stored(server: ProtocolServer, url: string): Promise<string> {
  return sha256(await readFile(join(server.directory, decodeURIComponent(new URL(url).pathname))))
}

describe.each(['ietf-draft-03', 'ietf-draft-05'] as const)('tus-js-client as %s', (protocol) => {
  const file = bytes(3 * MiB + 5)
  const modes: [string, Partial<UploadOptions>][] = [
    ['in one PATCH', {}],
    ['in chunks', { chunkSize: MiB }],
    ['with the first data in the creation', { uploadDataDuringCreation: true }],
  ]
  it.each(modes)('uploads %s', async (_name, options) => {
    const server = await protocolServer((engine) => ietfHandler(engine, { others: tusHandler(engine) }))
    expect(await stored(server, await upload(server, file, { protocol, ...options }))).toBe(sha256(file))
  })

  it('uploads an empty file', async () => {
    const server = await protocolServer((engine) => ietfHandler(engine))
    expect(await stored(server, await upload(server, Buffer.alloc(0), { protocol }))).toBe(sha256(Buffer.alloc(0)))
  })

  it('uploads a stream of unknown length', async () => {
    const server = await protocolServer((engine) => ietfHandler(engine))
    const stream = Readable.from([file.subarray(0, MiB), file.subarray(MiB)], { objectMode: false })
    const options = { protocol, uploadLengthDeferred: true, chunkSize: MiB }
    expect(await stored(server, await upload(server, stream, options))).toBe(sha256(file))
  })

  it('resumes a complete upload with its outcome', async () => {
    const server = await protocolServer((engine) => ietfHandler(engine))
    const location = await new Promise<string>((resolve, reject) => {
      const running: Upload = new Upload(file, {
        endpoint: server.url,
        protocol,
        onError: reject,
        onSuccess: () => resolve(running.url ?? ''),
      })
      running.start()
    })
    const url = await upload(server, file, { protocol, uploadUrl: location, endpoint: null as never })
    expect(await stored(server, url)).toBe(sha256(file))
  })
})
