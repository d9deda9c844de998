/** One server under test, in a folder of its own, with an S3 double of its own when it wants one. */
import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { readdir, readFile, stat } from 'node:fs/promises'
import { join, relative } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { answerOf, type Stage } from '../bench/processes.ts'
import { bytes, sha256 } from '../test/support/random.ts'
import { readObject } from '../test/support/s3-bucket.ts'
import type { S3Double } from '../test/support/s3-double.ts'
import { doubleTarget, type S3Target } from '../test/support/s3-target.ts'
import type { Contender } from './contenders.ts'
import { type Answer, isOk, type OpenRequest } from './http.ts'
import type { Message, Question, ServerSettings } from './messages.ts'
import { fail } from './outcome.ts'
import { piece, type Received } from './wires.ts'

export type Settings = Pick<ServerSettings, 'expiry' | 'bodyIdleTimeout'>

export class Subject {
  readonly contender: Contender
  /** What the server keeps is below it. */
  readonly directory: string
  /** Around `directory`. */
  readonly folder: string
  /** Why the process ended although nobody ended it. */
  death: string | null = null
  port = 0
  readonly #stage: Stage
  readonly #settings: Settings
  readonly #target: (S3Target & { readonly double: S3Double }) | null
  #child: ChildProcess | null = null

  private constructor(contender: Contender, stage: Stage, settings: Settings, target: Subject['target']) {
    this.contender = contender
    this.folder = stage.folder
    this.directory = join(stage.folder, 'server')
    this.#stage = stage
    this.#settings = settings
    this.#target = target
  }

  static async open(contender: Contender, stage: Stage, settings: Settings): Promise<Subject> {
    const target = contender.storage === 's3' ? await doubleTarget() : null
    return new Subject(contender, stage, settings, target)
  }

  get target(): (S3Target & { readonly double: S3Double }) | null {
    return this.#target
  }

  /** For cases about S3. */
  get s3(): S3Double {
    if (!this.#target) throw new Error(`${this.contender.name} has no S3`)
    return this.#target.double
  }

  get bucket() {
    const bucket = this.s3.buckets.get(this.#target?.bucket ?? '')
    if (!bucket) throw new Error('the bucket is not there')
    return bucket
  }

  get pid(): number {
    return this.#child?.pid ?? 0
  }

  get isRunning(): boolean {
    return this.#child !== null
  }

  async start(): Promise<void> {
    const { endpoint, region, accessKeyId, secretAccessKey, bucket } = this.#target ?? {}
    const s3 = this.#target && { endpoint, region, accessKeyId, secretAccessKey, bucket }
    const { kind } = this.contender
    const settings = { ...this.#settings, kind, directory: this.directory, ...(s3 && { s3 }) }
    const child = this.#stage.start('../scoreboard/server.ts', [JSON.stringify(settings)])
    const ready = await answerOf<Message>(child)
    if (ready.type !== 'ready') throw new Error(ready.type === 'failed' ? ready.reason : 'no port')
    this.port = ready.port
    this.#child = child
    child.once('exit', (code, signal) => {
      if (this.#child === child) this.death = `the process ended (${signal ?? `exit code ${code}`})`
    })
  }

  /** SIGKILL. */
  async kill(): Promise<void> {
    const child = this.#child
    this.#child = null
    if (!child || child.exitCode !== null || child.signalCode !== null) return
    const exited = once(child, 'exit')
    child.kill('SIGKILL')
    await exited
  }

  async restart(): Promise<void> {
    await this.kill()
    await this.start()
  }

  async ask(question: Question): Promise<string | number> {
    if (!this.#child) throw new Error('the server does not run')
    this.#child.send(question)
    const message = await answerOf<Message>(this.#child)
    return message.type === 'answer' ? message.value : ''
  }

  /** Whether the process ends by itself within `timeout` ms once it was asked to close. */
  async endsByItself(timeout: number): Promise<boolean> {
    const child = this.#child
    if (!child) throw new Error('the server does not run')
    this.#child = null
    const exited = once(child, 'exit').then(() => true)
    child.send('close' satisfies Question)
    return Promise.race([exited, sleep(timeout, false, { ref: false })])
  }

  // ---------------------------------------------------------------------------------------------- uploads

  /** The id of a new upload, which must be possible. */
  async create(size: number, name: string, lastModified?: number): Promise<string> {
    const file = { size, name, ...(lastModified !== undefined && { lastModified }) }
    const { answer, id } = await this.contender.wire.create(this.port, file)
    return id ?? fail(`a creation was answered ${answer.status}`)
  }

  put(id: string, from: number, data: Buffer): Promise<Answer> {
    return this.contender.wire.put(this.port, id, from, data)
  }

  openPut(id: string, from: number, size: number): OpenRequest {
    return this.contender.wire.openPut(this.port, id, from, size)
  }

  received(id: string): Promise<Received> {
    return this.contender.wire.received(this.port, id)
  }

  /** Sends all from `from` on in pieces, and completes. Everything must be answered 2xx. */
  async finish(id: string, data: Buffer, from = 0, size = piece): Promise<void> {
    for (let at = from; at < data.length; at += size) {
      const answer = await this.put(id, at, data.subarray(at, at + size))
      if (!isOk(answer)) fail(`the bytes at ${at} were answered ${answer.status}`)
    }
    const answer = await this.contender.wire.complete?.(this.port, id)
    if (answer && !isOk(answer)) fail(`the completion was answered ${answer.status}`)
  }

  /** One upload as it should be. @returns its id */
  async upload(data: Buffer, name: string): Promise<string> {
    const id = await this.create(data.length, name)
    await this.finish(id, data)
    return id
  }

  /** How often exactly these bytes are stored. */
  async copiesOf(data: Buffer): Promise<number> {
    const hash = sha256(data)
    const found = this.#target ? await this.#objectsOf(data.length) : await this.#filesOf(data.length)
    return found.filter((content) => sha256(content) === hash).length
  }

  /** A stored file must have these bytes. */
  async mustHave(data: Buffer, when: string): Promise<void> {
    if ((await this.copiesOf(data)) === 0) fail(`${when}, no stored file has the bytes that were sent`)
  }

  async #objectsOf(size: number): Promise<Buffer[]> {
    const objects = [...this.bucket.objects.values()].filter((object) => object.size === size)
    return Promise.all(objects.map((object) => collect(readObject(object))))
  }

  async #filesOf(size: number): Promise<Buffer[]> {
    const contents: Buffer[] = []
    for (const path of await this.files()) {
      const found = await stat(join(this.directory, path)).catch(() => null)
      if (found?.size !== size) continue
      // It may be removed or moved meanwhile.
      const data = await readFile(join(this.directory, path)).catch(() => null)
      if (data) contents.push(data)
    }
    return contents
  }

  /** All files below `directory`, relative to it. */
  async files(folder = this.directory): Promise<string[]> {
    const entries = await readdir(folder, { recursive: true, withFileTypes: true }).catch(() => [])
    return entries
      .filter((entry) => entry.isFile())
      .map((entry) => relative(folder, join(entry.parentPath, entry.name)))
  }

  async close(): Promise<void> {
    await this.kill()
    await this.#target?.close()
  }
}

async function collect(source: AsyncIterable<Buffer>): Promise<Buffer> {
  const pieces: Buffer[] = []
  for await (const data of source) pieces.push(data)
  return Buffer.concat(pieces)
}

/** Different bytes for every seed. */
export function content(size: number, seed: number): Buffer {
  return bytes(size, seed)
}

/** Repeats `check` until it is true, for `timeout` ms at most. */
export async function eventually(check: () => Promise<boolean>, timeout: number): Promise<boolean> {
  for (const deadline = Date.now() + timeout; Date.now() < deadline; await sleep(50)) {
    if (await check()) return true
  }
  return check()
}
