/** Resumable.js uploads over servers that are killed. */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { startServer } from '../support/process.ts'
import { bytes, seeded, sha256 } from '../support/random.ts'
import { chunkCount, resumableClient } from '../support/resumable-client.ts'
import { filesBelow, tempFolder } from '../support/temp-folder.ts'

const KiB = 1024

it.each([1, 2, 3])('a file is whole, once, and its URL is told, over kills at any moment (seed %i)', async (seed) => {
  const random = seeded(seed)
  const settings = { tempDir: tempFolder(), directory: tempFolder() }
  const file = { data: bytes(2100 * KiB, seed), chunkSize: 100 * KiB }
  let server = await startServer(settings)
  let kills = 0
  /** Like the client: again and again, without another test. */
  const insist = async (number: number) => {
    for (;;) {
      const { send } = resumableClient(`${server.url}/resumable`)
      const sending = send(file, number).catch(() => null)
      if (kills < 8 && random.next() < 0.4) {
        await new Promise((resolve) => setTimeout(resolve, random.integer(0, 25)))
        await server.kill()
        kills += 1
        await sending
        server = await startServer(settings)
        continue
      }
      const answer = await sending
      if (answer?.status === 200) return answer
    }
  }
  let last = null
  for (let number = 1; number <= chunkCount(file); number++) last = await insist(number)
  // The answer to the last chunk is lost once more, after everything.
  await server.kill()
  server = await startServer(settings)
  const repeated = await insist(chunkCount(file))
  expect(repeated.body).toEqual(last?.body)
  expect(repeated.body).toMatchObject({ complete: true })
  const [name = '', ...others] = (await filesBelow(settings.directory)).filter((path) => path.startsWith('uploads/'))
  expect(others).toEqual([])
  expect(sha256(await readFile(join(settings.directory, name)))).toBe(sha256(file.data))
  await server.kill()
})
