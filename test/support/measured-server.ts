/** The server of server-process.ts that also tells what it costs, breaks when asked to, and ends on SIGTERM as documented. */
import { subscribe } from 'node:diagnostics_channel'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import type { UploadEvents } from '../../src/index.ts'
import { server, uploads } from './server-process.ts'

export interface Costs {
  /** Of V8's heap after a collection, bytes. */
  readonly heap: number
  readonly rss: number
  /** Longest time that the event loop stood still since the last question, ms. */
  readonly stall: number
}

/** What it has told on `diagnostics_channel`, counted as metrics would. */
export interface Counts {
  created: number
  chunks: number
  bytes: number
  completed: number
}

const counts: Counts = { created: 0, chunks: 0, bytes: 0, completed: 0 }
const on = <Name extends keyof UploadEvents>(name: Name, listener: (event: UploadEvents[Name][0]) => void) =>
  subscribe(`nexus-uploader:${name}`, (event) => listener(event as UploadEvents[Name][0]))
on('created', () => {
  counts.created += 1
})
on('chunk', ({ size, duplicate }) => {
  if (duplicate) return
  counts.chunks += 1
  counts.bytes += size
})
on('completed', () => {
  counts.completed += 1
})

setFlagsFromString('--expose-gc')
const collect = runInNewContext('gc') as () => void
const delay = monitorEventLoopDelay({ resolution: 1 })
delay.enable()

process.on('message', (message) => {
  if (message === 'throw') {
    setImmediate(() => {
      throw new Error('a defect elsewhere in the application')
    })
  }
  if (message === 'counts') process.send?.(counts)
  if (message !== 'costs') return
  const stall = delay.max / 1e6
  collect()
  const { heapUsed, rss } = process.memoryUsage()
  process.send?.({ heap: heapUsed, rss, stall } satisfies Costs)
  // What this question took does not count.
  setImmediate(() => delay.reset())
})
process.once('SIGTERM', async () => {
  const closed = uploads.close({ timeout: 5_000 })
  server.close()
  server.closeIdleConnections()
  await closed
  process.disconnect?.()
})
