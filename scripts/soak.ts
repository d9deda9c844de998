/** Clients, kills and a failing storage for as long as you like: `npm run test:soak -- --minutes 30 [--clients 50] [--seed 1]`. */
import { spawn } from 'node:child_process'
import { join } from 'node:path'
import { parseArgs } from 'node:util'

const { values } = parseArgs({
  options: {
    minutes: { type: 'string', default: '30' },
    clients: { type: 'string', default: '50' },
    seed: { type: 'string', default: String(Date.now() % 1_000_000) },
  },
})
const vitest = join(import.meta.dirname, '../node_modules/vitest/vitest.mjs')
const env = { SOAK_MINUTES: values.minutes, SOAK_CLIENTS: values.clients, SOAK_SEED: values.seed }
const child = spawn(
  process.execPath,
  [vitest, 'run', '--config', 'vitest.faults.config.ts', 'test/faults/soak.sweep.ts'],
  { stdio: 'inherit', env: { ...process.env, ...env } },
)
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => child.kill(signal))
child.once('exit', (code) => process.exit(code ?? 1))
