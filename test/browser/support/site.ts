/** A page, a line that can be slowed and cut, and the upload server behind it. */
import { createServer, type RequestListener, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { GetObjectCommand, ListObjectsV2Command } from '@aws-sdk/client-s3'
import { afterEach } from 'vitest'
import { type Exchange, Line } from '../../../scripts/demo/line.ts'
import { type ServerProcess, startServer } from '../../support/process.ts'
import { sha256 } from '../../support/random.ts'
import { clientOf, type S3Target, s3Target } from '../../support/s3-target.ts'
import { filesBelow, tempFolder } from '../../support/temp-folder.ts'
import { assetOf } from './assets.ts'
import type { UploadServerSettings } from './upload-server.ts'

export type StorageKind = 'local disk' | 'S3'

export type SiteOptions = Pick<UploadServerSettings, 'config' | 'appCors'>

const running: Site[] = []

afterEach(async () => {
  for (const site of running.splice(0)) await site.close()
})

export class Site {
  readonly line: Line
  /** What browsers sent to the upload server. */
  readonly exchanges: Exchange[] = []
  readonly #settings: UploadServerSettings
  readonly #target: S3Target | null
  readonly #pages: Server
  readonly #otherPages: Server
  #server: ServerProcess | null = null

  private constructor(settings: UploadServerSettings, target: S3Target | null) {
    this.#settings = settings
    this.#target = target
    this.line = new Line(
      () => new URL(`http://127.0.0.1:${this.#settings.port}`),
      (exchange) => this.exchanges.push(exchange),
    )
    this.#pages = createServer(this.#serve((request, response) => this.line.forward(request, response)))
    this.#pages.requestTimeout = 0
    this.#otherPages = createServer(this.#serve((_request, response) => response.writeHead(404).end()))
  }

  /** Ends after the test. */
  static async start(kind: StorageKind, options: SiteOptions = {}): Promise<Site> {
    const target = kind === 'S3' ? await s3Target() : null
    const where = target ? { s3: target } : { directory: tempFolder() }
    const site = new Site({ ...options, ...where, tempDir: tempFolder(), origin: '' }, target)
    running.push(site)
    await Promise.all([listen(site.#pages), listen(site.#otherPages)])
    site.#settings.origin = site.origin
    await site.startServer()
    return site
  }

  /** Of the pages, and of the upload server as browsers see it. */
  get origin(): string {
    return originOf(this.#pages)
  }

  /** Of the same pages, and of nothing else. */
  get otherOrigin(): string {
    return originOf(this.#otherPages)
  }

  /** Bytes of bodies that browsers sent. */
  get bytesSent(): number {
    return bytesOf(this.exchanges)
  }

  bytesSentBy(user: string): number {
    return bytesOf(this.exchanges.filter(({ headers }) => headers.cookie === `user=${user}`))
  }

  /** On the port and the folder that it had before, if it did. */
  async startServer(): Promise<void> {
    this.#server = await startServer(this.#settings, 'test/browser/support/upload-server.ts')
    this.#settings.port = this.#server.port
  }

  async kill(): Promise<void> {
    await this.#server?.kill()
  }

  /** Of the object that a page was told the URL of. */
  async read(url: string): Promise<Buffer> {
    const { pathname } = new URL(url)
    if (!pathname.startsWith('/stored/')) return this.#readBucket(pathname)
    const response = await fetch(`http://127.0.0.1:${this.#settings.port}${pathname}`, { redirect: 'manual' })
    const elsewhere = response.headers.get('location')
    if (elsewhere !== null) return this.#readBucket(new URL(elsewhere).pathname)
    if (!response.ok) throw new Error(`${url} is answered with ${response.status}`)
    return Buffer.from(await response.arrayBuffer())
  }

  async #readBucket(pathname: string): Promise<Buffer> {
    if (!this.#target) throw new Error(`${pathname} is not where files are stored`)
    const { bucket } = this.#target
    const path = decodeURIComponent(pathname)
    if (!path.startsWith(`/${bucket}/`)) throw new Error(`${path} is not in the bucket`)
    const client = clientOf(this.#target)
    try {
      const { Body } = await client.send(new GetObjectCommand({ Bucket: bucket, Key: path.slice(bucket.length + 2) }))
      return Buffer.from((await Body?.transformToByteArray()) ?? [])
    } finally {
      client.destroy()
    }
  }

  async sha256Of(url: string): Promise<string> {
    return sha256(await this.read(url))
  }

  /** How many objects the storage has. */
  async objectCount(): Promise<number> {
    if (!this.#target) return (await filesBelow(this.#settings.directory ?? '')).filter(isVisible).length
    const client = clientOf(this.#target)
    try {
      const { Contents = [] } = await client.send(new ListObjectsV2Command({ Bucket: this.#target.bucket }))
      return Contents.length
    } finally {
      client.destroy()
    }
  }

  async close(): Promise<void> {
    await this.kill()
    for (const server of [this.#pages, this.#otherPages]) {
      const closed = new Promise((resolve) => server.close(resolve))
      server.closeAllConnections()
      await closed
    }
    await this.#target?.close()
  }

  #serve(others: RequestListener): RequestListener {
    return (request, response) => {
      const asset = assetOf(new URL(request.url ?? '/', 'http://page').pathname)
      if (!asset) return others(request, response)
      response.writeHead(200, { 'Content-Type': asset.type, 'Cache-Control': 'no-store' }).end(asset.body)
    }
  }
}

function bytesOf(exchanges: readonly Exchange[]): number {
  return exchanges.reduce((sum, { bytes }) => sum + bytes, 0)
}

function isVisible(path: string): boolean {
  return !path.split('/').some((name) => name.startsWith('.'))
}

async function listen(server: Server): Promise<void> {
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
}

function originOf(server: Server): string {
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}
