/** Nodes that have nothing in common but a Redis and an S3: processes, each with a `tempDir` of its own. */
import { setTimeout as pause } from 'node:timers/promises'
import { GetObjectCommand, ListMultipartUploadsCommand, ListObjectsV2Command } from '@aws-sdk/client-s3'
import { expect } from 'vitest'
import { epilogue } from './epilogue.ts'
import { type ServerProcess, startServer } from './process.ts'
import type { seeded } from './random.ts'
import { newPrefix } from './redis-server.ts'
import { clientOf, type S3Target } from './s3-target.ts'
import type { ServerSettings } from './server-process.ts'
import { tempFolder } from './temp-folder.ts'
import { eventually } from './tus-client.ts'

/** Of the parts of the tests, bytes: small with the double, S3's smallest with a real server. */
export const partSizeOf = (target: S3Target) => (target.double ? 64 * 1024 : 5 * 1024 * 1024)

export interface FleetOptions {
  readonly target: S3Target
  readonly redis: { readonly port: number; readonly password?: string }
  readonly count?: number
  /** Of a lock of a node that was killed, ms. */
  readonly ttl?: number
  /** Of the node with this number, over those of all. */
  readonly settingsOf?: (node: number) => Partial<ServerSettings>
  readonly source?: string
}

interface Member {
  server: ServerProcess
  readonly settings: ServerSettings
}

export class Fleet {
  readonly target: S3Target
  readonly partSize: number
  /** Whatever the nodes have printed. */
  output = ''
  readonly #options: FleetOptions
  readonly #members: Member[] = []
  readonly #prefix = newPrefix()
  readonly #s3

  private constructor(options: FleetOptions) {
    this.#options = options
    this.target = options.target
    this.partSize = partSizeOf(options.target)
    this.#s3 = clientOf(options.target)
  }

  static async start(options: FleetOptions): Promise<Fleet> {
    const fleet = new Fleet(options)
    const numbers = Array.from({ length: options.count ?? 3 }, (_, number) => number)
    fleet.#members.push(...(await Promise.all(numbers.map((number) => fleet.#add(number)))))
    return fleet
  }

  get size(): number {
    return this.#members.length
  }

  get servers(): ServerProcess[] {
    return this.#members.map(({ server }) => server)
  }

  /** Where the node is, whether or not it lives. */
  url(number: number): string {
    return this.servers[number]?.url ?? ''
  }

  any(random: ReturnType<typeof seeded>): string {
    return this.url(random.integer(0, this.size - 1))
  }

  kill(number: number): Promise<void> {
    return this.#member(number).server.kill()
  }

  /** On the port that it had, so that clients find it again; on a new disk when `disk` is `new`. */
  async restart(number: number, disk: 'old' | 'new' = 'old'): Promise<void> {
    const { settings, server } = this.#member(number)
    const tempDir = disk === 'new' ? tempFolder() : settings.tempDir
    this.#members[number] = await this.#start({ ...settings, tempDir, port: server.port })
  }

  signal(number: number, name: NodeJS.Signals): void {
    process.kill(this.#member(number).server.pid, name)
  }

  async read(key: string): Promise<Buffer> {
    const { Body } = await this.#s3.send(new GetObjectCommand({ Bucket: this.target.bucket, Key: key }))
    return Buffer.from((await Body?.transformToByteArray()) ?? [])
  }

  async keys(): Promise<string[]> {
    const keys: string[] = []
    for (let token: string | undefined; ; ) {
      const more = token === undefined ? {} : { ContinuationToken: token }
      const page = await this.#s3.send(new ListObjectsV2Command({ Bucket: this.target.bucket, ...more }))
      keys.push(...(page.Contents ?? []).map(({ Key = '' }) => Key))
      if (!page.IsTruncated) return keys
      token = page.NextContinuationToken
    }
  }

  /** Objects that are files of clients. */
  async files(): Promise<string[]> {
    return (await this.keys()).filter((key) => key.startsWith('uploads/'))
  }

  /** The keys of files that clients call so: after the id of their upload. */
  async filesNamed(name: string): Promise<string[]> {
    return (await this.files()).filter((key) => key.slice('uploads/'.length + 37) === name)
  }

  async openUploads(): Promise<string[]> {
    const { Uploads = [] } = await this.#s3.send(new ListMultipartUploadsCommand({ Bucket: this.target.bucket }))
    return Uploads.map(({ Key = '' }) => Key)
  }

  /** The objects of the nodes' Redis begin so. */
  get prefix(): string {
    return this.#prefix
  }

  /**
   * A clean upload works on every node. Then it is some hours later, and a sweep leaves files of clients and nothing else:
   * no piece, no open multipart upload.
   */
  async epilogue(): Promise<void> {
    for (const { server, settings } of this.#members) {
      const { tempDir } = settings
      await epilogue({ url: server.url, tempDir, pid: server.pid, read: (key) => this.read(key) })
    }
    await this.expectNothingLeft()
  }

  async expectNothingLeft(): Promise<void> {
    const late = await this.#start({ ...this.#settings(0), clockAhead: 5 * 60 * 60_000 })
    await late.server.ask('sweep')
    await eventually(async () => {
      expect((await this.keys()).filter((key) => !key.startsWith('uploads/'))).toEqual([])
      expect(await this.openUploads()).toEqual([])
    })
    await late.server.kill()
  }

  async close(): Promise<void> {
    await Promise.all(this.servers.map((server) => server.kill().catch(() => {})))
    this.#s3.destroy()
  }

  #member(number: number): Member {
    const member = this.#members[number]
    if (!member) throw new Error(`there is no node ${number}`)
    return member
  }

  #add(number: number): Promise<Member> {
    return this.#start({ ...this.#settings(number), ...this.#options.settingsOf?.(number) })
  }

  #settings(number: number): ServerSettings {
    const { target, redis, ttl = 1_500 } = this.#options
    const { endpoint, region, accessKeyId, secretAccessKey, bucket } = target
    return {
      tempDir: tempFolder(),
      s3: { endpoint, region, accessKeyId, secretAccessKey, bucket },
      ...(target.double && { partSize: this.partSize }),
      redis: { kind: number === 1 ? 'ioredis' : 'redis', prefix: this.#prefix, ttl, ...redis },
      config: { staging: 'storage', maxChunkSize: 4 * this.partSize },
    }
  }

  async #start(settings: ServerSettings): Promise<Member> {
    const { source = 'test/support/server-process.ts' } = this.#options
    const onOutput = (text: string) => {
      this.output += text
    }
    return { settings, server: await startServer(settings, source, [], onOutput) }
  }
}

export interface Killing {
  /** Ends it; every node lives then. Resolves with how many were killed. */
  stop(): Promise<number>
}

/** Kills nodes at random times, one, two or all at once, and starts them again, with their disk or without; `most` in all. */
export function killAtRandom(
  fleet: Fleet,
  random: ReturnType<typeof seeded>,
  onKill: () => void,
  most = Number.POSITIVE_INFINITY,
): Killing {
  let isOver = false
  let kills = 0
  const run = async () => {
    while (!isOver && kills < most) {
      await pause(random.integer(20, 400))
      if (isOver) return
      const count = [1, 1, 1, 2, fleet.size][random.integer(0, 4)] ?? 1
      const doomed = random.shuffle([...fleet.servers.keys()]).slice(0, count)
      onKill()
      await Promise.all(doomed.map((number) => fleet.kill(number)))
      kills += count
      await pause(random.integer(0, 150))
      await Promise.all(doomed.map((number) => fleet.restart(number, random.next() < 0.3 ? 'new' : 'old')))
    }
  }
  const running = run()
  return {
    async stop() {
      isOver = true
      await running
      return kills
    },
  }
}
