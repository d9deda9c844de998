import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { checkKey, cleanMimeType, displayName, mimeTypeMatches, safeFileName } from '../../src/engine/names.ts'
import { InvalidRequestError } from '../../src/errors.ts'

describe('a name for display', () => {
  it('is the last component, without what cannot be seen', () => {
    expect(displayName('a/b\\c.txt')).toBe('c.txt')
    expect(displayName(' c d.txt ')).toBe('c d.txt')
    expect(displayName('a\u0000b\u202ec\u2028d\u2029e')).toBe('abcde')
    expect(displayName('e\u0301')).toBe('\u00e9')
    expect(displayName('a\ud800b')).toBe('a\ufffdb')
  })

  it('is "file" when nothing is left', () => {
    for (const name of ['', '/', 'a/', ' ', '\u0000']) expect(displayName(name)).toBe('file')
  })

  it('has 255 characters at most, none of them half', () => {
    expect(displayName('a'.repeat(255))).toBe('a'.repeat(255))
    expect(displayName('a'.repeat(256))).toBe('a'.repeat(255))
    expect(displayName(`${'a'.repeat(254)}😀`)).toBe(`${'a'.repeat(254)}\ufffd`)
    expect(displayName(`b/${'a'.repeat(4095)}`)).toBe('a'.repeat(255))
    expect(displayName(`x${'b'.repeat(255)}${'a'.repeat(4096 - 255)}`)).toBe('b'.repeat(255))
  })
})

describe('a name for a key', () => {
  it('has letters, digits, dots, lines and underscores of any script', () => {
    expect(safeFileName('截图 (1).png')).toBe('截图_1_.png')
    expect(safeFileName('a   b.txt')).toBe('a_b.txt')
    expect(safeFileName('x-1_y.tar.gz')).toBe('x-1_y.tar.gz')
  })

  it('neither begins nor ends with dots', () => {
    expect(safeFileName('..a')).toBe('_a')
    expect(safeFileName('a...')).toBe('a_')
    expect(safeFileName('...')).toBe('_')
    expect(safeFileName('a..b')).toBe('a..b')
  })

  it('is not that of a device', () => {
    for (const name of ['con', 'PRN', 'aux.txt', 'nul', 'com1', 'LPT9.log', 'com¹', 'lpt³']) {
      expect(safeFileName(name)).toBe(`_${name}`.normalize('NFC'))
    }
    for (const name of ['console', 'com', 'com10', 'acon', 'lpt.txt', 'nully.txt'])
      expect(safeFileName(name)).toBe(name)
  })

  it('has 200 bytes at most, with an extension of at most 20 bytes kept', () => {
    const bytes = (name: string) => Buffer.byteLength(safeFileName(name))
    expect(safeFileName('a'.repeat(200))).toBe('a'.repeat(200))
    expect(safeFileName('a'.repeat(201))).toBe('a'.repeat(200))
    expect(safeFileName(`${'a'.repeat(200)}.png`)).toBe(`${'a'.repeat(196)}.png`)
    const longest = `.${'e'.repeat(19)}`
    expect(safeFileName(`${'a'.repeat(200)}${longest}`)).toBe(`${'a'.repeat(180)}${longest}`)
    expect(safeFileName(`${'a'.repeat(200)}${longest}e`)).toBe('a'.repeat(200))
    expect(safeFileName(`${'é'.repeat(101)}.png`)).toBe(`${'é'.repeat(98)}.png`)
    expect(bytes('é'.repeat(101))).toBe(200)
    expect(bytes('😀'.repeat(60))).toBeLessThanOrEqual(200)
    expect(safeFileName(`${'a'.repeat(199)}.${'b'.repeat(40)}`)).toBe('a'.repeat(199))
    expect(safeFileName(`${'a'.repeat(197)}...${'b'.repeat(40)}`)).toBe('a'.repeat(197))
  })

  it('stays as it is when it is made safe again', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary', maxLength: 300 }), (name) => {
        const safe = safeFileName(name)
        expect(safeFileName(safe)).toBe(safe)
        expect(Buffer.byteLength(safe)).toBeLessThanOrEqual(200)
        expect(safe).toMatch(/^[\p{L}\p{N}_-][\p{L}\p{N}._-]*$/u)
      }),
      { numRuns: 300 },
    )
  })
})

describe('a media type', () => {
  it('is lower case and without parameters', () => {
    expect(cleanMimeType('Image/PNG')).toBe('image/png')
    expect(cleanMimeType(' text/plain ; charset=utf-8')).toBe('text/plain')
    expect(cleanMimeType('application/vnd.a+b')).toBe('application/vnd.a+b')
  })

  it('that is none is unknown', () => {
    const long = 'a'.repeat(64)
    for (const type of [
      undefined,
      '',
      'image',
      'image/',
      '/png',
      'a/b/c',
      'a b/c',
      'x a/b',
      `${long}a/b`,
      `a/${long}b`,
    ]) {
      expect(cleanMimeType(type)).toBe('application/octet-stream')
    }
    expect(cleanMimeType(`${long}/${long}`)).toBe(`${long}/${long}`)
    expect(cleanMimeType(`text/plain;${'x'.repeat(300)}`)).toBe('text/plain')
    expect(cleanMimeType(`${' '.repeat(252)}a/bc`)).toBe('a/b')
  })

  it('is allowed by its name or its kind, whatever the case, and always when nothing is said', () => {
    expect(mimeTypeMatches('image/png', [])).toBe(true)
    expect(mimeTypeMatches('image/png', ['text/plain', 'Image/PNG'])).toBe(true)
    expect(mimeTypeMatches('image/png', ['Image/*'])).toBe(true)
    expect(mimeTypeMatches('image/png', ['image/jpeg', 'text/*'])).toBe(false)
    expect(mimeTypeMatches('imagex/png', ['image/*'])).toBe(false)
    expect(mimeTypeMatches('image/png', ['image/p'])).toBe(false)
  })
})

describe('a key that was chosen', () => {
  it('is a relative path', () => {
    for (const key of [
      'a',
      'a/b/c.txt',
      '...',
      'a/...b',
      'a.',
      '.hidden',
      'ab:c',
      `${'a'.repeat(255)}/b`,
      'nexus-uploader',
    ]) {
      expect(checkKey(key)).toBe(key)
    }
    expect(checkKey(`${`${'a'.repeat(203)}/`.repeat(5)}abcd`)).toHaveLength(1024)
  })

  it('is refused when a storage could not have it', () => {
    const bad = [
      '',
      '/a',
      'a/',
      'a//b',
      '.',
      '..',
      'a/../b',
      './a',
      'c:',
      'C:/a',
      'a/d:b',
      '.nexus-uploader',
      'a/.nexus-uploader-x',
    ]
    const worse = [
      'a\\b',
      'a\u0000b',
      'a\nb',
      'a\ud800',
      'a'.repeat(256),
      `${`${'a'.repeat(203)}/`.repeat(5)}abcde`,
      '.Nexus-Uploader',
    ]
    for (const key of [...bad, ...worse]) {
      expect(() => checkKey(key), key).toThrow(InvalidRequestError)
      expect(() => checkKey(key), key).toThrow(expect.objectContaining({ code: 'INVALID_KEY' }))
    }
  })
})
