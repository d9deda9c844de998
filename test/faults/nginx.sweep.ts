/** Behind nginx, set up as docs/operations.md says, and set up worse. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { type AddressInfo, connect, createServer } from 'node:net'
import { join } from 'node:path'
import { setTimeout as wait } from 'node:timers/promises'
import { afterEach, describe, expect, it } from 'vitest'
import { LocalStorageAdapter } from '../../src/storage/local-storage.ts'
import { MemoryStorageAdapter } from '../../src/storage/memory-storage.ts'
import { measured } from '../support/fault-points.ts'
import { nativeClient } from '../support/native-client.ts'
import { bytes, cut, sha256 } from '../support/random.ts'
import { testServer } from '../support/server.ts'
import { tempFolder } from '../support/temp-folder.ts'

const isThere = spawnSync('nginx', ['-v']).status === 0
if (!isThere) console.log('left out: there is no nginx on this machine')

let child: ChildProcess | null = null
afterEach(async () => {
  const running = child
  child = null
  if (!running || running.exitCode !== null) return
  const exited = new Promise((resolve) => running.once('exit', resolve))
  running.kill('SIGTERM')
  await exited
})

async function startNginx(target: number, settings: string): Promise<string> {
  const folder = tempFolder()
  const probe = createServer()
  await new Promise<void>((resolve) => probe.listen(0, '127.0.0.1', resolve))
  const { port } = probe.address() as AddressInfo
  await new Promise((resolve) => probe.close(resolve))
  mkdirSync(join(folder, 'body'))
  writeFileSync(
    join(folder, 'nginx.conf'),
    `daemon off; master_process off; pid ${folder}/pid; error_log ${folder}/error.log;
events { worker_connections 256; }
http {
  access_log off; client_body_temp_path ${folder}/body; proxy_temp_path ${folder}/proxy;
  fastcgi_temp_path ${folder}/f; uwsgi_temp_path ${folder}/u; scgi_temp_path ${folder}/s;
  upstream app { server 127.0.0.1:${target}; keepalive 8; keepalive_timeout 60s; }
  server {
    listen 127.0.0.1:${port};
    location / { proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection ""; ${settings} }
  }
}
`,
  )
  child = spawn('nginx', ['-p', folder, '-e', join(folder, 'error.log'), '-c', join(folder, 'nginx.conf')], {
    stdio: 'ignore',
  })
  for (let attempt = 0; attempt < 200; attempt++) {
    const up = await new Promise<boolean>((resolve) => {
      const socket = connect(port, '127.0.0.1', () => resolve(true)).on('error', () => resolve(false))
      socket.on('connect', () => socket.destroy())
    })
    if (up) return `http://127.0.0.1:${port}`
    await wait(25)
  }
  throw new Error('nginx does not start')
}

describe.runIf(isThere)('behind nginx [I02]', () => {
  it.each(['on', 'off'])(
    'with proxy_request_buffering %s uploads arrive whole, also after pauses, without a 502',
    async (buffering) => {
      const directory = tempFolder()
      const server = await testServer({ storage: new LocalStorageAdapter({ directory }) })
      server.server.keepAliveTimeout = 65_000
      const url = await startNginx(server.port, `proxy_request_buffering ${buffering}; client_max_body_size 0;`)
      const client = nativeClient(url)
      const file = bytes(12_000_000)
      const id = await client.start(file.length)
      const statuses: number[] = []
      for (const [index, chunk] of cut(file, 1_000_000).entries()) {
        // Longer than the five seconds after which Node closes a connection by default.
        if (index === 6) await wait(6_000)
        statuses.push((await client.chunk(id, index, chunk)).status)
      }
      expect(new Set(statuses)).toEqual(new Set([200]))
      const { body } = await client.complete(id)
      expect(sha256(await readFile(join(directory, body.key)))).toBe(sha256(file))
    },
  )

  it('a completion that takes longer than proxy_read_timeout goes on without its client, who repeats it', async () => {
    const storage = new MemoryStorageAdapter({ multipart: false })
    const upload = storage.upload.bind(storage)
    let uploads = 0
    storage.upload = async (...given) => {
      uploads += 1
      await wait(4_000)
      return upload(...given)
    }
    const server = await testServer({ storage })
    const client = nativeClient(await startNginx(server.port, 'proxy_read_timeout 1s; client_max_body_size 0;'))
    const id = await client.start(1000)
    expect((await client.chunk(id, 0, bytes(1000))).status).toBe(200)
    const statuses: number[] = []
    for (let answer = await client.complete(id); ; answer = await client.complete(id)) {
      statuses.push(answer.status)
      if (answer.status === 200) break
      await wait(200)
    }
    measured('completions that nginx gave up before one was answered', statuses.length - 1, 'requests')
    expect(new Set(statuses.slice(0, -1))).toEqual(new Set([504]))
    expect(uploads).toBe(1)
  })

  it('a client_max_body_size that is too small is a 413 of nginx, and nothing is stored', async () => {
    const server = await testServer()
    const client = nativeClient(await startNginx(server.port, 'client_max_body_size 100k;'))
    const id = await client.start(400_000)
    expect((await client.chunk(id, 0, bytes(400_000))).status).toBe(413)
    expect((await client.progress(id)).body.uploadedBytes).toBe(0)
  })
})
