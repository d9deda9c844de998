/** What the demo does: an upload that survives a cut connection and a killed server, and the account of it. */
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Client, type Progress, type Span } from './client.ts'
import { CHUNK_SIZE, storedFolder } from './layout.ts'
import type { DemoOptions } from './options.ts'
import type { ProgressBar } from './progress-bar.ts'
import type { ServerProcess } from './server-process.ts'
import { corruptFile, type SourceFile, sha256Of } from './source-file.ts'
import { count, duration, mebibytes } from './text.ts'
import { inParallel, Upload } from './upload.ts'

const parallelChunks = 4
const downloadTimeout = 10 * 60_000

export interface Stage {
  readonly server: ServerProcess
  readonly folder: string
  readonly file: SourceFile
  readonly options: DemoOptions
  readonly bar: ProgressBar
  readonly signal: AbortSignal
}

export interface Account {
  readonly facts: readonly (readonly [what: string, how: string])[]
  /** What was not as it should be; empty when all was right. */
  readonly problems: readonly string[]
}

/** Everything the account is made of. */
interface Course {
  cutIndex: number | null
  /** The cut is over: the server was asked what it made of it. */
  cutSeen: boolean
  /** Chunks that were on their way when the server was killed. */
  interrupted: number
  killed: boolean
  readonly problems: string[]
}

export async function runStory(stage: Stage): Promise<Account> {
  const { server, file, bar, options, signal } = stage
  const began = performance.now()
  const client = new Client(server.origin, signal, options.speed * 1024 * 1024)
  try {
    const uploadId = await client.init({
      fileName: file.name,
      totalSize: file.size,
      mimeType: 'application/octet-stream',
      chunkSize: CHUNK_SIZE,
    })
    const upload = new Upload(uploadId, file, client, (bytes) => bar.update(bytes))
    const chunks = `${upload.chunkCount} chunks of ${mebibytes(CHUNK_SIZE)}, ${parallelChunks} at a time`
    bar.say(`Uploading ${file.name}, ${mebibytes(file.size)}, in ${chunks}\n`)
    const course: Course = { cutIndex: null, cutSeen: false, interrupted: 0, killed: false, problems: [] }
    await sendUntilKilled(stage, upload, course)
    const beforeKill = new Set(upload.acknowledged)
    const progress = await restart(stage, upload, beforeKill, course)
    const resumed = await resume(stage, upload, progress, course)
    const stored = await completeAndCheck(stage, upload, course)
    const seconds = (performance.now() - began) / 1000
    const facts = factsOf({ upload, course, beforeKill, progress, resumed, stored, seconds })
    return { facts, problems: course.problems }
  } finally {
    bar.clear()
    client.close()
  }
}

interface Findings {
  readonly upload: Upload
  readonly course: Course
  readonly beforeKill: Set<number>
  readonly progress: Progress
  readonly resumed: { chunks: number; missing: number; sent: number }
  readonly stored: { url: string; matches: boolean }
  readonly seconds: number
}

function factsOf({ upload, course, beforeKill, progress, resumed, stored, seconds }: Findings): Account['facts'] {
  const { file } = upload
  const more = progress.uploadedChunks - beforeKill.size
  const lost = lostOf(beforeKill, progress).length
  return [
    ['File', `${mebibytes(file.size)}, SHA-256 ${file.sha256}`],
    [
      'Sent',
      `${mebibytes(upload.sent)}: the file, and ${mebibytes(upload.sent - file.size)} lost in the interruptions`,
    ],
    ['Connection cut', `in the middle of chunk ${course.cutIndex}; nothing of it was counted, it was sent again`],
    [
      'Server killed',
      `after ${count(beforeKill.size, 'chunk')} acknowledged; ${lost} of them lost` +
        (more > 0 ? `, ${more} more had arrived whole, their answer had not` : ''),
    ],
    [
      'Resumed',
      `${count(resumed.chunks, 'missing chunk')}, ${mebibytes(resumed.missing)}; sent ${mebibytes(resumed.sent)}`,
    ],
    ['Time', `${duration(seconds)} from the first byte to the check of the last`],
    ['URL', stored.url],
    ['Checksum', `SHA-256 of the stored file ${stored.matches ? 'is the same' : 'IS DIFFERENT'}`],
  ]
}

/** A cut about a third of the way, SIGKILL about half way. */
async function sendUntilKilled({ server, bar, file }: Stage, upload: Upload, course: Course): Promise<void> {
  const halt = new AbortController()
  const indexes = Array.from({ length: upload.chunkCount }, (_, index) => index)
  let dying: Promise<void> | null = null
  let cutting: Promise<void> | null = null
  const { pid } = server
  await inParallel(parallelChunks, indexes, async (index) => {
    if (cutting === null && upload.acknowledgedBytes >= file.size / 3) {
      cutting = cutConnection(upload, bar, course, index)
    }
    // All wait for it: a fast machine would be at the end of the file before the cut has been looked at.
    await cutting
    if (course.killed) return
    try {
      await upload.send(index, halt.signal)
    } catch (error) {
      if (!course.killed) throw error
      course.interrupted++
    }
    if (course.killed || !course.cutSeen || upload.acknowledgedBytes < file.size / 2) return
    course.killed = true
    dying = server.kill()
    halt.abort()
  })
  await dying
  if (!course.killed) throw new Error('The upload ended before the server could be killed.')
  const figures = `${upload.acknowledged.size} chunks acknowledged, ${course.interrupted} cut short`
  bar.say(`\n  Half way: server process ${pid} killed with SIGKILL (${figures}).`)
}

async function cutConnection(upload: Upload, bar: ProgressBar, course: Course, index: number): Promise<void> {
  course.cutIndex = index
  await upload.sendHalf(index)
  bar.say(`\n  A third of the way: connection cut in the middle of chunk ${index}.`)
  const { received } = await upload.client.progress(upload.id)
  course.cutSeen = true
  const counted = received.some(([first, last]) => first <= index && index <= last)
  if (counted) course.problems.push(`Chunk ${index} was counted although only half of it was sent.`)
  bar.say(`  The server ${counted ? 'COUNTED half a chunk' : 'counts nothing of it'}; sending it again.\n`)
}

/** Shows that the server is gone, starts it again and asks what it still has. */
async function restart(stage: Stage, upload: Upload, beforeKill: Set<number>, course: Course): Promise<Progress> {
  const { server, bar, signal } = stage
  const answer = await answerOfTheDead(upload, signal)
  if (answer === 'answered') course.problems.push('The server answered although it was killed.')
  bar.say(`  GET /upload/progress: ${answer}. Nobody is there. Starting it again on the same port and folder.`)
  await sleep(500, undefined, { signal })
  await server.start(signal)
  const progress = await upload.client.progress(upload.id)
  const lost = lostOf(beforeKill, progress)
  if (lost.length > 0) course.problems.push(`Acknowledged chunks were lost: ${lost.join(', ')}.`)
  bar.say(`  Server process ${server.pid} is up. GET /upload/progress: ${progress.uploadedChunks} chunks are there,`)
  bar.say(`  missing: ${spans(progress.missing)}. Resuming with only these.\n`)
  bar.restart()
  return progress
}

/** The first try may still meet a connection from before the kill; then it is a reset and not a refusal. */
async function answerOfTheDead(upload: Upload, signal: AbortSignal): Promise<string> {
  for (let attempt = 1; ; attempt++) {
    const answer = await upload.client.progress(upload.id).then(
      () => 'answered',
      (error: Error) => (error.cause as { code?: string } | undefined)?.code ?? error.message,
    )
    if (answer === 'answered' || answer === 'ECONNREFUSED' || attempt === 10) return answer
    await sleep(50, undefined, { signal })
  }
}

async function resume({ bar }: Stage, upload: Upload, { missing }: Progress, course: Course) {
  const indexes = missing.flatMap(([first, last]) => Array.from({ length: last - first + 1 }, (_, i) => first + i))
  const missingBytes = indexes.reduce((sum, index) => sum + upload.sizeOf(index), 0)
  const before = upload.sent
  // What arrived without its answer counts from now on.
  const rest = new Set(indexes)
  for (let index = 0; index < upload.chunkCount; index++) if (!rest.has(index)) upload.assume(index)
  await inParallel(parallelChunks, indexes, (index) => upload.send(index, new AbortController().signal))
  const sent = upload.sent - before
  if (sent > missingBytes) course.problems.push(`${sent} bytes were sent to resume, but only ${missingBytes} missing.`)
  bar.say('\n  All chunks are acknowledged. POST /upload/complete')
  return { chunks: indexes.length, missing: missingBytes, sent }
}

/** Completes, then downloads the file from its URL as anybody would. */
async function completeAndCheck({ server, folder, file, options, signal }: Stage, upload: Upload, course: Course) {
  const { url, key, size } = await upload.client.complete(upload.id)
  if (options.corrupt) await corruptFile(join(storedFolder(folder), key))
  const whole = new URL(url, server.origin).href
  const response = await fetch(whole, { signal: AbortSignal.any([signal, AbortSignal.timeout(downloadTimeout)]) })
  if (!response.ok || !response.body) throw new Error(`The stored file could not be read: ${response.status}`)
  const stored = await sha256Of(response.body)
  const matches = stored.sha256 === file.sha256
  if (!matches) course.problems.push(`The stored file has another checksum: SHA-256 ${stored.sha256}.`)
  if (stored.size !== file.size || size !== file.size) {
    course.problems.push(`The stored file has ${stored.size} bytes (${size} by its server), not ${file.size}.`)
  }
  return { url: whole, matches }
}

function lostOf(acknowledged: Set<number>, { received }: Progress): number[] {
  return [...acknowledged].filter((index) => !received.some(([first, last]) => first <= index && index <= last))
}

function spans(list: readonly Span[]): string {
  return list.map(([first, last]) => (first === last ? `${first}` : `${first}-${last}`)).join(', ') || 'nothing'
}
