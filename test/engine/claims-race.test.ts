/** What may happen to a claim between two steps of somebody who wants it. */
import { mkdir, symlink } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, it, vi } from 'vitest'
import { Claims } from '../../src/engine/claims.ts'
import { dropToken, takeToken } from '../../src/engine/processes.ts'
import { tempFolder } from '../support/temp-folder.ts'

/** Runs once, between the next look at a mark and what is made of it. */
const afterLook = vi.hoisted(() => ({ run: null as (() => Promise<void>) | null }))

vi.mock('node:fs/promises', async (load) => {
  const fs = await load<typeof import('node:fs/promises')>()
  const readlink = async (path: string) => {
    const target = await fs.readlink(path)
    const { run } = afterLook
    afterLook.run = null
    await run?.()
    return target
  }
  return { ...fs, readlink }
})

const range = { start: 0, end: 100 }

it('a claim of a living process is not taken by somebody who had seen a dead one in its place [C02]', async () => {
  const folder = join(tempFolder(), 'claims')
  await mkdir(folder)
  const [slow, thief, third] = Array.from({ length: 3 }, () => new Claims(() => folder)) as [Claims, Claims, Claims]
  const dead = takeToken()
  dropToken(dead)
  await symlink(dead, join(folder, '0-100'))
  let living = null
  afterLook.run = async () => {
    await (await thief.claim('x', range))?.release()
    living = await third.claim('x', range)
  }
  expect(await slow.claim('x', range)).toBeNull()
  expect(living).not.toBeNull()
})
