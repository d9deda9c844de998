/** What browsers let pages of other origins do: exactly what the headers allow, on every answer. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { bytes, sha256 } from '../support/random.ts'
import { tempFolder } from '../support/temp-folder.ts'
import { Site } from './support/site.ts'
import { Tab } from './support/tab.ts'

const allowedHeaders = [
  'Authorization, Content-Type, Content-Disposition, X-Requested-With, Cache-Control, X-Request-ID',
  'X-HTTP-Method-Override, X-Mime-Type, Tus-Resumable, Upload-Length, Upload-Defer-Length, Upload-Offset',
  'Upload-Metadata, Upload-Concat, Upload-Checksum, Upload-Name, Upload-Complete, Upload-Incomplete',
  'Upload-Draft-Interop-Version, Content-Digest, Repr-Digest, Want-Repr-Digest, Incremental',
].join(', ')
const exposedHeaders = [
  'Location, Content-Location, ETag, Retry-After, Upload-Offset, Upload-Length, Upload-Defer-Length, Upload-Metadata',
  'Upload-Concat, Upload-Expires, Upload-Complete, Upload-Incomplete, Upload-Limit, Upload-Draft-Interop-Version',
  'Tus-Resumable, Tus-Version, Tus-Extension, Tus-Max-Size, Tus-Checksum-Algorithm, Repr-Digest',
].join(', ')
const onEveryAnswer = { 'access-control-allow-origin': '*', 'access-control-expose-headers': exposedHeaders }

/** Of the routes that send CORS headers themselves: an error of each. */
const errors = [
  ['/files', { method: 'PATCH', headers: { 'Tus-Resumable': '1.0.0' } }, 404],
  ['/companion', { method: 'GET' }, 404],
  ['/resumable', { method: 'POST' }, 400],
] as const

function corsOf({ headers }: Response): Record<string, string> {
  return Object.fromEntries([...headers].filter(([name]) => name.startsWith('access-control-')))
}

function sampleFile(): { path: string; sha256: string } {
  const content = bytes(3_000_000)
  const path = join(tempFolder(), 'film.bin')
  writeFileSync(path, content)
  return { path, sha256: sha256(content) }
}

describe.each(errors)('%s', (route, request, status) => {
  it('answers a preflight with every method and header that a client may need', async () => {
    const site = await Site.start('local disk')
    const headers = { Origin: site.otherOrigin, 'Access-Control-Request-Method': 'PUT' }
    const response = await fetch(site.origin + route, { method: 'OPTIONS', headers })
    expect(response.status).toBe(204)
    expect(corsOf(response)).toEqual({
      ...onEveryAnswer,
      'access-control-allow-methods': 'GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS',
      'access-control-allow-headers': allowedHeaders,
      'access-control-max-age': '86400',
    })
  })

  it('lets pages read an error too', async () => {
    const site = await Site.start('local disk')
    const response = await fetch(site.origin + route + (status === 404 ? '/none' : ''), request)
    expect(response.status).toBe(status)
    expect(corsOf(response)).toEqual(onEveryAnswer)
  })

  it('leaves the headers to the app with `cors: false`', async () => {
    const appCors = { 'Access-Control-Allow-Origin': 'https://app.example.com' }
    const site = await Site.start('local disk', { appCors })
    const headers = { Origin: site.otherOrigin, 'Access-Control-Request-Method': 'PUT' }
    for (const response of [
      await fetch(site.origin + route, { method: 'OPTIONS', headers }),
      await fetch(site.origin + route + (status === 404 ? '/none' : ''), request),
    ]) {
      expect(corsOf(response)).toEqual({ 'access-control-allow-origin': 'https://app.example.com' })
    }
  })
})

describe('a browser', () => {
  it('lets no page of another origin upload when the app does not allow it', async () => {
    const site = await Site.start('local disk', { appCors: {} })
    const tab = await Tab.open(site, 'uppy-tus', { crossOrigin: true })
    await tab.choose(sampleFile().path)
    expect((await tab.outcome()).error).not.toBeNull()
    // The preflights were all that left the browser.
    expect(new Set(site.exchanges.map(({ method }) => method))).toEqual(new Set(['OPTIONS']))
  })

  it('lets a page of another origin upload by the app’s own headers', async () => {
    const appCors = {
      'Access-Control-Allow-Origin': '*',
      'Access-Control-Allow-Methods': 'POST, HEAD, PATCH, DELETE',
      'Access-Control-Allow-Headers': allowedHeaders,
      'Access-Control-Expose-Headers': 'Location, Content-Location, Retry-After, Upload-Offset, Upload-Length',
    }
    const site = await Site.start('local disk', { appCors })
    const tab = await Tab.open(site, 'uppy-tus', { crossOrigin: true })
    const file = sampleFile()
    await tab.choose(file.path)
    expect(await site.sha256Of(await tab.finished())).toBe(file.sha256)
  })
})
