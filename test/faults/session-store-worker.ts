/**
 * Adds one to its own counter in the record, again and again, and says so once it is stored.
 * Arguments: folder, id of the record, name of its counter, how many times, size of a journal in bytes.
 */
import { writeSync } from 'node:fs'
import { FileSessionStore } from '../../src/sessions/file-session-store.ts'
import type { UploadSession } from '../../src/types.ts'

const [directory = '', id = '', counter = '', times = '0', journalLimit = '0'] = process.argv.slice(2)
const store = new FileSessionStore({ directory, journalLimit: Number(journalLimit) })

for (let n = 0; n < Number(times); ) {
  const record = (await store.get(id)) as UploadSession | null
  if (record === null) throw new Error('the record is gone')
  const count = Number(record.metadata[counter] ?? 0) + 1
  const next = { ...record, version: record.version + 1, metadata: { ...record.metadata, [counter]: `${count}` } }
  if (!(await store.replace(next, record.version))) continue
  n++
  say(`${count}\n`)
}

/** Synchronous, so that a kill right after it does not take it back; the pipe may be full when the reader is slow. */
function say(line: string): void {
  for (;;) {
    try {
      writeSync(1, line)
      return
    } catch (error) {
      if ((error as { code?: unknown }).code !== 'EAGAIN') throw error
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 5)
    }
  }
}
