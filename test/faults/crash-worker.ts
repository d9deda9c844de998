/** A process that ends at the call it is told to. What it acknowledged it has written to its standard output by then. */
import '../support/hook-fs.ts'

import { writeSync } from 'node:fs'
import { type FsCall, watchFs } from '../support/hook-fs.ts'
import { type Ack, engineOn, type Folders, goOn, type Life, workloads } from './crash-workloads.ts'

export interface Job {
  readonly folders: Folders
  /** Index into `workloads`. */
  readonly workload: number
  /** Goes on with this upload, instead of doing the workload; empty: what the client has not been told. */
  readonly goOn?: string
  readonly end?: {
    /** At this call, from 1. */
    readonly call: number
    /** `after` the first so many bytes of it when it writes. */
    readonly when: 'before' | 'after'
    readonly torn?: number
  }
}

/** One line of its output. */
export type Told = { readonly ack: Ack } | { readonly call: Pick<FsCall, 'op' | 'size'> } | { readonly ended: true }

const job = JSON.parse(process.argv[2] ?? '{}') as Job
const tell = (told: Told) => writeSync(1, `${JSON.stringify(told)}\n`)

function end(): never {
  process.kill(process.pid, 'SIGKILL')
  for (;;);
}

async function work(): Promise<void> {
  const workload = workloads[job.workload] as (typeof workloads)[number]
  const { folders } = job
  const engine = engineOn(folders, workload.storage)
  const life: Life = {
    ...{ engine, folders, storage: workload.storage, id: job.goOn ?? '' },
    say: (ack) => void tell({ ack }),
  }
  if (job.goOn === undefined) await workload.before?.(life)
  watchFs([folders.tempDir, folders.directory], async (call, proceed) => {
    if (!job.end) tell({ call: { op: call.op, size: call.size } })
    if (call.n !== job.end?.call) return proceed()
    if (job.end.when === 'before') end()
    await proceed(job.end.torn)
    return end()
  })
  if (job.goOn === undefined) await workload.run(life)
  else await goOn(workload, life)
  tell({ ended: true })
  process.exit(0)
}

void work()
