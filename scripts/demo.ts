/**
 * The whole product in one minute, with nothing but this machine: uploads a big file, cuts the connection, kills the
 * server, resumes, and checks every byte. Then a page to try it in a browser stays open until Ctrl+C.
 */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { MiB } from './demo/layout.ts'
import { type DemoOptions, readOptions, usage } from './demo/options.ts'
import { PageServer } from './demo/page-server.ts'
import { ProgressBar } from './demo/progress-bar.ts'
import { ServerProcess } from './demo/server-process.ts'
import { makeSourceFile } from './demo/source-file.ts'
import { type Account, runStory } from './demo/story.ts'

const out = process.stdout

async function demo(options: DemoOptions, signal: AbortSignal): Promise<number> {
  const folder = await mkdtemp(join(tmpdir(), 'nexus-uploader-demo-'))
  const server = new ServerProcess(folder)
  try {
    await server.start(signal)
    out.write(`Server process ${server.pid} at ${server.origin}, storing in ${folder}\n`)
    const allWasRight = options.page || (await tellStory(server, folder, options, signal))
    if (!options.once) await keepPageOpen(server, options.port, signal)
    return allWasRight ? 0 : 1
  } catch (error) {
    if (signal.aborted) {
      out.write('\nInterrupted.\n')
      return 130
    }
    console.error(`\nThe demo failed: ${error instanceof Error ? error.message : String(error)}`)
    return 1
  } finally {
    await server.stop()
    await rm(folder, { recursive: true, force: true, maxRetries: 3 })
  }
}

async function tellStory(server: ServerProcess, folder: string, options: DemoOptions, signal: AbortSignal) {
  const file = await makeSourceFile(join(folder, 'source.bin'), options.size * MiB, signal)
  let account: Account
  try {
    account = await runStory({ server, folder, file, options, bar: new ProgressBar(out, file.size), signal })
  } finally {
    await file.handle.close()
  }
  tell(account)
  return account.problems.length === 0
}

function tell({ facts, problems }: Account): void {
  out.write('\nWhat happened\n')
  for (const [what, how] of facts) out.write(`  ${what.padEnd(15)} ${how}\n`)
  out.write(problems.length === 0 ? '\nAll was right.\n' : '\nNOT RIGHT:\n')
  for (const problem of problems) out.write(`  ${problem}\n`)
}

async function keepPageOpen(server: ServerProcess, port: number, signal: AbortSignal): Promise<void> {
  const page = await PageServer.start(server, port)
  out.write(`\nTry it in a browser: ${page.url}\nCtrl+C ends the demo and removes its files.\n`)
  try {
    await page.supervise(signal)
  } catch (error) {
    if (!signal.aborted) throw error
    out.write('\nClosing.\n')
  } finally {
    await page.close()
  }
}

async function main(): Promise<number> {
  let options: DemoOptions | null
  try {
    options = readOptions(process.argv.slice(2), process.env)
  } catch (error) {
    console.error(`${error instanceof Error ? error.message : String(error)}\n\n${usage}`)
    return 2
  }
  if (!options) {
    out.write(`${usage}\n`)
    return 0
  }
  const stop = new AbortController()
  // Also when it comes twice, as from a terminal and from npm at once: cleaning up takes a moment.
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(name, () => stop.abort())
  return demo(options, stop.signal)
}

process.exitCode = await main()
