/**
 * Uploads files from the command line. Stopped half way and run again, it goes on where it was.
 *
 *   npm install nexus-uploader tsx
 *   UPLOAD_URL=http://127.0.0.1:3000/upload npx tsx client-node.ts film.mp4 more.mp4
 */
import { createUpload, UploadError } from 'nexus-uploader/client'

const { UPLOAD_URL = 'http://127.0.0.1:3000/upload', UPLOAD_TOKEN } = process.env

// Ctrl+C leaves what has arrived on the server, to be resumed.
const interrupted = new AbortController()
process.once('SIGINT', () => interrupted.abort())

for (const path of process.argv.slice(2)) {
  const upload = createUpload(path, {
    endpoint: UPLOAD_URL,
    signal: interrupted.signal,
    ...(UPLOAD_TOKEN && { headers: { Authorization: `Bearer ${UPLOAD_TOKEN}` } }),
    onProgress({ state, sentBytes, totalBytes, error }) {
      const percent = totalBytes > 0 ? Math.floor((sentBytes / totalBytes) * 100) : 0
      process.stderr.write(
        `\r${path}: ${percent} % ${state}${error instanceof UploadError ? `, ${error.message}` : ''}   `,
      )
    },
  })
  try {
    const { url } = await upload.start()
    process.stderr.write('\n')
    console.log(url)
  } catch (error) {
    process.stderr.write('\n')
    console.error(error instanceof UploadError ? `${error.code}: ${error.message}` : String(error))
    process.exitCode = 1
    break
  }
}
