/** The package as a user gets it: packed, installed in an empty project, the documented example on Express 5 and 4. */
import { execFile, spawn } from 'node:child_process'
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { GetObjectCommand, S3Client } from '@aws-sdk/client-s3'
import { buildSync } from 'esbuild'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { orders, send } from '../support/engine.ts'
import { nativeClient } from '../support/native-client.ts'
import { bytes, cut, sha256 } from '../support/random.ts'
import { s3Target } from '../support/s3-target.ts'
import { makeFolder } from '../support/temp-folder.ts'

const run = promisify(execFile)
const root = fileURLToPath(new URL('../..', import.meta.url))
const MiB = 1024 * 1024
const project = makeFolder()

/** The printed example; only endpoint, keys and bucket are filled in, and the port is a free one. */
async function documentedExample(): Promise<string> {
  const readme = await readFile(join(root, 'README.md'), 'utf8')
  const example = [...readme.matchAll(/```(?:js|javascript|ts|typescript)\n([\s\S]*?)```/g)]
    .map(([, code]) => code ?? '')
    .find((code) => code.includes('new S3StorageAdapter') && code.includes('app.listen'))
  if (!example) throw new Error('the README has lost its example')
  return example
}

beforeAll(async () => {
  await run('npm', ['run', 'build'], { cwd: root })
  const { stdout } = await run('npm', ['pack', '--json', '--ignore-scripts', '--pack-destination', project.path], {
    cwd: root,
  })
  const [{ filename, files }] = JSON.parse(stdout) as [{ filename: string; files: { path: string }[] }]
  expect(files.map(({ path }) => path).filter((path) => /^(src|test|scripts|bench|scoreboard)\//.test(path))).toEqual(
    [],
  )
  await writeFile(join(project.path, 'package.json'), JSON.stringify({ private: true, type: 'module' }))
  const flags = ['--no-audit', '--no-fund', '--prefer-offline', '--ignore-scripts']
  await run('npm', ['install', ...flags, `./${filename}`, 'express@5', 'express4@npm:express@4'], { cwd: project.path })
}, 300_000)

afterAll(() => project.remove())

describe('the packed package', () => {
  it('can be imported and required, with one copy of its errors', async () => {
    const code = `
      import * as esm from 'nexus-uploader'
      import { createRequire } from 'node:module'
      import { S3StorageAdapter } from 'nexus-uploader/s3'
      import { storageAdapterConformance } from 'nexus-uploader/testing'
      const cjs = createRequire(import.meta.url)('nexus-uploader')
      const missing = new cjs.UploadNotFoundError()
      console.log(JSON.stringify([
        typeof esm.createChunkedUploadMiddleware, typeof cjs.createChunkedUploadMiddleware,
        esm.S3StorageAdapter === S3StorageAdapter, typeof storageAdapterConformance,
        esm.isNexusUploaderError(missing), Object.keys(esm).length === Object.keys(cjs).length,
      ]))`
    const { stdout } = await run(process.execPath, ['--input-type=module', '-e', code], { cwd: project.path })
    expect(JSON.parse(stdout)).toEqual(['function', 'function', true, 'function', true, true])
  })

  it('does not load the AWS SDK before it is used', async () => {
    const code = `
      import { S3StorageAdapter } from 'nexus-uploader'
      import { createRequire } from 'node:module'
      new S3StorageAdapter({ endpoint: 'http://127.0.0.1:1', accessKeyId: 'a', secretAccessKey: 'b', bucket: 'a-bucket' })
      console.log(Object.keys(createRequire(import.meta.url).cache).filter((path) => path.includes('aws-sdk')).length)
      console.log(process.memoryUsage().rss)`
    const { stdout } = await run(process.execPath, ['--input-type=module', '-e', code], { cwd: project.path })
    expect(stdout.split('\n')[0]).toBe('0')
  })

  it('brings a client for Node and one for pages, by what asks for it', async () => {
    const code = `
      import { uploadFile } from 'nexus-uploader/client'
      import { createRequire } from 'node:module'
      const cjs = createRequire(import.meta.url)('nexus-uploader/client')
      const messages = [uploadFile, cjs.uploadFile].map((upload) =>
        upload('no-such-file', { endpoint: 'http://127.0.0.1:1' }).catch((error) => error.code))
      console.log(JSON.stringify(await Promise.all(messages)))`
    const { stdout } = await run(process.execPath, ['--input-type=module', '-e', code], { cwd: project.path })
    expect(JSON.parse(stdout)).toEqual(['ENOENT', 'ENOENT'])
    const page = "export { createUpload, createUploadGroup, UploadError, uploadFile } from 'nexus-uploader/client'"
    const { metafile, outputFiles } = buildSync({
      stdin: { contents: page, resolveDir: project.path },
      bundle: true,
      format: 'esm',
      platform: 'browser',
      metafile: true,
      write: false,
    })
    const inputs = Object.keys(metafile.inputs).filter((path) => path !== '<stdin>')
    expect(inputs.map((path) => path.replace(/^.*node_modules\//, ''))).toEqual(['nexus-uploader/dist/client.js'])
    expect(outputFiles[0]?.text).not.toMatch(/^import |from ["']|require\(/m)
  })

  it('looks at first bytes in both module systems', async () => {
    const code = `
      import * as esm from 'nexus-uploader'
      import { createRequire } from 'node:module'
      import { mkdtempSync } from 'node:fs'
      import { Readable } from 'node:stream'
      const codes = []
      for (const { createUploadEngine, MemoryStorageAdapter } of [esm, createRequire(import.meta.url)('nexus-uploader')]) {
        const engine = createUploadEngine({ storage: new MemoryStorageAdapter(), tempDir: mkdtempSync('first-'), verifyMimeType: true })
        const { session } = await engine.create({ fileName: 'a', mimeType: 'image/png', totalSize: 4, protocol: 'native' })
        const body = Readable.from([Buffer.from('%PDF')])
        await engine.writeChunk({ uploadId: session.id, protocol: 'native', index: 0, body }).catch(({ code }) => codes.push(code))
        await engine.close()
      }
      console.log(JSON.stringify(codes))`
    const { stdout } = await run(process.execPath, ['--input-type=module', '-e', code], { cwd: project.path })
    expect(JSON.parse(stdout)).toEqual(['INVALID_FILE_TYPE', 'INVALID_FILE_TYPE'])
  })

  it('has types for both module systems', async () => {
    const tsc = createRequire(import.meta.url).resolve('typescript/bin/tsc')
    const user = `
      import { createChunkedUploadMiddleware, LocalStorageAdapter, type StorageAdapter } from 'nexus-uploader'
      const storage: StorageAdapter = new LocalStorageAdapter({ directory: 'files' })
      const uploads = createChunkedUploadMiddleware(storage, { maxChunkSize: 1 })
      const handler: (req: never, res: never, next: never) => void = uploads.init
      void handler
      import { createUpload, type UploadProgress } from 'nexus-uploader/client'
      const progress: UploadProgress = createUpload('a path', { endpoint: 'http://a' }).progress
      void progress`
    await writeFile(join(project.path, 'esm.mts'), user)
    await writeFile(join(project.path, 'cjs.cts'), user)
    const options = [
      '--strict',
      '--noEmit',
      '--module',
      'nodenext',
      '--target',
      'es2022',
      '--types',
      'node',
      '--typeRoots',
      join(root, 'node_modules/@types'),
    ]
    await run(process.execPath, [tsc, ...options, 'esm.mts', 'cjs.cts'], { cwd: project.path })
  })
})

describe.each(['express', 'express4'])('the documented example on %s', (expressName) => {
  describe.each(['S3', 'local disk'])('with %s', (kind) => {
    it.each([2, 5])(
      'stores 64 MiB whole in chunks of %i MiB, in every order, with the fields before and after the file',
      async (mebibytes) => {
        const target = await s3Target()
        const folder = join(project.path, `${expressName}-${kind === 'S3' ? 's3' : 'local'}-${mebibytes}`)
        await mkdir(folder)
        try {
          const code = (await documentedExample())
            .replace("from 'express'", `from '${expressName}'`)
            .replace('maxChunkSize: 2 *', `maxChunkSize: ${mebibytes} *`)
            .replace("'your-s3-endpoint'", JSON.stringify(target.endpoint))
            .replace("'your-key'", JSON.stringify(target.accessKeyId))
            .replace("'your-secret'", JSON.stringify(target.secretAccessKey))
            .replace("'your-bucket'", JSON.stringify(target.bucket))
            .replace(
              /app\.listen\([^\n]*/,
              "const server = app.listen(0, '127.0.0.1', () => console.log(server.address().port))",
            )
          const local = code
            .replace('S3StorageAdapter }', 'LocalStorageAdapter }')
            .replace(/S3StorageAdapter,/, 'LocalStorageAdapter,')
            .replace(/new S3StorageAdapter\(\{[\s\S]*?\}\)/, "new LocalStorageAdapter({ directory: './files' })")
          await writeFile(join(folder, 'server.mjs'), kind === 'S3' ? code : local)
          const server = spawn(process.execPath, ['server.mjs'], { cwd: folder, stdio: ['ignore', 'pipe', 'inherit'] })
          try {
            const port = await new Promise<string>((resolve, reject) => {
              server.stdout.once('data', (data) => resolve(String(data).trim()))
              server.once('exit', (exit) => reject(new Error(`the example ended with ${exit}`)))
            })
            const read = (key: string) => (kind === 'S3' ? readS3(target, key) : readFile(join(folder, 'files', key)))
            await uploadEveryWay(`http://127.0.0.1:${port}`, mebibytes * MiB, read)
          } finally {
            server.kill('SIGKILL')
          }
        } finally {
          await target.close()
        }
      },
      300_000,
    )
  })
})

async function uploadEveryWay(
  url: string,
  maxChunkSize: number,
  read: (key: string) => Promise<Uint8Array>,
): Promise<void> {
  const client = nativeClient(url)
  const file = bytes(64 * MiB, 11)
  const expected = sha256(file)
  for (const [at, order] of orders.entries()) {
    const chunkSize = at % 2 === 0 ? maxChunkSize : maxChunkSize - 97_152
    const form = at % 2 === 0 ? 'fields first' : 'file first'
    const id = await client.start(file.length)
    await send(order, cut(file, chunkSize), async (index, data) => {
      expect((await client.chunk(id, index, data, form)).body).toEqual({ success: true })
    })
    const { body } = await client.complete(id)
    expect(body.url, JSON.stringify(body)).toContain('-large-video.mp4')
    expect(sha256(Buffer.from(await read(body.key)))).toBe(expected)
  }
}

async function readS3(target: Awaited<ReturnType<typeof s3Target>>, key: string): Promise<Uint8Array> {
  const { endpoint, region, accessKeyId, secretAccessKey, bucket } = target
  const credentials = { accessKeyId, secretAccessKey }
  const client = new S3Client({ endpoint, region, credentials, forcePathStyle: true })
  try {
    const { Body } = await client.send(new GetObjectCommand({ Bucket: bucket, Key: key }))
    if (!Body) throw new Error('no body')
    return await Body.transformToByteArray()
  } finally {
    client.destroy()
  }
}
