/** What the demo and its server must agree on. */
import { join } from 'node:path'

export const MiB = 1024 * 1024

/** As in the documented example. */
export const CHUNK_SIZE = 2 * MiB

/** Where the server stores finished files, below the demo's temp folder. */
export function storedFolder(folder: string): string {
  return join(folder, 'stored')
}
