/** Middleware of the app that listens to request bodies: it may look on, but no byte may be lost to it. */

import { readFile } from 'node:fs/promises'
import { request } from 'node:http'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { describe, expect, it } from 'vitest'
import { ietfHandler } from '../../src/protocols/ietf/handler.ts'
import { tusHandler } from '../../src/protocols/tus/handler.ts'
import { protocolServer } from '../support/protocol-server.ts'
import { bytes, sha256 } from '../support/random.ts'
import { filesBelow } from '../support/temp-folder.ts'

type Prepare = NonNullable<NonNullable<Parameters<typeof protocolServer>[1]>['prepare']>

const owner = () => sleep(20, null)
const file = bytes(3_000_000)

/** The first third of the body comes with the head, the rest later. */
function send(method: string, url: URL, headers: Record<string, string>, body?: Buffer) {
  return new Promise<{ status: number; location: string; text: string }>((resolve, reject) => {
    const sent = request(url, { method, headers, agent: false }, async (response) => {
      const text = Buffer.concat(await response.toArray()).toString()
      resolve({ status: response.statusCode ?? 0, location: response.headers.location ?? '', text })
    })
    sent.on('error', reject)
    if (!body) return sent.end()
    sent.write(body.subarray(0, 1_000_000))
    return setTimeout(() => sent.end(body.subarray(1_000_000)), 100)
  })
}

/** A PATCH of tus, with its length; and a creation of the IETF drafts, without. */
const uploads = {
  tus: async (prepare: Prepare) => {
    const server = await protocolServer((engine) => tusHandler(engine, { owner }), { prepare })
    const head = { 'Tus-Resumable': '1.0.0' }
    const { location } = await send('POST', new URL(server.url), { ...head, 'Upload-Length': String(file.length) })
    const type = { 'Content-Type': 'application/offset+octet-stream', 'Content-Length': String(file.length) }
    return {
      server,
      answer: await send('PATCH', new URL(location, server.url), { ...head, ...type, 'Upload-Offset': '0' }, file),
    }
  },
  ietf: async (prepare: Prepare) => {
    const server = await protocolServer((engine) => ietfHandler(engine, { owner }), { prepare })
    return { server, answer: await send('POST', new URL(server.url), { 'Upload-Complete': '?1' }, file) }
  },
}

describe.each(Object.entries(uploads))('%s', (_name, upload) => {
  it('stores every byte although a middleware counts them', async () => {
    let counted = 0
    const { server, answer } = await upload((app) =>
      app.use((received, _response, next) => {
        received.on('data', (data: Buffer) => {
          counted += data.length
        })
        next()
      }),
    )
    expect(answer.status).toBeLessThan(300)
    const [stored = ''] = (await filesBelow(server.directory)).filter((name) => name.startsWith('uploads/'))
    expect(sha256(await readFile(join(server.directory, stored)))).toBe(sha256(file))
    expect(counted).toBe(file.length)
  })

  it('takes nothing of a body whose beginning was read before', async () => {
    const { server, answer } = await upload((app) =>
      app.use(async (received, _response, next) => {
        received.on('data', () => {})
        await sleep(50)
        next()
      }),
    )
    expect([answer.status, JSON.parse(answer.text).code]).toEqual([500, 'BODY_ALREADY_READ'])
    expect(await filesBelow(server.directory)).toEqual([])
  })
})
