/** One server under measurement, in a process of its own: `server.ts <kind> <directory> [S3]`. Tells its port by IPC. */
import { createServer, type RequestListener } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { barePipe, chunkFiles, relay, writesAtOffset } from './bare-servers.ts'
import type { ServerKind, ServerMessage, ServerQuestion } from './messages.ts'
import { ours, oursOnS3, oursWithPower, sparse, tus, tusOnS3 } from './our-servers.ts'
import { multerAndConcatenation, multerS3, tusServer, tusServerOnS3, uploadx } from './peer-servers.ts'
import { expressWrites } from './yardstick.ts'

export type Listener = (directory: string, endpoint: string) => RequestListener | Promise<RequestListener>

const listeners: Record<Exclude<ServerKind, 'nginx'>, Listener> = {
  pipe: barePipe,
  'chunk-files': chunkFiles,
  writev: writesAtOffset,
  express: expressWrites,
  'relay-s3': relay,
  multer: multerAndConcatenation,
  'multer-s3': multerS3,
  uploadx,
  'tus-server': tusServer,
  'tus-server-s3': tusServerOnS3,
  ours,
  'ours-power': oursWithPower,
  'ours-sparse': sparse,
  'ours-s3': oursOnS3,
  tus,
  'tus-s3': tusOnS3,
}

const questions: Record<ServerQuestion, () => number> = {
  cpu() {
    const { user, system } = process.cpuUsage()
    return (user + system) / 1e6
  },
  heap() {
    setFlagsFromString('--expose-gc')
    const collect = runInNewContext('gc') as () => void
    for (let times = 0; times < 3; times++) collect()
    return process.memoryUsage().heapUsed
  },
}

function tell(message: ServerMessage): void {
  process.send?.(message)
}

async function main(): Promise<void> {
  const [kind, directory, endpoint = ''] = process.argv.slice(2) as [Exclude<ServerKind, 'nginx'>, string, string?]
  // What is staged in the system's temporary folder lies on the same disk, and is removed with the rest.
  process.env.TMPDIR = directory
  const server = createServer(await listeners[kind](directory, endpoint))
  server.requestTimeout = 0
  // An abandoned server must not outlive the bench.
  process.on('disconnect', () => process.exit(0))
  process.on('message', (question: ServerQuestion) => tell({ type: 'figure', value: questions[question]() }))
  server.listen(0, '127.0.0.1', () => tell({ type: 'ready', port: (server.address() as AddressInfo).port }))
}

main().catch((error: Error) => {
  tell({ type: 'failed', reason: error.message })
  process.disconnect?.()
})
