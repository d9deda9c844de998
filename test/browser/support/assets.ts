/** The pages with the client libraries from npm, put together once in a test run. */
import { readdirSync } from 'node:fs'
import { basename, join } from 'node:path'
import { buildSync } from 'esbuild'

export interface Asset {
  readonly body: string | Uint8Array
  readonly type: string
}

const folder = join(import.meta.dirname, '..')
/** Uppy 5 has a folder of its own with its own node_modules. */
const sources = ['pages', 'uppy-v5'].flatMap((name) =>
  readdirSync(join(folder, name))
    .filter((file) => file.endsWith('.page.ts'))
    .map((file) => `${name}/${file}`),
)
const assets = new Map<string, Asset>()

/** `/pages/flow` is a page, `/assets/flow.js` its script. */
export function assetOf(path: string): Asset | undefined {
  if (assets.size === 0) build()
  return assets.get(path)
}

function build(): void {
  const { outputFiles } = buildSync({
    absWorkingDir: folder,
    entryPoints: sources,
    entryNames: '[name]',
    outdir: 'assets',
    write: false,
    bundle: true,
    format: 'esm',
    target: 'es2022',
    logLevel: 'error',
  })
  for (const { path, contents } of outputFiles) {
    const name = basename(path, '.page.js')
    assets.set(`/assets/${name}.js`, { body: contents, type: 'text/javascript; charset=utf-8' })
    assets.set(`/pages/${name}`, { body: htmlOf(name), type: 'text/html; charset=utf-8' })
  }
}

function htmlOf(name: string): string {
  return `<!doctype html>
<html lang="en">
  <meta charset="utf-8" />
  <title>${name}</title>
  <link rel="icon" href="data:," />
  <label>File <input type="file" /></label>
  <script type="module" src="/assets/${name}.js"></script>
</html>`
}
