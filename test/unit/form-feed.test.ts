/** Forms read by `readForm`, which takes the bytes of the file past busboy, beside multer that sees every byte. */
import { type IncomingMessage, ServerResponse } from 'node:http'
import { Readable, Writable } from 'node:stream'
import { buffer } from 'node:stream/consumers'
import { pipeline } from 'node:stream/promises'
import { setTimeout as pause } from 'node:timers/promises'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import fc from 'fast-check'
import multer from 'multer'
import { expect, test } from 'vitest'
import { readForm } from '../../src/protocols/chunk-body.ts'
import { delimiterOf, FormFeed } from '../../src/protocols/form-feed.ts'

const boundary = 'x--x'
const MiB = 1024 * 1024

type Pieces = Iterable<Buffer> | AsyncIterable<Buffer>

function requestOf(pieces: Pieces, type = `multipart/form-data; boundary=${boundary}`): IncomingMessage {
  return Object.assign(Readable.from(pieces, { objectMode: false }), {
    headers: { 'content-type': type, 'transfer-encoding': 'chunked' },
  }) as unknown as IncomingMessage
}

function part(name: string, content: string | Buffer, fileName?: string): Buffer {
  const file = fileName === undefined ? '' : `; filename="${fileName}"\r\nContent-Type: application/octet-stream`
  const head = `--${boundary}\r\nContent-Disposition: form-data; name="${name}"${file}\r\n\r\n`
  return Buffer.concat([Buffer.from(head), Buffer.from(content), Buffer.from('\r\n')])
}

const last = Buffer.from(`--${boundary}--\r\n`)

async function read(pieces: Pieces, type?: string, before: () => Promise<unknown> = async () => {}) {
  const request = requestOf(pieces, type)
  const plan = { fieldName: 'chunk', maxBytes: 64 * MiB, idleTimeout: 30_000 }
  const take = async ({ stream }: { stream: Readable }) => {
    await before()
    return (await buffer(stream)).toString('latin1')
  }
  const { fields, file } = await readForm(request, new ServerResponse(request), plan, take)
  return { fields: { ...fields }, file }
}

/** The same by multer alone. */
async function readPlainly(pieces: Pieces) {
  const request = requestOf(pieces) as IncomingMessage & { body?: object; file?: { buffer: Buffer } }
  const upload = multer({
    storage: multer.memoryStorage(),
    limits: { fields: 8, fieldNameSize: 64, fieldSize: 1024, files: 1, parts: 10, headerPairs: 32 },
  })
  await new Promise<void>((resolve, reject) => {
    upload.single('chunk')(request as never, new ServerResponse(request) as never, (error: unknown) =>
      error ? reject(error) : resolve(),
    )
  })
  return { fields: { ...request.body }, file: request.file ? request.file.buffer.toString('latin1') : null }
}

/** Bytes full of what may begin a delimiter. */
const tricky = fc
  .array(
    fc.oneof(
      fc.constantFrom('\r', '\n', '\r\n', '-', '--', 'x', '\r\n--', '\r\n--x', '\r\n--x-', '\r\n--x--', '\r\r\n--x'),
      fc.string({ maxLength: 5 }),
    ),
    { maxLength: 30 },
  )
  .map((words) => words.join(''))

/** The same, some of them with enough around them to be searched and split as large ones are. */
const trickyOfAnySize = fc
  .tuple(tricky, fc.constantFrom(0, 0, 900, 2500), tricky)
  .map(([begin, size, end]) => `${begin}${'\r-x.'.repeat(size / 4)}${end}`)

function cutAt(data: Buffer, places: readonly number[]): Buffer[] {
  const ends = [...new Set(places.map((place) => place % (data.length + 1)))].sort((a, b) => a - b)
  return [0, ...ends].map((start, i) => data.subarray(start, ends[i] ?? data.length)).filter(({ length }) => length > 0)
}

const cuts = fc.oneof(fc.array(fc.nat(4000), { maxLength: 40 }), fc.array(fc.nat(4000), { maxLength: 3 }))

test('the file is what lies between its head and the next delimiter, however the form is cut', async () => {
  const content = trickyOfAnySize.filter((text) => !`${text}\r\n`.includes(`\r\n--${boundary}`))
  await fc.assert(
    fc.asyncProperty(content, fc.boolean(), cuts, async (file, fileFirst, places) => {
      const parts = [part('note', 'a'), part('chunk', file, 'blob')]
      const form = Buffer.concat([...(fileFirst ? parts.reverse() : parts), part('last', 'b'), last])
      const result = await read(cutAt(form, places))
      expect(result).toEqual({ fields: { note: 'a', last: 'b' }, file: Buffer.from(file).toString('latin1') })
    }),
    { numRuns: 500 },
  )
})

test('what multer alone makes of a form that is cut and broken anywhere is what comes out', async () => {
  await fc.assert(
    fc.asyncProperty(
      trickyOfAnySize,
      cuts,
      fc.array(fc.tuple(fc.nat(4000), fc.constantFrom('', '\r', '-', 'x', '\r\n', `\r\n--${boundary}`)), {
        maxLength: 3,
      }),
      async (file, places, wounds) => {
        let text = Buffer.concat([part('note', 'a'), part('chunk', file, 'blob'), part('last', 'b'), last]).toString(
          'latin1',
        )
        for (const [at, put] of wounds) {
          const place = at % text.length
          text = text.slice(0, place) + put + text.slice(place + 1)
        }
        const form = Buffer.from(text, 'latin1')
        const outcome = (reading: Promise<object>) =>
          Promise.race([reading.catch(() => 'refused'), pause(100, 'refused', { ref: false })])
        // Whether busboy refuses what is malformed, and whether it sees what follows the end, depends on how it is cut.
        // Where a head is cut by a delimiter, it goes on with the head; we refuse it.
        const isTorn = wounds.some(([, put]) => put.length > 2) || `${file}\r\n`.includes(`\r\n--${boundary}`)
        const plainly = [[form], cutAt(form, [...form.keys()]), cutAt(form, places)]
        const outcomes = await Promise.all(plainly.map((pieces) => outcome(readPlainly(pieces))))
        expect([...outcomes, isTorn && 'refused']).toContainEqual(await outcome(read(cutAt(form, places))))
      },
    ),
    { numRuns: 500 },
  )
})

test('a head with a delimiter in it is refused, however the form is cut', async () => {
  const delimiter = `\r\n--${boundary}`
  const disposition = 'Content-Disposition: form-data; name="chunk"; filename="blob"'
  for (const head of [
    `Content-Disp${delimiter}osition: form-data; name="chunk"; filename="blob"`,
    `${disposition}${delimiter}`,
    `${disposition}${delimiter}\r\nContent-Type: a/b`,
  ]) {
    for (const content of ['', '\r\na: b\r\n\r\n', '--', 'some bytes']) {
      for (const first of ['', '\r\n', 'preamble\r\n', part('note', 'a')]) {
        const form = Buffer.from(`${first}--${boundary}\r\n${head}\r\n\r\n${content}\r\n${last}`)
        for (const pieces of [[form], cutAt(form, [...form.keys()])]) {
          await expect(read(pieces), `${form}`).rejects.toMatchObject({ code: 'INVALID_FORM' })
        }
      }
    }
  }
})

test('what is around the parts does not matter, however the form is cut', async () => {
  const parts = Buffer.concat([part('note', 'a'), part('chunk', 'bytes', 'blob')])
  const after = [
    last,
    Buffer.concat([last, last]),

    Buffer.from(`${last}epilogue\r\n${last}`),
  ]
  for (const before of ['', '\r\n', 'preamble\r\n', `--${boundary}\r\n`]) {
    for (const end of after) {
      const form = Buffer.concat([Buffer.from(before), parts, end])
      for (const pieces of [[form], cutAt(form, [...form.keys()])]) {
        expect(await read(pieces), `${form}`).toEqual({ fields: { note: 'a' }, file: 'bytes' })
      }
    }
  }
})

test('the file ends with an error when the form ends in it', async () => {
  const form = Buffer.concat([part('note', 'a'), part('chunk', 'all of it', 'blob')])
  await expect(read([form.subarray(0, form.length - 4)])).rejects.toThrow('Unexpected end of form')
  await expect(read([form])).rejects.toThrow('Unexpected end of form')
})

test('a request is paused while nobody reads the file', async () => {
  const piece = Buffer.alloc(64 * 1024)
  let given = 0
  function* pieces() {
    yield part('chunk', '', 'blob').subarray(0, -2)
    for (; given < 64; given++) yield piece
    yield Buffer.concat([Buffer.from('\r\n'), last])
  }
  const request = requestOf(pieces())
  const reading = readForm(
    request,
    new ServerResponse(request),
    { fieldName: 'chunk', maxBytes: 64 * MiB, idleTimeout: 30_000 },
    async ({ stream }) => {
      await new Promise((resolve) => setTimeout(resolve, 100))
      expect(given).toBeLessThan(3)
      return (await buffer(stream)).length
    },
  )
  expect((await reading).file).toBe(4 * MiB)
})

test('nothing is laid by for a taker that pauses, and it gets all in the end, in whatever way it reads', async () => {
  const content = Buffer.alloc(MiB, 'a')
  const form = Buffer.concat([part('chunk', content, 'blob'), part('note', 'b'), last])
  const pieces = Array.from({ length: Math.ceil(form.length / 50_000) }, (_, i) =>
    form.subarray(i * 50_000, (i + 1) * 50_000),
  )
  const ways: ((stream: Readable, request: Readable) => Promise<number>)[] = [
    (stream, request) =>
      new Promise((resolve, reject) => {
        let size = 0
        stream.on('data', (data: Buffer) => {
          size += data.length
          stream.pause()
          setTimeout(() => {
            // The first piece brings the head too, and is given in two; the last one ends the file, and the form goes on.
            const isBetween = size > 50_000 && size < MiB
            if (isBetween && (stream.readableLength > 0 || !request.isPaused())) reject(new Error('Bytes are laid by.'))
            stream.resume()
          }, 5)
        })
        stream.once('end', () => resolve(size))
      }),
    async (stream) => {
      let size = 0
      const slow = new Writable({
        highWaterMark: 1,
        write(data, _encoding, done) {
          size += data.length
          setTimeout(done, 2)
        },
      })
      await pipeline(stream, slow)
      return size
    },
    async (stream) => {
      let size = 0
      for await (const data of stream) size += data.length
      return size
    },
  ]
  for (const way of ways) {
    const request = requestOf(pieces)
    const plan = { fieldName: 'chunk', maxBytes: 64 * MiB, idleTimeout: 30_000 }
    const reading = readForm(request, new ServerResponse(request), plan, ({ stream }) => way(stream, request))
    expect(await reading).toMatchObject({ fields: { note: 'b' }, file: MiB })
  }
})

test('a form goes on behind a file that was more than its taker had room for', async () => {
  const content = Buffer.alloc(MiB, 'a')
  const form = Buffer.concat([part('chunk', content, 'blob'), part('note', 'b'), last])
  const early = form.length - 20
  expect(await read([form])).toEqual({ fields: { note: 'b' }, file: content.toString() })
  expect(await read([form.subarray(0, 70_000), form.subarray(70_000)])).toEqual(await read([form]))
  // By then the stream has ended, and asks for no more.
  const pieces = [form.subarray(0, early), form.subarray(early)]
  expect(await read(pieces, undefined, () => pause(50))).toEqual(await read([form]))
})

test('a file that nobody wants is not kept in memory', async () => {
  setFlagsFromString('--expose-gc')
  const collect = runInNewContext('gc') as () => void
  collect()
  const before = process.memoryUsage().arrayBuffers
  let given = 0
  let most = 0
  async function* pieces() {
    yield part('other', '', 'blob').subarray(0, -2)
    for (; given < 512; given++) {
      if (given % 64 === 63) {
        collect()
        most = Math.max(most, process.memoryUsage().arrayBuffers - before)
      }
      yield Buffer.alloc(64 * 1024)
      await new Promise(setImmediate)
    }
    yield Buffer.concat([Buffer.from('\r\n'), last])
  }
  await expect(read(pieces())).rejects.toMatchObject({ code: 'INVALID_FORM' })
  expect(given).toBe(512)
  expect(most).toBeLessThan(8 * MiB)
})

test('busboy gets hardly a byte of a file that comes together with its head', async () => {
  const content = Buffer.alloc(50_000, '.')
  for (const form of [Buffer.concat([part('chunk', content, 'blob'), last]), part('chunk', content, 'blob')]) {
    let written = 0
    let taken = 0
    const parsed = new Readable({ read() {} })
    const busboy = new Writable({
      write(data, _encoding, done) {
        if (String(data).includes('\r\n\r\n'))
          feed.divert(parsed).on('data', (bytes: Buffer) => (taken += bytes.length))
        written += data.length
        done()
      },
    })
    const feed = new FormFeed(requestOf([form]), busboy, Buffer.from(`\r\n--${boundary}`), 12, () => {})
    feed.start()
    await new Promise((resolve) => busboy.once('finish', resolve))
    expect(written).toBeLessThan(300)
    expect(taken).toBeGreaterThan(content.length - 20)
  }
})

test('a form with more delimiters than it may have is not parsed any further', async () => {
  const delimiter = Buffer.from(`\r\n--${boundary}`)
  const request = requestOf(
    Array.from({ length: 10 }, () => Buffer.concat(Array.from({ length: 100 }, () => delimiter))),
  )
  const written: string[] = []
  const busboy = new Writable({ write: (data, _encoding, done) => done(void written.push(String(data))) })
  new FormFeed(request, busboy, delimiter, 12, () => {}).start()
  await new Promise((resolve) => busboy.once('finish', resolve))
  expect(written.length).toBe(12)
})

test('as many parts as there may be are read, and one more is told', async () => {
  const fields = Array.from({ length: 8 }, (_, i) => part(`field${i}`, 'a'))
  const file = part('chunk', 'bytes', 'blob')
  for (const form of [
    [file, ...fields, last],
    [...fields, file, last],
  ]) {
    expect(await read([Buffer.concat(form)])).toMatchObject({ fields: { field7: 'a' }, file: 'bytes' })
  }
  const tooMany = read([Buffer.concat([file, ...fields, part('field8', 'a'), last])])
  await expect(tooMany).rejects.toThrow('too many fields')
  const twoFiles = read([Buffer.concat([file, ...fields, file, last])])
  await expect(twoFiles).rejects.toThrow('more than one file')
  const delimiters = read([Buffer.concat([...fields, ...Array.from({ length: 20 }, () => part('', '')), last])])
  await expect(delimiters).rejects.toMatchObject({ code: 'INVALID_FORM' })
  const empty = Array.from({ length: 20 }, () => Buffer.from(`--${boundary}\r\n`))
  await expect(read([Buffer.concat([...empty, file, last])])).rejects.toThrow('too many parts')
})

test('busboy sees every byte where the boundary can be read in two ways', async () => {
  expect(delimiterOf('multipart/form-data; boundary=abc')?.toString()).toBe('\r\n--abc')
  expect(delimiterOf('multipart/form-data; boundary="abc"; charset=utf-8')?.toString()).toBe('\r\n--abc')
  expect(delimiterOf('Multipart/Form-Data; charset=utf-8;BOUNDARY=a.b')?.toString()).toBe('\r\n--a.b')
  for (const own of ['----WebKitFormBoundary7MA4YWxkTrZu0gW', '----geckoformboundary1b2', '----formdata-undici-01']) {
    expect(delimiterOf(`multipart/form-data; boundary=${own}`)?.toString()).toBe(`\r\n--${own}`)
  }
  for (const type of [
    undefined,
    'multipart/form-data',
    'multipart/form-data; boundary=',
    'multipart/form-data; boundary=a b',
    'multipart/form-data; boundary="a',
    'multipart/form-data; boundary="a b"',
    'multipart/form-data; boundary="a\\"b"',
    'multipart/form-data; boundary=a*b; boundary=b',
    'multipart/form-data; note="; boundary=a"; boundary=b',
    'multipart/form-data; xboundary=a',
    `multipart/form-data; boundary=${'a'.repeat(71)}`,
  ]) {
    expect(delimiterOf(type), type).toBeNull()
  }
  const form = Buffer.concat([part('note', 'a'), part('chunk', 'some bytes', 'blob'), last])
  for (const type of [
    `multipart/form-data; boundary="${boundary}"; note="boundary"`,
    `multipart/form-data; boundary=${boundary}; boundary=b`,
    `multipart/form-data; note="; boundary=b"; boundary=${boundary}`,
  ]) {
    expect(await read([form], type), type).toEqual({ fields: { note: 'a' }, file: 'some bytes' })
  }
})
