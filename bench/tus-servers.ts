/** tus servers on Express, each as its documentation shows it: this package and @tus/server, on disk and on S3. */
import type { RequestListener } from 'node:http'
import express, { type RequestHandler } from 'express'
import { built } from './built.ts'
import { bucket, type TusServerKind } from './messages.ts'

const partSize = 8 * 1024 * 1024
const [accessKeyId, secretAccessKey, region] = ['bench', 'bench', 'us-east-1']

type Listener = (directory: string, endpoint: string) => Promise<RequestListener>

export const tusListeners: Record<TusServerKind, Listener> = {
  tus: async (directory) => {
    const { LocalStorageAdapter } = await built<typeof import('../src/index.ts')>('index')
    return ours(new LocalStorageAdapter({ directory }))
  },
  'tus-server': async (directory) => {
    const { FileStore } = await peer<Stores>('@tus/file-store')
    return tusServer(new FileStore({ directory }))
  },
  'tus-s3': async (_directory, endpoint) => {
    const { S3StorageAdapter } = await built<typeof import('../src/index.ts')>('index')
    return ours(new S3StorageAdapter({ bucket, endpoint, region, accessKeyId, secretAccessKey, partSize }))
  },
  'tus-server-s3': async (_directory, endpoint) => {
    const { S3Store } = await peer<Stores>('@tus/s3-store')
    const credentials = { accessKeyId, secretAccessKey }
    return tusServer(
      new S3Store({ partSize, s3ClientConfig: { bucket, endpoint, region, credentials, forcePathStyle: true } }),
    )
  },
}

async function ours(storage: import('../src/index.ts').StorageAdapter): Promise<RequestListener> {
  const { createUploadEngine } = await built<typeof import('../src/index.ts')>('index')
  const { tusHandler } = await built<typeof import('../src/tus.ts')>('tus')
  const engine = createUploadEngine({ storage, maxFileSize: 1024 ** 4 })
  return mount(tusHandler(engine))
}

interface Stores {
  readonly FileStore: new (options: { directory: string }) => object
  readonly S3Store: new (options: { partSize: number; s3ClientConfig: object }) => object
}

interface TusServer {
  readonly Server: new (options: {
    path: string
    datastore: object
  }) => {
    handle(...exchange: Parameters<RequestListener>): Promise<unknown>
  }
}

async function tusServer(datastore: object): Promise<RequestListener> {
  const { Server } = await peer<TusServer>('@tus/server')
  const server = new Server({ path: '/files', datastore })
  return mount((request, response) => void server.handle(request, response))
}

/** At the URL that both document. */
function mount(handler: RequestListener): RequestListener {
  return express().use('/files', handler as RequestHandler)
}

/** From `bench/node_modules`. Not a literal: the bench is type-checked without the peers. */
function peer<Entry>(name: string): Promise<Entry> {
  return import(name)
}
