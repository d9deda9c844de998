/** The Uppy of a page, with its Tus plugin, in Node: bundled as for a browser, with an XMLHttpRequest. */
import { openAsBlob } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { build } from 'esbuild'
import type { UppyInstance } from '../../../test/support/uppy.ts'
import { installXhr } from '../../../test/support/xhr.ts'
import { report, run, task } from './report.ts'

await run(async () => {
  installXhr(task.origin)
  const outfile = join(task.folder, 'uppy.mjs')
  const contents = `export { default as Uppy } from '@uppy/core'\nexport { default as Tus } from '@uppy/tus'\n`
  await build({
    stdin: { contents, resolveDir: process.cwd(), loader: 'js' },
    bundle: true,
    format: 'esm',
    platform: 'browser',
    outfile,
  })
  const { Uppy, Tus } = await import(pathToFileURL(outfile).href)
  const uppy: UppyInstance = new Uppy()
  uppy.use(Tus, {
    endpoint: `${task.origin}/files`,
    headers: { Cookie: task.cookie },
    // A node that is killed leaves its lock until that runs out. A try that brought something on starts the list anew.
    retryDelays: [0, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000],
  })
  uppy.on('upload-progress', (_file, progress) => {
    const { bytesUploaded, bytesTotal } = progress as { bytesUploaded: number; bytesTotal: number }
    report({ kind: 'progress', share: bytesUploaded / bytesTotal })
  })
  const data = await openAsBlob(task.path)
  uppy.addFile({ name: task.name, type: 'application/octet-stream', data: new File([data], task.name) })
  const { successful, failed } = await uppy.upload()
  const [file] = successful
  if (!file) throw new Error(failed[0]?.error ?? 'Uppy gave up.')
  const { xhr } = (file.response?.body ?? {}) as { xhr?: { getResponseHeader(name: string): string | null } }
  return xhr?.getResponseHeader('Content-Location') ?? ''
})
