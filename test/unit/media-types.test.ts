import { fileTypeFromBuffer, supportedMimeTypes } from 'file-type'
import { describe, expect, it } from 'vitest'
import { canBe } from '../../src/engine/media-types.ts'

const isRecognizable = (mimeType: string) => (supportedMimeTypes as ReadonlySet<string>).has(mimeType)
const binary = Buffer.from([0, 1, 2])

function check(declared: string, detected: string | null, { bytes = binary as Buffer, strict = false } = {}): boolean {
  return canBe(declared, { detected, bytes, isRecognizable }, strict)
}

describe('a declared type and what the bytes show', () => {
  it('contradict each other', () => {
    for (const [declared, detected] of [
      ['image/png', 'application/x-msdownload'],
      ['image/png', 'image/jpeg'],
      ['image/jpeg', 'application/pdf'],
      ['image/svg+xml', 'application/zip'],
      ['video/mp4', 'application/x-elf'],
      ['video/mp4', 'video/webm'],
      ['audio/mpeg', 'video/mp4'],
      ['application/pdf', 'application/zip'],
      ['application/zip', 'application/pdf'],
      ['application/vnd.openxmlformats-officedocument.wordprocessingml.document', 'application/x-msdownload'],
      [
        'application/vnd.openxmlformats-officedocument.wordprocessingml.document',
        'application/vnd.android.package-archive',
      ],
      ['application/msword', 'application/x-msdownload'],
      ['text/plain', 'application/x-msdownload'],
      ['text/csv', 'application/zip'],
      ['application/json', 'image/png'],
      ['application/x-unheard-of', 'application/x-msdownload'],
      ['image/x-unheard-of', 'application/zip'],
    ] as const) {
      expect(check(declared, detected), `${declared} ${detected}`).toBe(false)
    }
  })

  it('go together', () => {
    for (const [declared, detected] of [
      ['image/png', 'image/png'],
      ['image/jpg', 'image/jpeg'],
      ['image/png', 'image/apng'],
      ['image/x-icon', 'image/x-icon'],
      ['audio/mp3', 'audio/mpeg'],
      ['audio/x-wav', 'audio/wav'],
      ['audio/ogg', 'audio/ogg; codecs=opus'],
      ['video/quicktime', 'video/mp4'],
      ['audio/mp4', 'audio/x-m4a'],
      ['video/x-matroska', 'video/matroska'],
      ['audio/webm', 'video/webm'],
      ['video/x-msvideo', 'video/vnd.avi'],
      ['video/x-ms-wmv', 'video/x-ms-asf'],
      ['application/x-zip-compressed', 'application/zip'],
      ['application/vnd.openxmlformats-officedocument.wordprocessingml.document', 'application/zip'],
      ['application/vnd.oasis.opendocument.text', 'application/zip'],
      ['application/zip', 'application/vnd.openxmlformats-officedocument.spreadsheetml.sheet'],
      ['application/vnd.sketch', 'application/zip'],
      ['application/msword', 'application/x-cfb'],
      ['image/svg+xml', 'application/xml'],
      ['text/xml', 'application/xml'],
      ['application/gpx+xml', 'application/xml'],
      ['application/x-gzip', 'application/gzip'],
      ['application/vnd.rar', 'application/x-rar-compressed'],
      ['image/x-adobe-dng', 'image/tiff'],
      ['application/octet-stream', 'application/x-msdownload'],
    ] as const) {
      expect(check(declared, detected), `${declared} ${detected}`).toBe(true)
    }
  })

  it('a text that begins like a picture or a program is still a text', async () => {
    for (const text of ['BMW builds cars.', 'MZ is a pair of letters', 'ID3 tags', '%!PS', 'é'.repeat(40)]) {
      const bytes = Buffer.from(text.padEnd(300, ' and so on'))
      const detected = (await fileTypeFromBuffer(bytes))?.mime ?? null
      expect(check('text/plain', detected, { bytes }), text).toBe(true)
    }
    const cutOff = Buffer.from('BMé').subarray(0, 3)
    expect(check('text/plain', 'image/bmp', { bytes: cutOff })).toBe(true)
    expect(check('text/plain', 'image/bmp', { bytes: Buffer.from('BM\0\0') })).toBe(false)
    expect(check('text/plain', 'image/bmp', { bytes: Buffer.from('BM\xff\xfe', 'latin1') })).toBe(false)
    expect(check('image/png', 'image/bmp', { bytes: Buffer.from('BM') })).toBe(false)
  })

  it('bytes of no known type can be anything; with an allow-list, what is not recognised by its bytes', () => {
    for (const declared of ['image/png', 'text/plain', 'application/x-unheard-of']) {
      expect(check(declared, null)).toBe(true)
    }
    expect(check('image/png', null, { strict: true })).toBe(false)
    expect(check('application/pdf', null, { strict: true })).toBe(false)
    expect(check('text/plain', null, { strict: true })).toBe(true)
    expect(check('image/svg+xml', null, { strict: true })).toBe(true)
    expect(check('application/octet-stream', null, { strict: true })).toBe(true)
  })
})
