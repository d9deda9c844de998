/** A node that falls asleep or dies in the middle of a completion, is overtaken, and comes back. */
import { setTimeout as pause } from 'node:timers/promises'
import { expect } from 'vitest'
import type { Counts } from './measured-server.ts'
import type { Fleet } from './node-fleet.ts'
import { bytes, sha256 } from './random.ts'
import { eventually } from './tus-client.ts'
import { type endings, unfinished } from './unfinished-uploads.ts'

/** Clock of the node that overtakes: longer ahead than a completer's lease, so that no test waits for its end, ms. */
export const overtakersClock = 45_000
/** Requests of a completion at which a completer can be stopped. */
export const completionRequests = [
  'PutObject',
  'GetObject',
  'UploadPart',
  'ListParts',
  'CompleteMultipartUpload',
  'HeadObject',
  'ListObjectsV2',
] as const

export interface Stop {
  readonly how: 'sleeps' | 'dies'
  readonly wire: (typeof endings)[number]
  /** It stops when this request reaches S3, if its completion makes one. */
  readonly request: (typeof completionRequests)[number]
  readonly seed: number
}

/** Of all nodes, which must be measured servers. */
async function completions({ servers }: Fleet): Promise<number> {
  const counts = await Promise.all(servers.map((server) => server.ask('counts') as Promise<Counts>))
  return counts.reduce((sum, { completed }) => sum + completed, 0)
}

/**
 * Node 0 begins to complete and stops; node 2, whose clock is ahead, completes; node 0 goes on. `false` when node 0 was done
 * without such a request.
 */
export async function overtake(fleet: Fleet, { how, wire, request, seed }: Stop): Promise<boolean> {
  const { partSize } = fleet
  const { bucket, double } = fleet.target
  if (!double) throw new Error('this needs the double')
  // A file of one part is stored from its pieces; of several, the parts that are not whole yet are sent by the completion.
  const size = request === 'PutObject' ? partSize - 100 : 4 * partSize + 1_000
  const file = bytes(size, seed)
  const name = `${wire}-${request}-${how}-${seed}.bin`
  const { finish } = await unfinished(wire, fleet.url(seed % 3), file, Math.ceil(partSize / 3), name)
  const completed = await completions(fleet)
  double.requests.length = 0
  // It is carried out while the node is away, before or after the other has completed.
  double.fail(request, { status: 'ok', delayMs: [1, 250, 900][seed % 3] ?? 1 })
  const first = finish(fleet.url(0)).catch(() => null)
  const isReached = await Promise.race([
    eventually(() => expect(double.log(request).length).toBeGreaterThan(0), 3_000).then(() => true),
    first.then(() => double.log(request).length > 0),
  ]).catch(() => false)
  if (!isReached) {
    double.reset()
    await first
    return false
  }
  if (how === 'dies') await fleet.kill(0)
  else fleet.signal(0, 'SIGSTOP')
  let url: string | undefined
  await eventually(async () => {
    const end = await finish(fleet.url(2))
    expect([200, 204, 423, 503]).toContain(end.status)
    url = end.url
    expect(url, `${name}: ${end.status}`).toBeDefined()
  }, 15_000)
  const objects = () => [...(double.buckets.get(bucket)?.objects.values() ?? [])].filter(({ key }) => isFile(key))
  await pause(seed % 2 === 0 ? 0 : 300)
  const before = objects()
  if (how === 'dies') await fleet.restart(0, seed % 2 === 0 ? 'new' : 'old')
  else fleet.signal(0, 'SIGCONT')
  const woken = how === 'dies' ? null : await first
  // Whoever still waits for it is told the same, or to come again; after a 409 such clients ask for the offset.
  const again = wire === 'tus' || wire === 'ietf' ? [409, 423, 502, 503] : [423, 502, 503]
  if (woken && woken.status < 300) expect(woken.url, `${name}: what the sleeper says`).toBe(url)
  else if (woken) expect(again, `${name}: the sleeper`).toContain(woken.status)
  await eventually(async () => expect(await finish(fleet.url(0))).toMatchObject({ url }))
  // An application hears of it once, whoever it was; the counts of a node that died are gone.
  if (how === 'sleeps') await eventually(async () => expect(await completions(fleet), name).toBe(completed + 1))
  await pause(50)
  const after = objects()
  expect(after.length, name).toBe(before.length)
  // One PUT that was in S3's hands before the node slept cannot be called back; its bytes are the same.
  const isSame = ({ etag }: { etag: string }, i: number) => request === 'PutObject' && etag === before[i]?.etag
  const written = after.filter((object, i) => object !== before[i] && !isSame(object, i))
  expect(written, `${name}: objects that the sleeper wrote`).toEqual([])
  const key = after.find((object) => decodeURIComponent(url ?? '').endsWith(object.key))?.key ?? ''
  expect(sha256(await double.read(bucket, key)), name).toBe(sha256(file))
  double.reset()
  return true
}

function isFile(key: string): boolean {
  return key.startsWith('uploads/')
}
