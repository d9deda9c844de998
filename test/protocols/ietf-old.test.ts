/** IETF resumable uploads as older clients speak them: interop 3 (iOS 17), 5 (iOS 18.0) and 6 (iOS 18.1). */
import { describe, expect, it } from 'vitest'
import { ietfServer, isComplete, limitsIn, partialUpload, problemIn, sendIetf } from '../support/ietf-client.ts'
import { bytes, cut, sha256 } from '../support/random.ts'
import { filesBelow } from '../support/temp-folder.ts'
import { eventually, idIn, storedAt, unknownId } from '../support/tus-client.ts'

const mebibyte = 2 ** 20
const field = (version: number) => (version === 3 ? 'upload-incomplete' : 'upload-complete')

describe.each([3, 4, 5, 6, 7])('interop %i', (version) => {
  it('a whole file in one request is stored and answered [R4 R40]', async () => {
    const server = await ietfServer({ version })
    const file = bytes(300_000)
    const answer = await server.begin(file, true)
    expect(answer.status).toBe(200)
    expect(isComplete(version, answer.headers)).toBe(true)
    expect(answer.headers[field(version === 3 ? 4 : 3)]).toBeUndefined()
    expect(answer.headers['upload-offset']).toBe('300000')
    expect(answer.headers['upload-draft-interop-version']).toBe(String(version))
    expect(sha256(await storedAt(server, answer))).toBe(sha256(file))
  })

  it('a creation is told early where its upload is [R2]', async () => {
    const server = await ietfServer({ version })
    const answer = await server.begin(bytes(1000), true)
    const [first] = answer.interim
    expect(first?.status).toBe(104)
    expect(first?.headers['upload-draft-interop-version']).toBe(String(version))
    expect(first?.headers.location).toBe(answer.headers.location)
  })

  it('an upload in pieces becomes exactly those bytes [R32 R33]', async () => {
    const server = await ietfServer({ version })
    const file = bytes(300_001)
    const pieces = cut(file, 100_000)
    const url = await server.create()
    let offset = 0
    for (const piece of pieces.slice(0, -1)) {
      const answer = await server.append(url, offset, piece, false)
      offset += piece.length
      expect(answer.status).toBe(version <= 6 ? 201 : 204)
      expect([answer.headers['upload-offset'], isComplete(version, answer.headers)]).toEqual([String(offset), false])
    }
    const answer = await server.append(url, offset, pieces.at(-1) ?? '', true)
    expect([answer.status, isComplete(version, answer.headers)]).toEqual([200, true])
    expect(sha256(await storedAt(server, answer))).toBe(sha256(file))
  })

  it('HEAD tells offset and completeness [R20]', async () => {
    const server = await ietfServer({ version })
    const url = await server.create()
    await server.append(url, 0, 'abc', false)
    const before = await server.head(url)
    expect([before.status, before.headers['upload-offset'], isComplete(version, before.headers)]).toEqual([
      204,
      '3',
      false,
    ])
    expect(before.headers['cache-control']).toBe('no-store')
    await server.append(url, 3, 'def', true)
    const after = await server.head(url)
    expect([after.headers['upload-offset'], isComplete(version, after.headers)]).toEqual(['6', true])
  })

  it('a stale offset answers 409 with the right one [R31]', async () => {
    const server = await ietfServer({ version })
    const url = await server.create()
    await server.append(url, 0, 'abc', false)
    const answer = await server.append(url, 1, 'bcd', true)
    expect([answer.status, answer.headers['upload-offset'], isComplete(version, answer.headers)]).toEqual([
      409,
      '3',
      false,
    ])
  })

  it('an upload that broke off goes on where it ended [R7 R21]', async () => {
    const server = await ietfServer({ version })
    const file = bytes(500_000)
    const open = server.openBegin(file.subarray(0, 200_000), true, { 'Content-Length': file.length })
    await eventually(() => expect(open.interim.length).toBeGreaterThan(0))
    await server.arrived(open)
    open.request.destroy()
    await open.answer
    const url = server.resolve(open.interim[0]?.headers.location)
    const head = await server.head(url)
    expect([head.headers['upload-offset'], isComplete(version, head.headers)]).toEqual(['200000', false])
    expect(await filesBelow(server.directory)).toEqual([])
    const answer = await server.append(url, 200_000, file.subarray(200_000), true)
    expect(sha256(await storedAt(server, answer))).toBe(sha256(file))
  })

  it('the last append can be asked for again [R38]', async () => {
    const server = await ietfServer({ version })
    const url = await server.create()
    const final = await server.append(url, 0, 'abcdef', true)
    const again = await server.append(url, 6, '', true)
    expect([again.status, again.body]).toEqual([200, final.body])
    const more = await server.append(url, 6, 'ghi', true)
    expect([more.status, isComplete(version, more.headers)]).toEqual([400, false])
  })

  it(`interim responses tell ${version >= 5 ? 'the progress' : 'no progress'} [R36]`, async () => {
    const server = await ietfServer({ version })
    const url = await server.create()
    const open = server.openAppend(url, 0, bytes(mebibyte), true)
    const feeding = setInterval(() => open.request.write(bytes(mebibyte)), 20)
    try {
      // The moment at which progress is told, to whom it is.
      await eventually(async () => {
        const { chunks } = await server.engine.get({ uploadId: idIn(url), protocol: 'ietf' })
        expect(chunks.length).toBeGreaterThan(0)
      })
    } finally {
      clearInterval(feeding)
    }
    open.request.end()
    const answer = await open.answer
    expect(answer?.status).toBe(200)
    expect((answer?.interim.length ?? 0) > 0).toBe(version >= 5)
    for (const { headers } of answer?.interim ?? []) expect(headers.location).toBeUndefined()
  })

  it('DELETE answers 204, then 410; an unknown upload 404 [R50]', async () => {
    const server = await ietfServer({ version })
    const url = await server.create()
    expect((await server.remove(url)).status).toBe(204)
    expect((await server.remove(url)).status).toBe(410)
    expect((await server.remove(`${server.folder}/${unknownId}`)).status).toBe(404)
  })
})

describe.each([3, 4, 5, 6])('interop %i, which 7 changed', (version) => {
  it('an append that says nothing of completeness completes only when the known length is there', async () => {
    const server = await ietfServer({ version })
    const open = await server.create()
    const answer = await server.append(open, 0, 'abc', undefined)
    expect([answer.status, isComplete(version, answer.headers)]).toEqual([201, false])
    const url = await server.create({ 'Upload-Length': 6 })
    expect((await server.append(url, 0, 'abc', undefined)).status).toBe(201)
    const last = await server.append(url, 3, 'def', undefined)
    expect([last.status, isComplete(version, last.headers), last.headers['upload-offset']]).toEqual([200, true, '6'])
    expect(String(await storedAt(server, last))).toBe('abcdef')
  })

  it('the known length completes an upload although the client says that more comes', async () => {
    const server = await ietfServer({ version })
    const url = await server.create({ 'Upload-Length': 6 })
    const last = await server.append(url, 0, 'abcdef', false)
    expect([last.status, isComplete(version, last.headers)]).toEqual([200, true])
    const created = await server.begin('abcdef', false, { 'Upload-Length': 6 })
    expect([created.status, isComplete(version, created.headers)]).toEqual([200, true])
  })

  it('a creation with length 0 is complete at once', async () => {
    const server = await ietfServer({ version })
    const answer = await server.begin('', false, { 'Upload-Length': 0 })
    expect([isComplete(version, answer.headers), answer.headers['upload-offset']]).toEqual([true, '0'])
    expect(answer.headers.location).toBeDefined()
    expect(await storedAt(server, answer)).toHaveLength(0)
  })

  it.each(['Upload-Offset', 'Upload-Length', 'completeness'])('HEAD with %s is 400 [R24]', async (name) => {
    const server = await ietfServer({ version })
    const url = await server.create()
    const headers = name === 'completeness' ? server.completeness(false) : { [name]: 0 }
    expect((await server.head(url, headers)).status).toBe(400)
    expect((await server.head(url)).status).toBe(204)
  })

  it.each(['Upload-Offset', 'completeness'])('DELETE with %s is 400 and ends nothing [R50]', async (name) => {
    const server = await ietfServer({ version })
    const url = await server.create()
    const headers = name === 'completeness' ? server.completeness(false) : { [name]: 0 }
    expect((await server.remove(url, headers)).status).toBe(400)
    expect((await server.head(url)).status).toBe(204)
  })

  it('every final response of an append has Upload-Offset, refusals too [R40]', async () => {
    const server = await ietfServer({ version })
    const url = await server.create({ 'Upload-Length': 6 })
    for (const answer of [
      await server.append(url, 0, 'abc', false),
      await server.append(url, 0, 'abc', false),
      await server.append(url, 3, 'def', true),
      await server.append(url, 6, '', true),
    ]) {
      expect(answer.headers['upload-offset']).toMatch(/^\d+$/)
    }
  })

  it('an append without a readable offset is 400 [R30]', async () => {
    const server = await ietfServer({ version })
    const url = await server.create()
    const answer = await server.append(url, 0, 'abc', false, { 'Upload-Offset': undefined })
    expect(answer.status).toBe(400)
    problemIn(answer)
  })
})

describe('what single versions have', () => {
  it.each([3, 5])('interop %i appends with any media type [R30]', async (version) => {
    const server = await ietfServer({ version })
    const url = await server.create()
    expect((await server.append(url, 0, 'abc', false, { 'Content-Type': undefined })).status).toBe(201)
    expect((await server.append(url, 3, 'def', false, { 'Content-Type': 'image/png' })).status).toBe(201)
    expect((await server.append(url, 6, 'ghi', true, { 'Content-Type': partialUpload })).status).toBe(200)
  })

  it('interop 6 wants the media type of a partial upload [R30]', async () => {
    const server = await ietfServer({ version: 6 })
    const url = await server.create()
    expect((await server.append(url, 0, 'abc', false, { 'Content-Type': undefined })).status).toBe(415)
    expect((await server.append(url, 0, 'abc', false)).status).toBe(201)
  })

  it('interop 6 calls the rest of the lifetime expires, 7 max-age [R5 R20]', async () => {
    for (const [version, key, other] of [
      [6, 'expires', 'max-age'],
      [7, 'max-age', 'expires'],
    ] as const) {
      const server = await ietfServer({ version })
      const answer = await server.begin('', false)
      const limits = limitsIn(answer.headers)
      expect([limits[key] !== undefined && limits[key] > 0, limits[other]]).toEqual([true, undefined])
      const head = limitsIn((await server.head(server.resolve(answer.headers.location))).headers)
      expect([head[key] !== undefined && head[key] > 0, head[other]]).toEqual([true, undefined])
      await server.close()
    }
  })

  it('interop 3 is told by the inverted field, also in refusals', async () => {
    const server = await ietfServer({ version: 3 })
    const url = await server.create()
    const refused = await server.append(url, 4, 'abc', true)
    expect([refused.headers['upload-incomplete'], refused.headers['upload-complete']]).toEqual(['?1', undefined])
    const done = await server.append(url, 0, 'abc', true)
    expect([done.headers['upload-incomplete'], done.headers['upload-complete']]).toEqual(['?0', undefined])
    expect((await server.head(url)).headers['upload-incomplete']).toBe('?0')
  })

  it('interop 3 does not listen to Upload-Complete', async () => {
    const server = await ietfServer({ version: 3, on: 'bare' })
    const named = { 'Upload-Draft-Interop-Version': 3, 'Upload-Complete': '?1' }
    expect((await sendIetf('POST', server.folder, named, { body: 'abc' })).status).toBe(400)
  })

  it('the answers differ by version, the upload does not', async () => {
    const server = await ietfServer({ version: 3 })
    const url = await server.create()
    await server.append(url, 0, 'abc', false)
    const named = { 'Upload-Draft-Interop-Version': 9 }
    const head = await sendIetf('HEAD', url, named)
    expect([head.headers['upload-offset'], head.headers['upload-complete']]).toEqual(['3', '?0'])
    const more = { ...named, 'Content-Type': partialUpload, 'Upload-Offset': 3, 'Upload-Complete': '?1' }
    expect((await sendIetf('PATCH', url, more, { body: 'def' })).status).toBe(200)
  })
})
