/** Endurance: connections that die at random, as they do on trains, until the file has arrived. */
import { describe, expect, it } from 'vitest'
import { ietfHandler } from '../../src/ietf.ts'
import { tusHandler } from '../../src/tus.ts'
import { cuttingProxy, type Random } from '../support/cutting-proxy.ts'
import { bytes, sha256 } from '../support/random.ts'
import {
  type ClientOptions,
  clientUpload,
  localSite,
  MiB,
  type Protocol,
  type Site,
  s3Site,
  shortRetries,
} from '../support/tus-js.ts'

const first = Number(process.env.SEED ?? 1)

interface Outcome {
  readonly cuts: number
  /** Of these, answers. */
  readonly answerCuts: number
  /** Bytes that the client sent for each byte of the file. */
  readonly effort: number
}

/** Often within the heads, mostly within the body, and now and then so late that a chunk is answered. */
function cutAfter(random: Random): number {
  const kind = random.next()
  return random.integer(1, kind < 0.15 ? 2000 : kind < 0.85 ? 400_000 : 2_500_000)
}

/**
 * One file through a proxy that kills connections, from the creation's answer on: without that answer the client knows no
 * URL, and has to create again.
 */
async function uploadUnderFire(site: Site, file: Buffer, seed: number, options: ClientOptions = {}): Promise<Outcome> {
  const proxy = await cuttingProxy(site.server.port, {
    seed,
    cutAfter,
  })
  proxy.passThrough()
  const { done, log, count } = clientUpload(file, {
    endpoint: `http://127.0.0.1:${proxy.port}/files`,
    retryDelays: [...shortRetries, ...shortRetries],
    onUploadUrlAvailable: () => proxy.passThrough(false),
    ...options,
  })
  await done
  expect([count('POST'), site.created.length, site.completed.length]).toEqual([1, 1, 1])
  expect(await site.objects()).toEqual([{ key: site.completed[0]?.object.key, sha256: sha256(file) }])
  let known = 0
  for (const { method, status, header, answer } of log) {
    const offset = Number(answer('Upload-Offset') ?? Number.NaN)
    // The server never takes back what it has confirmed, and the client goes on exactly there.
    if (method === 'PATCH') expect(header('Upload-Offset')).toBe(String(known))
    if (status < 200 || status > 299 || Number.isNaN(offset)) continue
    expect(offset).toBeGreaterThanOrEqual(known)
    known = offset
  }
  await proxy.close()
  return { cuts: proxy.cuts, answerCuts: proxy.answerCuts, effort: proxy.bytesFromClient / file.length }
}

/** Shown, since the next question is always how much was sent in vain. */
function tell(text: string): void {
  process.stdout.write(`    ${text}\n`)
}

describe('tus-js-client over connections that die', () => {
  it(`a file arrives whole through 1000 kills, and nothing begins anew (seed ${first}) [B16]`, {
    timeout: 180_000,
  }, async () => {
    const begun = Date.now()
    const size = 32 * MiB + 123
    let cuts = 0
    let answerCuts = 0
    let sent = 0
    let files = 0
    for (let seed = first; cuts < 1000; seed++) {
      const site = await localSite((engine) => tusHandler(engine), { on: seed % 2 ? 'express' : 'bare' })
      const chunkSize = seed % 2 ? Number.POSITIVE_INFINITY : MiB
      const outcome = await uploadUnderFire(site, bytes(size, seed), seed, { chunkSize })
      await site.server.close()
      cuts += outcome.cuts
      answerCuts += outcome.answerCuts
      sent += outcome.effort
      files += 1
    }
    const seconds = ((Date.now() - begun) / 1000).toFixed(1)
    tell(
      `${cuts} kills, ${files} files of ${size} bytes, bytes sent / file = ${(sent / files).toFixed(2)}, ${seconds} s`,
    )
    expect(answerCuts).toBeGreaterThan(50)
    expect(sent / files).toBeLessThan(2.5)
  })

  it(`a file arrives whole in S3 through 100 kills, in parts of one size (seed ${first})`, async () => {
    const begun = Date.now()
    const file = bytes(24 * MiB + 77, first)
    let cuts = 0
    let files = 0
    let sent = 0
    for (let seed = first; cuts < 100; seed++) {
      const site = await s3Site((engine) => tusHandler(engine), { partSize: 5 * MiB, needsDouble: true })
      const outcome = await uploadUnderFire(site, file, seed)
      const parts = site.target?.double?.log('UploadPart').filter(({ status }) => status === 200) ?? []
      const sizes = new Map(parts.map(({ partNumber, size }) => [partNumber, size]))
      expect([...sizes].sort().map(([, size]) => size)).toEqual([...Array(4).fill(5 * MiB), 4 * MiB + 77])
      expect(parts).toHaveLength(5)
      expect(await site.leftovers()).toEqual([])
      cuts += outcome.cuts
      sent += outcome.effort
      files += 1
    }
    const seconds = ((Date.now() - begun) / 1000).toFixed(1)
    tell(`S3: ${cuts} kills, ${files} files, bytes sent / file = ${(sent / files).toFixed(2)}, ${seconds} s`)
    expect(sent / files).toBeLessThan(2.5)
  })

  it(`a file arrives whole in parallel uploads through kills (seed ${first})`, async () => {
    const file = bytes(24 * MiB + 77, first)
    const site = await localSite((engine) => tusHandler(engine))
    const proxy = await cuttingProxy(site.server.port, {
      seed: first,
      cutAfter,
    })
    proxy.passThrough()
    let known = 0
    const { done, log } = clientUpload(file, {
      endpoint: `http://127.0.0.1:${proxy.port}/files`,
      parallelUploads: 4,
      chunkSize: 2 * MiB,
      // The client does not repeat the POST that joins the four when its connection dies.
      onBeforeRequest: (request) => {
        if (request.getHeader('Upload-Concat')?.startsWith('final')) proxy.passThrough()
      },
      // Once all four are created the creations cannot be hit any more.
      onAfterResponse: (request) => {
        if (request.getMethod() === 'POST') known += 1
        if (known === 4) proxy.passThrough(false)
      },
    })
    await done
    expect(log.filter((entry) => entry.method === 'POST').length).toBeGreaterThanOrEqual(5)
    expect([site.created.length, site.completed.length]).toEqual([5, 1])
    expect(await site.objects()).toEqual([{ key: site.completed[0]?.object.key, sha256: sha256(file) }])
    expect(proxy.cuts).toBeGreaterThan(50)
  })

  const drafts: readonly Protocol[] = ['ietf-draft-03', 'ietf-draft-05']
  it.each(drafts)(`a file arrives whole through kills in mode %s (seed ${first})`, async (protocol) => {
    const site = await localSite((engine) => ietfHandler(engine))
    const file = bytes(24 * MiB + 77, first)
    const { cuts, effort } = await uploadUnderFire(site, file, first, { protocol })
    tell(`${protocol}: ${cuts} kills, bytes sent / file = ${effort.toFixed(2)}`)
    expect(cuts).toBeGreaterThan(50)
    expect(effort).toBeLessThan(2.5)
  })
})
