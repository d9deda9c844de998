/** Other people's uploads, on every action of every wire: they are not there. */
import { setTimeout as wait } from 'node:timers/promises'
import { describe, expect, it } from 'vitest'
import { type EveryWire, everyWire, expectNothingInside } from '../support/every-wire.ts'
import { survived } from '../support/fault-points.ts'
import { partialUpload, sendIetf } from '../support/ietf-client.ts'
import { answer } from '../support/native-client.ts'
import { bytes, sha256 } from '../support/random.ts'
import { parametersOf } from '../support/resumable-client.ts'
import { offsetType, sendTus, unknownId } from '../support/tus-client.ts'
import { putBytes } from '../support/uppy-client.ts'

interface Seen {
  readonly status: number
  readonly body: string
  readonly headers: Record<string, unknown>
}

/** One action of one wire on an upload of this id, whoever it belongs to. */
type Act = (wire: EveryWire, uploadId: string, user: string | undefined) => Promise<Seen>

const data = bytes(500)
/** What every upload of these tests has for a size. */
const size = 1000

/** What a stranger may compare: all but the clock. */
function seen({ status, body, headers }: { status: number; body: string; headers: object }): Seen {
  const plain = headers instanceof Headers ? Object.fromEntries(headers) : { ...(headers as Record<string, unknown>) }
  const { date: _, connection: __, 'keep-alive': ___, ...rest } = plain
  return { status, body, headers: rest }
}

const fetched = async (url: string, init: RequestInit) => {
  const { status, text, headers } = await answer(fetch(url, init))
  return seen({ status, body: text, headers })
}

const as = (user: string | undefined): Record<string, string> => (user === undefined ? {} : { 'X-User': user })
const json = { 'Content-Type': 'application/json' }

const tusActions = (mount: string): Record<string, Act> => ({
  [`${mount}: HEAD`]: async ({ url }, id, user) => seen(await sendTus('HEAD', `${url}/${mount}/${id}`, as(user))),
  [`${mount}: PATCH`]: async ({ url }, id, user) => {
    const headers = { ...as(user), 'Content-Type': offsetType, 'Upload-Offset': 0 }
    return seen(await sendTus('PATCH', `${url}/${mount}/${id}`, headers, { body: data }))
  },
  [`${mount}: PATCH at another offset`]: async ({ url }, id, user) => {
    const headers = { ...as(user), 'Content-Type': offsetType, 'Upload-Offset': 77 }
    return seen(await sendTus('PATCH', `${url}/${mount}/${id}`, headers, { body: data }))
  },
  [`${mount}: PATCH beyond the length`]: async ({ url }, id, user) => {
    const headers = { ...as(user), 'Content-Type': offsetType, 'Upload-Offset': 0 }
    return seen(await sendTus('PATCH', `${url}/${mount}/${id}`, headers, { body: bytes(5000) }))
  },
  [`${mount}: PATCH with another length`]: async ({ url }, id, user) => {
    const headers = { ...as(user), 'Content-Type': offsetType, 'Upload-Offset': 0, 'Upload-Length': 5 }
    return seen(await sendTus('PATCH', `${url}/${mount}/${id}`, headers, { body: '' }))
  },
  [`${mount}: DELETE`]: async ({ url }, id, user) => seen(await sendTus('DELETE', `${url}/${mount}/${id}`, as(user))),
  [`${mount}: DELETE by override`]: async ({ url }, id, user) => {
    const headers = { ...as(user), 'X-HTTP-Method-Override': 'DELETE' }
    return seen(await sendTus('POST', `${url}/${mount}/${id}`, headers))
  },
  [`${mount}: concatenation`]: async ({ url }, id, user) => {
    const headers = { ...as(user), 'Upload-Concat': `final;/${mount}/${id}` }
    return seen(await sendTus('POST', `${url}/${mount}`, headers))
  },
})

const ietfActions = (mount: string): Record<string, Act> => {
  const named = { 'Upload-Draft-Interop-Version': 9 }
  const patch = { ...named, 'Content-Type': partialUpload }
  const send = async (method: string, wire: EveryWire, id: string, headers: object, body?: Buffer) =>
    seen(await sendIetf(method, `${wire.url}/${mount}/${id}`, headers as never, { body }))
  return {
    [`${mount}: IETF HEAD`]: (wire, id, user) => send('HEAD', wire, id, { ...named, ...as(user) }),
    [`${mount}: IETF GET`]: (wire, id, user) => send('GET', wire, id, { ...named, ...as(user) }),
    [`${mount}: IETF append`]: (wire, id, user) =>
      send('PATCH', wire, id, { ...patch, ...as(user), 'Upload-Offset': 0, 'Upload-Complete': '?0' }, data),
    [`${mount}: IETF append at another offset`]: (wire, id, user) =>
      send('PATCH', wire, id, { ...patch, ...as(user), 'Upload-Offset': 9, 'Upload-Complete': '?0' }, data),
    [`${mount}: IETF completion`]: (wire, id, user) =>
      send('PATCH', wire, id, { ...patch, ...as(user), 'Upload-Offset': 0, 'Upload-Complete': '?1' }, data),
    [`${mount}: IETF cancellation`]: (wire, id, user) => send('DELETE', wire, id, { ...named, ...as(user) }),
  }
}

const nativeActions: Record<string, Act> = {
  'native: progress': ({ url }, id, user) => fetched(`${url}/upload/progress/${id}`, { headers: as(user) }),
  'native: chunk as bytes': ({ url }, id, user) =>
    fetched(`${url}/upload/chunk?uploadId=${id}&chunkIndex=0`, {
      method: 'POST',
      headers: { ...as(user), 'Content-Type': 'application/octet-stream' },
      body: new Uint8Array(data),
    }),
  'native: chunk as form': ({ url }, id, user) => {
    const form = new FormData()
    form.append('uploadId', id)
    form.append('chunkIndex', '0')
    form.append('chunk', new Blob([new Uint8Array(data)]))
    return fetched(`${url}/upload/chunk`, { method: 'POST', headers: as(user), body: form })
  },
  'native: chunk as form, file first': ({ url }, id, user) => {
    const form = new FormData()
    form.append('chunk', new Blob([new Uint8Array(data)]))
    form.append('uploadId', id)
    form.append('chunkIndex', '0')
    return fetched(`${url}/upload/chunk`, { method: 'POST', headers: as(user), body: form })
  },
  'native: chunk that is too large': ({ url }, id, user) =>
    fetched(`${url}/upload/chunk?uploadId=${id}&chunkIndex=0`, {
      method: 'POST',
      headers: { ...as(user), 'Content-Type': 'application/octet-stream' },
      body: new Uint8Array(5000),
    }),
  'native: complete': ({ url }, id, user) => {
    const headers = { ...as(user), ...json }
    return fetched(`${url}/upload/complete`, { method: 'POST', headers, body: JSON.stringify({ uploadId: id }) })
  },
  'native: abort': ({ url }, id, user) => fetched(`${url}/upload/${id}`, { method: 'DELETE', headers: as(user) }),
}

/** The key of the upload that is being attacked: a stranger may have seen it in a URL of the stored file. */
let uppyKey = 'none'
const uppyActions: Record<string, Act> = {
  'uppy: sign a part': ({ url }, id, user) =>
    fetched(`${url}/companion/s3/multipart/${id}/1?key=${uppyKey}`, { headers: as(user) }),
  'uppy: list': ({ url }, id, user) =>
    fetched(`${url}/companion/s3/multipart/${id}?key=${uppyKey}`, { headers: as(user) }),
  'uppy: complete': ({ url }, id, user) => {
    const body = JSON.stringify({ parts: [{ PartNumber: 1, ETag: '"x"' }] })
    const headers = { ...as(user), ...json }
    return fetched(`${url}/companion/s3/multipart/${id}/complete?key=${uppyKey}`, { method: 'POST', headers, body })
  },
  'uppy: abort': ({ url }, id, user) =>
    fetched(`${url}/companion/s3/multipart/${id}?key=${uppyKey}`, { method: 'DELETE', headers: as(user) }),
  ...Object.fromEntries(
    [['GET'], ['POST'], ['DELETE'], ['PUT', 1]].map(([method, partNumber]): [string, Act] => [
      `uppy: sign ${method}`,
      ({ url }, id, user) => {
        const body = JSON.stringify({
          method,
          key: decodeURIComponent(uppyKey),
          uploadId: id,
          ...(partNumber && { partNumber }),
        })
        return fetched(`${url}/companion/s3/sign`, { method: 'POST', headers: { ...as(user), ...json }, body })
      },
    ]),
  ),
  'uppy: unsigned PUT': async ({ url }, id, user) => {
    const { status, text, headers } = await putBytes(`${url}/companion/s3/multipart/${id}/1`, data, as(user))
    return seen({ status, body: text, headers })
  },
}

interface Wire {
  readonly actions: Record<string, Act>
  /** An upload with its first 100 bytes; its id. */
  begin(wire: EveryWire, user?: string): Promise<string>
  /** How far it has come, for its owner. */
  offset(wire: EveryWire, uploadId: string, user?: string): Promise<number>
}

const first = bytes(100, 5)
const received = async ({ engine }: EveryWire, uploadId: string, protocol: string, owner?: string) => {
  const { chunks } = await engine.listChunks({ uploadId, protocol, owner: owner ?? null })
  return chunks.reduce((sum, chunk) => sum + chunk.size, 0)
}
const last = (url: string) => url.split('/').at(-1) ?? ''

const tusBegin =
  (mount: string) =>
  async ({ url }: EveryWire, user?: string) => {
    const headers = { ...as(user), 'Upload-Length': size, 'Content-Type': offsetType }
    return last(String((await sendTus('POST', `${url}/${mount}`, headers, { body: first })).headers.location))
  }
const ietfBegin =
  (mount: string) =>
  async ({ url }: EveryWire, user?: string) => {
    const headers = { ...as(user), 'Upload-Draft-Interop-Version': 9, 'Upload-Complete': '?0', 'Upload-Length': size }
    return last(String((await sendIetf('POST', `${url}/${mount}`, headers, { body: first })).headers.location))
  }

const wires: Record<string, Wire> = {
  native: {
    actions: nativeActions,
    async begin(wire, user) {
      const { native } = wire.as(user)
      const id = await native.start(size)
      await native.raw(id, 0, first)
      return id
    },
    offset: (wire, id, user) => received(wire, id, 'native', user),
  },
  tus: {
    actions: tusActions('tus'),
    begin: tusBegin('tus'),
    offset: (wire, id, user) => received(wire, id, 'tus', user),
  },
  ietf: {
    actions: ietfActions('ietf'),
    begin: ietfBegin('ietf'),
    offset: (wire, id, user) => received(wire, id, 'ietf', user),
  },
  'tus beside IETF': {
    actions: tusActions('files'),
    begin: tusBegin('files'),
    offset: (wire, id, user) => received(wire, id, 'tus', user),
  },
  'IETF beside tus': {
    actions: ietfActions('files'),
    begin: ietfBegin('files'),
    offset: (wire, id, user) => received(wire, id, 'ietf', user),
  },
  uppy: {
    actions: uppyActions,
    async begin(wire, user) {
      const { uppy } = wire.as(user)
      const upload = await uppy.start()
      await uppy.part(upload, 1, first)
      uppyKey = encodeURIComponent(upload.key)
      return upload.uploadId
    },
    offset: (wire, id, user) => received(wire, id, 'uppy-s3', user),
  },
}

const every = Object.entries(wires)

describe.each(every)('an upload of somebody else over %s', (name, { actions, begin, offset }) => {
  it('is the unknown id, byte for byte, for every action and every stranger [B07]', async () => {
    const wire = await everyWire()
    const id = await begin(wire, 'ann')
    for (const user of ['bob', undefined, 'ANN', 'ann ', '__proto__', ' ']) {
      for (const [action, act] of Object.entries(actions)) {
        const trimmed = user?.trim()
        // A header has no white space at its ends: that is Ann herself.
        if (trimmed === 'ann') continue
        const unknown = await act(wire, unknownId, trimmed)
        const foreign = await act(wire, id, trimmed)
        expect([404, action], `${user}: ${action}`).toEqual([unknown.status, action])
        expect(foreign, `${user}: ${action}`).toEqual(unknown)
        expectNothingInside(foreign.body)
        survived('attack', `${name}: another's upload, ${action}, as ${user}`)
      }
    }
    expect(await offset(wire, id, 'ann')).toBe(first.length)
  })

  it('is there for its owner: the same actions are not all 404 [B07]', async () => {
    const wire = await everyWire()
    for (const [action, act] of Object.entries(actions)) {
      const id = await begin(wire, 'ann')
      const { status } = await act(wire, id, 'ann')
      const isOther = /concatenation|unsigned|another length/.test(action)
      if (!isOther) expect([action, status]).not.toEqual([action, 404])
      survived('attack', `${name}: ${action} by the owner`)
    }
  })

  it.each([
    ['says false', () => false],
    ['says null', () => null],
    ['says "yes"', () => 'yes'],
    ['says 1', () => 1],
    ['says {}', () => ({})],
    ['says no after a while', () => wait(150).then(() => false)],
  ])('whose authorize %s is not there, and untouched [B07]', async (answered, says) => {
    let asked: string[] = []
    let guarded = false
    const wire = await everyWire({
      hooks: {
        authorize(action) {
          if (!guarded) return
          asked.push(action)
          return says() as never
        },
      },
    })
    const id = await begin(wire)
    guarded = true
    for (const [action, act] of Object.entries(actions)) {
      asked = []
      const { status } = await act(wire, id, undefined)
      expect([action, status]).toEqual([action, 404])
      if (!/unsigned|concatenation/.test(action)) expect([action, asked.length]).not.toEqual([action, 0])
      survived('attack', `${name}: authorize ${answered}, ${action}`)
    }
    guarded = false
    expect(await offset(wire, id)).toBe(first.length)
  })

  it.each([
    ['throws', () => Promise.reject(new Error('password=hunter2 in /srv/app/db.ts'))],
    ['throws after a while', () => wait(100).then(() => Promise.reject(new Error('password=hunter2')))],
    ['throws nothing', () => Promise.reject(undefined)],
    ['throws text', () => Promise.reject('password=hunter2')],
    ['throws what has no prototype', () => Promise.reject(Object.create(null))],
  ])('whose authorize %s is refused without a word of it, and untouched [B07]', async (thrown, fail) => {
    let guarded = false
    const wire = await everyWire({ hooks: { authorize: () => (guarded ? (fail() as Promise<boolean>) : undefined) } })
    const id = await begin(wire)
    guarded = true
    for (const [action, act] of Object.entries(actions)) {
      const { status, body } = await act(wire, id, undefined)
      // 423 for whoever asks for the offset, so that the client asks again instead of beginning anew.
      const expected = /: (HEAD|IETF (HEAD|GET))/.test(action) ? [423] : [500]
      expect(/unsigned|concatenation/.test(action) ? [404, 500] : expected, `${action}: ${status}`).toContain(status)
      expect(body).not.toMatch(/hunter2|srv/)
      expectNothingInside(body, action)
      survived('attack', `${name}: authorize ${thrown}, ${action}`)
    }
    guarded = false
    expect(await offset(wire, id)).toBe(first.length)
  })

  it('whose owner cannot be told is refused: owner throws, rejects, or takes its time [B07]', async () => {
    let mode = ''
    const wire = await everyWire({
      async owner({ headers }) {
        if (mode === 'throws') throw new Error('password=hunter2')
        if (mode === 'slow') await wait(60)
        return (headers['x-user'] as string) ?? null
      },
    })
    const id = await begin(wire, 'ann')
    for (mode of ['throws', 'slow']) {
      for (const [action, act] of Object.entries(actions)) {
        if (/unsigned/.test(action)) continue
        const { status, body } = await act(wire, id, 'bob')
        const failed = /: (HEAD|IETF (HEAD|GET))/.test(action) ? 423 : 500
        expect([action, mode, status]).toEqual([action, mode, mode === 'throws' ? failed : 404])
        expect(body).not.toContain('hunter2')
        survived('attack', `${name}: owner ${mode}, ${action}`)
      }
    }
    mode = ''
    expect(await offset(wire, id, 'ann')).toBe(first.length)
  })

  it('that has ended is refused the same to strangers, and takes nothing from anybody [B11]', async () => {
    let now = Date.now()
    const wire = await everyWire({ sessionTtl: 60_000, completedTtl: 600_000, clock: () => now })
    const protocol = { native: 'native', uppy: 'uppy-s3' }[name] ?? (/^tus/.test(name) ? 'tus' : 'ietf')
    const [aborted, expired] = [await begin(wire, 'ann'), await begin(wire, 'ann')]
    await wire.engine.abort({ uploadId: aborted, protocol, owner: 'ann' })
    now += 120_000
    await wire.engine.sweep()
    for (const id of [aborted, expired]) {
      for (const [action, act] of Object.entries(actions)) {
        const stranger = await act(wire, id, 'bob')
        expect(stranger, action).toEqual(await act(wire, unknownId, 'bob'))
        const { status } = await act(wire, id, 'ann')
        expect([204, 400, 404, 409, 410, 200], `${action}: ${status}`).toContain(status)
        if (/chunk as|PATCH$|append$|sign a part|list|HEAD/.test(action))
          expect([404, 410], `${action}: ${status}`).toContain(status)
        survived('attack', `${name}: ${id === aborted ? 'aborted' : 'expired'}, ${action}`)
      }
    }
    now = Date.now()
  })
})

describe('a right that is taken away', () => {
  it('between the last chunk and complete makes no object, and loses nothing [B08]', async () => {
    let revoked = false
    const wire = await everyWire({ hooks: { authorize: (action) => !(revoked && action === 'complete') } })
    const { native, tus, ietf, uppy } = wire.as('ann')
    const file = bytes(300)

    const id = await native.start(file.length)
    await native.raw(id, 0, file)
    revoked = true
    expect((await native.complete(id)).status).toBe(404)
    expect((await native.progress(id)).body.uploadedBytes).toBe(file.length)
    revoked = false
    const stored = await native.complete(id)
    expect(stored.status).toBe(200)

    const url = await tus.create(file.length)
    revoked = true
    expect((await tus.patch(url, 0, file)).status).toBe(404)
    expect((await tus.head(url)).headers['upload-offset']).not.toBe(String(file.length))
    revoked = false
    const head = await tus.head(url)
    expect([head.status, head.headers['upload-offset']]).toEqual([200, String(file.length)])

    const location = await ietf.create({ 'Upload-Length': file.length })
    revoked = true
    expect((await ietf.append(location, 0, file, true)).status).toBe(404)
    revoked = false
    const again = await ietf.append(location, file.length, '', true)
    expect(again.headers['upload-complete']).toBe('?1')

    const upload = await uppy.start()
    const part = await uppy.part(upload, 1, file)
    revoked = true
    expect((await uppy.complete(upload, [part])).status).toBe(404)
    revoked = false
    expect((await uppy.complete(upload, [part])).status).toBe(200)
    for (const name of ['native', 'tus', 'ietf', 'uppy']) survived('attack', `${name}: revoked before complete`)
  })
})

describe('Resumable.js', () => {
  const file = { data: bytes(3000), chunkSize: 1000, identifier: 'guess-me' }

  it('clients of two owners who say the same of their files never meet [B07]', async () => {
    const wire = await everyWire()
    const { resumable } = wire.as()
    const [ann, bob] = [{ headers: { 'X-User': 'ann' } }, { headers: { 'X-User': 'bob' } }]
    const mine = await resumable.send(file, 1, ann)
    expect((await resumable.test(file, 1, ann)).status).toBe(200)
    const before = await resumable.test(file, 1, bob)
    expect(before.status).toBe(204)
    expect(before.text).not.toContain(mine.body.uploadId)
    const evil = { ...file, data: Buffer.alloc(3000, 'x') }
    const others = await resumable.send(evil, 1, bob)
    expect(others.body.uploadId).not.toBe(mine.body.uploadId)
    const done = await resumable.run(file, ann)
    const object = await wire.engine.get({ uploadId: done.body.uploadId, protocol: 'resumablejs', owner: 'ann' })
    const { readFile } = await import('node:fs/promises')
    expect(sha256(await readFile(`${wire.directory}/${object.key}`))).toBe(sha256(file.data))
    const query = new URLSearchParams(
      Object.entries(parametersOf('resumable', file, 3)).map(([k, v]) => [k, String(v)] satisfies [string, string]),
    )
    const stranger = await answer(fetch(`${wire.url}/resumable?${query}`, { headers: { 'X-User': 'carl' } }))
    expect([stranger.status, stranger.text]).toEqual([204, ''])
    survived('attack', 'resumable: the identifier of another owner')
  })

  it('clients whose owner or right cannot be told are refused [B07]', async () => {
    const secret = () => {
      throw new Error('password=hunter2')
    }
    for (const options of [{ owner: secret }, { hooks: { authorize: secret } }] as const) {
      const wire = await everyWire({ ...options, ends: false })
      const { resumable } = wire.as()
      // Where nothing is, nobody has to be asked whether it may be read.
      const answers = [await resumable.send(file, 1), await resumable.test(file, 1)]
      expect(answers.map(({ status }) => status)).toEqual(['owner' in options ? [500, 500] : [500, 204]].flat())
      for (const { text } of answers) expect(text).not.toContain('hunter2')
      expect(wire.created()).toBe(0)
    }
    const nobody = await everyWire({ owner: () => undefined })
    const { status } = await nobody.as().resumable.send(file, 1)
    expect([status, nobody.created()]).toEqual([400, 0])
    for (const how of ['owner throws', 'authorize throws', 'owner says undefined'])
      survived('attack', `resumable: ${how}`)
  })
})

describe('an upload of another protocol', () => {
  it('is not there, whoever asks, and takes no byte [B15]', async () => {
    const wire = await everyWire()
    for (const [name, { begin, offset }] of every) {
      const id = await begin(wire, 'ann')
      for (const [other, { actions }] of every) {
        const same = (a: string, b: string) =>
          a === b || (/tus/.test(a) && /^tus/.test(b)) || (/^ietf/i.test(a) && /^ietf/i.test(b))
        if (same(name, other) || same(other, name) || /beside/.test(name + other)) continue
        for (const [action, act] of Object.entries(actions)) {
          const crossed = await act(wire, id, 'ann')
          expect(crossed, `${name} upload, ${action}`).toEqual(await act(wire, unknownId, 'ann'))
          survived('attack', `an upload of ${name}, ${action}`)
        }
      }
      expect(await offset(wire, id, 'ann')).toBe(first.length)
    }
  })
})

describe('ids', () => {
  const strange = [
    '%2e%2e%2f%2e%2e%2fetc%2fpasswd',
    '..%2f..%2fetc%2fpasswd',
    '%252e%252e%252f',
    '%00',
    `${unknownId}%00`,
    `${unknownId}%0d%0aX-Evil:%201`,
    `${unknownId}%20`,
    `%20${unknownId}`,
    `${unknownId}.json`,
    unknownId.toUpperCase().replace('0000', 'ABCD'),
    unknownId.replace('-4', '-5'),
    unknownId.replaceAll('-', ''),
    `{${unknownId}}`,
    '__proto__',
    'constructor',
    '*',
    '%ff%fe',
    '%c0%ae%c0%ae',
    '%u002e',
    'null',
    '0',
    "'%20OR%20'1'='1",
    'sessions',
    'staging',
    'a'.repeat(8 * 1024),
    encodeURIComponent('１'.repeat(36)),
  ]

  it('that are none are 404 on every wire, always in the same words [B06]', async () => {
    const wire = await everyWire()
    const acts: [string, Act][] = every.flatMap(([name, { actions }]) =>
      Object.entries(actions)
        .filter(([action]) => !/as form|: sign |native: complete|concatenation/.test(action))
        .map(([action, act]): [string, Act] => [`${name}, ${action}`, act]),
    )
    for (const [action, act] of acts) {
      for (const id of strange) {
        const { status, body, headers } = await act(wire, id, undefined)
        const shown = `${action}: ${id.slice(0, 60)}`
        // Express itself refuses what is no UTF-8.
        expect(/%ff|%c0|%u/.test(id) ? [400, 404] : [404], `${shown} answered ${status}`).toContain(status)
        if (status === 404) expect(body, shown).toBe((await act(wire, unknownId, undefined)).body)
        expect(body).not.toMatch(/passwd|evil/i)
        expect(Object.keys(headers)).not.toContain('x-evil')
      }
      for (const id of strange) survived('attack', `id ${id.slice(0, 40)}: ${action}`)
    }
  })
})
