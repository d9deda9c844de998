/** The account at the end. */
import { count, duration, mebibytes } from '../demo/text.ts'
import type { ClusterNode } from './node.ts'
import type { ClusterOptions } from './options.ts'
import type { RoundRobinProxy, WireCount } from './proxy.ts'
import type { ClusterUpload } from './upload.ts'

export interface Account {
  readonly nodes: readonly ClusterNode[]
  readonly uploads: readonly ClusterUpload[]
  readonly proxy: RoundRobinProxy
  readonly problems: readonly string[]
}

export function summaryOf(
  { nodes, uploads, proxy, problems }: Account,
  { size, seed }: ClusterOptions,
  seconds: number,
) {
  const facts = [
    ...nodes.map((node): [string, string] => {
      const { requests, bytes, broken } = proxy.counts.get(node) ?? { requests: 0, bytes: 0, broken: 0 }
      const kills = `killed ${count(node.kills, 'time')}`
      return [node.name, `${count(requests, 'request')}, ${mebibytes(bytes)} of bodies; ${kills}, ${broken} broke off`]
    }),
    ...uploads.map(({ kind, kills }): [string, string] => {
      const wire = proxy.wire(kind.wire)
      const again = mebibytes(Math.max(0, wire.bytes - size))
      return [kind.name, `${count(kills, 'kill')} in the middle; was told ${refusalsOf(wire)}; sent ${again} again`]
    }),
    ['proxy', `${count(proxy.movedOn, 'request')} found a node gone and went on to the next one`],
    ['kills', String(nodes.reduce((sum, { kills }) => sum + kills, 0))],
    ['wrong bytes', problems.some((problem) => problem.includes('wrong bytes')) ? 'YES' : '0'],
    ['time', `${duration(seconds)}; seed ${seed}`],
  ]
  const lines = facts.map(([what = '', how]) => `  ${what.padEnd(13)} ${how}`)
  const verdict = problems.length === 0 ? ['All was right.'] : ['NOT RIGHT:', ...problems.map((text) => `  ${text}`)]
  return ['', 'What happened', ...lines, '', ...verdict].join('\n')
}

/** What the client was told that means "again". */
function refusalsOf({ refusals }: WireCount): string {
  const told = [...refusals].sort(([a], [b]) => a - b).map(([status, times]) => `${times} × ${status}`)
  return told.length === 0 ? 'nothing' : told.join(', ')
}
