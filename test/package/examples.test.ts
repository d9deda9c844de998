/** The examples run as they are printed: each as a process of its own, used over the documented routes. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { gunzipSync } from 'node:zlib'
import { GetObjectCommand } from '@aws-sdk/client-s3'
import { build, buildSync, transformSync } from 'esbuild'
import { Upload, type UploadOptions } from 'tus-js-client'
import { afterEach, describe, expect, it, vi } from 'vitest'
import { answer, nativeClient } from '../support/native-client.ts'
import { bytes, cut, sha256 } from '../support/random.ts'
import { describeRedis, startRedis } from '../support/redis-server.ts'
import { resumableClient } from '../support/resumable-client.ts'
import { clientOf, doubleTarget, s3Target } from '../support/s3-target.ts'
import { filesBelow, tempFolder } from '../support/temp-folder.ts'
import { fileOf, type UppyInstance } from '../support/uppy.ts'
import { installXhr } from '../support/xhr.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))
const MiB = 1024 * 1024
const children = new Set<ChildProcess>()

afterEach(async () => {
  for (const child of children) {
    if (child.exitCode !== null || child.signalCode !== null) continue
    const exited = once(child, 'exit')
    child.kill('SIGKILL')
    await exited
  }
  children.clear()
})

/** Resolves when the example says where it listens. */
async function startExample(name: string, env: Record<string, string>) {
  const child = spawn(process.execPath, ['--import', 'tsx', `examples/${name}.ts`], {
    cwd: root,
    env: { ...process.env, ...env, PORT: '0', TMPDIR: tempFolder() },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  children.add(child)
  let output = ''
  const url = await new Promise<string>((resolve, reject) => {
    const add = (text: Buffer) => {
      output += text
      const [, found] = /listening on (http:\S+)\n/.exec(output) ?? []
      if (found) resolve(found)
    }
    child.stdout.on('data', add)
    child.stderr.on('data', add)
    child.once('close', (code) => reject(new Error(`${name} ended with ${code}: ${output}`)))
    setTimeout(() => reject(new Error(`${name} does not listen: ${output}`)), 30_000).unref()
  })
  return { child, url, client: nativeClient(url) }
}

/** As documented, without a declared chunk size; the chunks come in another order than they have. */
async function upload(client: ReturnType<typeof nativeClient>, data: Buffer, chunkSize: number, fileName: string) {
  const uploadId = await client.start(data.length, { fileName, mimeType: 'application/octet-stream' })
  const chunks = [...cut(data, chunkSize).entries()].reverse()
  for (const [index, chunk] of chunks) {
    const { status, body } = await client.chunk(uploadId, index, chunk)
    expect({ status, body }).toMatchObject({ status: 200, body: { success: true } })
  }
  const { body: progress } = await client.progress(uploadId)
  expect(progress).toMatchObject({ uploadedChunks: chunks.length, totalChunks: chunks.length })
  const { status, body } = await client.complete(uploadId)
  expect({ status, body }).toMatchObject({ status: 200, body: { url: expect.any(String), size: data.length } })
  return body as { url: string; key: string }
}

async function download(url: string): Promise<Buffer> {
  const response = await fetch(url)
  expect(response.status).toBe(200)
  return Buffer.from(await response.arrayBuffer())
}

describe('examples/express-local.ts', () => {
  it('stores a file in the folder and serves it', async () => {
    const directory = tempFolder()
    const { child, url, client } = await startExample('express-local', { UPLOAD_DIR: directory })
    const data = bytes(7 * MiB + 123)
    const stored = await upload(client, data, 2 * MiB, 'report.pdf')
    expect(sha256(await readFile(join(directory, stored.key)))).toBe(sha256(data))
    expect(sha256(await download(new URL(stored.url, url).href))).toBe(sha256(data))
    const missing = await client.progress('00000000-0000-4000-8000-000000000000')
    expect(missing).toMatchObject({ status: 404, body: { code: 'UPLOAD_NOT_FOUND' } })
    child.kill('SIGTERM')
    expect(await once(child, 'exit')).toEqual([0, null])
  })
})

describe('examples/express-s3.ts', () => {
  it('stores a file in the bucket, in chunks and in one request', async () => {
    const target = await s3Target()
    try {
      const { url, client } = await startExample('express-s3', {
        S3_ENDPOINT: target.endpoint,
        S3_REGION: target.region,
        S3_ACCESS_KEY_ID: target.accessKeyId,
        S3_SECRET_ACCESS_KEY: target.secretAccessKey,
        S3_BUCKET: target.bucket,
      })
      const s3 = clientOf(target)
      const read = async (key: string) => {
        const { Body } = await s3.send(new GetObjectCommand({ Bucket: target.bucket, Key: key }))
        return sha256(Buffer.from((await Body?.transformToByteArray()) ?? []))
      }
      const data = bytes(13 * MiB + 7)
      const stored = await upload(client, data, 2 * MiB, 'video.mp4')
      expect(await read(stored.key)).toBe(sha256(data))

      const small = bytes(100_000, 2)
      const form = new FormData()
      form.append('file', new Blob([new Uint8Array(small)]), 'small.bin')
      const single = await answer(fetch(`${url}/upload`, { method: 'POST', body: form }))
      expect(single.status, single.text).toBe(200)
      expect(await read(single.body.key)).toBe(sha256(small))

      const abandoned = await client.start(data.length)
      expect((await client.abort(abandoned)).status).toBe(204)
      expect((await client.progress(abandoned)).status).toBe(410)
      s3.destroy()
    } finally {
      await target.close()
    }
  })
})

describeRedis('examples/redis-s3-cluster/server.ts', () => {
  it('takes an upload at any node, and goes on at the others when one is closed', async () => {
    const [target, redis] = [await s3Target(), await startRedis()]
    const s3 = clientOf(target)
    try {
      const env = {
        REDIS_URL: `redis://127.0.0.1:${redis.port}`,
        S3_ENDPOINT: target.endpoint,
        S3_REGION: target.region,
        S3_ACCESS_KEY_ID: target.accessKeyId,
        S3_SECRET_ACCESS_KEY: target.secretAccessKey,
        S3_BUCKET: target.bucket,
      }
      const nodes = await Promise.all([1, 2].map(() => startExample('redis-s3-cluster/server', env)))
      const [a, b] = nodes as [(typeof nodes)[0], (typeof nodes)[0]]
      const data = bytes(7 * MiB + 1)
      const id = await a.client.start(data.length, { chunkSize: MiB })
      const chunks = cut(data, MiB)
      for (const [index, chunk] of chunks.slice(0, 6).entries()) {
        expect((await (index % 2 === 0 ? a : b).client.chunk(id, index, chunk)).status).toBe(200)
      }
      a.child.kill('SIGTERM')
      expect(await once(a.child, 'exit')).toEqual([0, null])
      for (const [index, chunk] of chunks.entries()) {
        expect((await b.client.chunk(id, index, chunk)).body).toEqual({
          success: true,
          ...(index < 6 && { duplicate: true }),
        })
      }
      const { body } = await b.client.complete(id)
      const { Body } = await s3.send(new GetObjectCommand({ Bucket: target.bucket, Key: body.key }))
      expect(sha256(Buffer.from((await Body?.transformToByteArray()) ?? []))).toBe(sha256(data))

      const cookie = (await fetch(b.url)).headers.get('set-cookie') ?? ''
      const { run, send } = resumableClient(`${b.url}/resumable`)
      const file = { data, chunkSize: MiB }
      expect((await run(file, { headers: { Cookie: cookie.split(';')[0] ?? '' } })).body).toMatchObject({
        complete: true,
      })
      expect((await send(file, 1)).body).toMatchObject({ code: 'OWNER_UNKNOWN' })
    } finally {
      s3.destroy()
      await redis.stop()
      await target.close()
    }
  })
})

describe('examples/custom-adapter.ts', () => {
  it('stores a file compressed and serves what was uploaded', async () => {
    const directory = tempFolder()
    const { url, client } = await startExample('custom-adapter', { ARCHIVE_DIR: directory })
    const lines = Array.from(
      { length: 120_000 },
      (_, i) => `2026-01-01T00:00:00Z request ${i} answered in ${i % 97} ms\n`,
    )
    const data = Buffer.from(lines.join(''))
    const stored = await upload(client, data, 1 * MiB, 'access.log')
    const compressed = await readFile(join(directory, `${stored.key}.gz`))
    expect(compressed.length).toBeLessThan(data.length / 3)
    expect(sha256(gunzipSync(compressed))).toBe(sha256(data))
    expect(sha256(await download(new URL(stored.url, url).href))).toBe(sha256(data))
    expect((await filesBelow(directory)).filter((name) => name.includes('.part'))).toEqual([])
  })
})

describe('examples/metrics.ts', () => {
  it('counts for Prometheus what its clients have seen, and prints a span for every call', async () => {
    const { child, url, client } = await startExample('metrics', { UPLOAD_DIR: tempFolder() })
    let spans = ''
    child.stdout.on('data', (text) => {
      spans += text
    })
    const data = bytes(2 * MiB + 1)
    await upload(client, data, MiB, 'a.bin')
    const open = await client.start(10)
    expect((await client.chunk(open, 0, bytes(4))).status).toBe(200)
    expect((await client.chunk(open, 0, bytes(4))).status).toBe(200)
    expect((await client.complete(open)).status).toBe(409)
    const metrics = await (await fetch(`${url}/metrics`)).text()
    expect(metrics).toContain('uploads_total{event="created"} 2\n')
    expect(metrics).toContain('uploads_total{event="completed"} 1\n')
    expect(metrics).toContain(`upload_bytes_total ${data.length + 4}\n`)
    expect(metrics).toContain('upload_chunks_total{duplicate="false"} 4\n')
    expect(metrics).toContain('upload_chunks_total{duplicate="true"} 1\n')
    expect(metrics).toContain('upload_call_seconds_count{verb="writeChunk",outcome="ok"} 5\n')
    expect(metrics).toContain('upload_call_seconds_count{verb="complete",outcome="error"} 1\n')
    await vi.waitFor(() => expect(spans.match(/name: 'upload complete'/g)).toHaveLength(2), { timeout: 10_000 })
    expect(spans).toContain(`uploadId: '${open}'`)
    expect(spans).toContain('4 of 10 bytes have arrived')
  })
})

describe('examples/tus.ts and examples/ietf.ts', () => {
  it('take a file from tus-js-client', async () => {
    const directory = tempFolder()
    const { url } = await startExample('tus', { UPLOAD_DIR: directory })
    const file = bytes(3 * MiB + 1)
    await uploadWith({ endpoint: `${url}/files`, metadata: { filename: 'a.bin' }, chunkSize: MiB }, file)
    const [name = ''] = (await filesBelow(directory)).filter((path) => path.endsWith('-a.bin'))
    expect(sha256(await readFile(join(directory, name)))).toBe(sha256(file))
    await expect(uploadWith({ endpoint: `${url}/files` }, file)).rejects.toThrow('Send Upload-Metadata')
  })

  it('take a file in one request, and from tus-js-client on the same path', async () => {
    const directory = tempFolder()
    const { url } = await startExample('ietf', { UPLOAD_DIR: directory })
    const file = bytes(2 * MiB + 1)
    const answered = await fetch(`${url}/files`, {
      method: 'POST',
      body: new Uint8Array(file),
      headers: { 'Upload-Complete': '?1', 'Content-Disposition': 'inline; filename="b.bin"' },
    })
    const { url: stored } = (await answered.json()) as { url: string }
    expect(sha256(await readFile(join(directory, stored.replace('/stored/', ''))))).toBe(sha256(file))
    await uploadWith({ endpoint: `${url}/files` }, file)
  })
})

describe('examples/resumablejs.ts', () => {
  it('takes files of Resumable.js and Flow.js from the visitor of its page', async () => {
    const directory = tempFolder()
    const { url } = await startExample('resumablejs', { UPLOAD_DIR: directory })
    const page = await fetch(url)
    const [Cookie = ''] = (page.headers.get('set-cookie') ?? '').split(';')
    const scripts = [...(await page.text()).matchAll(/src="([^"]+)"/g)].map(([, src]) => fetch(`${url}${src}`))
    expect((await Promise.all(scripts)).map(({ status }) => status)).toEqual([200, 200])
    const file = { data: bytes(3 * MiB + 1), chunkSize: MiB }
    for (const library of ['resumable', 'flow'] as const) {
      const { run, send } = resumableClient(`${url}/resumable`, library)
      const { body } = await run(file, { headers: { Cookie } })
      expect(sha256(await download(new URL(body.url, url).href))).toBe(sha256(file.data))
      expect((await send(file, 1)).body).toMatchObject({ code: 'OWNER_UNKNOWN' })
    }
  })
})

describe('the Uppy examples', () => {
  /** The script of the page as it is printed, but for the Dashboard, which needs a screen. */
  async function uppyOf(name: string, url: string): Promise<UppyInstance> {
    const source = await readFile(join(root, 'examples', `${name}.ts`), 'utf8')
    const [, page = ''] = /const page = `\n([\s\S]*?)\n`\n/.exec(source) ?? []
    const script = page.replace(/^.*Dashboard.*\n/gm, '').replaceAll("'/", `'${url}/`)
    const outfile = join(tempFolder(), 'page.mjs')
    await build({
      stdin: { contents: `${script}\nexport default uppy`, resolveDir: root, loader: 'js' },
      bundle: true,
      format: 'esm',
      platform: 'browser',
      outfile,
    })
    return (await import(pathToFileURL(outfile).href)).default
  }

  async function uploadFrom(name: string, env: Record<string, string>, data: Buffer) {
    const { url } = await startExample(name, env)
    expect((await download(url)).toString()).toContain('/page.js')
    expect((await download(`${url}/page.js`)).toString()).toContain('upload-success')
    expect((await download(`${url}/page.css`)).toString()).toContain('.uppy-Dashboard')
    const xhr = installXhr(url)
    try {
      const uppy = await uppyOf(name, url)
      uppy.addFile(fileOf(data, 'a.bin'))
      const { successful, failed } = await uppy.upload()
      expect(failed).toEqual([])
      return successful[0]
    } finally {
      xhr.remove()
    }
  }

  it.each(['uppy-tus', 'uppy-s3', 'uppy-xhr'])('%s stores what its page sends', async (name) => {
    const directory = tempFolder()
    const data = bytes(6 * MiB + 1)
    const file = await uploadFrom(name, { UPLOAD_DIR: directory }, data)
    const [stored = ''] = (await filesBelow(directory)).filter((path) => path.endsWith('-a.bin'))
    expect(sha256(await readFile(join(directory, stored)))).toBe(sha256(data))
    if (name !== 'uppy-tus') expect(file?.uploadURL).toBe(`/stored/${stored}`)
  })

  it('uppy-s3 lets the page send parts to the bucket', async () => {
    const target = await doubleTarget()
    const data = bytes(6 * MiB + 1)
    try {
      const file = await uploadFrom(
        'uppy-s3',
        {
          S3_ENDPOINT: target.endpoint,
          S3_REGION: target.region,
          S3_ACCESS_KEY_ID: target.accessKeyId,
          S3_SECRET_ACCESS_KEY: target.secretAccessKey,
          S3_BUCKET: target.bucket,
          DIRECT: '1',
        },
        data,
      )
      const key = String(file?.response?.body?.key)
      expect(sha256(await target.double.read(target.bucket, key))).toBe(sha256(data))
      expect(target.double.log('UploadPart').map(({ headers }) => headers['user-agent'])).toEqual([
        undefined,
        undefined,
      ])
    } finally {
      await target.close()
    }
  })
})

describe('examples/client-browser.ts', () => {
  it('serves a page with the client, and takes what the client sends', async () => {
    const directory = tempFolder()
    const { outputFiles } = buildSync({
      entryPoints: [join(root, 'src/client.ts')],
      bundle: true,
      format: 'esm',
      write: false,
    })
    const CLIENT = join(tempFolder(), 'client.js')
    await writeFile(CLIENT, outputFiles[0]?.contents ?? '')
    const { url } = await startExample('client-browser', { UPLOAD_DIR: directory, CLIENT })
    const page = await (await fetch(url)).text()
    const [, script = ''] = /<script type="module">([\s\S]*)<\/script>/.exec(page) ?? []
    expect(script.length).toBeGreaterThan(500)
    expect(() => transformSync(script, { format: 'esm' })).not.toThrow()
    const { createUploadGroup } = await import(
      `data:text/javascript;base64,${(await download(`${url}/client.js`)).toString('base64')}`
    )
    const file = bytes(3 * MiB + 1)
    const group = createUploadGroup({ endpoint: `${url}/upload` })
    const upload = group.add(new File([new Uint8Array(file)], 'a.bin'))
    await group.done()
    expect(upload.progress).toMatchObject({ state: 'completed', error: null })
    expect(sha256(await download(new URL(upload.progress.url, url).href))).toBe(sha256(file))
  })
})

describe('examples/client-node.ts', () => {
  const send = (paths: string[], env: Record<string, string>) => {
    const child = spawn(process.execPath, ['--import', 'tsx', 'examples/client-node.ts', ...paths], {
      cwd: root,
      env: { ...process.env, ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    children.add(child)
    const output = { out: '', err: '' }
    child.stdout.on('data', (text) => {
      output.out += text
    })
    child.stderr.on('data', (text) => {
      output.err += text
    })
    return { child, output }
  }

  it('uploads files, goes on where it was stopped, and tells what went wrong', async () => {
    const directory = tempFolder()
    const { url } = await startExample('express-local', { UPLOAD_DIR: directory })
    const file = bytes(200 * MiB)
    const path = join(tempFolder(), 'a.bin')
    await writeFile(path, file)
    const UPLOAD_URL = `${url}/upload`
    const first = send([path], { UPLOAD_URL })
    await vi.waitUntil(() => / ([2-8]\d) % uploading/.test(first.output.err), { timeout: 30_000, interval: 2 })
    first.child.kill('SIGINT')
    expect(await once(first.child, 'exit')).toEqual([1, null])
    const second = send([path], { UPLOAD_URL })
    expect(await once(second.child, 'close')).toEqual([0, null])
    const percents = [...second.output.err.matchAll(/ (\d+) % uploading/g)].map(([, percent]) => Number(percent))
    expect(percents.find((percent) => percent > 0)).toBeGreaterThan(19)
    expect(sha256(await download(new URL(second.output.out.trim(), url).href))).toBe(sha256(file))
    const third = send(['no-such-file'], { UPLOAD_URL })
    expect(await once(third.child, 'close')).toEqual([1, null])
    expect(third.output.err).toContain('ENOENT')
  })
})

function uploadWith(options: UploadOptions, file: Buffer): Promise<void> {
  return new Promise((resolve, reject) => {
    new Upload(file, { ...options, retryDelays: null, onError: reject, onSuccess: () => resolve() }).start()
  })
}
