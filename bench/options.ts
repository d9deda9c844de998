/** The command line of the bench. */
import { tmpdir } from 'node:os'
import { resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { GiB, MiB } from './measure.ts'
import { comparisons, type SizeName, type Sizes, serverNames, sizes, workloadKinds } from './workloads.ts'

const sizeNames = Object.keys(sizes) as SizeName[]

export const usage = `npm run bench -- [options]
  --workloads W1,W2                  default: all
${lines(workloadKinds.map((kind) => [kind, comparisons[kind].is]))}
  --servers form,raw                 default: all of
                                     ${serverNames.join(' ').replace(/(.{60,80}) /g, '$1\n                                     ')}
  --rounds 3                         interleaved
  --quick                            one round with small sizes, to see that all works
${lines(sizeNames.map((name) => [`--${name} ${sizes[name].standard}`, sizes[name].is]))}
                                     sizes need a unit: K, M or G (powers of 1024)
  --node-flags <flags>               of the servers, separated by spaces
  --sources                          measures src/, not what was built
  --real-s3                          for T3, T4 and S: the S3 that the environment names (S3_ENDPOINT, S3_REGION,
                                     S3_ACCESS_KEY_ID, S3_SECRET_ACCESS_KEY), not the sink
  --dir <folder>                     where the servers store (default: the system's temporary folder)
  --json <file>                      every single measurement
  --markdown <file>                  the report, which is printed as well`

function lines(entries: readonly (readonly [name: string, text: string])[]): string {
  return entries.map(([name, text]) => `    ${name.padEnd(33)}${text}`).join('\n')
}

export type Options = ReturnType<typeof readOptions>

export function readOptions() {
  const text = { type: 'string' } as const
  const flag = { type: 'boolean', default: false } as const
  const { values } = parseArgs({
    options: {
      ...(Object.fromEntries(sizeNames.map((name) => [name, text])) as Record<SizeName, typeof text>),
      ...{ rounds: text, workloads: text, servers: text, dir: text, json: text, markdown: text, 'node-flags': text },
      ...{ quick: flag, sources: flag, 'real-s3': flag, help: flag },
    },
  })
  const realS3 = values['real-s3']
  if (realS3 && !process.env.S3_ENDPOINT) throw new TypeError('--real-s3 needs S3_ENDPOINT')
  const sizeOf = (name: SizeName) => {
    // A real one takes as long as it takes.
    if (name === 'latency' && realS3) return '0'
    return values[name] ?? sizes[name][values.quick ? 'quick' : 'standard']
  }
  return {
    help: values.help,
    sources: values.sources,
    realS3,
    rounds: number(values.rounds ?? (values.quick ? '1' : '3')),
    workloads: list(values.workloads, workloadKinds),
    servers: list(values.servers, serverNames),
    sizes: Object.fromEntries(sizeNames.map((name) => [name, sizeOf(name).split(',').map(number)])) as unknown as Sizes,
    nodeFlags: values['node-flags']?.split(' ') ?? [],
    directory: resolve(values.dir ?? tmpdir()),
    json: values.json,
    markdown: values.markdown,
  }
}

function list<Name extends string>(text: string | undefined, known: readonly Name[]): readonly Name[] {
  return (
    text?.split(',').map((name) => {
      const found = known.find((candidate) => candidate === name)
      if (found === undefined) throw new TypeError(`"${name}" is none of ${known.join(', ')}`)
      return found
    }) ?? known
  )
}

function number(text: string): number {
  const [, digits, unit] = /^(\d+)([KMG]?)$/.exec(text) ?? []
  if (digits === undefined) throw new TypeError(`"${text}" is not a number, or a size like 64M or 1G`)
  return Number(digits) * ({ K: 1024, M: MiB, G: GiB }[unit ?? ''] ?? 1)
}
