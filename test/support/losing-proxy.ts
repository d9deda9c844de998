/** A proxy that can lose an answer: what was asked has been done, and whoever asked does not know. */
import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import { afterEach } from 'vitest'

export interface LosingProxy {
  readonly port: number
  /** How many answers were lost. */
  readonly lost: number
  /** Throws the next answer away and cuts every connection; new ones get through once `meanwhile` has ended. */
  loseNextAnswer(meanwhile?: () => Promise<unknown>): void
}

const running = new Set<() => void>()

afterEach(() => {
  for (const close of running) close()
  running.clear()
})

export async function losingProxy(targetPort: number): Promise<LosingProxy> {
  const sockets = new Set<Socket>()
  let meanwhile: (() => Promise<unknown>) | null = null
  let gate: Promise<unknown> = Promise.resolve()
  let lost = 0
  const cutAll = () => {
    for (const socket of sockets) socket.destroy()
  }
  const server = createServer(async (client) => {
    sockets.add(client)
    client.on('error', () => {}).on('close', () => sockets.delete(client))
    await gate
    if (client.destroyed) return
    const upstream = connect({ port: targetPort, host: '127.0.0.1' })
    sockets.add(upstream)
    upstream.on('error', () => client.destroy()).on('close', () => sockets.delete(upstream) && client.destroy())
    client.on('close', () => upstream.destroy())
    client.pipe(upstream)
    upstream.on('data', (data) => {
      if (!meanwhile) return void client.write(data)
      gate = meanwhile()
      meanwhile = null
      lost += 1
      cutAll()
    })
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  running.add(() => {
    server.close()
    cutAll()
  })
  return {
    port: (server.address() as AddressInfo).port,
    get lost() {
      return lost
    },
    loseNextAnswer(during = async () => {}) {
      meanwhile = during
    },
  }
}
