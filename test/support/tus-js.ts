/** tus-js-client as its users know it, with a log of what it sent, and the servers it is tried against. */
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { GetObjectCommand, ListMultipartUploadsCommand, ListObjectsV2Command, type S3Client } from '@aws-sdk/client-s3'
import fs from 'fs-extra'
import { type HttpResponse, type PreviousUpload, Upload, type UploadOptions } from 'tus-js-client'
import { afterEach } from 'vitest'
import type { UploadEngineOptions } from '../../src/create-upload-engine.ts'
import { LocalStorageAdapter } from '../../src/storage/local-storage.ts'
import { S3StorageAdapter } from '../../src/storage/s3-storage.ts'
import type { StorageAdapter, StoredObject, UploadEngine, UploadSession } from '../../src/types.ts'
import { type ProtocolHandler, type ProtocolServer, protocolServer } from './protocol-server.ts'
import { sha256 } from './random.ts'
import { clientOf, doubleTarget, type S3Target, s3Target } from './s3-target.ts'
import { filesBelow, tempFolder } from './temp-folder.ts'

export const MiB = 1024 * 1024

export type Protocol = 'tus-v1' | 'ietf-draft-03' | 'ietf-draft-05'

/** Its types know nothing of `protocol`. */
export type ClientOptions = UploadOptions & { protocol?: Protocol }

export interface Logged {
  readonly method: string
  readonly url: string
  /** Request headers by the names that the client gives them. */
  readonly header: (name: string) => string | undefined
  /** Both until the answer is there: `0` and nothing. */
  status: number
  answer: (name: string) => string | undefined
}

export interface ClientUpload {
  readonly upload: Upload
  readonly log: Logged[]
  /** Settles with `onSuccess` and `onError`. */
  readonly done: Promise<HttpResponse>
  /** `POST 201`, `HEAD 200`, …; `X 0` for a request that got no answer. */
  readonly exchanges: () => string[]
  readonly count: (method: string) => number
}

/** Patient within milliseconds: the client starts to count anew whenever its upload has come further. */
export const shortRetries = Array.from({ length: 60 }, (_, n) => [0, 1, 5][n % 3] ?? 0)

const open: Upload[] = []

afterEach(async () => {
  for (const upload of open.splice(0)) await upload.abort()
})

/**
 * A started upload. `resume` makes it go on with what the client remembers of the file in `urlStorage`.
 */
export function clientUpload(file: Buffer | Readable, options: ClientOptions, resume = false): ClientUpload {
  const log: Logged[] = []
  const pending = new WeakMap<object, Logged>()
  let upload: Upload | undefined
  const done = new Promise<HttpResponse>((resolve, reject) => {
    upload = new Upload(file as unknown as Buffer, {
      retryDelays: shortRetries,
      ...options,
      onBeforeRequest: async (request) => {
        const entry: Logged = {
          method: request.getHeader('X-HTTP-Method-Override') ?? request.getMethod(),
          url: request.getURL(),
          header: (name) => request.getHeader(name),
          status: 0,
          answer: () => undefined,
        }
        log.push(entry)
        pending.set(request, entry)
        await options.onBeforeRequest?.(request)
      },
      onAfterResponse: async (request, response) => {
        const entry = pending.get(request)
        if (entry) {
          entry.status = response.getStatus()
          entry.answer = (name) => response.getHeader(name)
        }
        await options.onAfterResponse?.(request, response)
      },
      onSuccess: ({ lastResponse }) => resolve(lastResponse),
      onError: reject,
    })
  })
  // A test that looks only at the log must not fail by what it does not look at.
  done.catch(() => {})
  const made = upload as Upload | undefined
  if (!made) throw new Error('the client did not start')
  open.push(made)
  if (resume) void goOn(made)
  else made.start()
  return {
    upload: made,
    log,
    done,
    exchanges: () => log.map(({ method, status }) => `${method} ${status}`),
    count: (method) => log.filter((entry) => entry.method === method).length,
  }
}

async function goOn(upload: Upload): Promise<void> {
  const [previous] = await upload.findPreviousUploads()
  if (previous) upload.resumeFromPreviousUpload(previous)
  upload.start()
}

/** What the browser's local storage is to the client. */
export function urlStorage(): NonNullable<UploadOptions['urlStorage']> {
  const known = new Map<string, { fingerprint: string; upload: PreviousUpload }>()
  const list = (of?: string) =>
    [...known.values()].filter(({ fingerprint }) => of === undefined || fingerprint === of).map(({ upload }) => upload)
  return {
    findAllUploads: async () => list(),
    findUploadsByFingerprint: async (fingerprint) => list(fingerprint),
    removeUpload: async (key) => void known.delete(key),
    addUpload: async (fingerprint, upload) => {
      const urlStorageKey = `tus::${fingerprint}::${known.size}`
      known.set(urlStorageKey, { fingerprint, upload: { ...upload, urlStorageKey } })
      return urlStorageKey
    },
  }
}

/** A stream of unknown length, in pieces of `step` bytes. */
export function streamOf(data: Buffer, step = 50_000): Readable {
  const pieces: Buffer[] = []
  for (let at = 0; at < data.length; at += step) pieces.push(data.subarray(at, at + step))
  return Readable.from(pieces, { objectMode: false })
}

export interface Site {
  readonly server: ProtocolServer
  readonly engine: UploadEngine
  readonly url: string
  readonly target: S3Target | null
  /** Every upload that was created, in order. */
  readonly created: UploadSession[]
  /** Every upload that was announced as complete, in order. */
  readonly completed: { session: UploadSession; object: StoredObject }[]
  /** What readers of the storage see. */
  objects(): Promise<{ key: string; sha256: string }[]>
  /** Bytes that are kept for uploads that have not ended, in `tempDir` and in the storage. */
  leftovers(): Promise<string[]>
}

export interface SiteOptions extends Partial<Omit<UploadEngineOptions, 'storage'>> {
  on?: 'express' | 'bare'
  /** Wraps the storage. */
  wrap?: (storage: StorageAdapter) => StorageAdapter
  partSize?: number
  /** The double even where the environment names a real S3. */
  needsDouble?: boolean
}

export type MakeSite = (handlerOf: (engine: UploadEngine) => ProtocolHandler, options?: SiteOptions) => Promise<Site>

const targets: { target: S3Target; s3: S3Client }[] = []

afterEach(async () => {
  for (const { target, s3 } of targets.splice(0)) {
    s3.destroy()
    await target.close()
  }
})

const localSite: MakeSite = async (handlerOf, { wrap = same, partSize: _, needsDouble: __, ...options } = {}) => {
  const directory = tempFolder()
  const storage = wrap(new LocalStorageAdapter({ directory, baseUrl: 'https://cdn.example.com' }))
  return siteOf(handlerOf, { ...options, storage }, null, {
    objects: async () => {
      const names = (await filesBelow(directory)).filter((name) => !name.startsWith('.'))
      return Promise.all(names.map(async (key) => ({ key, sha256: sha256(await fs.readFile(join(directory, key))) })))
    },
    open: async () => [],
  })
}

const s3Site: MakeSite = async (handlerOf, { wrap = same, partSize, needsDouble = false, ...options } = {}) => {
  const target = await (needsDouble ? doubleTarget() : s3Target())
  const s3 = clientOf(target)
  targets.push({ target, s3 })
  const { endpoint, region, accessKeyId, secretAccessKey, bucket: Bucket } = target
  const address = { endpoint, region, accessKeyId, secretAccessKey, bucket: Bucket }
  const storage = wrap(new S3StorageAdapter({ ...address, partSize }))
  const read = async (Key: string) => {
    const { Body } = await s3.send(new GetObjectCommand({ Bucket, Key }))
    return sha256(Buffer.from((await Body?.transformToByteArray()) ?? []))
  }
  return siteOf(handlerOf, { ...options, storage }, target, {
    objects: async () => {
      const { Contents = [] } = await s3.send(new ListObjectsV2Command({ Bucket }))
      return Promise.all(Contents.map(async ({ Key = '' }) => ({ key: Key, sha256: await read(Key) })))
    },
    open: async () => {
      const { Uploads = [] } = await s3.send(new ListMultipartUploadsCommand({ Bucket }))
      return Uploads.map(({ Key }) => `multipart upload of ${Key}`)
    },
  })
}

/** The storages that every promise is checked with. */
export const sites: readonly (readonly [name: string, make: MakeSite])[] = [
  ['local disk', localSite],
  ['S3', s3Site],
]
export { localSite, s3Site }

async function siteOf(
  handlerOf: (engine: UploadEngine) => ProtocolHandler,
  options: Parameters<typeof protocolServer>[1] & object,
  target: S3Target | null,
  look: { objects: Site['objects']; open: () => Promise<string[]> },
): Promise<Site> {
  const server = await protocolServer(handlerOf, options)
  const site: Site = {
    server,
    engine: server.engine,
    url: server.url,
    target,
    created: [],
    completed: [],
    objects: look.objects,
    leftovers: async () => {
      const staged = await filesBelow(join(server.tempDir, 'staging'))
      return [...staged, ...(await look.open())]
    },
  }
  server.engine.events.on('created', ({ session }) => site.created.push(session))
  server.engine.events.on('completed', (event) => site.completed.push(event))
  return site
}

function same(storage: StorageAdapter): StorageAdapter {
  return storage
}

/**
 * The storage, but what makes an object fails as long as `fails` says so, asked with the number of the try from 1: before
 * it is done, or after it was done, when only the answer is lost.
 */
export function failingStorage(
  storage: StorageAdapter,
  fails: (attempt: number) => boolean,
  when: 'before' | 'after' = 'before',
): StorageAdapter {
  let attempts = 0
  const guard = async <Result>(make: () => Promise<Result>): Promise<Result> => {
    attempts += 1
    const failing = fails(attempts)
    if (failing && when === 'before') throw new Error('ordered by the test')
    const result = await make()
    if (failing) throw new Error('ordered by the test')
    return result
  }
  const { multipart, stagingDir } = storage
  return {
    upload: (...given) => guard(() => storage.upload(...given)),
    remove: async (key) => storage.remove?.(key),
    ...(storage.adoptFile && {
      adoptFile: (key, path, info) => guard(async () => (await storage.adoptFile?.(key, path, info)) ?? ''),
    }),
    ...(multipart && {
      multipart: {
        minPartSize: multipart.minPartSize,
        maxPartSize: multipart.maxPartSize,
        maxParts: multipart.maxParts,
        partSize: multipart.partSize,
        create: (key, info) => multipart.create(key, info),
        uploadPart: (...given) => multipart.uploadPart(...given),
        listParts: (...given) => multipart.listParts(...given),
        complete: (...given) => guard(() => multipart.complete(...given)),
        abort: (upload) => multipart.abort(upload),
      },
    }),
    ...(stagingDir !== undefined && { stagingDir }),
    close: async () => storage.close?.(),
  }
}
