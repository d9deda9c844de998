/** What the demo can be told. */
import { parseArgs } from 'node:util'

export const usage = `npm run demo -- [--size MiB] [--speed MiB/s] [--once | --page]

  --size    size of the file, 32 to 2048 MiB (default 256)
  --speed   send no faster than this, to watch it at the pace of a real network (default: as fast as it goes)
  --once    end after the account: exit 0 when all was right
  --page    begin with the page
  PORT      environment variable: the port of the page (default: 3000 when it is free, else any)`

export interface DemoOptions {
  /** MiB. */
  readonly size: number
  /** MiB per second; `Infinity` for no limit. */
  readonly speed: number
  readonly once: boolean
  /** Only the page: nothing is uploaded before. */
  readonly page: boolean
  /** Of the page; 0: the usual one when it is free, else any. */
  readonly port: number
  /** Damages the stored file before it is checked: how the demo's own test sees that the check can fail. */
  readonly corrupt: boolean
}

/** @throws Error with a message for the person who typed it; `null` when the help is wanted */
export function readOptions(args: string[], env: NodeJS.ProcessEnv): DemoOptions | null {
  const { values } = parseArgs({
    args,
    options: {
      size: { type: 'string', default: '256' },
      speed: { type: 'string' },
      once: { type: 'boolean', default: false },
      page: { type: 'boolean', default: false },
      help: { type: 'boolean', short: 'h', default: false },
    },
  })
  if (values.help) return null
  if (values.once && values.page) throw new Error('--once and --page exclude each other')
  return {
    // Fewer than 16 chunks are too few for a cut at a third and a kill at a half with several under way.
    size: integer('--size', values.size, 32, 2048),
    speed: values.speed === undefined ? Number.POSITIVE_INFINITY : integer('--speed', values.speed, 1, 100_000),
    once: values.once,
    page: values.page,
    port: integer('PORT', env.PORT || '0', 0, 65_535),
    corrupt: env.NEXUS_DEMO_CORRUPT === '1',
  }
}

function integer(name: string, text: string, min: number, max: number): number {
  const value = Number(text)
  if (/^\d+$/.test(text) && value >= min && value <= max) return value
  throw new Error(`${name} must be a whole number from ${min} to ${max}, got ${JSON.stringify(text)}`)
}
