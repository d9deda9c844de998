/** IETF resumable uploads: how an upload ends, well or not, and that the end can be asked for again. */
import { createHash } from 'node:crypto'
import { setTimeout as wait } from 'node:timers/promises'
import { describe, expect, it, vi } from 'vitest'
import { ProcessingError } from '../../src/errors.ts'
import type { StorageAdapter } from '../../src/types.ts'
import { flakyStorage, type IetfAnswer, ietfServer, isComplete, problemIn } from '../support/ietf-client.ts'
import { bytes, sha256 } from '../support/random.ts'
import { filesBelow } from '../support/temp-folder.ts'
import { eventually, idIn, storedAt } from '../support/tus-client.ts'

const digest = (data: Buffer | string, name = 'sha-256') =>
  `${name}=:${createHash(name.replace('-', '')).update(data).digest('base64')}:`

/** Headers that make the answer what it is. */
function essence({ status, headers, body }: IetfAnswer) {
  const names = [
    'content-type',
    'content-length',
    'content-location',
    'upload-complete',
    'upload-offset',
    'repr-digest',
  ]
  return { status, body, headers: Object.fromEntries(names.map((name) => [name, headers[name]])) }
}

describe('a storage that fails for a while', () => {
  it('makes a 5xx with ?0; an empty ?1 append drives the completion again [R33 R34]', async () => {
    const { storage, objects, attempts } = flakyStorage(2)
    const server = await ietfServer({ storage })
    const file = bytes(200_000)
    const url = await server.create()
    const failed = [await server.append(url, 0, file, true), await server.append(url, file.length, '', true)]
    for (const answer of failed) {
      expect(answer.status).toBeGreaterThanOrEqual(500)
      expect(answer.headers['upload-complete']).toBe('?0')
      expect(problemIn(answer).retryable).toBe(true)
    }
    const head = await server.head(url)
    expect([head.status, head.headers['upload-offset'], head.headers['upload-complete']]).toEqual([204, '200000', '?0'])
    const final = await server.append(url, file.length, '', true)
    expect([final.status, final.headers['upload-complete'], attempts()]).toEqual([200, '?1', 3])
    expect([...objects.values()].map(sha256)).toEqual([sha256(file)])
  })

  it('the final response is then the same however often it is asked for [R38]', async () => {
    const { storage, objects, attempts } = flakyStorage(1)
    const server = await ietfServer({ storage })
    const url = await server.create()
    await server.append(url, 0, 'abcdef', true)
    const first = await server.append(url, 6, '', true)
    expect(first.status).toBe(200)
    for (let repeat = 0; repeat < 3; repeat++) {
      expect(essence(await server.append(url, 6, '', true))).toEqual(essence(first))
    }
    expect([attempts(), objects.size]).toEqual([2, 1])
  })

  it('a creation with the whole file can be finished at the Location of its 104 [R4 R34]', async () => {
    const { storage, objects } = flakyStorage(1)
    const server = await ietfServer({ storage })
    const failed = await server.begin('abcdef', true)
    expect(failed.status).toBeGreaterThanOrEqual(500)
    expect(failed.headers['upload-complete']).toBe('?0')
    const url = server.resolve(failed.interim[0]?.headers.location)
    expect((await server.head(url)).headers).toMatchObject({ 'upload-offset': '6', 'upload-complete': '?0' })
    const final = await server.append(url, 6, '', true)
    expect([final.status, String([...objects.values()][0])]).toEqual([200, 'abcdef'])
  })

  it.each([5, 6])('HEAD of interop %i completes what has its length, and is 423 until then', async (version) => {
    const { storage, objects } = flakyStorage(2)
    const server = await ietfServer({ storage, version })
    const url = await server.create({ 'Upload-Length': 6 })
    const failed = await server.append(url, 0, 'abcdef', false)
    expect(failed.status).toBeGreaterThanOrEqual(500)
    const locked = await server.head(url)
    expect([locked.status, locked.headers['upload-offset']]).toEqual([423, undefined])
    expect(Number(locked.headers['retry-after'])).toBeGreaterThan(0)
    const head = await server.head(url)
    expect([head.status, head.headers['upload-offset'], isComplete(version, head.headers)]).toEqual([204, '6', true])
    expect(head.headers['content-location']).toMatch(/^https:\/\/cdn\.example\.com\//)
    expect(objects.size).toBe(1)
  })

  it('HEAD of newer versions completes nothing [R37]', async () => {
    const { storage, attempts } = flakyStorage(0)
    const server = await ietfServer({ storage, version: 8 })
    const url = await server.create({ 'Upload-Length': 6 })
    await server.append(url, 0, 'abcdef', false)
    expect((await server.head(url)).headers['upload-complete']).toBe('?0')
    expect(attempts()).toBe(0)
  })

  it('two ?1 appends at once make one object and get one answer [R12]', async () => {
    let open = () => {}
    const gate = new Promise<void>((resolve) => {
      open = resolve
    })
    let attempts = 0
    const storage: StorageAdapter = {
      async upload(fileKey, stream) {
        attempts++
        stream.resume()
        await gate
        return `https://cdn.example.com/${fileKey}`
      },
    }
    const server = await ietfServer({ storage })
    const url = await server.create()
    await server.append(url, 0, 'abcdef', false)
    const first = server.append(url, 6, '', true)
    await eventually(() => expect(attempts).toBe(1))
    const second = server.append(url, 6, '', true)
    open()
    const [one, other] = await Promise.all([first, second])
    expect(essence(one)).toEqual(essence(other))
    expect([one.status, attempts]).toEqual([200, 1])
  })
})

describe('an application that refuses the file', () => {
  const refusing = () => {
    let asked = 0
    const onComplete = () => {
      asked++
      throw new ProcessingError('This is not a picture.', { code: 'NOT_A_PICTURE' })
    }
    return { hooks: { onComplete }, asked: () => asked }
  }

  it('is the final response, with ?1, and is replayed [R33 R38]', async () => {
    const { hooks, asked } = refusing()
    const server = await ietfServer({ hooks })
    const url = await server.create()
    const verdict = await server.append(url, 0, 'abcdef', true)
    expect([verdict.status, verdict.headers['upload-complete']]).toEqual([422, '?1'])
    expect(problemIn(verdict)).toMatchObject({ code: 'NOT_A_PICTURE', detail: 'This is not a picture.' })
    for (let repeat = 0; repeat < 2; repeat++) {
      const again = await server.append(url, 6, '', true)
      expect([again.status, again.headers['upload-complete']]).toEqual([422, '?1'])
      expect(problemIn(again)).toMatchObject({
        code: 'NOT_A_PICTURE',
        detail: 'This is not a picture.',
        retryable: false,
      })
    }
    expect(asked()).toBe(1)
    expect((await server.head(url)).status).toBe(410)
  })

  it('answers a creation with the whole file in the same words [R4]', async () => {
    const server = await ietfServer({ hooks: refusing().hooks })
    const verdict = await server.begin('abcdef', true)
    expect([verdict.status, verdict.headers['upload-complete'], problemIn(verdict).code]).toEqual([
      422,
      '?1',
      'NOT_A_PICTURE',
    ])
  })

  it.each([3, 5, 6])('is told to interop %i in its own field', async (version) => {
    const server = await ietfServer({ hooks: refusing().hooks, version })
    const verdict = await server.begin('abcdef', true)
    expect([verdict.status, isComplete(version, verdict.headers)]).toEqual([422, true])
  })

  it('at the creation gets an answer, and no 104', async () => {
    const onCreate = () => {
      throw new ProcessingError('Not on Sundays.', { code: 'CLOSED_TODAY', status: 403 })
    }
    const server = await ietfServer({ hooks: { onCreate } })
    const answer = await server.begin('abcdef', true)
    expect([answer.status, problemIn(answer).code, answer.interim]).toEqual([403, 'CLOSED_TODAY', []])
    expect(answer.headers['upload-complete']).toBe('?0')
  })

  it('that cannot be told ends the connection, not the process', async () => {
    const unhandled = vi.fn()
    process.on('unhandledRejection', unhandled)
    const onCreate = () => {
      throw new ProcessingError('Too many.', { details: { count: 1n } })
    }
    const server = await ietfServer({ hooks: { onCreate } })
    const outcome = server.begin('abcdef', true).then(
      () => 'an answer',
      () => 'no connection',
    )
    expect(await Promise.race([outcome, wait(2_000, 'silence')])).toBe('no connection')
    process.off('unhandledRejection', unhandled)
    expect(unhandled).not.toHaveBeenCalled()
  })
})

describe('digests', () => {
  it.each(['sha-256', 'sha-512', 'md5', 'sha1'])('Content-Digest by %s is checked', async (name) => {
    const server = await ietfServer()
    const url = await server.create()
    const field = (data: string) => digest(data, name).replace('sha1=', 'sha=')
    const wrong = await server.append(url, 0, 'abc', false, { 'Content-Digest': field('abx') })
    expect([wrong.status, wrong.headers['upload-complete']]).toEqual([400, '?0'])
    problemIn(wrong)
    expect((await server.head(url)).headers['upload-offset']).toBe('0')
    const right = await server.append(url, 0, 'abc', false, { 'Content-Digest': field('abc') })
    expect([right.status, right.headers['upload-offset']]).toEqual([204, '3'])
  })

  it('Content-Digest of an algorithm that is not known, or malformed, is ignored', async () => {
    const server = await ietfServer()
    const url = await server.create()
    for (const [at, field] of ['unixsum=:AAAA:', 'sha-256="abc"', 'sha-256', '((', 'sha-256=1'].entries()) {
      const answer = await server.append(url, at, 'x', false, { 'Content-Digest': field })
      expect([field, answer.status]).toEqual([field, 204])
    }
  })

  it('a creation whose content does not match is refused and leaves nothing', async () => {
    const server = await ietfServer()
    const created: string[] = []
    server.engine.events.on('created', ({ session }) => created.push(session.id))
    for (const last of [true, false]) {
      const answer = await server.begin('abc', last, { 'Content-Digest': digest('abd') })
      expect([answer.status, answer.headers['upload-complete']]).toEqual([400, '?0'])
    }
    expect(created).toHaveLength(2)
    for (const id of created) expect((await server.head(`${server.folder}/${id}`)).status).toBe(410)
  })

  it('an interrupted append with Content-Digest adds nothing', async () => {
    const server = await ietfServer()
    const url = await server.create()
    const headers = { 'Content-Length': 60_000, 'Content-Digest': digest(bytes(60_000)) }
    const open = server.openAppend(url, 0, bytes(60_000).subarray(0, 30_000), false, headers)
    await server.arrived(open)
    open.request.destroy()
    await open.answer
    expect((await server.head(url)).headers['upload-offset']).toBe('0')
    expect((await server.append(url, 0, bytes(60_000), false, headers)).status).toBe(204)
  })

  it('Repr-Digest is compared with the whole file when it is complete', async () => {
    const server = await ietfServer()
    const file = bytes(150_000)
    const good = await server.create({ 'Repr-Digest': digest(file) })
    await server.append(good, 0, file.subarray(0, 70_000), false)
    const stored = await server.append(good, 70_000, file.subarray(70_000), true)
    expect(sha256(await storedAt(server, stored))).toBe(sha256(file))
    await server.remove(good)
    const bad = await server.create({ 'Repr-Digest': digest('something else') })
    const refused = await server.append(bad, 0, file, true)
    expect([refused.status, refused.headers['upload-complete']]).toEqual([400, '?1'])
    problemIn(refused)
    expect((await server.head(bad)).status).toBe(410)
    expect(await filesBelow(server.directory)).toHaveLength(1)
  })

  it('Want-Repr-Digest gets the digest that was checked, also in the repeated answer', async () => {
    const server = await ietfServer()
    const url = await server.create({ 'Repr-Digest': digest('abcdef') })
    const wanted = { 'Want-Repr-Digest': 'sha-256=10' }
    const final = await server.append(url, 0, 'abcdef', true, wanted)
    expect(final.headers['repr-digest']).toBe(digest('abcdef'))
    expect((await server.append(url, 6, '', true, wanted)).headers['repr-digest']).toBe(digest('abcdef'))
    const whole = await server.begin('abcdef', true, { ...wanted, 'Repr-Digest': digest('abcdef') })
    expect(whole.headers['repr-digest']).toBe(digest('abcdef'))
    expect((await server.begin('abcdef', true, wanted)).headers['repr-digest']).toBeUndefined()
  })
})

describe('an upload that is broken off', () => {
  it('is never complete, however often, and ends as the very file [R7 R22]', async () => {
    const server = await ietfServer()
    const file = bytes(900_000)
    const url = await server.create({ 'Upload-Length': file.length })
    let offset = 0
    for (const size of [100_000, 250_000, 1, 333_333]) {
      const headers = { 'Content-Length': file.length - offset }
      const open = server.openAppend(url, offset, file.subarray(offset, offset + size), true, headers)
      await server.arrived(open)
      open.request.destroy()
      expect(await open.answer).toBeNull()
      const head = await server.head(url)
      offset += size
      expect([head.headers['upload-offset'], head.headers['upload-complete']]).toEqual([String(offset), '?0'])
      expect(await filesBelow(server.directory)).toEqual([])
    }
    const answer = await server.append(url, offset, file.subarray(offset), true)
    expect(sha256(await storedAt(server, answer))).toBe(sha256(file))
  })

  it('survives the end of the process that took its first half', async () => {
    const file = bytes(300_000)
    const one = await ietfServer()
    const url = await one.create({ 'Upload-Length': file.length })
    await one.append(url, 0, file.subarray(0, 120_000), false)
    await one.close()
    const other = await ietfServer({ tempDir: one.tempDir })
    const there = `${other.folder}/${idIn(url)}`
    expect((await other.head(there)).headers['upload-offset']).toBe('120000')
    const answer = await other.append(there, 120_000, file.subarray(120_000), true)
    expect(sha256(await storedAt(other, answer))).toBe(sha256(file))
  })
})

describe('cancellation', () => {
  it('stops a running append, which completes nothing any more [R50]', async () => {
    const server = await ietfServer()
    const file = bytes(600_000)
    const url = await server.create({ 'Upload-Length': file.length })
    const open = server.openAppend(url, 0, file.subarray(0, 300_000), true, { 'Content-Length': file.length })
    await server.arrived(open)
    expect((await server.remove(url)).status).toBe(204)
    if (!open.request.destroyed) open.request.end(file.subarray(300_000))
    const old = await open.answer
    if (old) expect(old.status).toBeGreaterThanOrEqual(400)
    expect((await server.append(url, 300_000, file.subarray(300_000), true)).status).toBe(410)
    expect(await filesBelow(server.directory)).toEqual([])
  })

  it('of a running creation works at the Location of its 104 [R50]', async () => {
    const server = await ietfServer()
    const open = server.openBegin(bytes(50_000), true, { 'Content-Length': 900_000 })
    await eventually(() => expect(open.interim.length).toBeGreaterThan(0))
    await server.arrived(open)
    const url = server.resolve(open.interim[0]?.headers.location)
    expect((await server.remove(url)).status).toBe(204)
    const old = await open.answer
    if (old) expect(old.status).toBeGreaterThanOrEqual(400)
    expect((await server.head(url)).status).toBe(410)
  })
})
