import { createHash } from 'node:crypto'
import { lutimes, mkdir, readdir, symlink, unlink } from 'node:fs/promises'
import { syncBuiltinESMExports } from 'node:module'
import os from 'node:os'
import { join } from 'node:path'
import { afterEach, describe, expect, it, vi } from 'vitest'
import { Claims } from '../../src/engine/claims.ts'
import { dropToken, takeToken } from '../../src/engine/processes.ts'
import { tempFolder } from '../support/temp-folder.ts'

const range = { start: 0, end: 100 }

/** The machine has been up for so long, seconds. */
function upFor(seconds: number): void {
  vi.spyOn(os, 'uptime').mockReturnValue(seconds)
  syncBuiltinESMExports()
}

afterEach(() => {
  vi.restoreAllMocks()
  syncBuiltinESMExports()
})

/** Two tables on one folder meet on the disk only, like two processes. */
async function twoTables() {
  const root = tempFolder()
  const folder = join(root, 'claims')
  await mkdir(folder)
  const make = () => new Claims(() => folder)
  return { folder, one: make(), other: make() }
}

function deadToken(): string {
  const token = takeToken()
  dropToken(token)
  return token
}

describe('a claim', () => {
  it('shuts out every overlapping one, here and elsewhere, until it is released', async () => {
    const { folder, one, other } = await twoTables()
    const claim = await one.claim('x', range)
    for (const table of [one, other]) {
      for (const [start, end] of [
        [0, 100],
        [99, 200],
        [50, 60],
        [0, 1],
      ] as const) {
        expect(await table.claim('x', { start, end })).toBeNull()
      }
      const beside = await table.claim('x', { start: 100, end: 200 })
      expect(beside).not.toBeNull()
      await beside?.release()
    }
    await claim?.release()
    expect(await readdir(folder)).toEqual([])
    expect(await other.claim('x', { start: 50, end: 60 })).not.toBeNull()
  })

  it('is never given to two of many who ask at once', async () => {
    for (let round = 0; round < 20; round++) {
      const { one, other } = await twoTables()
      const tables = Array.from({ length: 10 }, (_, i) => (i % 2 ? one : other))
      const claims = await Promise.all(tables.map((table, i) => table.claim('x', { start: i * 5, end: 60 + i * 5 })))
      expect(claims.filter((claim) => claim !== null).length).toBeLessThanOrEqual(1)
    }
  })

  it.skipIf(takeToken().startsWith('-'))('of before a power cut is taken over at once', async () => {
    const { folder, one } = await twoTables()
    const [scope = '', ...rest] = takeToken().split('.')
    const [machine, boot, space] = scope.split('-')
    const touched = new Date(Date.now() - 60_000)
    const claimOf = async (then: string) => {
      const path = join(folder, '0-100')
      await symlink([then, ...rest].join('.'), path)
      await lutimes(path, touched, touched)
      return one.claim('x', range)
    }
    upFor(10)
    expect(await claimOf(`0123456789ab-0123456789ab-${space}`), 'of another machine').toBeNull()
    await unlink(join(folder, '0-100'))
    expect(await claimOf(`${machine}-${boot}-0123456789ab`), 'of another container').toBeNull()
    await unlink(join(folder, '0-100'))
    upFor(120)
    expect(await claimOf(`${machine}-0123456789ab-${space}`), 'of a clone of this machine, at work').toBeNull()
    await unlink(join(folder, '0-100'))
    upFor(10)
    expect(await claimOf(`${machine}-0123456789ab-${space}`), 'of an earlier boot').not.toBeNull()
  })

  it('of a dead process is taken over by exactly one', async () => {
    for (let round = 0; round < 20; round++) {
      const { folder, one, other } = await twoTables()
      await symlink(deadToken(), join(folder, '0-100'))
      const claims = await Promise.all([one, other, one, other].map((table) => table.claim('x', range)))
      expect(claims.filter((claim) => claim !== null).length).toBeLessThanOrEqual(1)
      const later = claims.find((claim) => claim !== null) ?? (await one.claim('x', range))
      expect(later).not.toBeNull()
      await later?.release()
      expect(await other.isBusy('x')).toBe(false)
    }
  })

  it('is not lost for ever when whoever took it over died over it', async () => {
    const { folder, one } = await twoTables()
    const dead = deadToken()
    const thief = deadToken()
    await symlink(dead, join(folder, '0-100'))
    await symlink(thief, join(folder, `stolen-${createHash('sha256').update(dead).digest('hex').slice(0, 32)}`))
    expect(await one.claim('x', range)).not.toBeNull()
  })

  it('from another container counts as alive until it has not been touched for five minutes', async () => {
    const { folder, one } = await twoTables()
    const path = join(folder, '0-100')
    await symlink('another-scope.7.123.0.1.abcd', path)
    expect(await one.claim('x', range)).toBeNull()
    expect(await one.isBusy('x')).toBe(true)
    const old = new Date(Date.now() - 6 * 60_000)
    await lutimes(path, old, old)
    expect(await one.isBusy('x')).toBe(false)
    expect(await one.claim('x', range)).not.toBeNull()
  })

  it('that is insisted on makes its holder yield', async () => {
    const { one } = await twoTables()
    let asked = 0
    const held = await one.claim('x', range, () => {
      asked += 1
      void held?.release()
    })
    const claim = await one.insist('x', { start: 0, end: 500 }, 2000, new AbortController().signal)
    expect(claim).not.toBeNull()
    expect(asked).toBe(1)
  })
})
