/** Two processes on one tempDir, many times over: `FIRST_SEED` and `SEEDS` say which seeds. */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as wait } from 'node:timers/promises'
import { describe, expect, it } from 'vitest'
import { epilogue } from '../support/epilogue.ts'
import { survived } from '../support/fault-points.ts'
import { type Answer, nativeClient } from '../support/native-client.ts'
import { startServer } from '../support/process.ts'
import { bytes, cut, seeded, sha256 } from '../support/random.ts'
import { doubleTarget } from '../support/s3-target.ts'
import { filesBelow, tempFolder } from '../support/temp-folder.ts'

const MiB = 1024 * 1024
const firstSeed = Number(process.env.FIRST_SEED ?? 1)
const seeds = Number(process.env.SEEDS ?? 200)

type Client = ReturnType<typeof nativeClient>

/** Also a 423 or 503 is an answer; then the client asks again. */
async function completed(client: Client, id: string): Promise<Answer> {
  for (let attempt = 0; ; attempt++) {
    const answer = await client.complete(id)
    if (![423, 503].includes(answer.status) || attempt === 50) return answer
    await wait(100)
  }
}

describe('two processes on one tempDir', () => {
  it(`take the chunks of ${seeds} uploads and complete them together [C06]`, { timeout: 600_000 }, async () => {
    const settings = { tempDir: tempFolder(), directory: tempFolder() }
    const servers = await Promise.all([startServer(settings), startServer(settings)])
    const clients = servers.map(({ url }) => nativeClient(url))
    const keys: string[] = []
    for (let seed = firstSeed; seed < firstSeed + seeds; seed++) {
      const random = seeded(seed * 31)
      const any = () => clients[random.integer(0, 1)] as Client
      const file = bytes(random.integer(1, 400_000), seed)
      const chunks = cut(file, random.integer(20_000, 100_000))
      const chunkSize = chunks[0]?.length ?? 0
      const id = await any().start(file.length, random.next() < 0.5 ? { chunkSize } : {})
      const queue = random.shuffle([...chunks.keys(), ...chunks.keys()]).values()
      const worker = async () => {
        for (const index of queue) {
          const { status, text } = await any().raw(id, index, chunks[index] as Buffer)
          expect([status, text], `seed ${seed}, chunk ${index}`).toEqual([200, expect.any(String)])
        }
      }
      await Promise.all([worker(), worker(), worker(), worker()])
      const results = await Promise.all([...clients, ...clients].map((client) => completed(client, id)))
      expect(
        results.map(({ status }) => status),
        `seed ${seed}`,
      ).toEqual([200, 200, 200, 200])
      expect(new Set(results.map(({ body }) => body.url)).size, `seed ${seed}`).toBe(1)
      const { key } = results[0]?.body ?? {}
      expect(sha256(await readFile(join(settings.directory, key))), `seed ${seed}`).toBe(sha256(file))
      keys.push(key)
    }
    const stored = (await filesBelow(settings.directory)).filter((name) => name.startsWith('uploads/'))
    expect(stored).toEqual(keys.sort())
    expect(await filesBelow(join(settings.tempDir, 'staging'))).toEqual([])
    survived('race', 'uploads that two processes took and completed together', seeds)
    const read = (key: string) => readFile(join(settings.directory, key))
    for (const { url, pid } of servers) await epilogue({ url, pid, tempDir: settings.tempDir, read })
    await Promise.all(servers.map((server) => server.kill()))
  })
})

/**
 * For the second server it is a minute later: whoever holds an upload for longer than half a minute is dead for it, while
 * here they are only asleep, or at work.
 */
describe.each(['local disk', 'S3'] as const)('a process that is stopped while it completes, on %s', (kind) => {
  it('and wakes up when another has completed, changes nothing and tells the same URL [C07]', async () => {
    const s3 = kind === 'S3' ? await doubleTarget() : null
    const directory = tempFolder()
    const shared = { tempDir: tempFolder(), ...(s3 ? { s3 } : { directory }) }
    const [a, b] = await Promise.all([startServer(shared), startServer({ ...shared, clockAhead: 60_000 })])
    const [asleep, awake] = [nativeClient(a.url), nativeClient(b.url)]
    const read = (key: string) => (s3 ? s3.double.read(s3.bucket, key) : readFile(join(directory, key)))
    const rounds = s3 ? 25 : 50
    let [taken, keys] = [0, 0]
    try {
      for (let round = 0; round < rounds; round++) {
        const file = bytes((s3 ? 11 : 2) * MiB + round, round + 1)
        const id = await asleep.start(file.length)
        for (const [index, data] of cut(file, 2 * MiB).entries()) await asleep.raw(id, index, data)
        // The storage takes its time, so that the other comes while this one waits for it, or for its answer.
        s3?.double.fail('CompleteMultipartUpload', { status: 'ok', delayMs: 100 })
        const before = s3?.double.log('CompleteMultipartUpload').length ?? 0
        const first = asleep.complete(id)
        while (s3 && s3.double.log('CompleteMultipartUpload').length === before) await wait(1)
        await wait(s3 ? (round % 5) * 30 : round % 25)
        await a.kill('SIGSTOP')
        let isAwake = false
        const takenBefore = taken
        const second = awake.complete(id).then((answer) => {
          if (answer.status === 200 && !isAwake) taken += 1
          return answer
        })
        await Promise.race([second, wait(500)])
        isAwake = true
        process.kill(a.pid, 'SIGCONT')
        const answers = [await first, await second]
        // Whoever has been gone past says the same as the one that went past.
        if (taken > takenBefore)
          expect(
            answers.map(({ status }) => status),
            `round ${round}`,
          ).toEqual([200, 200])
        for (const { status } of answers) expect([200, 423, 503], `round ${round}`).toContain(status)
        const again = [await completed(asleep, id), await completed(awake, id)]
        expect(
          again.map(({ status }) => status),
          `round ${round}`,
        ).toEqual([200, 200])
        const urls = [...answers.filter(({ status }) => status === 200), ...again].map(({ body }) => body.url)
        expect(new Set(urls).size, `round ${round}`).toBe(1)
        expect(sha256(await read(again[0]?.body.key)), `round ${round}`).toBe(sha256(file))
        keys += 1
      }
      const stored = s3
        ? [...(s3.double.buckets.get(s3.bucket)?.objects.keys() ?? [])]
        : (await filesBelow(directory)).filter((name) => name.startsWith('uploads/'))
      expect(stored).toHaveLength(keys)
      if (s3) expect(s3.double.openUploads(s3.bucket)).toEqual([])
      // Else the stops never hit: B must have gone past a sleeping A in some rounds.
      expect(taken).toBeGreaterThan(0)
      console.log(`${kind}: ${taken} of ${rounds} completed past the one that was asleep`)
      survived('race', `completions past a stopped process on ${kind}`, rounds)
      await epilogue({ url: a.url, pid: a.pid, tempDir: shared.tempDir, read })
    } finally {
      await Promise.all([a.kill(), b.kill()])
      await s3?.close()
    }
  })
})
