import { mkdtempSync, realpathSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fs from 'fs-extra'
import { afterEach } from 'vitest'

const folders: string[] = []

/** A folder of its own, removed after the test. */
export function tempFolder(): string {
  const { path } = makeFolder()
  folders.push(path)
  return path
}

/** A folder that outlives a test; the caller removes it. */
export function makeFolder(): { path: string; remove: () => Promise<void> } {
  const path = mkdtempSync(join(realpathSync(tmpdir()), 'nexus-test-'))
  return { path, remove: () => fs.remove(path) }
}

afterEach(async () => {
  for (const folder of folders.splice(0)) await fs.remove(folder)
})

/** Paths of all files below a folder, relative to it, sorted. */
export async function filesBelow(folder: string): Promise<string[]> {
  const entries = await fs.readdir(folder, { recursive: true, withFileTypes: true }).catch(() => [])
  return entries
    .filter((entry) => !entry.isDirectory())
    .map((entry) => join(entry.parentPath, entry.name).slice(folder.length + 1))
    .sort()
}
