/** IETF resumable uploads on the URL of something else: who gets which request. */
import type { IncomingMessage, ServerResponse } from 'node:http'
import { describe, expect, it } from 'vitest'
import { type IetfHandler, ietfHandler } from '../../src/ietf.ts'
import { tusHandler } from '../../src/tus.ts'
import { type IetfHeaders, ietfClient, ietfServer, partialUpload, sendIetf } from '../support/ietf-client.ts'
import { protocolServer } from '../support/protocol-server.ts'
import { bytes, sha256 } from '../support/random.ts'
import { offsetType, storedAt, tusClient, unknownId } from '../support/tus-client.ts'

const teapot: IetfHandler = (_request: IncomingMessage, response: ServerResponse) => {
  response.statusCode = 418
  response.end()
}

const onUpload = `/${unknownId}`

describe('beside another handler', () => {
  it.each<[method: string, path: string, headers: IetfHeaders]>([
    ['POST', '', {}],
    ['POST', '', { 'Tus-Resumable': '1.0.0', 'Upload-Length': 3 }],
    ['POST', '', { 'Tus-Resumable': '1.0.0', 'Upload-Complete': '?1' }],
    ['POST', onUpload, { 'X-HTTP-Method-Override': 'PATCH', 'Upload-Complete': '?1' }],
    ['PATCH', onUpload, { 'Tus-Resumable': '1.0.0', 'Content-Type': offsetType, 'Upload-Offset': 0 }],
    ['PATCH', onUpload, { 'Content-Type': offsetType, 'Upload-Offset': 0 }],
    ['HEAD', onUpload, { 'Tus-Resumable': '1.0.0' }],
    ['DELETE', onUpload, { 'Tus-Resumable': '1.0.0' }],
    ['GET', '', {}],
    ['HEAD', '', {}],
    ['PUT', onUpload, {}],
    ['OPTIONS', '', {}],
    ['OPTIONS', '', { 'Upload-Complete': '?1', 'Upload-Draft-Interop-Version': 9 }],
  ])('%s %s with %o is the other one’s', async (method, path, headers) => {
    const server = await ietfServer({ ietf: { others: teapot } })
    expect((await sendIetf(method, `${server.folder}${path}`, headers)).status).toBe(418)
  })

  it.each<[method: string, path: string, headers: IetfHeaders, status: number]>([
    ['POST', '', { 'Upload-Complete': '?0' }, 201],
    ['PUT', '', { 'Upload-Complete': '?1' }, 200],
    ['POST', '', { 'Upload-Incomplete': '?1', 'Upload-Draft-Interop-Version': 3 }, 201],
    ['POST', '', { 'Upload-Draft-Interop-Version': 9 }, 400],
    ['PATCH', onUpload, { 'Content-Type': partialUpload, 'Upload-Offset': 0, 'Upload-Complete': '?0' }, 404],
    ['PATCH', onUpload, { 'Content-Type': partialUpload }, 400],
    ['HEAD', onUpload, {}, 404],
    ['GET', onUpload, {}, 404],
    ['DELETE', onUpload, {}, 404],
  ])('%s %s with %o is ours and answers %i', async (method, path, headers, status) => {
    const server = await ietfServer({ on: 'bare', ietf: { others: teapot } })
    expect((await sendIetf(method, `${server.folder}${path}`, headers)).status).toBe(status)
  })

  it('OPTIONS carries what both have to say [R51]', async () => {
    const server = await protocolServer((engine) => ietfHandler(engine, { others: tusHandler(engine) }))
    const { status, headers } = await sendIetf('OPTIONS', server.url)
    expect(status).toBe(204)
    expect(headers['upload-limit']).toContain('max-size=')
    expect(headers['accept-patch']).toBe(partialUpload)
    expect(headers['tus-version']).toBe('1.0.0')
    expect(headers['access-control-allow-methods']).toContain('PATCH')
  })
})

describe('tus and IETF on one path', () => {
  const both = () => protocolServer((engine) => ietfHandler(engine, { others: tusHandler(engine) }))

  it.each([3, 5, 6, 8, 9, null])('a tus client and one of interop %s store their files', async (version) => {
    const server = await both()
    const tus = tusClient(server.url)
    const ietf = ietfClient(server.url, version)
    const files = [bytes(200_001, 1), bytes(150_000, 2)] as const
    const tusUrl = await tus.create(files[0].length)
    const ietfUrl = await ietf.create()
    await tus.patch(tusUrl, 0, files[0].subarray(0, 99_999))
    await ietf.append(ietfUrl, 0, files[1].subarray(0, 50_000), false)
    expect((await tus.head(tusUrl)).headers['upload-offset']).toBe('99999')
    expect((await ietf.head(ietfUrl)).headers['upload-offset']).toBe('50000')
    const tusLast = await tus.patch(tusUrl, 99_999, files[0].subarray(99_999))
    const ietfLast = await ietf.append(ietfUrl, 50_000, files[1].subarray(50_000), true)
    expect([tusLast.status, ietfLast.status]).toEqual([204, 200])
    expect(sha256(await storedAt(server, tusLast))).toBe(sha256(files[0]))
    expect(sha256(await storedAt(server, ietfLast))).toBe(sha256(files[1]))
  })

  it('neither can touch the upload of the other', async () => {
    const server = await both()
    const tus = tusClient(server.url)
    const ietf = ietfClient(server.url, 9)
    const tusUrl = await tus.create(6)
    const ietfUrl = await ietf.create()
    expect((await ietf.head(tusUrl)).status).toBe(404)
    expect((await ietf.append(tusUrl, 0, 'abcdef', true)).status).toBe(404)
    expect((await ietf.remove(tusUrl)).status).toBe(404)
    expect((await tus.head(ietfUrl)).status).toBe(404)
    expect((await tus.patch(ietfUrl, 0, 'abcdef')).status).toBe(404)
    expect((await tus.remove(ietfUrl)).status).toBe(404)
    expect((await tus.patch(tusUrl, 0, 'abcdef')).status).toBe(204)
    expect((await ietf.append(ietfUrl, 0, 'abcdef', true)).status).toBe(200)
  })

  it('answers of tus say Tus-Resumable and no Upload-Complete; ours the other way round', async () => {
    const server = await both()
    const tus = await tusClient(server.url).post({ 'Upload-Length': 3 })
    expect([tus.headers['tus-resumable'], tus.headers['upload-complete']]).toEqual(['1.0.0', undefined])
    const ietf = await ietfClient(server.url, 9).begin('', false)
    expect([ietf.headers['tus-resumable'], ietf.headers['upload-complete']]).toEqual([undefined, '?0'])
  })
})
