/** Kills nodes while files are on their way, and starts them again. */
import { setTimeout as sleep } from 'node:timers/promises'
import { seeded } from '../../test/support/random.ts'
import type { ClusterNode } from './node.ts'
import type { RoundRobinProxy } from './proxy.ts'
import type { Timeline } from './timeline.ts'
import type { ClusterUpload } from './upload.ts'

/** A kill comes when its client has sent so much of its file. */
const earliest = 0.08
const latest = 0.8
/** Of the normal one, for what comes later than that while there are kills to come: nodes need time to come back. */
const slowPace = 0.5
/** For how long a node stays away, ms. */
const shortest = 200
const longest = 1_200

/** So many bytes come from a client before it is hit again: clients give up when they are hit at every try. */
const breather = 6 * 1024 * 1024

interface Strike {
  readonly signal: 'SIGKILL' | 'SIGTERM'
  /** Index of the upload that it is meant for. */
  readonly target: number
  readonly share: number
  readonly away: number
  /** 0 to 1: which of the nodes that come into question. */
  readonly choice: number
}

export interface Stage {
  readonly nodes: readonly ClusterNode[]
  readonly uploads: readonly ClusterUpload[]
  readonly proxy: RoundRobinProxy
  /** Of each file, bytes. */
  readonly size: number
  readonly timeline: Timeline
  readonly signal: AbortSignal
}

/** Every client is in the middle of something at one kill at least; where the SIGTERM comes is up to the seed. */
export function plan(seed: number, kills: number, uploads: number): Strike[] {
  const random = seeded(seed)
  const targets = Array.from({ length: kills }, (_, at) => (at < uploads ? at : random.integer(0, uploads - 1)))
  const width = (latest - earliest) / (kills + 1)
  const signals: Strike['signal'][] = targets.map(() => 'SIGKILL')
  signals.splice(random.integer(1, Math.ceil(kills / 2)), 0, 'SIGTERM')
  const queue = random.shuffle(targets)
  return signals.map((signal, at) => ({
    signal,
    target: signal === 'SIGKILL' ? (queue.pop() ?? 0) : random.integer(0, uploads - 1),
    share: earliest + (at + random.next()) * width,
    away: random.integer(shortest, longest),
    choice: random.next(),
  }))
}

/** Returns what went wrong. */
export async function strike(strikes: readonly Strike[], stage: Stage): Promise<string[]> {
  const problems: string[] = []
  // A node that is closing takes its time; the others are killed meanwhile.
  let closing: Promise<unknown> = Promise.resolve()
  for (const one of strikes) {
    const upload = await nextTarget(one, stage)
    if (!upload) {
      const left = strikes.length - strikes.indexOf(one)
      stage.timeline.say('demo', `all files are through; ${left} of the ${strikes.length} strikes did not come to it`)
      break
    }
    const done = hit(one, upload, stage).then((found) => problems.push(...found))
    // Whoever awaits it hears of it.
    done.catch(() => {})
    if (one.signal === 'SIGTERM') closing = done
    else await done
  }
  for (const { kind } of stage.uploads) stage.proxy.wire(kind.wire).pace = 1
  await closing
  return problems
}

/**
 * The client that is meant, when it is so far and a node is receiving from it. Another one when it has ended too soon, or when
 * that one has not been hit yet and this one has: on a slow machine files are through before nodes are back.
 */
async function nextTarget({ target, share }: Strike, stage: Stage): Promise<ClusterUpload | null> {
  const { uploads, proxy, size, signal } = stage
  for (;;) {
    for (const one of uploads) proxy.wire(one.kind.wire).pace = shareOf(one, proxy, size) > latest ? slowPace : 1
    const running = uploads.filter((upload) => upload.isRunning)
    const unhurt = running.filter(({ kills }) => kills === 0)
    const choice = unhurt.length > 0 ? unhurt : running
    const upload = choice.find((one) => one === uploads[target]) ?? choice[0]
    if (!upload) return null
    const isFarEnough =
      shareOf(upload, proxy, size) >= share && sinceKill(upload, proxy) >= Math.min(breather, size / 10)
    if (isFarEnough && receivers(upload, stage).length > 0) return upload
    await sleep(10, undefined, { signal })
  }
}

async function hit({ signal: name, away, choice }: Strike, upload: ClusterUpload, stage: Stage): Promise<string[]> {
  const { nodes, uploads, proxy, size, timeline, signal } = stage
  const receiving = receivers(upload, stage)
  const node = receiving[Math.floor(choice * receiving.length)] ?? nodes.find(({ isUp }) => isUp)
  if (!node) return ['No node was up.']
  const met = uploads.filter(({ isRunning, kind }) => isRunning && proxy.receiving(kind.wire).includes(node))
  const states = met.map((one) => `${one.kind.name} ${percent(shareOf(one, proxy, size))}`).join(', ')
  const problems: string[] = []
  if (name === 'SIGKILL') {
    for (const one of met) {
      one.kills += 1
      one.bytesAtKill = proxy.wire(one.kind.wire).bytes
    }
    timeline.say(node.name, `kill -9 (pid ${node.pid}) while it receives from ${states || 'nobody'}`)
    await node.kill()
  } else {
    timeline.say(node.name, `SIGTERM (pid ${node.pid}) while it receives from ${states || 'nobody'}`)
    const code = await node.stop()
    timeline.say(node.name, code === 0 ? 'has let its requests end and closed' : `ended with ${code}`)
    if (code !== 0) problems.push(`${node.name} ended with ${code} after SIGTERM, not with 0.`)
  }
  await sleep(away, undefined, { signal })
  await node.start(signal)
  timeline.say(node.name, `is back (pid ${node.pid}), with an empty disk`)
  return problems
}

function sinceKill({ kind, bytesAtKill }: ClusterUpload, proxy: RoundRobinProxy): number {
  return proxy.wire(kind.wire).bytes - bytesAtKill
}

/** The nodes that are in the middle of a body of this client, and are neither gone nor closing. */
function receivers({ kind }: ClusterUpload, { nodes, proxy }: Stage): ClusterNode[] {
  const receiving = proxy.receiving(kind.wire)
  return nodes.filter((node) => node.isUp && receiving.includes(node))
}

/** How much of its file has come to the nodes. The client's word alone counts buffers, that of the proxy what came twice. */
export function shareOf({ kind, sent }: ClusterUpload, proxy: RoundRobinProxy, size: number): number {
  return Math.min(sent, proxy.wire(kind.wire).bytes / size)
}

export function percent(share: number): string {
  return `${Math.floor(share * 100)} %`
}
