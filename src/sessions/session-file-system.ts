/** What the session store asks of the system. */
import { fstatSync, statSync } from 'node:fs'
import promises from 'node:fs/promises'
import { dirname } from 'node:path'

/** The calls that the session store makes, so that tests can make each of them fail. */
export type SessionFileSystem = Pick<
  typeof import('node:fs/promises'),
  | 'copyFile'
  | 'link'
  | 'lstat'
  | 'mkdir'
  | 'open'
  | 'readdir'
  | 'rename'
  | 'rm'
  | 'rmdir'
  | 'stat'
  | 'statfs'
  | 'unlink'
> &
  // For files that are kept open, and only for them: journal-handles.ts says why.
  Pick<typeof import('node:fs'), 'fstatSync' | 'statSync'>

export const nodeFileSystem: SessionFileSystem = { ...promises, fstatSync, statSync }

export function hasCode(error: unknown, ...codes: string[]): boolean {
  const code = (error as { code?: unknown } | null)?.code
  return typeof code === 'string' && codes.includes(code)
}

/** As Linux tells them (statfs(2)): bcachefs, btrfs, ext2 to ext4, F2FS, overlayfs, tmpfs, XFS, ZFS. */
const localTypes = [
  ...[0xca451a4e, 0x9123683e, 0xef53, 0xf2f52010],
  ...[0x794c7630, 0x01021994, 0x58465342, 0x2fc12fc1],
]

/** Whether the folder is certain to be on a disk of this machine. A network or a daemon behind it may let calls wait. */
export async function isOnLocalDisk(fs: SessionFileSystem, path: string): Promise<boolean> {
  if (process.platform !== 'linux') return false
  try {
    // A folder above may be on a network: every look at a path asks it again.
    for (let at = path; ; at = dirname(at)) {
      if (!localTypes.includes((await fs.statfs(at)).type)) return false
      if (at === dirname(at)) return true
    }
  } catch {
    return false
  }
}
