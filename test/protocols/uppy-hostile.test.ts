/** What forged, foreign and expired requests to the Uppy routes do: nothing, and they say the same to all. */
import { createHmac } from 'node:crypto'
import { setTimeout as wait } from 'node:timers/promises'
import { describe, expect, it } from 'vitest'
import { NexusUploaderError } from '../../src/errors.ts'
import type { UploadAction } from '../../src/types.ts'
import { survived } from '../support/fault-points.ts'
import { type Answer, answer } from '../support/native-client.ts'
import { bytes } from '../support/random.ts'
import { rawSocket } from '../support/raw-http.ts'
import {
  byHeader,
  postForm,
  putBytes,
  type Started,
  unknownId,
  uppyClient,
  uppyServer,
} from '../support/uppy-client.ts'

const data = bytes(10_000)

async function unknownAnswer(url: string): Promise<string> {
  const { status, text } = await uppyClient(url).list({ uploadId: unknownId, key: 'k' })
  expect(status).toBe(404)
  return text
}

async function storedParts(server: Awaited<ReturnType<typeof uppyServer>>, { uploadId }: Started, owner?: string) {
  return (await server.engine.listChunks({ uploadId, protocol: 'uppy-s3', owner })).chunks.length
}

describe('a signed URL', () => {
  it('is good for its own part of its own upload and method only [B07]', async () => {
    const server = await uppyServer()
    const [mine, other] = [await server.uppy.start(), await server.uppy.start()]
    const url = await server.uppy.urlOf(mine, 1)
    const unknown = await unknownAnswer(server.url)
    const wrong = [
      url.replace('/1?', '/2?'),
      url.replace(mine.uploadId, other.uploadId),
      url.replace(mine.uploadId, unknownId),
      url.replace(mine.uploadId, 'x'),
      url.replace(/expires=\d/, 'expires=9'),
      url.replace(/signature=.*/, 'signature='),
      url.replace(/signature=.*/, 'signature=AAAA'),
      url.replace(/signature=.{4}/, 'signature=AAAA'),
      url.replace(/\?.*/, ''),
      url.replace(/\?.*/, `?key=${mine.key}`),
    ]
    for (const attempt of wrong) {
      const { status, text } = await putBytes(attempt, data)
      expect({ status, text }, attempt).toEqual({ status: 404, text: unknown })
      survived('attack', `uppy: a URL of a part, forged in way ${wrong.indexOf(attempt)}`)
    }
    expect((await answer(fetch(url))).status).toBe(404)
    expect((await answer(fetch(url, { method: 'POST', body: 'x' }))).status).toBe(405)
    expect([await storedParts(server, mine), await storedParts(server, other)]).toEqual([0, 0])
    expect((await putBytes(url, data)).status).toBe(200)
  })

  it('cannot be made by whoever knows all that a client is told [B07]', async () => {
    const server = await uppyServer()
    const upload = await server.uppy.start()
    const expires = String(Date.now() + 1_000_000)
    for (const secret of ['', upload.uploadId, upload.key, 'undefined', '\0'.repeat(32)]) {
      const text = `${upload.uploadId}\npart 1\n${expires}`
      const signature = createHmac('sha256', secret).update(text).digest('base64url')
      const query = new URLSearchParams({ expires, signature })
      expect((await putBytes(`${server.url}/s3/multipart/${upload.uploadId}/1?${query}`, data)).status).toBe(404)
    }
  })

  it('of an upload that another protocol made opens nothing [B15]', async () => {
    const server = await uppyServer()
    const { session } = await server.engine.create({
      fileName: 'a',
      totalSize: null,
      protocol: 'native',
      wire: { secret: '' },
    })
    const bare = await server.engine.create({ fileName: 'a', totalSize: null, protocol: 'uppy-s3' })
    const expires = String(Date.now() + 1_000_000)
    for (const { id } of [session, bare.session]) {
      const signature = createHmac('sha256', '').update(`${id}\npart 1\n${expires}`).digest('base64url')
      const url = `${server.url}/s3/multipart/${id}/1?${new URLSearchParams({ expires, signature })}`
      expect((await putBytes(url, data)).status).toBe(404)
    }
  })

  it('that has expired is 403 in the words of S3, and a forged one with an old date is the 404 of all', async () => {
    const server = await uppyServer({ urlTtl: 1 })
    const upload = await server.uppy.start()
    const url = await server.uppy.urlOf(upload, 1)
    const { body: form } = await server.uppy.params()
    await wait(5)
    const { status, text } = await putBytes(url, data)
    expect(status).toBe(403)
    expect(text).toContain('<Message>Request has expired</Message>')
    expect((await postForm(form.url, form.fields, data)).status).toBe(403)
    expect((await putBytes(url.replace(/signature=.{4}/, 'signature=AAAA'), data)).status).toBe(404)
    expect(await storedParts(server, upload)).toBe(0)
  })

  it('needs no credentials, and the hook that authorises sees its request', async () => {
    const seen: [UploadAction, string | undefined][] = []
    const refuses = new Set<UploadAction>()
    const server = await uppyServer(byHeader, {
      hooks: {
        authorize(action, _session, context) {
          seen.push([action, (context as { method?: string }).method])
          return !refuses.has(action)
        },
      },
    })
    const alice = uppyClient(server.url, { 'X-User': 'alice' })
    const upload = await alice.start()
    const url = await alice.urlOf(upload, 1)
    seen.length = 0
    expect((await putBytes(url, data)).status).toBe(200)
    expect(seen).toEqual([['write', 'PUT']])
    refuses.add('write')
    expect((await putBytes(await alice.urlOf(upload, 2), data)).status).toBe(404)
  })
})

describe('a form token', () => {
  it('is good for its own upload and key only, and not for a part [B07]', async () => {
    const server = await uppyServer()
    const [one, two] = [(await server.uppy.params()).body, (await server.uppy.params()).body]
    const [id = '', expires = '', signature = ''] = one.fields.token.split('.')
    const [otherId = ''] = two.fields.token.split('.')
    const wrong: Record<string, string>[] = [
      { key: two.fields.key, token: one.fields.token },
      { key: one.fields.key, token: [otherId, expires, signature].join('.') },
      { key: two.fields.key, token: [otherId, expires, signature].join('.') },
      { key: one.fields.key, token: [id, `${expires}0`, signature].join('.') },
      { key: one.fields.key, token: [id, expires, ''].join('.') },
      { key: one.fields.key, token: '' },
      { key: one.fields.key },
      { token: one.fields.token },
    ]
    const unknown = await unknownAnswer(server.url)
    for (const fields of wrong) {
      const { status, text } = await postForm(one.url, fields, data)
      expect({ status, text }, JSON.stringify(fields)).toEqual({ status: 404, text: unknown })
      survived('attack', `uppy: a form token, forged in way ${wrong.indexOf(fields)}`)
    }
    const part = `${server.url}/s3/multipart/${id}/1?${new URLSearchParams({ expires, signature })}`
    expect((await putBytes(part, data)).status).toBe(404)
    expect((await postForm(one.url, one.fields, data)).status).toBe(201)
  })
})

describe('an upload', () => {
  it('of somebody else is the 404 of one that does not exist, on every route [B07]', async () => {
    const server = await uppyServer(byHeader)
    const alice = uppyClient(server.url, { 'X-User': 'alice' })
    const upload = await alice.start()
    const part = await alice.part(upload, 1, data)
    const unknown = await unknownAnswer(server.url)
    for (const stranger of [uppyClient(server.url, { 'X-User': 'bob' }), uppyClient(server.url)]) {
      const answers = [
        await stranger.sign(upload, 1),
        await stranger.list(upload),
        await stranger.complete(upload, [part]),
        await stranger.abort(upload),
      ]
      expect(answers.map(({ status, text }) => ({ status, text }))).toEqual(
        answers.map(() => ({ status: 404, text: unknown })),
      )
    }
    const hers = [await alice.sign(upload, 1), await alice.list(upload), await alice.complete(upload, [part])]
    expect(hers.map(({ status }) => status)).toEqual([200, 200, 200])
    expect((await alice.abort(await alice.start())).status).toBe(200)
  })

  it('is found only with its key [B07]', async () => {
    const server = await uppyServer()
    const upload = await server.uppy.start()
    const other = await server.uppy.start()
    const part = await server.uppy.part(upload, 1, data)
    const unknown = await unknownAnswer(server.url)
    for (const key of [other.key, '', `${upload.key}x`]) {
      const wrong = { ...upload, key }
      const answers: Answer[] = [
        await server.uppy.sign(wrong, 1),
        await server.uppy.list(wrong),
        await server.uppy.complete(wrong, [part]),
        await server.uppy.abort(wrong),
        await server.uppy.get(`/multipart/${upload.uploadId}`),
      ]
      expect(answers.map(({ text }) => text)).toEqual(answers.map(() => unknown))
    }
    expect((await server.uppy.complete(upload, [part])).status).toBe(200)
  })

  it('of a caller who is not logged in does not begin', async () => {
    const server = await uppyServer({
      owner: () => {
        throw new NexusUploaderError('LOGIN_REQUIRED', 401, 'Please log in.')
      },
    })
    expect(await server.uppy.create()).toMatchObject({ status: 401, body: { message: 'Please log in.' } })
    expect((await server.uppy.params()).status).toBe(401)
  })
})

describe('a body', () => {
  it('that breaks off is not counted, and its part can be sent again', async () => {
    const server = await uppyServer()
    const upload = await server.uppy.start()
    const url = new URL(await server.uppy.urlOf(upload, 1))
    const socket = await rawSocket(server.port)
    const head = `PUT ${url.pathname}${url.search} HTTP/1.1\r\nHost: x\r\nContent-Length: ${data.length}\r\n\r\n`
    socket.send(head)
    socket.send(data.subarray(0, 5000))
    await wait(50)
    socket.socket.destroy()
    await wait(50)
    expect(await storedParts(server, upload)).toBe(0)
    expect((await putBytes(url.href, data)).status).toBe(200)
  })

  it('that is silent loses its connection, for an answer would be final for Uppy', async () => {
    const server = await uppyServer({}, { bodyIdleTimeout: 100 })
    const upload = await server.uppy.start()
    const url = new URL(await server.uppy.urlOf(upload, 1))
    const socket = await rawSocket(server.port)
    socket.send(`PUT ${url.pathname}${url.search} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc`)
    expect(await socket.until(null, 3000)).toBe('')
  })

  it('that is compressed is 415 [B01]', async () => {
    const server = await uppyServer()
    const url = await server.uppy.urlOf(await server.uppy.start(), 1)
    expect((await putBytes(url, data, { 'Content-Encoding': 'gzip' })).status).toBe(415)
  })

  it('with names of hostile kinds changes nothing but labels [A03]', async () => {
    const server = await uppyServer()
    for (const filename of ['../../etc/passwd', 'a\r\nX: y', '__proto__', '\u202egnp.exe', 'x'.repeat(4000)]) {
      const upload = await server.uppy.start({ filename, type: 'a/b', metadata: JSON.parse('{"__proto__":"x"}') })
      expect(upload.key).toMatch(/^uploads\/[0-9a-f-]{36}-[^/]+$/)
      const { uploadId } = upload
      const session = await server.engine.get({ uploadId, protocol: 'uppy-s3' })
      expect(Object.entries(session.metadata)).toEqual([['__proto__', 'x']])
    }
  })
})
