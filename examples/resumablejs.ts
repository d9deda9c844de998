/**
 * Resumable.js and Flow.js into a folder of this machine, with a page to try them.
 *
 *   npm install express nexus-uploader resumablejs @flowjs/flow.js tsx
 *   UPLOAD_DIR=./uploads PORT=3000 npx tsx resumablejs.ts
 */
import { randomUUID } from 'node:crypto'
import { createRequire } from 'node:module'
import express from 'express'
import { createUploadEngine, LocalStorageAdapter } from 'nexus-uploader'
import { resumableJsHandler } from 'nexus-uploader/resumablejs'

const { UPLOAD_DIR = './uploads', PORT = '3000' } = process.env
const { resolve } = createRequire(import.meta.url)

const engine = createUploadEngine({
  storage: new LocalStorageAdapter({ directory: UPLOAD_DIR, baseUrl: '/stored' }),
  sessionTtl: 24 * 60 * 60_000, // a laptop may be closed over night
})

/** A visitor without a login is known by a random id that only this browser has. */
const visitorOf = (cookie = '') => /(?:^|; )visitor=([0-9a-f-]{36})(?:;|$)/.exec(cookie)?.[1]

const page = `<!doctype html>
<meta charset="utf-8">
<title>Resumable.js and Flow.js</title>
<p><label>Resumable.js <input type="file" id="resumable"></label> <label>Flow.js <input type="file" id="flow"></label></p>
<pre id="log"></pre>
<script src="/resumable.js"></script>
<script src="/flow.js"></script>
<script>
  const log = (text) => document.getElementById('log').append(text + '\\n')
  const options = {
    target: '/resumable',
    chunkSize: 2 * 1024 * 1024,
    chunkRetryInterval: 1000,
    maxChunkRetries: 100,
    minFileSize: 0,
    // An edited file is another file, and an upload that was interrupted never goes on with its bytes.
    generateUniqueIdentifier: (file) => [file.size, file.lastModified, file.webkitRelativePath || file.name].join('-'),
  }
  for (const [id, client] of [['resumable', new Resumable(options)], ['flow', new Flow(options)]]) {
    client.assignBrowse(document.getElementById(id))
    client.on(id === 'flow' ? 'filesSubmitted' : 'filesAdded', () => client.upload())
    client.on('fileSuccess', (file) => {
      // The answer that came last need not be the one that completed the file.
      const stored = file.chunks.map((chunk) => JSON.parse(chunk.message())).find(({ url }) => url)
      if (stored) log(id + ': stored as ' + stored.url)
      else file.retry()
    })
    client.on('fileError', (file, message) => log(id + ': ' + message))
  }
</script>`

const app = express()
app.use('/resumable', resumableJsHandler(engine, { owner: (request) => visitorOf(request.headers.cookie) }))
app.use('/stored', express.static(UPLOAD_DIR))
app.get('/resumable.js', (_request, response) => response.sendFile(resolve('resumablejs')))
app.get('/flow.js', (_request, response) => response.sendFile(resolve('@flowjs/flow.js')))
app.get('/', (request, response) => {
  const visitor = visitorOf(request.headers.cookie) ?? randomUUID()
  response.cookie('visitor', visitor, { httpOnly: true, sameSite: 'strict' }).type('html').send(page)
})

const server = app.listen(Number(PORT), '127.0.0.1', (error) => {
  if (error) throw error
  const address = server.address()
  console.log(`listening on http://127.0.0.1:${typeof address === 'object' ? address?.port : PORT}`)
})

process.once('SIGTERM', async () => {
  server.close()
  await engine.close()
  process.exit(0)
})
