/**
 * IETF resumable uploads, the versions that are spoken now: whole uploads as clients make them. Requirement by
 * requirement they are in ietf-requirements.test.ts.
 */
import { describe, expect, it } from 'vitest'
import {
  ietfServer,
  isComplete,
  limitsIn,
  partialUpload,
  problemIn,
  problemTypes,
  sendIetf,
} from '../support/ietf-client.ts'
import { bytes, cut, sha256 } from '../support/random.ts'
import { filesBelow } from '../support/temp-folder.ts'
import { eventually, idIn, storedAt, unknownId } from '../support/tus-client.ts'

const mebibyte = 2 ** 20

describe.each([
  [8, 'express'],
  [9, 'express'],
  [9, 'bare'],
] as const)('interop %i on %s', (version, on) => {
  it('an upload in pieces answers 204 and ?0 to each, and becomes exactly those bytes [R32 R33]', async () => {
    const server = await ietfServer({ version, on })
    const file = bytes(700_003)
    const pieces = cut(file, 100_000, 1, 333_333, 200_000)
    const url = await server.create({ 'Upload-Length': file.length, 'Content-Type': 'video/mp4' })
    let offset = 0
    for (const piece of pieces.slice(0, -1)) {
      const answer = await server.append(url, offset, piece, false)
      offset += piece.length
      expect([answer.status, answer.body]).toEqual([204, ''])
      expect(answer.headers).toMatchObject({ 'upload-complete': '?0', 'upload-offset': String(offset) })
    }
    const answer = await server.append(url, offset, pieces.at(-1) ?? '', true)
    expect([answer.status, answer.headers['upload-complete']]).toEqual([200, '?1'])
    const location = answer.headers['content-location']
    expect(JSON.parse(answer.body)).toMatchObject({ url: location, size: file.length, uploadId: idIn(url) })
    expect(sha256(await storedAt(server, answer))).toBe(sha256(file))
  })

  it('a creation that breaks off goes on at the Location of its 104 [R2 R7 R21]', async () => {
    const server = await ietfServer({ version, on })
    const file = bytes(500_000)
    const open = server.openBegin(file.subarray(0, 200_000), true, { 'Content-Length': file.length })
    await eventually(() => expect(open.interim.length).toBeGreaterThan(0))
    await server.arrived(open)
    open.request.destroy()
    expect(await open.answer).toBeNull()
    const url = server.resolve(open.interim[0]?.headers.location)
    const head = await server.head(url)
    expect(head.headers).toMatchObject({
      'upload-offset': '200000',
      'upload-complete': '?0',
      'upload-length': '500000',
    })
    expect(await filesBelow(server.directory)).toEqual([])
    const answer = await server.append(url, 200_000, file.subarray(200_000), true)
    expect(sha256(await storedAt(server, answer))).toBe(sha256(file))
  })

  it('a running append is told how far it has come, without a Location [R36]', async () => {
    const server = await ietfServer({ version, on })
    const url = await server.create()
    const open = server.openAppend(url, 0, bytes(mebibyte), true)
    const feeding = setInterval(() => open.request.write(bytes(mebibyte)), 20)
    try {
      await eventually(() => expect(open.interim.length).toBeGreaterThan(1))
    } finally {
      clearInterval(feeding)
    }
    open.request.end()
    const answer = await open.answer
    expect(answer?.status).toBe(200)
    const offsets = (answer?.interim ?? []).map(({ status, headers }) => {
      expect([status, headers.location]).toEqual([104, undefined])
      expect(headers['upload-draft-interop-version']).toBe(String(version))
      return Number(headers['upload-offset'])
    })
    expect(offsets).toEqual([...offsets].sort((one, other) => one - other))
    expect(offsets[0]).toBeGreaterThan(0)
    expect(offsets.at(-1)).toBeLessThanOrEqual(Number(answer?.headers['upload-offset']))
  })

  it('an append at a stale offset answers 409 with its problem document [R31] [B14]', async () => {
    const server = await ietfServer({ version, on })
    const url = await server.create({ 'Upload-Length': 10 })
    await server.append(url, 0, 'abcde', false)
    for (const [offset, body, last] of [
      [0, 'abcde', false],
      [7, 'hij', true],
      [4, '', false],
    ] as const) {
      const answer = await server.append(url, offset, body, last)
      expect(answer.status).toBe(409)
      expect(answer.headers).toMatchObject({ 'upload-offset': '5', 'upload-complete': '?0' })
      expect(problemIn(answer)).toMatchObject({
        type: `${problemTypes}mismatching-upload-offset`,
        'expected-offset': 5,
        'provided-offset': offset,
      })
    }
    expect((await server.head(url)).headers['upload-offset']).toBe('5')
  })

  it('an append takes over from a running one, which is told at once [R21]', async () => {
    const server = await ietfServer({ version, on })
    const file = bytes(100_000)
    const url = await server.create()
    const open = server.openAppend(url, 0, file.subarray(0, 60_000), false, { 'Content-Length': 90_000 })
    await server.arrived(open)
    const stale = await server.append(url, 0, file, true)
    expect([stale.status, stale.headers['upload-offset']]).toEqual([409, '60000'])
    const started = performance.now()
    const old = await open.answer
    expect(performance.now() - started).toBeLessThan(2_000)
    if (old)
      expect([old.status, old.headers['upload-offset'], isComplete(version, old.headers)]).toEqual([
        409,
        '60000',
        false,
      ])
    const answer = await server.append(url, 60_000, file.subarray(60_000), true)
    expect(sha256(await storedAt(server, answer))).toBe(sha256(file))
  })

  it('a length can come with any append, and with the last one [R6]', async () => {
    const server = await ietfServer({ version, on })
    const url = await server.create()
    expect((await server.head(url)).headers['upload-length']).toBeUndefined()
    expect((await server.append(url, 0, 'abc', false, { 'Upload-Length': 6 })).status).toBe(204)
    expect((await server.head(url)).headers['upload-length']).toBe('6')
    const other = await server.create()
    expect((await server.append(other, 0, 'abcdef', true)).status).toBe(200)
    expect((await server.head(other)).headers['upload-length']).toBe('6')
  })

  it.each([
    ['attachment; filename="a b.txt"', 'a b.txt'],
    [`inline; filename=plain.bin; filename*=UTF-8''%E2%82%AC%20rates.txt`, '€ rates.txt'],
    [`inline; filename*=utf-8'de'%C3%A4.txt; filename="x.txt"`, 'ä.txt'],
    ['inline; filename="../../etc/passwd"', 'passwd'],
    ['inline; filename="a\\"b.txt"', 'a"b.txt'],
  ])('Content-Disposition: %s names the file %s [R8]', async (disposition, name) => {
    const server = await ietfServer({ version, on })
    const url = await server.create({ 'Content-Disposition': disposition, 'Content-Type': 'text/plain' })
    const session = await server.engine.get({ uploadId: idIn(url), protocol: 'ietf' })
    expect([session.fileName, session.mimeType]).toEqual([name, 'text/plain'])
  })

  it('what is larger than the limit answers 413 with the limit [R9 R39]', async () => {
    const server = await ietfServer({ version, on, maxFileSize: 1000 })
    const url = await server.create()
    for (const answer of [
      await server.begin('', false, { 'Upload-Length': 1001 }),
      await server.begin(bytes(1001), true),
      await server.begin(bytes(1001), true, {}, { chunked: true }),
      await server.append(url, 0, bytes(1001), false),
      await server.append(url, 0, bytes(1), false, { 'Upload-Length': 1001 }),
    ]) {
      expect([answer.status, answer.headers['upload-complete']]).toEqual([413, '?0'])
      expect(limitsIn(answer.headers)['max-size']).toBe(1000)
      problemIn(answer)
    }
    expect((await server.begin(bytes(1000), true)).status).toBe(200)
  })

  it('every answer names the version that was asked for, refusals too [R2]', async () => {
    const server = await ietfServer({ version, on, maxFileSize: 1000 })
    const url = await server.create()
    const gone = await server.create()
    for (const answer of [
      await server.remove(gone),
      await server.begin('', false),
      await server.begin('abc', true),
      await server.begin('abc', true, { 'Upload-Length': 4 }),
      await server.begin(bytes(1001), true),
      await server.head(url),
      await server.head(gone),
      await server.head(`${server.folder}/${unknownId}`),
      await server.append(url, 1, 'abc', false),
      await server.append(url, 0, 'abc', undefined),
      await server.append(url, 0, 'abc', true),
      await server.append(url, 3, 'abc', true),
      await server.remove(url),
    ]) {
      expect(answer.headers['upload-draft-interop-version']).toBe(String(version))
    }
  })
})

it('the media type of an append may have parameters [R30]', async () => {
  const server = await ietfServer()
  const answer = await server.append(await server.create(), 0, 'abc', false, {
    'Content-Type': `${partialUpload}; a=b`,
  })
  expect([answer.status, answer.headers['upload-offset']]).toEqual([204, '3'])
})

it('a whole upload without 104 works, for proxies that cannot stand them [R2 R5]', async () => {
  const server = await ietfServer({ ietf: { interim: false } })
  const file = bytes(300_000)
  const url = await server.create()
  const first = await server.append(url, 0, file.subarray(0, 200_000), false)
  const last = await server.append(url, 200_000, file.subarray(200_000), true)
  expect([first.interim, last.interim]).toEqual([[], []])
  expect(sha256(await storedAt(server, last))).toBe(sha256(file))
})

it('what begins no upload is left to the routes behind the handler [R1]', async () => {
  const server = await ietfServer()
  for (const headers of [{}, { 'Upload-Draft-Interop-Version': 9 }]) {
    const answer = await sendIetf('POST', server.folder, headers, { body: 'abc' })
    expect([answer.status, answer.headers['upload-complete']]).toEqual([404, undefined])
  }
})
