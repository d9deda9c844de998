/**
 * Cuts the power of a real file system at random moments while clients upload to it, and looks for everything that had been
 * acknowledged: `npm run power-cuts [-- --images 1000] [--seed 7]`. Needs root, loop devices and `mkfs.ext4`.
 */
import { spawn } from 'node:child_process'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { crashDiskMissing } from '../test/support/crash-disk.ts'

const { values } = parseArgs({
  options: {
    images: { type: 'string', default: '1000' },
    seed: { type: 'string', default: String(Date.now() % 1_000_000) },
  },
})
const missing = crashDiskMissing()
if (missing) throw new Error(missing)
const vitest = join(import.meta.dirname, '../node_modules/vitest/vitest.mjs')
const child = spawn(
  process.execPath,
  [vitest, 'run', '--config', 'vitest.faults.config.ts', 'test/faults/power-cuts.sweep.ts'],
  { stdio: 'inherit', env: { ...process.env, POWER_CUTS: values.images, POWER_SEED: values.seed } },
)
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => child.kill(signal))
child.once('exit', (code) => process.exit(code ?? 1))
