/** The page's scripts and styles, with the client libraries from node_modules, put together in this process. */
import { fileURLToPath } from 'node:url'
import { build } from 'esbuild'

export interface Asset {
  readonly body: Uint8Array
  readonly type: string
}

const page = fileURLToPath(new URL('page/', import.meta.url))

/** By their paths, like `/assets/main.js`. */
export async function bundlePage(): Promise<Map<string, Asset>> {
  const { outputFiles } = await build({
    absWorkingDir: page,
    entryPoints: ['main.ts', 'sha256-worker.ts', 'page.css'],
    outdir: 'assets',
    write: false,
    bundle: true,
    splitting: true,
    format: 'esm',
    target: 'es2022',
    minify: true,
    logLevel: 'error',
  })
  const types = { js: 'text/javascript; charset=utf-8', css: 'text/css; charset=utf-8' }
  return new Map(
    outputFiles.map(({ path, contents }) => {
      const type = path.endsWith('.css') ? types.css : types.js
      return [`/${path.slice(page.length).replaceAll('\\', '/')}`, { body: contents, type }]
    }),
  )
}
