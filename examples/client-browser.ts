/**
 * A page that uploads with the client of this package, and the server it uploads to. No bundler: the page loads the client
 * as it is.
 *
 *   npm install express nexus-uploader tsx
 *   UPLOAD_DIR=./uploads PORT=3000 npx tsx client-browser.ts
 */
import { createRequire } from 'node:module'
import { join } from 'node:path'
import express from 'express'
import { createChunkedUploadMiddleware, LocalStorageAdapter, uploadErrorHandler } from 'nexus-uploader'

const packageFolder = join(createRequire(import.meta.url).resolve('nexus-uploader/package.json'), '..')
const { UPLOAD_DIR = './uploads', PORT = '3000', CLIENT = join(packageFolder, 'dist/client.js') } = process.env

const page = `<!doctype html>
<meta charset="utf-8">
<title>Upload</title>
<input type="file" multiple>
<button id="pause">Pause</button> <button id="resume">Resume</button> <button id="abort">Abort</button>
<p><progress max="1" value="0"></progress> <output></output></p>
<ul></ul>
<script type="module">
  import { createUploadGroup } from '/client.js'

  const bar = document.querySelector('progress')
  const text = document.querySelector('output')
  const group = createUploadGroup({
    endpoint: '/upload',
    onProgress({ sentBytes, totalBytes, speed, secondsLeft, files, completed }) {
      bar.value = totalBytes > 0 ? sentBytes / totalBytes : 0
      const left = secondsLeft === null ? '' : ', ' + Math.ceil(secondsLeft) + ' s left'
      text.value = completed + ' of ' + files + ' files, ' + (speed / 1e6).toFixed(1) + ' MB/s' + left
    },
  })
  document.querySelector('input').addEventListener('change', (event) => {
    for (const file of event.target.files) add(file)
  })
  for (const id of ['pause', 'resume', 'abort']) {
    document.getElementById(id).addEventListener('click', () => group[id]())
  }

  function add(file) {
    const row = document.querySelector('ul').appendChild(document.createElement('li'))
    group.add(file).subscribe(({ state, url, error }) => {
      row.textContent = file.name + ': ' + state + (error ? ' (' + error.message + ')' : '')
      if (!url) return
      const link = document.createElement('a')
      link.href = url
      link.textContent = file.name
      row.replaceChildren(link)
    })
  }
</script>`

const storage = new LocalStorageAdapter({ directory: UPLOAD_DIR, baseUrl: '/files' })
const uploads = createChunkedUploadMiddleware(storage, { maxFileSize: 4 * 1024 * 1024 * 1024 })

const app = express()
app.get('/', (_request, response) => {
  response.type('html').send(page)
})
app.get('/client.js', (_request, response) => response.sendFile(CLIENT))
app.post('/upload/init', uploads.init)
app.post('/upload/chunk', uploads.uploadChunk)
app.post('/upload/complete', uploads.complete)
app.get('/upload/progress/:uploadId', uploads.getProgress)
app.delete('/upload/:uploadId', uploads.abort)

// Strangers' files on your own origin: let browsers save them, never show them as a page of yours.
const setHeaders = (response: express.Response) => {
  response.setHeader('Content-Disposition', 'attachment')
  response.setHeader('X-Content-Type-Options', 'nosniff')
}
app.use('/files', express.static(UPLOAD_DIR, { index: false, setHeaders }))
app.use(uploadErrorHandler())

const server = app.listen(Number(PORT), '127.0.0.1', (error) => {
  if (error) throw error
  const address = server.address()
  console.log(`listening on http://127.0.0.1:${typeof address === 'object' ? address?.port : PORT}`)
})

process.once('SIGTERM', async () => {
  server.close()
  await uploads.close()
  process.exit(0)
})
