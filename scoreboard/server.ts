/** One server, in a process of its own: `server.ts <settings as JSON>`. Tells its port by IPC and answers questions. */
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { inspect } from 'node:util'
import type { Message, Question, ServerKind, ServerSettings } from './messages.ts'
import { ourRoutes, ourTus } from './our-servers.ts'
import { multerAndConcatenation, type Running, tusServer, uploadx } from './peer-servers.ts'

const makers: Record<ServerKind, (settings: ServerSettings) => Promise<Running>> = {
  'ours-tus': ourTus,
  'ours-routes': ourRoutes,
  'tus-server': tusServer,
  uploadx,
  multer: multerAndConcatenation,
}

function tell(message: Message): void {
  if (process.connected) process.send?.(message)
}

function cpuSeconds(): number {
  const { user, system } = process.cpuUsage()
  return (user + system) / 1e6
}

function shown(object: unknown): string {
  const json = () => {
    try {
      return JSON.stringify(object)
    } catch {
      return ''
    }
  }
  return [String(object), inspect(object, { depth: 4 }), json()].join('\n')
}

async function main(): Promise<void> {
  const settings = JSON.parse(process.argv[2] ?? '{}') as ServerSettings
  const running = await makers[settings.kind](settings)
  const server = createServer(running.listener)
  server.requestTimeout = 0
  const questions: Record<Question, () => Promise<string | number>> = {
    cpu: async () => cpuSeconds(),
    show: async () => running.objects.map(shown).join('\n'),
    cleanup: async () => String(await running.cleanup?.()),
    async close() {
      server.close()
      server.closeAllConnections()
      await running.close?.()
      return 'closed'
    },
  }
  // An abandoned server must not outlive the scoreboard; one that was closed must end by itself.
  let closing = false
  process.on('disconnect', () => {
    if (!closing) process.exit(0)
  })
  process.on('message', async (question: Question) => {
    closing ||= question === 'close'
    const value = await questions[question]().catch(
      (error: Error) => `failed: ${error.message ?? JSON.stringify(error)}`,
    )
    tell({ type: 'answer', value })
    if (closing) process.disconnect?.()
  })
  server.listen(0, '127.0.0.1', () => tell({ type: 'ready', port: (server.address() as AddressInfo).port }))
}

main().catch((error: Error) => {
  tell({ type: 'failed', reason: error.message })
  process.disconnect?.()
})
