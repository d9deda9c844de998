/** What the demo of a cluster can be told. */
import { parseArgs } from 'node:util'

export const usage = `npm run demo:cluster -- [--size SIZE] [--kills N] [--seconds N] [--seed N]

  --size      of each of the three files: 8M to 8G (default 64M)
  --kills     how often a node is killed with SIGKILL, 3 to 100 (default 6)
  --seconds   how long one file takes on a line that nothing disturbs, 5 to 3600 (default 15): each client has such a line
  --seed      which nodes, when, and how long they stay away (default: another each time; it is printed)
  S3_ENDPOINT, S3_REGION, S3_ACCESS_KEY_ID, S3_SECRET_ACCESS_KEY
              environment variables: a real S3. A bucket is made there, and removed at the end (default: an S3 double)

Exit code: 0 all was right, 1 something was not, 2 wrong options, 3 no redis-server on this machine.`

export interface ClusterOptions {
  /** Bytes. */
  readonly size: number
  readonly kills: number
  readonly seconds: number
  readonly seed: number
  /** Damages a stored file before the check: how the demo's own test sees that the check can fail. */
  readonly corrupt: boolean
}

const units = { K: 1024, M: 1024 ** 2, G: 1024 ** 3 } as const

/** @throws Error with a message for the person who typed it; `null` when the help is wanted */
export function readOptions(args: string[], env: NodeJS.ProcessEnv): ClusterOptions | null {
  const { values } = parseArgs({
    args,
    options: {
      size: { type: 'string', default: '64M' },
      kills: { type: 'string', default: '6' },
      seconds: { type: 'string', default: '15' },
      seed: { type: 'string', default: String(Math.floor(Math.random() * 1_000_000)) },
      help: { type: 'boolean', short: 'h', default: false },
    },
  })
  if (values.help) return null
  return {
    // Smaller ones have too few chunks to be in the middle of.
    size: bytes('--size', values.size, 8 * units.M, 8 * units.G),
    // One for each client.
    kills: integer('--kills', values.kills, 3, 100),
    seconds: integer('--seconds', values.seconds, 5, 3600),
    seed: integer('--seed', values.seed, 0, 2 ** 32 - 1),
    corrupt: env.NEXUS_DEMO_CORRUPT === '1',
  }
}

function bytes(name: string, text: string, min: number, max: number): number {
  const [, digits, unit = ''] = /^(\d+)([KMG]?)$/.exec(text) ?? []
  const value = Number(digits) * (units[unit as keyof typeof units] ?? 1)
  if (value >= min && value <= max) return value
  throw new Error(`${name} must be from 8M to 8G, got ${JSON.stringify(text)}`)
}

function integer(name: string, text: string, min: number, max: number): number {
  const value = Number(text)
  if (/^\d+$/.test(text) && value >= min && value <= max) return value
  throw new Error(`${name} must be a whole number from ${min} to ${max}, got ${JSON.stringify(text)}`)
}
