import { IncomingMessage, ServerResponse } from 'node:http'
import { Socket } from 'node:net'
import { describe, expect, it } from 'vitest'
import { describeFile, dispositionName, uploadMetadata } from '../../src/protocols/ietf/description.ts'
import { checksumOf, digestField } from '../../src/protocols/ietf/digests.ts'
import { booleanOf, dictionaryOf, integerOf, integersField } from '../../src/protocols/ietf/fields.ts'
import { completenessOf, dialectOf, setCompleteness } from '../../src/protocols/ietf/interop.ts'

function requestWith(headers: Record<string, string>): IncomingMessage {
  const request = new IncomingMessage(new Socket())
  for (const [name, value] of Object.entries(headers)) request.headers[name.toLowerCase()] = value
  return request
}

describe('an Integer field', () => {
  it.each([
    ['0', 0],
    ['-0', 0],
    ['5', 5],
    ['007', 7],
    ['5;a=1', 5],
    ['5; a; b="x"', 5],
    ['  5  ', 5],
    ['999999999999999', 999_999_999_999_999],
  ])('%j is %d', (text, value) => {
    expect(integerOf(text)).toBe(value)
  })

  it.each([
    undefined,
    '',
    '"5"',
    '-1',
    '+1',
    '1.0',
    '5.',
    '1e3',
    '0x5',
    '5 6',
    '1, 2',
    '5;',
    '5;A=1',
    '5 ;a=1',
    '?1',
    ':NQ==:',
    '@5',
    'five',
    'NaN',
    'Infinity',
    '9999999999999999',
    '５',
  ])('%j counts as missing', (text) => {
    expect(integerOf(text)).toBeUndefined()
  })
})

describe('a Boolean field', () => {
  it.each([
    ['?1', true],
    ['?0', false],
    ['?1;x', true],
    [' ?0 ', false],
  ])('%j is %s', (text, value) => {
    expect(booleanOf(text)).toBe(value)
  })

  it.each([undefined, '', '?2', '?', '1', '0', 'true', '"?1"', '?1, ?1', '?1?1', '? 1'])(
    '%j counts as missing',
    (text) => {
      expect(booleanOf(text)).toBeUndefined()
    },
  )
})

describe('a Dictionary field', () => {
  it('that is malformed anywhere counts as missing', () => {
    expect(dictionaryOf('a=1, b')?.size).toBe(2)
    for (const text of [undefined, '', 'a=1,', 'A=1', 'a=1 b=2', '=1']) expect(dictionaryOf(text)).toBeUndefined()
  })

  it('leaves out what an Integer cannot hold', () => {
    expect(integersField({ 'max-size': 10, 'max-age': 0 })).toBe('max-size=10, max-age=0')
    expect(integersField({ a: Number.POSITIVE_INFINITY, b: Number.MAX_SAFE_INTEGER, c: 1 })).toBe('c=1')
  })
})

describe('the interop version', () => {
  const field = 'Upload-Draft-Interop-Version'

  it.each([3, 4, 5, 6, 7, 8, 9])('%d is spoken', (version) => {
    const dialect = dialectOf(requestWith({ [field]: `${version};p` }))
    expect([dialect.interop.version, dialect.standing]).toEqual([version, 'announced'])
  })

  it.each(['0', '1', '2', '10', '999999999999999'])('%s is not', (version) => {
    expect(dialectOf(requestWith({ [field]: version })).standing).toBe('unknown')
  })

  it.each([{}, { [field]: '"9"' }, { [field]: '9, 9' }, { [field]: '8.0' }])(
    'missing or malformed means the newest: %j',
    (headers) => {
      expect(dialectOf(requestWith(headers as Record<string, string>))).toMatchObject({
        interop: { version: 9 },
        standing: 'unannounced',
      })
    },
  )

  it('3 says Upload-Incomplete, with the opposite meaning', () => {
    const { interop } = dialectOf(requestWith({ [field]: '3' }))
    expect(completenessOf(requestWith({ 'Upload-Incomplete': '?1' }), interop)).toBe(false)
    expect(completenessOf(requestWith({ 'Upload-Incomplete': '?0' }), interop)).toBe(true)
    expect(completenessOf(requestWith({ 'Upload-Complete': '?0' }), interop)).toBeUndefined()
    const response = new ServerResponse(requestWith({}))
    setCompleteness(response, interop, true)
    expect(response.getHeaders()).toEqual({ 'upload-incomplete': '?0' })
  })

  it('decides what differs between the drafts', () => {
    const rows = [3, 4, 5, 6, 7, 8, 9].map((version) => dialectOf(requestWith({ [field]: String(version) })).interop)
    expect(rows.map(({ appendType }) => appendType)).toEqual([false, false, false, true, true, true, true])
    expect(rows.map(({ age }) => age)).toEqual([null, null, null, 'expires', 'max-age', 'max-age', 'max-age'])
    expect(rows.map(({ progress }) => progress)).toEqual([false, false, true, true, true, true, true])
    expect(rows.map(({ appended }) => appended)).toEqual([201, 201, 201, 201, 204, 204, 204])
    expect(rows.map(({ implicit }) => implicit)).toEqual([true, true, true, true, false, false, false])
    expect(rows.map(({ bareRetrieval }) => bareRetrieval)).toEqual([true, true, true, true, false, false, false])
  })
})

describe('digest fields', () => {
  const sha256 = 'X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE='

  it('become the checksum of the strongest algorithm that is known', () => {
    expect(checksumOf(`sha-256=:${sha256}:`)).toBe(`sha256:${sha256}`)
    expect(checksumOf(`md5=:AAAA:, sha-256=:${sha256}:;p=1, unknown=:AAAA:`)).toBe(`sha256:${sha256}`)
    expect(checksumOf('sha=:AAAA:')).toBe('sha1:AAAA')
    expect(checksumOf('md5=:AAAA:, sha-512=:AQID:')).toBe('sha512:AQID')
  })

  it.each([
    undefined,
    '',
    'crc64=:AAAA:',
    'sha-256="abc"',
    'sha-256=1',
    'sha-256',
    'sha-256=(:AAAA:)',
    'SHA-256=:AAAA:',
    'sha-256=:AA',
  ])('%j says nothing that can be checked', (field) => {
    expect(checksumOf(field)).toBeUndefined()
  })

  it('are sent back when they are wanted and known', () => {
    expect(digestField(`sha256:${sha256}`, 'sha-256=10')).toBe(`sha-256=:${sha256}:`)
    expect(digestField(`sha256:${sha256}`, 'sha-512=5')).toBe(`sha-256=:${sha256}:`)
    expect(digestField(`sha256:${sha256}`, 'sha-256=0')).toBeUndefined()
    expect(digestField(`sha256:${sha256}`, undefined)).toBeUndefined()
    expect(digestField(undefined, 'sha-256=1')).toBeUndefined()
    expect(digestField('crc32c:AAAAAA==', 'sha-256=1')).toBeUndefined()
  })
})

describe('the file name [R8]', () => {
  it.each([
    ['attachment; filename="a.txt"', 'a.txt'],
    ['inline;filename=a.txt', 'a.txt'],
    ['inline; FileName="a \\"b\\" \\\\ c.txt"', 'a "b" \\ c.txt'],
    ['inline; filename="plain.txt"; filename*=UTF-8\'\'h%C3%A4%C3%9F.txt', 'häß.txt'],
    ["inline; filename*=utf-8'de'h%c3%a4.txt", 'hä.txt'],
    ['inline; filename*=UTF-8\'\'%FF%FE; filename="plain.txt"', 'plain.txt'],
    ['inline; filename*=UTF-8\'\'%zz; filename="plain.txt"', 'plain.txt'],
    [`inline; filename="${Buffer.from('häß.txt').toString('latin1')}"`, 'häß.txt'],
    ['inline; filename="h\xe4.txt"', 'hä.txt'],
    ['form-data; name="file"; filename="x;y=z.bin"', 'x;y=z.bin'],
  ])('%j is %j', (header, name) => {
    expect(dispositionName(header)).toBe(name)
  })

  it.each([
    undefined,
    '',
    'inline',
    'inline;',
    'inline; filename',
    'inline; filename=',
    'inline; filename=""',
    'inline; filename="a',
    'inline; filename="a"b',
    'inline; filename=a b.txt',
    'inline; filename="a"; filename="b"',
    'inline; filename="a\rb"',
    'inline; filename="a\x00b"',
    'inline; filename="a\\\nb"',
    "inline; filename*=UTF-16''a",
    '; filename="a"',
    'filename="a"',
    'inline, attachment; filename="a"',
    `inline; filename="${'a'.repeat(5000)}"`,
  ])('%j has none', (header) => {
    expect(dispositionName(header)).toBeUndefined()
  })

  it('costs no more than a moment however the header is made', () => {
    const started = process.cpuUsage()
    for (const piece of ['; a=b', '\\"', ' ', ';', '"', "%41'", 'a=']) {
      dispositionName(`inline; filename="${piece.repeat(4000)}`)
      dispositionName(`inline; ${piece.repeat(4000 / piece.length - 10)}`)
    }
    expect(process.cpuUsage(started).user).toBeLessThan(500_000)
  })
})

describe('the description of a file [R8]', () => {
  const base64 = (text: string) => Buffer.from(text).toString('base64')

  it('takes type and name from the headers made for it', () => {
    const headers = { 'Content-Type': 'video/mp4', 'Content-Disposition': 'inline; filename="a.mp4"' }
    const metadata = `filename ${base64('tus.bin')},filetype ${base64('text/plain')}`
    expect(describeFile(requestWith({ ...headers, 'Upload-Metadata': metadata }))).toEqual({
      fileName: 'a.mp4',
      mimeType: 'video/mp4',
      metadata: { filename: 'tus.bin', filetype: 'text/plain' },
    })
  })

  it('falls back to the metadata of tus, and never takes the type of a piece for the type of the file', () => {
    const metadata = `filename ${base64('tüs.bin')},filetype ${base64('text/plain')}`
    const type = { 'Content-Type': 'application/partial-upload' }
    expect(describeFile(requestWith({ ...type, 'Upload-Metadata': metadata }))).toMatchObject({
      fileName: 'tüs.bin',
      mimeType: 'text/plain',
    })
    expect(describeFile(requestWith(type))).toEqual({ fileName: '', mimeType: '', metadata: {} })
  })

  it('keeps the content coding', () => {
    expect(describeFile(requestWith({ 'Content-Encoding': 'GZIP' })).metadata).toEqual({ contentEncoding: 'gzip' })
    expect(describeFile(requestWith({ 'Content-Encoding': 'identity' })).metadata).toEqual({})
  })

  it('leaves out what is malformed in the metadata of tus', () => {
    const header = ` a ${base64('1')} , b ${base64('2')},c,d !!!,e ${base64('5')} x,,  ,ü ${base64('6')},__proto__ ${base64('7')}`
    const metadata = uploadMetadata(header)
    expect(Object.entries(metadata)).toEqual([
      ['a', '1'],
      ['b', '2'],
      ['c', ''],
      ['__proto__', '7'],
    ])
    expect(Object.getPrototypeOf(metadata)).toBe(Object.prototype)
    expect(uploadMetadata(undefined)).toEqual({})
  })
})
