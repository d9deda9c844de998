/** What must hold after every fault, whatever it was: the server goes on as if nothing had been. */
import { readdirSync, readlinkSync } from 'node:fs'
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as wait } from 'node:timers/promises'
import { expect } from 'vitest'
import { nativeClient } from './native-client.ts'
import { bytes, cut, sha256 } from './random.ts'

export interface Survivor {
  readonly url: string
  readonly tempDir: string
  /** A process of its own; left out for a server in this one. */
  readonly pid?: number
  /** Open files before the fault, of `openFiles()`. */
  readonly filesBefore?: number
  /** The bytes of a finished upload. */
  read(key: string): Promise<Buffer>
}

/** Records that were changed last stay open for some seconds, 256 of them at most: other tests see to that. */
const record = /\/sessions\/[^/]+\/[^/]+\.log$/

/** How many files and sockets a process has open, without its records. */
export function openFiles(pid: number = process.pid): number {
  return readdirSync(`/proc/${pid}/fd`).filter((fd) => !record.test(targetOf(`/proc/${pid}/fd/${fd}`))).length
}

function targetOf(path: string): string {
  try {
    return readlinkSync(path)
  } catch {
    return 'closed meanwhile'
  }
}

/**
 * The process is alive, a clean upload of three chunks arrives with the right bytes and leaves nothing in `tempDir`, and no file
 * stays open. Unhandled rejections fail the run by themselves.
 */
export async function epilogue({ url, tempDir, pid, filesBefore, read }: Survivor): Promise<void> {
  if (pid !== undefined) process.kill(pid, 0)
  const client = nativeClient(url)
  const file = bytes(300_000, 77)
  const id = await client.start(file.length, { fileName: 'epilogue.bin' })
  for (const [index, data] of cut(file, 100_001).entries()) {
    expect((await client.chunk(id, index, data)).body, `chunk ${index} of the clean upload`).toEqual({ success: true })
  }
  const { status, body } = await client.complete(id)
  expect([status, typeof body.url], JSON.stringify(body)).toEqual([200, 'string'])
  expect(sha256(await read(body.key))).toBe(sha256(file))
  expect(await readdir(join(tempDir, 'staging')).catch(() => [])).not.toContain(id)
  if (filesBefore === undefined) return
  // Keep-alive sockets of this test's own requests, and whatever the runner opens.
  const slack = 12
  for (const deadline = Date.now() + 5_000; openFiles(pid) > filesBefore + slack && Date.now() < deadline; ) {
    await wait(50)
  }
  expect(openFiles(pid)).toBeLessThanOrEqual(filesBefore + slack)
}
