import { mkdirSync } from 'node:fs'
import { createRequire } from 'node:module'
import { basename, join } from 'node:path'
import { fileURLToPath } from 'node:url'

// Vite's own esbuild: in ESM and without the test runner's module loader in between.
const { buildSync } = createRequire(import.meta.url)('esbuild') as typeof import('esbuild')

/** By their sources. */
const bundles = new Map<string, string>()

/**
 * One file that plain Node starts in a tenth of a second: tests that kill a server many times would wait for tsx.
 * @param source relative to the root of the project
 */
export function bundleOf(source: string): string {
  const known = bundles.get(source)
  if (known) return known
  const root = fileURLToPath(new URL('../..', import.meta.url))
  const folder = join(root, 'node_modules/.cache/nexus-uploader')
  mkdirSync(folder, { recursive: true })
  const outfile = join(folder, `${basename(source, '.ts')}-${process.pid}.mjs`)
  buildSync({
    entryPoints: [join(root, source)],
    outfile,
    bundle: true,
    platform: 'node',
    format: 'esm',
    target: 'node20',
    packages: 'external',
  })
  bundles.set(source, outfile)
  return outfile
}
