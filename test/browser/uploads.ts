/** What every client library has to get through: unmodified, in a real browser, over a line and to a server that fail. */
import { utimesSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { describe, expect, it } from 'vitest'
import { bytes, sha256 } from '../support/random.ts'
import { tempFolder } from '../support/temp-folder.ts'
import { type Client, clients, type Group } from './clients.ts'
import { Site, type StorageKind } from './support/site.ts'
import { Tab } from './support/tab.ts'
import { until } from './support/until.ts'

const MiB = 1024 * 1024
const size = 40 * MiB
/** Bytes per second: an upload can be met half way, and what was on its way in the last moment is little. */
const slow = 10 * MiB
/** How long a killed server is away, ms. */
const outage = 2_000

interface Sample {
  readonly path: string
  readonly size: number
  readonly sha256: string
  /** Other bytes under the same name, later. */
  edit(seed: number): Sample
}

function sample(fileSize: number, seed = 1, path = join(tempFolder(), 'holiday film.bin')): Sample {
  const content = bytes(fileSize, seed)
  writeFileSync(path, content)
  const time = new Date(2026, 0, 1, 12, seed)
  utimesSync(path, time, time)
  return { path, size: fileSize, sha256: sha256(content), edit: (other) => sample(fileSize, other, path) }
}

/** When half of the file is on its way. */
async function halfWay(site: Site, file: Sample): Promise<void> {
  await until(() => site.bytesSent >= file.size / 2, 'half of the file')
}

/** In files of their own, so that groups run side by side. */
export function testUploads(group: Group): void {
  describe.each(clients.filter((client) => client.group === group))('$name', testClient)
}

function testClient({ page, resumes, patience, refusedType, look }: Client): void {
  it.each<StorageKind>(['local disk', 'S3'])('a file arrives on %s, and the page is told its URL', async (kind) => {
    const site = await Site.start(kind)
    const tab = await Tab.open(site, page)
    const file = sample(size)
    await tab.choose(file.path)
    const url = await tab.finished()
    expect(await site.sha256Of(url)).toBe(file.sha256)
    expect(await site.objectCount()).toBe(1)
    // Nothing was sent twice; forms and their fields take some room.
    expect(site.bytesSent).toBeLessThan(1.01 * file.size)
  })

  const more = patience === null ? '' : ` (it ${patience})`
  it(`a file arrives although the server is killed half way${more}`, async () => {
    const site = await Site.start('local disk')
    const tab = await Tab.open(site, page, { patient: patience !== null, few: true })
    const file = sample(size)
    site.line.speed = slow
    await tab.choose(file.path)
    await halfWay(site, file)
    await site.kill()
    await sleep(outage)
    await site.startServer()
    site.line.speed = Number.POSITIVE_INFINITY
    const url = await tab.finished()
    expect(await site.sha256Of(url)).toBe(file.sha256)
    expect(await site.objectCount()).toBe(1)
    if (resumes) expect(site.bytesSent).toBeLessThan(1.2 * file.size)
  })

  const afterReload = resumes ? 'only the rest is sent' : 'the file is sent anew, and nothing of the first try stays'
  it(`after a reload half way ${afterReload}`, async () => {
    const site = await Site.start('local disk')
    const tab = await Tab.open(site, page, { few: true })
    const file = sample(size)
    site.line.speed = slow
    await tab.choose(file.path)
    await halfWay(site, file)
    await tab.reload()
    site.line.speed = Number.POSITIVE_INFINITY
    await tab.choose(file.path)
    expect(await site.sha256Of(await tab.finished())).toBe(file.sha256)
    expect(await site.objectCount()).toBe(1)
    if (resumes) expect(site.bytesSent).toBeLessThan(1.2 * file.size)
    else expect(site.bytesSent).toBeGreaterThan(1.45 * file.size)
  })

  it.each([
    ['size', { maxFileSize: MiB }, /The file is larger than the limit of 1048576 bytes/],
    ['type', { allowedMimeTypes: ['image/png'] }, refusedType],
  ])('a file of a refused %s is refused once, in words', async (_what, config, words) => {
    const site = await Site.start('local disk', { config })
    const tab = await Tab.open(site, page, { few: true })
    await tab.choose(sample(6 * MiB).path)
    const { error } = await tab.outcome()
    expect(error).toMatch(words)
    await sleep(1_000)
    const sent = site.exchanges.filter(({ bytes }) => bytes > 0)
    expect(sent.length).toBeLessThanOrEqual(5)
    expect(await site.objectCount()).toBe(0)
  })

  it('two users with the same file have two uploads, and do not see each other’s', async () => {
    const site = await Site.start('local disk')
    const file = sample(size)
    const alice = await Tab.open(site, page, { user: 'alice' })
    const bob = await Tab.open(site, page, { user: 'bob' })
    site.line.speed = slow
    await alice.choose(file.path)
    await halfWay(site, file)
    if (look) {
      const { absent, path, ...request } = look(site.exchanges)
      const statusFor = async (user: string) => {
        const headers = { ...request.headers, Cookie: `user=${user}` }
        return (await fetch(site.origin + path, { ...request, headers })).status
      }
      expect(await statusFor('bob')).toBe(absent)
      expect(await statusFor('alice')).toBe(200)
    }
    site.line.speed = Number.POSITIVE_INFINITY
    await bob.choose(file.path)
    const urls = [await alice.finished(), await bob.finished()]
    expect(new Set(urls).size).toBe(2)
    for (const url of urls) expect(await site.sha256Of(url)).toBe(file.sha256)
    expect(await site.objectCount()).toBe(2)
    for (const user of ['alice', 'bob']) expect(site.bytesSentBy(user)).toBeGreaterThanOrEqual(file.size)
  })

  it('a file that was edited is stored anew, also with the same name and size', async () => {
    const site = await Site.start('local disk')
    const tab = await Tab.open(site, page)
    const before = sample(6 * MiB)
    await tab.choose(before.path)
    const first = await tab.finished()
    const after = before.edit(2)
    await tab.reload()
    await tab.choose(after.path)
    const second = await tab.finished()
    expect(await site.sha256Of(second)).toBe(after.sha256)
    expect(await site.sha256Of(first)).toBe(before.sha256)
  })

  it('a page of another origin uploads, and is told what was refused', async () => {
    const site = await Site.start('local disk', { config: { maxFileSize: 8 * MiB } })
    const tab = await Tab.open(site, page, { crossOrigin: true })
    const file = sample(6 * MiB)
    await tab.choose(file.path)
    expect(await site.sha256Of(await tab.finished())).toBe(file.sha256)
    await tab.choose(sample(9 * MiB).path)
    expect((await tab.outcome()).error).toMatch(/larger than/)
  })
}
