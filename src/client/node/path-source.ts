/** A file of this machine as a source. */
import { createHash } from 'node:crypto'
import { type FileHandle, open } from 'node:fs/promises'
import { hostname } from 'node:os'
import { basename, resolve } from 'node:path'
import type { Source } from '../platform.ts'
import { namesOf } from '../source-names.ts'
import type { UploadOptions } from '../types.ts'

/** @throws the file system's error */
export async function openPath(path: string, options: UploadOptions): Promise<Source> {
  const absolute = resolve(path)
  let handle: FileHandle | null = await open(absolute)
  const { size, mtimeNs, ino } = await handle.stat({ bigint: true })
  const opened = async () => {
    handle ??= await open(absolute)
    return handle
  }
  return {
    ...namesOf(options, basename(path)),
    size: Number(size),
    // Other people can have the same file, but not on this machine, in this place, since this nanosecond.
    identity: createHash('sha256')
      .update(JSON.stringify([hostname(), absolute, `${mtimeNs}`, `${ino}`]))
      .digest('base64url'),
    isRereadable: true,
    async read(start, end) {
      const file = await opened()
      const data = new Uint8Array(end - start)
      for (let at = 0; at < data.length; ) {
        const { bytesRead } = await file.read(data, at, data.length - at, start + at)
        if (bytesRead === 0) throw new Error('The file has become shorter.')
        at += bytesRead
      }
      const now = await file.stat({ bigint: true })
      // Opened again, it may be another file, made to look as old as the first.
      const isSame = now.ino === ino && now.mtimeNs === mtimeNs && now.size === size
      if (!isSame) throw new Error('The file was changed while it was uploaded.')
      return data
    },
    close() {
      handle?.close().catch(() => {})
      handle = null
    },
  }
}
