/** tus uploads over servers that are killed, and two servers on one `tempDir`. */
import { readFile } from 'node:fs/promises'
import { request } from 'node:http'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { type ServerProcess, startServer } from '../support/process.ts'
import { bytes, seeded, sha256 } from '../support/random.ts'
import { tempFolder } from '../support/temp-folder.ts'

const MiB = 1024 * 1024
const version = { 'Tus-Resumable': '1.0.0' }

async function create(server: ServerProcess, length: number): Promise<string> {
  const headers = { ...version, 'Upload-Length': String(length) }
  const { status, headers: answer } = await fetch(`${server.url}/files`, { method: 'POST', headers })
  expect(status).toBe(201)
  return answer.get('location') ?? ''
}

async function head(server: ServerProcess, path: string) {
  const { status, headers } = await fetch(`${server.url}${path}`, { method: 'HEAD', headers: version })
  return { status, offset: Number(headers.get('upload-offset') ?? Number.NaN) }
}

async function patch(server: ServerProcess, path: string, offset: number, data: Buffer) {
  const headers = { ...version, 'Upload-Offset': String(offset), 'Content-Type': 'application/offset+octet-stream' }
  const { status, headers: answer } = await fetch(`${server.url}${path}`, {
    method: 'PATCH',
    headers,
    body: new Uint8Array(data),
  })
  return { status, offset: Number(answer.get('upload-offset')), location: answer.get('content-location') }
}

/** A PATCH that goes on until the server dies, or for ever. */
function openPatch(server: ServerProcess, path: string, offset: number, length: number) {
  const outgoing = request(`${server.url}${path}`, {
    method: 'PATCH',
    headers: {
      ...version,
      'Upload-Offset': offset,
      'Content-Type': 'application/offset+octet-stream',
      'Content-Length': length,
    },
  })
  const ended = new Promise<number>((resolve) => {
    outgoing.on('error', () => resolve(0))
    outgoing.on('response', (response) => resolve(response.resume().statusCode ?? 0))
  })
  return { outgoing, ended }
}

const pause = (milliseconds: number) => new Promise((resolve) => setTimeout(resolve, milliseconds))

describe('a server that is killed while PATCHes come in', () => {
  it.each([1, 2, 3, 4, 5, 6])(
    'has after the restart at least what it had told, and goes on there (seed %i)',
    async (seed) => {
      const random = seeded(seed)
      const settings = { tempDir: tempFolder(), directory: tempFolder() }
      const file = bytes(24 * MiB + seed, seed)
      let server = await startServer(settings)
      const path = await create(server, file.length)
      let told = 0
      for (let life = 0; life < 3; life++) {
        told = (await patch(server, path, told, file.subarray(told, told + 1_000_003))).offset
        const { outgoing, ended } = openPatch(server, path, told, file.length - told)
        outgoing.write(file.subarray(told, told + random.integer(1, 20) * 200_000))
        await pause(random.integer(5, 900))
        await server.kill()
        await ended
        server = await startServer(settings)
        const { status, offset } = await head(server, path)
        expect(status).toBe(200)
        expect(offset).toBeGreaterThanOrEqual(told)
        told = offset
      }
      const { status, location } = await patch(server, path, told, file.subarray(told))
      expect(status).toBe(204)
      expect(sha256(await readFile(join(settings.directory, decodeURIComponent(location ?? ''))))).toBe(sha256(file))
    },
  )
})

describe('two servers on one tempDir', () => {
  it('take an upload from each other, also while the other one waits for bytes', async () => {
    const settings = { tempDir: tempFolder(), directory: tempFolder() }
    const [one, two] = [await startServer(settings), await startServer(settings)]
    const file = bytes(3 * MiB, 5)
    const path = await create(one, file.length)
    const { outgoing, ended } = openPatch(one, path, 0, file.length)
    outgoing.write(file.subarray(0, MiB))
    await pause(300)
    const begun = Date.now()
    const { status, offset } = await head(two, path)
    expect([status, offset]).toEqual([200, MiB])
    expect(Date.now() - begun).toBeLessThan(2000)
    expect([204, 423, 0]).toContain(await ended)
    expect((await patch(one, path, 0, file)).status).toBe(409)
    const { status: last, location } = await patch(two, path, MiB, file.subarray(MiB))
    expect(last).toBe(204)
    expect(sha256(await readFile(join(settings.directory, decodeURIComponent(location ?? ''))))).toBe(sha256(file))
    expect(await head(one, path)).toEqual({ status: 200, offset: file.length })
  })
})
