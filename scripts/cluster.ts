/**
 * Three nodes, one Redis, one S3, a load balancer, and three client libraries that upload through them while nodes are killed
 * and come back: `npm run demo:cluster`. Prints what happens when, and compares every stored file.
 */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { percent, plan, shareOf, strike } from './cluster/chaos.ts'
import { check } from './cluster/checks.ts'
import { ClusterNode, type Watch } from './cluster/node.ts'
import { type ClusterOptions, readOptions, usage } from './cluster/options.ts'
import { RoundRobinProxy } from './cluster/proxy.ts'
import { hasRedis, redisIsMissing, type Services, startServices } from './cluster/services.ts'
import { summaryOf } from './cluster/summary.ts'
import { Timeline } from './cluster/timeline.ts'
import { ClusterUpload, kinds } from './cluster/upload.ts'
import { mebibytes } from './demo/text.ts'

// Of every process: the SDK's words about the version of Node say nothing about the cluster.
process.env.AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED = 'true'

const out = process.stdout
const nodeCount = 3
/** Of the lock of a node that was killed, ms: shorter than the default, as nobody wants to wait here. */
const lockTtl = 3_000
/** One line for each so much of a file. */
const progressStep = 0.25

interface Cluster {
  readonly services: Services
  readonly nodes: readonly ClusterNode[]
  readonly uploads: readonly ClusterUpload[]
  readonly proxy: RoundRobinProxy
  readonly problems: string[]
}

async function demo(options: ClusterOptions, signal: AbortSignal): Promise<number> {
  const timeline = new Timeline(out)
  const folder = await mkdtemp(join(tmpdir(), 'nexus-uploader-cluster-'))
  const closing: (() => unknown)[] = []
  try {
    const cluster = await startCluster(options, folder, timeline, signal, closing)
    const uploaded = uploadAll(cluster, options, timeline, signal)
    await Promise.race([uploaded, cluster.services.failed, deadlineOf(options, signal)])
    cluster.problems.push(...(await check(cluster.uploads, cluster.services, folder, timeline, options.corrupt)))
    timeline.print(summaryOf(cluster, options, timeline.now))
    return cluster.problems.length === 0 ? 0 : 1
  } catch (error) {
    if (signal.aborted) {
      out.write('\nInterrupted.\n')
      return 130
    }
    console.error(`\nThe demo failed: ${error instanceof Error ? error.message : String(error)}`)
    return 1
  } finally {
    for (const close of closing.reverse()) await close()
    await rm(folder, { recursive: true, force: true, maxRetries: 3 })
  }
}

async function startCluster(
  { size, seconds, seed }: ClusterOptions,
  folder: string,
  timeline: Timeline,
  signal: AbortSignal,
  closing: (() => unknown)[],
): Promise<Cluster> {
  timeline.say('demo', `seed ${seed}, three files of ${mebibytes(size)}`)
  const services = await startServices(folder, signal)
  closing.push(() => services.stop())
  timeline.say('redis', `pid ${services.redisPid}, with an append-only file`)
  timeline.say('s3', `${services.s3.name}, bucket ${services.s3.bucket}`)
  const problems: string[] = []
  const watch: Watch = {
    printed: ({ name }, text) => timeline.say(name, `says: ${text.split('\n', 1)[0]}`),
    crashed({ name }, how) {
      if (signal.aborted) return
      timeline.say(name, `ENDED BY ITSELF: ${how}`)
      problems.push(`${name} ended by itself: ${how}`)
    },
  }
  const env = environmentOf(services)
  const nodes = Array.from({ length: nodeCount }, (_, at) => new ClusterNode(`node ${at + 1}`, folder, env, watch))
  closing.push(() => Promise.all(nodes.map((node) => node.stop(3_000))))
  await Promise.all(nodes.map((node) => node.start(signal)))
  for (const node of nodes) timeline.say(node.name, `listens on port ${node.port} (pid ${node.pid})`)
  const proxy = await RoundRobinProxy.start(nodes, size / seconds)
  closing.push(() => proxy.close())
  timeline.say('proxy', `${proxy.origin}, each request to the next node`)
  const uploads: ClusterUpload[] = []
  for (const kind of kinds) uploads.push(await ClusterUpload.prepare(kind, folder, size, signal))
  closing.push(() => Promise.all(uploads.map((upload) => upload.stop())))
  return { services, nodes, uploads, proxy, problems }
}

/** Of every node; see the example's README. */
function environmentOf({ s3, redisUrl }: Services): NodeJS.ProcessEnv {
  return {
    REDIS_URL: redisUrl,
    LOCK_TTL: String(lockTtl),
    S3_ENDPOINT: s3.endpoint,
    S3_REGION: s3.region,
    S3_ACCESS_KEY_ID: s3.accessKeyId,
    S3_SECRET_ACCESS_KEY: s3.secretAccessKey,
    S3_BUCKET: s3.bucket,
  }
}

/** Rejects when the uploads must be hanging, however slow this machine is, and at once when somebody ends the demo. */
async function deadlineOf({ seconds, kills }: ClusterOptions, signal: AbortSignal): Promise<never> {
  const limit = seconds * 5 + kills * 10 + 120
  await sleep(limit * 1000, undefined, { ref: false, signal })
  throw new Error(`The uploads have not ended within ${limit} s.`)
}

async function uploadAll(cluster: Cluster, options: ClusterOptions, timeline: Timeline, signal: AbortSignal) {
  const { nodes, uploads, proxy, problems } = cluster
  const { size } = options
  const running = uploads.map(async (upload) => {
    const { kind } = upload
    await upload.run(proxy.origin)
    timeline.say(kind.name, upload.url === null ? `FAILED: ${upload.failure}` : `is done: ${upload.url}`)
  })
  for (const { kind } of uploads) timeline.say(kind.name, `begins at ${kind.wire}`)
  const telling = setInterval(teller(cluster, size, timeline), 100)
  try {
    const strikes = plan(options.seed, options.kills, uploads.length)
    problems.push(...(await strike(strikes, { nodes, uploads, proxy, size, timeline, signal })))
    await Promise.all(running)
  } finally {
    clearInterval(telling)
  }
  for (const { kind, kills } of uploads) {
    if (kills === 0) problems.push(`No node was killed while it received from ${kind.name}.`)
  }
}

/** Tells of every quarter, once. */
function teller({ uploads, proxy }: Cluster, size: number, timeline: Timeline): () => void {
  const next = new Map(uploads.map((upload) => [upload, progressStep]))
  return () => {
    for (const [upload, due] of next) {
      const share = shareOf(upload, proxy, size)
      if (share < due || share >= 1 || !upload.isRunning) continue
      timeline.say(upload.kind.name, percent(share))
      next.set(upload, Math.floor(share / progressStep + 1) * progressStep)
    }
  }
}

async function main(): Promise<number> {
  let options: ClusterOptions | null
  try {
    options = readOptions(process.argv.slice(2), process.env)
  } catch (error) {
    console.error(`${error instanceof Error ? error.message : String(error)}\n\n${usage}`)
    return 2
  }
  if (!options) {
    out.write(`${usage}\n`)
    return 0
  }
  if (!hasRedis()) {
    console.error(redisIsMissing)
    return 3
  }
  const stop = new AbortController()
  // Also when it comes twice, as from a terminal and from npm at once: cleaning up takes a moment.
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(name, () => stop.abort())
  return demo(options, stop.signal)
}

// All has been closed; what a killed process has left half open must not keep this one.
process.exit(await main())
