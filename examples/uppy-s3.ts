/**
 * Uppy's AwsS3 plugin without Companion: into S3, or into a folder of this machine when no bucket is named.
 *
 *   npm install express nexus-uploader tsx esbuild @uppy/core @uppy/dashboard @uppy/aws-s3
 *   UPLOAD_DIR=./uploads PORT=3000 npx tsx uppy-s3.ts
 *   S3_BUCKET=my-bucket S3_REGION=eu-west-1 DIRECT=1 PORT=3000 npx tsx uppy-s3.ts
 *
 * With DIRECT=1 the browser sends the parts to the bucket itself; the bucket's CORS rules must allow PUT from this page
 * and expose ETag.
 */
import express from 'express'
import { createUploadEngine, LocalStorageAdapter, S3StorageAdapter } from 'nexus-uploader'
import { uppyS3Handler } from 'nexus-uploader/uppy'
import { uppyPage } from './uppy-page.ts'

const { UPLOAD_DIR = './uploads', PORT = '3000', DIRECT } = process.env
const { S3_ENDPOINT, S3_REGION, S3_ACCESS_KEY_ID, S3_SECRET_ACCESS_KEY, S3_BUCKET } = process.env

const engine = createUploadEngine({
  storage: S3_BUCKET
    ? new S3StorageAdapter({
        endpoint: S3_ENDPOINT,
        region: S3_REGION,
        accessKeyId: S3_ACCESS_KEY_ID,
        secretAccessKey: S3_SECRET_ACCESS_KEY,
        bucket: S3_BUCKET,
      })
    : new LocalStorageAdapter({ directory: UPLOAD_DIR, baseUrl: '/stored' }),
  maxFileSize: 16 * 1024 * 1024 * 1024,
})

const page = `
  import Uppy from '@uppy/core'
  import Dashboard from '@uppy/dashboard'
  import AwsS3 from '@uppy/aws-s3'

  // What the server is to know of a file; Uppy itself would tell it only a key.
  const files = new Map()

  const uppy = new Uppy()
    .use(Dashboard, { inline: true, target: '#uppy' })
    .use(AwsS3, {
      shouldUseMultipart: true, // or the URL of small files is made up
      generateObjectKey: ({ name, type, size, meta }) => {
        const key = crypto.randomUUID() + '-' + name
        files.set(key, { name, type, size, meta })
        return key
      },
      signRequest: async (request) => {
        const response = await fetch('/companion/s3/sign', {
          method: 'POST',
          headers: { 'Content-Type': 'application/json' }, // and whatever your login needs
          body: JSON.stringify({ ...request, file: files.get(request.key) }),
        })
        if (!response.ok) throw new Error((await response.json()).message)
        return response.json()
      },
    })
  uppy.on('upload-success', (file, { uploadURL }) => console.log(file.name, uploadURL))
`

const app = express()
app.use(await uppyPage(page))
app.use('/companion', uppyS3Handler(engine, { direct: DIRECT === '1' }))

const server = app.listen(Number(PORT), '127.0.0.1', (error) => {
  if (error) throw error
  const address = server.address()
  console.log(`listening on http://127.0.0.1:${typeof address === 'object' ? address?.port : PORT}`)
})
// Node would cut every request after five minutes; the handler ends silent ones itself.
server.requestTimeout = 0

process.once('SIGTERM', async () => {
  server.close()
  await engine.close()
  process.exit(0)
})
