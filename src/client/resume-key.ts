/** What an upload is called, so that the same file finds it again and no other does. */
import { crc32c } from './checksum.ts'
import type { Source } from './platform.ts'
import type { BlobLike } from './types.ts'

/** Bytes at either end that are looked at: an edited file nearly always differs there, if not in size and time. */
const sample = 65_536

/** `null` for a source that nothing sets apart. */
export async function resumeKeyOf(source: Source): Promise<string | null> {
  const { identity, size, name } = source
  if (identity === null) return null
  const head = await source.read(0, Math.min(sample, size))
  const tail = await source.read(Math.max(0, size - sample), size)
  return [identity, size, crc32c(await bytesOf(head)), crc32c(await bytesOf(tail)), name.slice(-200)].join('.')
}

export async function bytesOf(data: Uint8Array | BlobLike): Promise<Uint8Array> {
  return data instanceof Uint8Array ? data : new Uint8Array(await data.arrayBuffer())
}

const slot = 'nexus-uploader'
let ofThisPage = ''

/**
 * A random word that only this browser knows. Without it a visitor who has the same file could find the upload, where
 * the server does not tell its users apart.
 */
export function browserSecret(): string {
  const { localStorage } = globalThis as { localStorage?: { getItem(key: string): string | null; setItem: StoreItem } }
  ofThisPage ||= randomWord()
  try {
    ofThisPage = localStorage?.getItem(slot) ?? ofThisPage
    localStorage?.setItem(slot, ofThisPage)
  } catch {
    // Storage is forbidden or full: the word is good for as long as the page lives.
  }
  return ofThisPage
}

type StoreItem = (key: string, value: string) => void

/** 128 bits. `randomUUID` exists in secure contexts only. */
export function randomWord(): string {
  return crypto.getRandomValues(new Uint32Array(4)).join('')
}
