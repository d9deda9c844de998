/**
 * A storage of your own is one method. This one is an archive: every file is compressed while it is stored, and goes
 * out compressed as well, since browsers unpack gzip by themselves. Good for logs, exports and other text.
 *
 *   npm install express nexus-uploader tsx
 *   ARCHIVE_DIR=./archive PORT=3000 npx tsx custom-adapter.ts
 */
import { createWriteStream } from 'node:fs'
import { mkdir, rename, rm } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import type { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { createGzip } from 'node:zlib'
import express from 'express'
import { createChunkedUploadMiddleware, type ObjectInfo, type StorageAdapter, uploadErrorHandler } from 'nexus-uploader'

class GzipArchive implements StorageAdapter {
  readonly #directory: string

  constructor(directory: string) {
    this.#directory = directory
  }

  /** The key is a safe relative path; a repeated completion comes with the same key and replaces the file. */
  async upload(fileKey: string, stream: Readable, _mimeType: string, info?: ObjectInfo): Promise<string> {
    const target = join(this.#directory, `${fileKey}.gz`)
    // A dot file: `express.static` does not serve it.
    const unfinished = join(dirname(target), `.${basename(target)}.part`)
    await mkdir(dirname(target), { recursive: true })
    try {
      await pipeline(stream, createGzip(), createWriteStream(unfinished), { signal: info?.signal })
      // Whole or not at all: nobody sees half a file under its name.
      await rename(unfinished, target)
    } catch (error) {
      await rm(unfinished, { force: true })
      throw error
    }
    return `/archive/${fileKey.split('/').map(encodeURIComponent).join('/')}.gz`
  }
}

const { ARCHIVE_DIR = './archive', PORT = '3000' } = process.env

const chunkedUpload = createChunkedUploadMiddleware(new GzipArchive(ARCHIVE_DIR), {
  tempDir: join(ARCHIVE_DIR, '.incoming'),
})

const app = express()
app.use(express.json())

app.post('/upload/init', chunkedUpload.init)
app.post('/upload/chunk', chunkedUpload.uploadChunk)
app.post('/upload/complete', chunkedUpload.complete)
app.get('/upload/progress/:uploadId', chunkedUpload.getProgress)

const setHeaders = (response: express.Response) => {
  response.setHeader('Content-Encoding', 'gzip')
  response.setHeader('Content-Type', 'text/plain; charset=utf-8')
  response.setHeader('X-Content-Type-Options', 'nosniff')
}
app.use('/archive', express.static(ARCHIVE_DIR, { index: false, setHeaders }))
app.use(uploadErrorHandler())

const server = app.listen(Number(PORT), '127.0.0.1', (error) => {
  if (error) throw error
  const address = server.address()
  console.log(`listening on http://127.0.0.1:${typeof address === 'object' ? address?.port : PORT}`)
})

// Uploads survive any end of the process; this one also lets the chunks under way arrive.
process.once('SIGTERM', async () => {
  server.close()
  await chunkedUpload.close()
  process.exit(0)
})
