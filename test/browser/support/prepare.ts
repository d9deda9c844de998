/** Before the first test: the browser must be there, and Uppy 5, which has a folder of its own. */
import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { chromiumPath } from './chromium.ts'

const uppy5 = join(import.meta.dirname, '../uppy-v5')

const { dependencies } = JSON.parse(readFileSync(join(uppy5, 'package.json'), 'utf8')) as { dependencies: object }
const wanted = Object.keys(dependencies)

export function setup(): void {
  chromiumPath()
  if (wanted.every((name) => existsSync(join(uppy5, 'node_modules', name)))) return
  execFileSync('npm', ['install', '--prefix', uppy5, '--no-audit', '--no-fund', '--no-package-lock'], {
    stdio: ['ignore', 'ignore', 'inherit'],
  })
}
