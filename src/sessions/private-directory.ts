/** The folder of the session store: private, ours, and still the one we began with. */
import type { Stats } from 'node:fs'
import { dirname } from 'node:path'
import { StorageUnavailableError } from '../errors.ts'
import { hasCode, type SessionFileSystem } from './session-file-system.ts'
import type { SessionFiles } from './session-files.ts'

export interface DirectoryIdentity {
  readonly dev: number
  readonly ino: number
}

/**
 * Makes the folder if there is none.
 * @throws StorageUnavailableError when it is not safe to use; `cause` says why
 */
export async function openPrivateDirectory(files: SessionFiles, path: string): Promise<DirectoryIdentity> {
  const firstMade = await files.fs.mkdir(path, { recursive: true, mode: 0o700 })
  for (let made = path; firstMade !== undefined && made.length >= firstMade.length; made = dirname(made)) {
    await files.flushFolder(dirname(made))
  }
  // Whoever made it may not have come to that yet. A folder above that may not be read was not made by us.
  if (firstMade === undefined) {
    await files.flushFolder(dirname(path)).catch((error) => {
      if (!hasCode(error, 'EACCES', 'EPERM')) throw error
    })
  }
  const stats = await files.fs.lstat(path)
  const fault = faultOf(stats)
  if (fault !== null) throw new StorageUnavailableError(undefined, { cause: new Error(`${path} ${fault}`) })
  return { dev: stats.dev, ino: stats.ino }
}

/**
 * A missing record in a folder that was replaced (a disk that is no longer mounted) says nothing about the record.
 * @throws StorageUnavailableError when it is another folder now
 */
export async function checkSameDirectory(fs: SessionFileSystem, path: string, was: DirectoryIdentity): Promise<void> {
  const { dev, ino } = await fs.lstat(path)
  if (dev === was.dev && ino === was.ino) return
  throw new StorageUnavailableError(undefined, { cause: new Error(`${path} is no longer the folder it was.`) })
}

function faultOf(stats: Stats): string | null {
  if (stats.isSymbolicLink()) return 'is a symbolic link. Give the real path of a folder.'
  if (!stats.isDirectory()) return 'is not a folder.'
  if (process.getuid === undefined) return null
  if (stats.uid !== process.getuid()) return `belongs to user ${stats.uid}, not to this process.`
  if ((stats.mode & 0o002) !== 0) return 'can be written to by everybody. Take that permission away.'
  return null
}
