/** Where the browser is. */
import { existsSync } from 'node:fs'

const usual = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome']

/** @throws Error that tells how to get one: tests that need a browser must not pass without */
export function chromiumPath(): string {
  const { CHROMIUM_PATH } = process.env
  const candidates = CHROMIUM_PATH ? [CHROMIUM_PATH] : usual
  const found = candidates.find((path) => existsSync(path))
  if (found) return found
  throw new Error(
    `The browser tests need Chromium, and there is none at ${candidates.join(', ')}. Install it ` +
      '(Debian: apt-get install --no-install-recommends chromium), or set CHROMIUM_PATH to its executable.',
  )
}
