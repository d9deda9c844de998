/** What the client's own name for an upload leads to, during its life and after it. */
import { describe, expect, it } from 'vitest'
import { testEngine } from '../support/engine.ts'
import { bytes } from '../support/random.ts'

const hour = 60 * 60_000
const protocol = 'native'
const resumeKey = 'my file'

function keyed() {
  let ahead = 0
  const { engine, client } = testEngine({ clock: () => Date.now() + ahead, cleanupInterval: hour })
  return {
    ...{ engine, client },
    pass: async (time: number) => {
      ahead += time
      await engine.sweep()
    },
    create: (more: object = {}) => engine.create({ fileName: 'a', totalSize: 10, protocol, resumeKey, ...more }),
    find: (more: object = {}) => engine.find({ protocol, resumeKey, ...more }),
  }
}

describe('find', () => {
  it('knows nothing of a key that was not used, and finds the upload of one that was', async () => {
    const { create, find } = keyed()
    expect(await find()).toBeNull()
    const { session } = await create()
    expect(await find()).toMatchObject({ uploadId: session.id, session: { state: 'active' } })
  })

  it('keeps owners and protocols apart', async () => {
    const { create, find } = keyed()
    await create({ owner: 'ann' })
    expect(await find({ owner: 'bob' })).toBeNull()
    expect(await find()).toBeNull()
    expect(await find({ owner: 'ann', protocol: 'tus' })).toBeNull()
    expect(await find({ owner: 'ann' })).not.toBeNull()
  })

  it('is a tombstone for a day after the upload has gone', async () => {
    const { create, find, pass } = keyed()
    const { session } = await create()
    await pass(1.1 * hour)
    expect(await find()).toMatchObject({ session: { state: 'expired' } })
    await pass(1.1 * hour)
    expect(await find()).toEqual({ uploadId: session.id, session: null })
    await pass(22 * hour)
    expect(await find()).toEqual({ uploadId: session.id, session: null })
    await pass(2 * hour)
    expect(await find()).toBeNull()
  })

  it('still finds an upload that goes on for days', async () => {
    const { create, client, find, pass } = keyed()
    const { session } = await create({ totalSize: 200 })
    for (let index = 0; index < 100; index++) {
      await pass(0.9 * hour)
      await client.write(session.id, index, bytes(1))
    }
    expect(await find()).toMatchObject({ session: { id: session.id, state: 'active' } })
  })
})

describe('release', () => {
  it('makes the key free, unless it leads elsewhere by now', async () => {
    const { engine, client, create, find } = keyed()
    const first = (await create()).session.id
    await client.write(first, 0, bytes(10))
    await client.complete(first)
    await engine.release({ protocol, resumeKey }, first)
    expect(await find()).toBeNull()
    const second = (await create()).session.id
    expect(second).not.toBe(first)
    await engine.release({ protocol, resumeKey }, first)
    expect(await find()).toMatchObject({ uploadId: second })
    await engine.release({ protocol, resumeKey, owner: 'bob' }, second)
    expect(await find()).toMatchObject({ uploadId: second })
  })
})
