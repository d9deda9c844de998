/**
 * What other upload servers do under the faults that this package is tested with: `npm run scoreboard [-- --servers a,b --cases
 * c,d]`. Every server runs in a process of its own, as its documentation shows it. With `SCOREBOARD_WRITE=1` the table also
 * goes into docs/reliability.md.
 */
import { readFile, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { versionOf } from '../bench/machine.ts'
import { installPeers, peerVersions } from '../bench/peers.ts'
import { reportOf } from '../scoreboard/report.ts'
import { everything, type Row, runScoreboard } from '../scoreboard/run.ts'

const document = join(import.meta.dirname, '../docs/reliability.md')
const marks = ['<!-- scoreboard -->', '<!-- end of scoreboard -->'] as const

// Every server would print it.
process.env.AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED = 'true'

async function main(): Promise<void> {
  const text = { type: 'string' } as const
  const { values } = parseArgs({ options: { servers: text, cases: text } })
  const contenders = chosen(everything.contenders, values.servers)
  const cases = chosen(everything.cases, values.cases)
  const needsPeers = contenders.some(({ kind }) => kind === 'tus-server' || kind === 'uploadx')
  if (needsPeers) await installPeers()
  const rows = await runScoreboard({ contenders, cases, directory: tmpdir(), tell })
  const report = [await versions(needsPeers), '', reportOf(rows, contenders)].join('\n')
  console.log(`\n${report}`)
  if (process.env.SCOREBOARD_WRITE) await writeDocument(report)
  const own = rows.filter(({ server, result }) => server.startsWith('ours') && result.verdict === 'fail')
  if (own.length > 0) throw new Error(`${own.length} cases fail for this package`)
}

function chosen<Item extends { readonly name: string }>(all: readonly Item[], names?: string): readonly Item[] {
  return (
    names?.split(',').map((name) => {
      const found = all.find((candidate) => candidate.name === name)
      if (!found) throw new TypeError(`"${name}" is none of ${all.map((candidate) => candidate.name).join(', ')}`)
      return found
    }) ?? all
  )
}

function tell({ case: name, server, result: { verdict, reason } }: Row): void {
  console.error(`${server} ${name}: ${verdict}${reason && ` – ${reason}`}`)
}

async function versions(withPeers: boolean): Promise<string> {
  const { 'multer-s3': _, ...peers } = withPeers ? await peerVersions() : {}
  const all = {
    ...peers,
    multer: await versionOf('../node_modules/multer'),
    express: await versionOf('../node_modules/express'),
  }
  const list = Object.entries(all).map(([name, version]) => `${name} ${version}`)
  return `${new Date().toISOString().slice(0, 10)}, Node ${process.versions.node}, ${list.join(', ')}.`
}

async function writeDocument(report: string): Promise<void> {
  const before = await readFile(document, 'utf8')
  const [start, end] = marks.map((mark) => before.indexOf(mark)) as [number, number]
  if (start < 0 || end < start) throw new Error(`docs/reliability.md has no place for the table: ${marks.join(' … ')}`)
  await writeFile(document, `${before.slice(0, start + marks[0].length)}\n\n${report}\n\n${before.slice(end)}`)
}

main().catch((error: Error) => {
  console.error(error.message)
  process.exitCode = 1
})
