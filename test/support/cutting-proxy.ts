import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import { afterEach } from 'vitest'
import { seeded } from './random.ts'

export type Random = ReturnType<typeof seeded>

export interface CuttingProxyOptions {
  seed: number
  /** After how many bytes from the client a connection is cut, drawn anew for every connection. */
  cutAfter: (random: Random) => number
  /**
   * At which answer from the server it is cut, if that comes before so many bytes, drawn anew as well. Default: one in four
   * at its first, second or third.
   */
  atAnswer?: (random: Random) => number
}

export interface CuttingProxy {
  readonly port: number
  readonly connections: number
  readonly cuts: number
  /** Cuts of answers, included in `cuts`. */
  readonly answerCuts: number
  /** Bytes that came from the client, those that were thrown away with a cut included. */
  readonly bytesFromClient: number
  /** Cuts nothing any more; with `false` it cuts again, open connections too. */
  passThrough(on?: boolean): void
  close(): Promise<void>
}

const running: CuttingProxy[] = []

afterEach(async () => {
  for (const proxy of running.splice(0)) await proxy.close()
})

/**
 * A TCP proxy on a free port of 127.0.0.1 that destroys both sockets of a connection after a random number of bytes: in
 * the middle of a request, before its answer, or in the middle of the answer's head; by FIN or by RST. Closed after the
 * test. (An answer's body is never cut: tus-js-client 4 on Node waits for the rest of it forever.)
 */
export async function cuttingProxy(targetPort: number, options: CuttingProxyOptions): Promise<CuttingProxy> {
  const { seed, cutAfter, atAnswer = oneInFour } = options
  const random = seeded(seed)
  const sockets = new Set<Socket>()
  const count = { connections: 0, cuts: 0, answerCuts: 0, bytesFromClient: 0 }
  let cutting = true

  const server = createServer((client) => {
    const upstream = connect({ port: targetPort, host: '127.0.0.1' })
    const plan = { after: cutAfter(random), answer: atAnswer(random), reset: random.next() < 0.5 }
    // How much of an answer gets through: nothing, or a part of its head.
    const answerShare = random.next() < 0.5 ? 0 : random.next()
    let sent = 0
    let answers = 0
    let over = false
    count.connections += 1

    const end = () => {
      if (over) return
      over = true
      for (const socket of [client, upstream]) socket.destroy()
    }
    const cut = () => {
      if (over) return
      count.cuts += 1
      if (plan.reset) for (const socket of [client, upstream]) socket.resetAndDestroy()
      end()
    }
    const forward = (from: Socket, to: Socket, data: Buffer) => {
      if (to.write(data)) return
      from.pause()
      to.once('drain', () => from.resume())
    }
    for (const socket of [client, upstream]) {
      sockets.add(socket)
      socket.setNoDelay(true)
      socket.on('error', end)
      socket.on('close', () => {
        sockets.delete(socket)
        end()
      })
    }
    client.on('data', (data) => {
      if (over) return
      count.bytesFromClient += data.length
      const room = plan.after - sent
      sent += data.length
      if (!cutting || data.length < room) return forward(client, upstream, data)
      client.pause()
      // What is still in this process when the socket goes would not arrive.
      upstream.write(data.subarray(0, Math.max(0, room)), cut)
    })
    upstream.on('data', (data) => {
      if (over) return
      const isHead = data.subarray(0, 5).toString('latin1') === 'HTTP/'
      if (isHead) answers += 1
      if (!cutting || !isHead || answers < plan.answer) return forward(upstream, client, data)
      const head = data.indexOf('\r\n\r\n')
      const share = Math.floor((head === -1 ? data.length : head) * answerShare)
      count.answerCuts += 1
      upstream.pause()
      if (share === 0) cut()
      else client.write(data.subarray(0, share), cut)
    })
    // Half-closed connections do not occur in what is tested: the end of one side is the end.
    client.on('end', end)
    upstream.on('end', () => client.end(end))
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo

  const proxy: CuttingProxy = {
    port,
    get connections() {
      return count.connections
    },
    get cuts() {
      return count.cuts
    },
    get answerCuts() {
      return count.answerCuts
    },
    get bytesFromClient() {
      return count.bytesFromClient
    },
    passThrough(on = true) {
      cutting = !on
    },
    async close() {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()))
      for (const socket of sockets) socket.destroy()
      await closed
    },
  }
  running.push(proxy)
  return proxy
}

function oneInFour(random: Random): number {
  return random.next() < 0.25 ? random.integer(1, 3) : Number.POSITIVE_INFINITY
}
