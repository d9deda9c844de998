/** What must not be told, not be written into headers, and not be taken over by others on the same machine. */
import { chmod, chown, mkdir, readdir, symlink } from 'node:fs/promises'
import { join } from 'node:path'
import { format, inspect } from 'node:util'
import fc from 'fast-check'
import { Redis } from 'ioredis'
import { describe, expect, it } from 'vitest'
import { NexusUploaderError } from '../../src/errors.ts'
import { RedisLocker, RedisSessionStore } from '../../src/redis.ts'
import { S3StorageAdapter } from '../../src/s3.ts'
import { LocalStorageAdapter } from '../../src/storage/local-storage.ts'
import { MemoryStorageAdapter } from '../../src/storage/memory-storage.ts'
import { contentDisposition, userMetadata } from '../../src/storage/s3-headers.ts'
import type { StorageAdapter } from '../../src/types.ts'
import { testEngine } from '../support/engine.ts'
import { everyWire, expectNothingInside } from '../support/every-wire.ts'
import { survived } from '../support/fault-points.ts'
import { bytes } from '../support/random.ts'
import { tempFolder } from '../support/temp-folder.ts'

const secret = 'hunter2-wJalrXUtnFEMI'
const keyId = 'AKIAIOSFODNN7EXAMPLE'
const bucket = 'very-private-bucket'
const prefix = 'secret-prefix'

/** All the ways in which a thing gets into a log. */
function printed(thing: unknown): string {
  const tries = [
    () => inspect(thing, { depth: 20 }),
    () => inspect(thing, { depth: 20, showHidden: true }),
    () => JSON.stringify(thing),
    () => String(thing),
    () => format('%o %O %j %s', thing, thing, thing, thing),
    () => inspect({ ...(thing as object) }, { depth: 20 }),
    () => Object.getOwnPropertyNames(thing).join(),
  ]
  return tries
    .map((print) => {
      try {
        return print() ?? ''
      } catch (error) {
        // What cannot be printed tells nothing; its error is looked at as well.
        return String(error)
      }
    })
    .join('\n')
}

describe('what is printed of', () => {
  const s3 = () =>
    new S3StorageAdapter({
      endpoint: 'http://127.0.0.1:9',
      accessKeyId: keyId,
      secretAccessKey: secret,
      region: 'eu-west-1',
      bucket,
      prefix,
    })

  it('the storages tells no credential, no bucket, no key, and no path [B07]', async () => {
    const directory = tempFolder()
    const storages: Record<string, StorageAdapter> = {
      s3: s3(),
      local: new LocalStorageAdapter({ directory, baseUrl: `https://user:${secret}@cdn.example.com` }),
      memory: new MemoryStorageAdapter(),
    }
    for (const [name, storage] of Object.entries(storages)) {
      for (const part of [storage, storage.multipart].filter((one) => one !== undefined)) {
        const text = printed(part)
        for (const told of [secret, keyId, bucket, prefix, name === 'local' ? `${secret}` : directory])
          expect(text, name).not.toContain(told)
      }
      survived('attack', `printing the ${name} storage`)
    }
  })

  it('Redis stores and lockers tells no password [B07]', async () => {
    const client = new Redis({
      host: '127.0.0.1',
      port: 1,
      password: secret,
      lazyConnect: true,
      retryStrategy: () => null,
    })
    client.on('error', () => {})
    for (const thing of [new RedisSessionStore(client, { prefix }), new RedisLocker(client, { prefix })]) {
      expect(printed(thing)).not.toContain(secret)
      survived('attack', `printing the ${thing.constructor.name}`)
    }
    const failed = await new RedisSessionStore(client, { prefix, commandTimeout: 300 })
      .get('6b6d1a3c-5b1e-4b8e-9d53-0a3a4f3f0a11')
      .catch((error: unknown) => error)
    expect(failed).toBeInstanceOf(NexusUploaderError)
    const { message, stack, details } = failed as NexusUploaderError
    expect([message, stack, JSON.stringify(failed), JSON.stringify(details)].join('\n')).not.toMatch(
      /hunter2|127\.0\.0\.1|secret-prefix/,
    )
    client.disconnect()
  })

  it('the engine tells no path and no credential [B07]', async () => {
    const { engine, tempDir } = testEngine({ storage: s3() })
    const text = printed(engine)
    for (const told of [secret, keyId, bucket, prefix, tempDir]) expect(text).not.toContain(told)
    survived('attack', 'printing the engine')
  })
})

describe('errors of a storage that tells everything', () => {
  const telling = (): never => {
    throw Object.assign(
      new Error(`AccessDenied: ${keyId} ${secret} s3://${bucket}/uploads/x at /srv/app/storage.ts:7`),
      {
        $metadata: { requestId: secret },
        path: '/srv/app/secret',
        stack: `Error: ${secret}\n    at /srv/app/storage.ts:7`,
      },
    )
  }
  const adapters: Record<string, StorageAdapter> = {
    'one call': { upload: async () => telling() },
    'no promise': { upload: telling },
    multipart: {
      upload: async () => telling(),
      multipart: {
        minPartSize: 1,
        maxPartSize: 1_000_000,
        maxParts: 10_000,
        partSize: 1_000_000,
        create: async () => telling(),
        uploadPart: async () => telling(),
        listParts: async () => telling(),
        complete: async () => telling(),
        abort: async () => telling(),
      },
    },
  }

  it.each(Object.entries(adapters))('(%s) tell none of it to clients, on any wire [B07]', async (name, storage) => {
    const wire = await everyWire({ storage, ends: false })
    const { native, tus, ietf, resumable, uppy } = wire.as('ann')
    const data = bytes(100)
    const texts: string[] = []
    const keep = (answer: { status: number; text?: string; body?: unknown; headers: unknown }) => {
      const headers = answer.headers instanceof Headers ? Object.fromEntries(answer.headers) : answer.headers
      texts.push(`${answer.text ?? String(answer.body)}\n${JSON.stringify(headers)}`)
      return answer.status
    }
    const id = await native.start(data.length)
    keep(await native.raw(id, 0, data))
    expect(keep(await native.complete(id))).toBeGreaterThanOrEqual(400)
    keep(await native.progress(id))
    keep(await native.abort(id))
    const url = await tus.create(data.length)
    expect(keep(await tus.patch(url, 0, data))).toBeGreaterThanOrEqual(400)
    keep(await tus.head(url))
    expect(keep(await ietf.begin(data, true))).toBeGreaterThanOrEqual(400)
    const file = { data, chunkSize: 100 }
    expect(keep(await resumable.send(file, 1))).toBeGreaterThanOrEqual(400)
    const upload = await uppy.start()
    const part = await uppy.part(upload, 1, data)
    expect(keep(await uppy.complete(upload, [part]))).toBeGreaterThanOrEqual(400)
    expect(texts.length).toBeGreaterThan(8)
    for (const text of texts) {
      expect(text).not.toMatch(/hunter2|AKIA|very-private|\/srv\//)
      expectNothingInside(text)
    }
    survived('attack', `a storage that tells everything: ${name}`)
  })
})

const anyText = fc.oneof(
  fc.string({ unit: 'binary', maxLength: 300 }),
  fc
    .array(
      fc.constantFrom('\r\n', '\n', '\0', '"', '\\', ';', '%', "'", 'é', '\ud800', '💥', 'x', ' ', '*', '\u2028'),
      { maxLength: 60 },
    )
    .map((all) => all.join('')),
)

describe('headers for a stored file', () => {
  it('hold printable ASCII and stay within their quotes, whatever the name is [A03]', () => {
    fc.assert(
      fc.property(anyText, fc.boolean(), (name, inline) => {
        const header = contentDisposition(inline, name)
        expect(header).toMatch(
          /^(inline|attachment); filename="[\x20-\x21\x23-\x5b\x5d-\x7e]+"; filename\*=UTF-8''[A-Za-z0-9%._~-]+$/,
        )
        expect(decodeURIComponent(header.split("UTF-8''")[1] ?? '')).not.toMatch(/\p{Cc}/u)
      }),
      { numRuns: 2000, seed: 5 },
    )
    survived('attack', 'Content-Disposition of any name')
  })

  it('of metadata are plain and have less than 2 KiB in all [A08]', () => {
    fc.assert(
      fc.property(fc.dictionary(anyText, anyText, { maxKeys: 80 }), (metadata) => {
        const pairs = Object.entries(userMetadata('id', metadata))
        for (const [name, value] of pairs) expect(`${name}=${value}`).toMatch(/^[a-z0-9.%-]+=[A-Za-z0-9%._~-]*$/)
        const size = pairs.reduce((sum, [name, value]) => sum + name.length + value.length, 0)
        expect(size).toBeLessThanOrEqual(2048)
      }),
      { numRuns: 1000, seed: 6 },
    )
    survived('attack', 'S3 metadata of any names and values')
  })
})

describe('a tempDir', () => {
  const begin = (tempDir: string) => testEngine({ tempDir }).client.create(10)

  it.each([
    ['is a link to a folder', async (path: string) => symlink(tempFolder(), path)],
    ['is a link to nowhere', async (path: string) => symlink('/nowhere/at/all', path)],
    ['can be written to by everybody', (path: string) => mkdir(path).then(() => chmod(path, 0o777))],
    [
      'can be written to by everybody, with the sticky bit',
      (path: string) => mkdir(path).then(() => chmod(path, 0o1777)),
    ],
    [
      'has a link for staging',
      (path: string) => mkdir(path, { mode: 0o700 }).then(() => symlink(tempFolder(), join(path, 'staging'))),
    ],
    [
      'has a link for spool',
      (path: string) => mkdir(path, { mode: 0o700 }).then(() => symlink(tempFolder(), join(path, 'spool'))),
    ],
    [
      'has a link for sessions',
      (path: string) => mkdir(path, { mode: 0o700 }).then(() => symlink(tempFolder(), join(path, 'sessions'))),
    ],
    [
      'has a staging folder for everybody',
      (path: string) =>
        mkdir(path, { mode: 0o700 })
          .then(() => mkdir(join(path, 'staging')))
          .then(() => chmod(join(path, 'staging'), 0o777)),
    ],
  ])('that %s is not used: 503, and nobody is told where it is [B07]', async (how, make) => {
    const tempDir = join(tempFolder(), 'temp')
    await make(tempDir)
    const error = await begin(tempDir).catch((reason: unknown) => reason)
    expect(error).toBeInstanceOf(NexusUploaderError)
    const { status, message, stack } = error as NexusUploaderError
    expect(status).toBe(503)
    expect(`${message}${stack}${JSON.stringify(error)}`).not.toContain(tempDir)
    expect(inspect((error as Error).cause)).toContain('temp')
    survived('attack', `tempDir that ${how}`)
  })

  it.runIf(process.getuid?.() === 0).each(['.', 'staging', 'spool', 'sessions'])(
    'whose %s belongs to somebody else is not used [B07]',
    async (name) => {
      const tempDir = join(tempFolder(), 'temp')
      await mkdir(join(tempDir, name), { recursive: true, mode: 0o700 })
      await chown(join(tempDir, name), 65_534, 65_534)
      await expect(begin(tempDir)).rejects.toMatchObject({ status: 503 })
      survived('attack', `tempDir whose ${name} is somebody else's`)
    },
  )

  it('that is made here is for its owner only, whatever the umask [B07]', async () => {
    const before = process.umask(0)
    try {
      const tempDir = join(tempFolder(), 'a', 'temp')
      const { client } = testEngine({ tempDir })
      await client.write(await client.create(10), 0, bytes(5))
      const { stat } = await import('node:fs/promises')
      for (const entry of await readdir(tempDir, { recursive: true })) {
        // Symbolic links have no mode.
        if (entry.startsWith('marks/')) continue
        const { mode } = await stat(join(tempDir, entry))
        expect(mode & 0o077, entry).toBe(0)
      }
      expect((await stat(tempDir)).mode & 0o077).toBe(0)
    } finally {
      process.umask(before)
    }
    survived('attack', 'tempDir with umask 0')
  })
})

describe('one owner who begins uploads without end', () => {
  it('is refused for the time being, on every wire, and others are not [B08]', async () => {
    const begin: Record<
      string,
      (
        wire: Awaited<ReturnType<typeof everyWire>>,
        user: string,
        n: number,
      ) => Promise<{ status: number; headers: unknown }>
    > = {
      native: (wire, user, n) => wire.as(user).native.init({ fileName: `a${n}`, totalSize: 10 }),
      tus: (wire, user) => wire.as(user).tus.post({ 'Upload-Length': 10, 'X-User': user }),
      ietf: (wire, user) => wire.as(user).ietf.begin('', false, { 'X-User': user }),
      uppy: (wire, user) => wire.as(user).uppy.create(),
      'uppy form': (wire, user) => wire.as(user).uppy.params(),
      resumable: (wire, user, n) =>
        wire.as(user).resumable.send({ data: bytes(2000), chunkSize: 1000, identifier: `a${n}` }, 1, {
          headers: { 'X-User': user },
        }),
    }
    for (const [name, one] of Object.entries(begin)) {
      const wire = await everyWire({ maxSessionsPerOwner: 5 })
      const statuses: number[] = []
      const flood = name === 'resumable' ? 8 : 25
      for (let n = 0; n < flood; n++) {
        const { status, headers } = await one(wire, 'ann', n)
        statuses.push(status)
        if (n < 5) continue
        const retryAfter =
          headers instanceof Headers ? headers.get('retry-after') : (headers as Record<string, string>)['retry-after']
        expect(Number(retryAfter), name).toBeGreaterThan(0)
      }
      expect(wire.created(), name).toBe(5)
      for (const status of statuses.slice(5)) expect([429, 503], name).toContain(status)
      expect([200, 201], name).toContain((await one(wire, 'bob', 0)).status)
      survived('attack', `${name}: a flood of uploads`)
    }
  })
})

describe('a page of another site, with the cookies of the user', () => {
  /** As docs/configuration.md has it. */
  const owner = ({ headers }: { headers: Record<string, unknown> }) => {
    if (headers['sec-fetch-site'] === 'cross-site')
      throw new NexusUploaderError('CROSS_SITE', 403, 'Not from another site.')
    return 'ann'
  }

  it('begins and changes nothing where `owner` refuses cross-site requests [B10]', async () => {
    const wire = await everyWire({ owner, ends: false })
    const id = await wire.as().native.start(10)
    const before = wire.created()
    const site = { 'Sec-Fetch-Site': 'cross-site', Origin: 'https://evil.example' }
    const form = () => {
      const data = new FormData()
      for (const [name, value] of Object.entries({ uploadId: id, chunkIndex: '0' })) data.append(name, value)
      data.append('chunk', new Blob(['0123456789']))
      return data
    }
    const text = (body: unknown) => ({
      method: 'POST',
      body: JSON.stringify(body),
      headers: { ...site, 'Content-Type': 'text/plain' },
    })
    const requests: [string, RequestInit][] = [
      ['/upload/init', text({ fileName: 'a', totalSize: 1 })],
      ['/upload/complete', text({ uploadId: id })],
      ['/upload/chunk', { method: 'POST', body: form(), headers: site }],
      ['/upload', { method: 'POST', body: form(), headers: site }],
      [`/upload/${id}`, { method: 'DELETE', headers: site }],
      ['/tus', { method: 'POST', headers: { ...site, 'Tus-Resumable': '1.0.0', 'Upload-Length': '1' } }],
      ['/ietf', { method: 'POST', headers: { ...site, 'Upload-Complete': '?0' } }],
      ['/resumable', { method: 'POST', body: form(), headers: site }],
      ['/companion/s3/multipart', text({ filename: 'a', type: 'b/c' })],
      ['/companion/s3/sign', text({ method: 'POST', key: 'a' })],
      ['/companion/s3/params?filename=a&type=b/c', { headers: site }],
    ]
    for (const [path, init] of requests) {
      const { status } = await fetch(`${wire.url}${path}`, init)
      // The statuses that Resumable.js and Flow.js give up on.
      expect(path === '/resumable' ? [400, 404] : [403], `${path} answered ${status}`).toContain(status)
      survived('attack', `cross-site: ${path.replace(id, ':id')}`)
    }
    expect(wire.created()).toBe(before)
    expect((await wire.as().native.progress(id)).body.uploadedChunks).toBe(0)
    expect((await wire.as().tus.post({ 'Upload-Length': 1, 'Sec-Fetch-Site': 'same-origin' })).status).toBe(201)
  })
})
