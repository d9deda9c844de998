/** The page of the Uppy examples: a script like that of any web app, bundled when the server starts. */
import { build } from 'esbuild'
import express from 'express'

/** Serves a page with Uppy's Dashboard in `#uppy`, and `script` in it. */
export async function uppyPage(script: string): Promise<express.Router> {
  const styles = "import '@uppy/core/css/style.min.css'\nimport '@uppy/dashboard/css/style.min.css'\n"
  const { outputFiles } = await build({
    stdin: { contents: styles + script, resolveDir: import.meta.dirname, loader: 'js' },
    bundle: true,
    format: 'esm',
    minify: true,
    write: false,
    outdir: '/',
  })
  const router = express.Router()
  for (const { path, text } of outputFiles) {
    const type = path.endsWith('.css') ? 'css' : 'js'
    router.get(`/page.${type}`, (_request, response) => void response.type(type).send(text))
  }
  router.get('/', (_request, response) => {
    response.type('html').send(`<!doctype html>
      <meta charset="utf-8"><title>Uppy</title>
      <link rel="stylesheet" href="/page.css">
      <div id="uppy"></div>
      <script type="module" src="/page.js"></script>`)
  })
  return router
}
