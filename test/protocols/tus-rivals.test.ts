/** Two clients, or two connections of one, that write to the same place of an upload. */
import { describe, expect, it } from 'vitest'
import { bytes } from '../support/random.ts'
import { storedAt, type TusAnswer, tusServer } from '../support/tus-client.ts'

const [mine, theirs] = [bytes(200_000, 1), bytes(200_000, 2)]

describe('two PATCHes at one offset, a slow and a fast one', () => {
  it.each([
    ['nothing', 0],
    ['a piece', 70_000],
  ])('of which the slow one has sent %s: the bytes are those of one of them at a time [C08]', async (_name, sent) => {
    const server = await tusServer()
    const url = await server.create(200_000)
    const slow = server.openPatch(url, 0, mine.subarray(0, sent), 200_000)
    slow.request.flushHeaders()
    await server.arrived(slow)
    const fast = await server.patch(url, 0, theirs)
    const late = slow.answer
    slow.request.end(mine.subarray(sent))
    const slowAnswer = await late
    // What came of the slow one before the other was there stays.
    expect([fast.status, fast.headers['upload-offset']]).toEqual(sent === 0 ? [204, '200000'] : [409, '70000'])
    expect([null, 204, 409, 423]).toContain(slowAnswer?.status ?? null)
    const offset = Number((await server.head(url)).headers['upload-offset'])
    expect(offset).toBe(sent === 0 ? 200_000 : sent)
    if (slowAnswer?.status === 204) expect(Number(slowAnswer.headers['upload-offset'])).toBe(sent)
    const last: TusAnswer = await server.patch(url, offset, mine.subarray(offset))
    expect(last.status).toBe(204)
    expect((await storedAt(server, last)).equals(sent === 0 ? theirs : mine)).toBe(true)
  })

  it('that come in one moment: one is stored, the other is refused [C08]', async () => {
    const server = await tusServer()
    for (let round = 0; round < 10; round++) {
      const url = await server.create(200_000)
      const answers = await Promise.all([server.patch(url, 0, mine), server.patch(url, 0, theirs)])
      const statuses = answers.map(({ status }) => status)
      const winner = answers[statuses.indexOf(204)] as TusAnswer
      expect(winner.headers['upload-offset']).toBe('200000')
      expect(statuses.filter((status) => status !== 204 && status !== 409 && status !== 423)).toEqual([])
      expect(statuses.filter((status) => status === 204)).toHaveLength(1)
      expect((await storedAt(server, winner)).equals(statuses[0] === 204 ? mine : theirs)).toBe(true)
    }
  })
})
