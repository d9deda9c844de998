/** A hundred kilobytes of the worst for every parser: the time it takes does not depend on what the text says. */
import { describe, expect, it } from 'vitest'
import { parseChecksum } from '../../src/engine/body.ts'
import { checkKey, cleanMimeType, displayName, mimeTypeMatches, safeFileName } from '../../src/engine/names.ts'
import { integerField, mediaType, queryOf } from '../../src/protocols/http.ts'
import { dispositionName, uploadMetadata } from '../../src/protocols/ietf/description.ts'
import { booleanOf, dictionaryOf, integerOf } from '../../src/protocols/ietf/fields.ts'
import { metadataOf as fieldsOf } from '../../src/protocols/metadata.ts'
import { locationOf, originOf, uploadIdInUrl, uploadIdOf } from '../../src/protocols/resource.ts'
import { dialectIn, dialectsOf, planOf } from '../../src/protocols/resumablejs/parameters.ts'
import { checksumOf, concatOf, metadataOf, numberHeader } from '../../src/protocols/tus/headers.ts'
import { partsIn } from '../../src/protocols/uppy/xml.ts'
import { cleanType, contentDisposition, encodeKey, isInline, userMetadata } from '../../src/storage/s3-headers.ts'
import { survived } from '../support/fault-points.ts'

const size = 100 * 1024
const fill = (unit: string) => unit.repeat(Math.ceil(size / unit.length)).slice(0, size)

/** Whatever repeats, nests, nearly matches, or never closes. */
const texts: readonly string[] = [
  ...[
    ' ',
    '\t',
    'a',
    '0',
    '9',
    '-',
    '.',
    '/',
    '\\',
    '"',
    '\\"',
    ';',
    ',',
    '=',
    ':',
    '%',
    '%41',
    "'",
    '(',
    '<',
    '\0',
  ].map(fill),
  ...[
    'a.',
    './',
    '../',
    'a b',
    'a=b;',
    'a="b";',
    'a,',
    ' ,',
    'a eA==,',
    ';a',
    ';a=',
    '?1,',
    '::',
    '""',
    '\r\n',
    '()',
    '[]',
  ].map(fill),
  ...['e\u0301', '\u200d', '\u202e', '\u{1f4a5}', '\ud800', '\u1100\u1161', '\u0301', '\ufdfa'].map(fill),
  ...[
    'x/y;',
    '<Part>',
    '<Part><PartNumber>1</PartNumber><ETag>x</ETag></Part>',
    'final;/files/x ',
    '&quot;',
    '__proto__ ',
  ].map(fill),
  `${fill('a')}!`,
  `${fill('0')}x`,
  `a/b;${fill(' ')}x`,
  `sha256:${fill('A')}!`,
  `sha256 ${fill('A')}=`,
  `final;${fill(' /a')}`,
  `attachment; filename="${fill('\\')}`,
  `attachment; filename*=UTF-8''${fill('%C3')}`,
  `"${fill('a')}`,
  `:${fill('QUJD')}`,
  `key ${fill('QUJD')}`,
]

const limits = {
  maxChunkSize: 5_000_000,
  maxFileSize: 5_000_000_000,
  maxChunks: 10_000,
  maxSessions: 10,
  maxSessionsPerOwner: 10,
  maxTempBytes: 1,
  minFreeBytes: 0,
  bodyIdleTimeout: 1,
  allowedMimeTypes: [],
}
const request = (url: string, headers: Record<string, string> = {}) =>
  ({ url, headers, socket: {}, method: 'GET' }) as never
const [resumable] = dialectsOf({})
const parameters = (text: string) => {
  if (!resumable) throw new Error('there is no dialect')
  const names = [
    'number',
    'chunkSize',
    'totalSize',
    'totalChunks',
    'identifier',
    'fileName',
    'relativePath',
    'type',
  ] as const
  return Object.fromEntries(names.map((name) => [resumable[name] ?? '', text]))
}

const parsers: Record<string, (text: string) => unknown> = {
  displayName,
  safeFileName,
  cleanMimeType,
  'mimeTypeMatches (type)': (text) => mimeTypeMatches(text, ['image/*', 'video/mp4']),
  checkKey,
  parseChecksum,
  'tus Upload-Length': (text) => numberHeader({ 'upload-length': text }, 'upload-length'),
  'tus Upload-Metadata': (text) => metadataOf({ 'upload-metadata': text }),
  'tus Upload-Metadata, cut': (text) => metadataOf({ 'upload-metadata': text.slice(0, 8 * 1024) }),
  'tus Upload-Checksum': checksumOf,
  'tus Upload-Concat': (text) => concatOf({ 'upload-concat': text }),
  'IETF Integer': integerOf,
  'IETF Boolean': booleanOf,
  'IETF Dictionary': dictionaryOf,
  'IETF Content-Disposition': dispositionName,
  'IETF Upload-Metadata': uploadMetadata,
  'an integer of a body': (text) => integerField({ n: text }, 'n'),
  'Content-Type': (text) => mediaType(request('/', { 'content-type': text })),
  'the query': (text) => queryOf(request(`/x?${text}`)),
  'the id in the path': (text) => uploadIdOf(request(text)),
  'the id in a URL': uploadIdInUrl,
  Location: (text) => locationOf(request(text), 'id', {}),
  Host: (text) => originOf(request('/', { host: text })),
  'Resumable.js, fields': (text) => resumable && planOf(resumable, new URLSearchParams(), parameters(text), limits),
  'Resumable.js, query': (text) => resumable && planOf(resumable, new URLSearchParams(parameters(text)), {}, limits),
  'Resumable.js, dialect': (text) => dialectIn(dialectsOf({}), new URLSearchParams(text), {}),
  'the list of parts': (text) => partsIn(text, 10_000),
  'the fields of a form': (text) => fieldsOf([[text.slice(0, 1000), text]]),
  'S3 Content-Type': cleanType,
  'S3 inline': (text) => isInline(text, ['image/*']),
  'S3 Content-Disposition': (text) => contentDisposition(false, text),
  'S3 metadata': (text) => userMetadata('x', { [text.slice(0, 1000)]: text }),
  'S3 key': encodeKey,
}

/** The quickest of a few tries: a busy machine is not what is measured. */
function quickest(parse: (text: string) => unknown, text: string, enough: number): number {
  let best = Number.POSITIVE_INFINITY
  for (let attempt = 0; attempt < 12 && best > enough; attempt++) {
    const started = performance.now()
    try {
      parse(text)
    } catch (error) {
      // What it does not like it may refuse, in its own words.
      expect((error as { status?: number }).status).toBeGreaterThanOrEqual(400)
      expect((error as { status?: number }).status).toBeLessThan(500)
    }
    best = Math.min(best, performance.now() - started)
  }
  return best
}

/** Those that work through all of it. What comes in headers has 16 KiB at most. */
const thorough = new Set([
  'IETF Dictionary',
  'IETF Upload-Metadata',
  'S3 metadata',
  'S3 key',
  'the query',
  'Resumable.js, dialect',
  'the list of parts',
])

describe('100 KiB', () => {
  it.each(Object.entries(parsers))('cost %s no more than a moment, whatever they say [A12]', (name, parse) => {
    for (const text of texts) {
      const allowed = thorough.has(name) ? 60 : 5
      const took = quickest(parse, text, allowed)
      expect(took, `${JSON.stringify(text.slice(0, 30))} took ${took.toFixed(1)} ms`).toBeLessThan(allowed)
    }
    survived('attack', `100 KiB for ${name}`, texts.length)
  })

  it('would be told: a parser that is not linear takes long [A12]', () => {
    const quadratic = (text: string) => /a+$/.exec(text)
    expect(quickest(quadratic, `${fill('a').slice(0, 12_000)}!`, 5)).toBeGreaterThan(5)
  })
})
