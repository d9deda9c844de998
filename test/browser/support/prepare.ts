/** Before the first test: the browser must be there, and Uppy 5, which has a folder of its own. */
import { execFileSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { chromiumPath } from './chromium.ts'

const uppy5 = join(import.meta.dirname, '../uppy-v5')

export function setup(): void {
  chromiumPath()
  if (existsSync(join(uppy5, 'node_modules/@uppy/aws-s3'))) return
  execFileSync('npm', ['install', '--prefix', uppy5, '--no-audit', '--no-fund', '--no-package-lock'], {
    stdio: ['ignore', 'ignore', 'inherit'],
  })
}
