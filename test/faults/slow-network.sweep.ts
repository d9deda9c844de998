/** A line with 200 ms there and back, jitter, and segments that come late because they were lost once. */
import { readFile } from 'node:fs/promises'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import { join } from 'node:path'
import { afterEach, expect, it } from 'vitest'
import { uploadFile } from '../../src/client-node.ts'
import { LocalStorageAdapter } from '../../src/storage/local-storage.ts'
import { tusHandler } from '../../src/tus.ts'
import { measured } from '../support/fault-points.ts'
import { protocolServer } from '../support/protocol-server.ts'
import { bytes, seeded, sha256 } from '../support/random.ts'
import { testServer } from '../support/server.ts'
import { filesBelow, tempFolder } from '../support/temp-folder.ts'
import { clientUpload } from '../support/tus-js.ts'

const closers: (() => Promise<unknown>)[] = []
afterEach(async () => {
  for (const close of closers.splice(0)) await close()
})

/** Every piece of data takes 75 to 125 ms, in order; two in a hundred take 300 ms more, as after a loss. */
async function slowLine(target: number, seed: number): Promise<number> {
  const random = seeded(seed)
  const sockets = new Set<Socket>()
  const carry = (from: Socket, to: Socket) => {
    let due = 0
    from.on('data', (data) => {
      const lost = random.next() < 0.02 ? 300 : 0
      due = Math.max(due, performance.now() + random.integer(75, 125) + lost)
      setTimeout(() => to.writable && to.write(data), due - performance.now())
    })
    from.on('error', () => to.destroy())
    from.on('close', () => setTimeout(() => to.end(), Math.max(0, due - performance.now()) + 10))
  }
  const server = createServer((client) => {
    const upstream = connect({ port: target, host: '127.0.0.1' })
    for (const socket of [client, upstream]) {
      sockets.add(socket)
      socket.on('close', () => sockets.delete(socket))
    }
    carry(client, upstream)
    carry(upstream, client)
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  closers.push(() => {
    for (const socket of sockets) socket.destroy()
    return new Promise((resolve) => server.close(resolve))
  })
  return (server.address() as AddressInfo).port
}

it.each([1, 2, 3])('the client and tus-js-client come through without beginning anew (seed %i) [I03]', async (seed) => {
  const file = bytes(3_000_000, seed)
  const directory = tempFolder()
  const storage = new LocalStorageAdapter({ directory })
  const started = performance.now()

  const native = await testServer({ storage })
  const created: string[] = []
  native.middleware.engine.events.on('created', ({ session }) => created.push(session.id))
  const port = await slowLine(native.port, seed)
  const endpoint = `http://127.0.0.1:${port}/upload`
  const { key } = await uploadFile(new File([new Uint8Array(file)], 'a.bin'), { endpoint, chunkSize: 500_000 })
  expect(sha256(await readFile(join(directory, String(key))))).toBe(sha256(file))
  expect(created).toHaveLength(1)

  const tusFolder = tempFolder()
  const tus = await protocolServer(tusHandler, { storage: new LocalStorageAdapter({ directory: tusFolder }) })
  const tusLine = await slowLine(Number(new URL(tus.url).port), seed)
  const endpointOfTus = tus.url.replace(/:\d+/, `:${tusLine}`)
  const { done, count } = clientUpload(file, {
    endpoint: endpointOfTus,
    chunkSize: 500_000,
    metadata: { filename: 'b.bin' },
  })
  await done
  const [stored = ''] = (await filesBelow(tusFolder)).filter((name) => name.endsWith('b.bin'))
  expect(sha256(await readFile(join(tusFolder, stored)))).toBe(sha256(file))
  expect(count('POST')).toBe(1)
  measured(`two uploads of 3 MB over a line of 200 ms, seed ${seed}`, Math.round(performance.now() - started), 'ms')
})
