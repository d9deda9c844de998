/** What `LocalStorageAdapter` can be told. */
import { inspect } from 'node:util'
import type { Durability } from '../types.ts'

export const privateFile = 0o600
export const privateFolder = 0o700

export interface LocalStorageOptions {
  /** Where the files go; made when missing. A relative path is resolved once, at construction. */
  readonly directory: string
  /** What the URLs begin with, e.g. `https://example.com/files`. Default: none, the URL is `/` and the key. */
  readonly baseUrl?: string
  /**
   * What a stored file survives when the call has returned: `process` (default) the kill of the server, `power` also
   * a power cut: the file and its folder are flushed first.
   */
  readonly durability?: Durability
  /** Permissions of the files. Default `0o600`: only this server's user. `0o644` when another user serves them. */
  readonly fileMode?: number
  /**
   * Permissions of the folders this adapter makes. Default `0o700`; `0o755` when another user serves the files. Folders
   * that are there already are left alone: make `directory` yourself when another user must enter it.
   */
  readonly directoryMode?: number
}

export function checkOptions(options: LocalStorageOptions): LocalStorageOptions {
  const { directory, baseUrl, durability, fileMode, directoryMode } = options ?? {}
  if (typeof directory !== 'string' || directory === '' || directory.includes('\0')) {
    throw new TypeError(`directory must be the path of a folder, got ${inspect(directory)}`)
  }
  if (baseUrl !== undefined && (typeof baseUrl !== 'string' || /[?#\s]/.test(baseUrl))) {
    throw new TypeError(`baseUrl must be a URL without query, fragment and spaces, got ${inspect(baseUrl)}`)
  }
  if (durability !== undefined && durability !== 'process' && durability !== 'power') {
    throw new TypeError(`durability must be 'process' or 'power', got ${inspect(durability)}`)
  }
  checkMode('fileMode', fileMode, privateFile)
  checkMode('directoryMode', directoryMode, privateFolder)
  return options
}

function checkMode(name: string, mode: number | undefined, least: number): void {
  if (mode === undefined) return
  const usable = Number.isInteger(mode) && mode >= 0 && mode <= 0o777 && (mode & least) === least
  if (usable) return
  const shown = typeof mode === 'number' ? `0o${mode.toString(8)}` : inspect(mode)
  throw new TypeError(`${name} must be permissions that include 0o${least.toString(8)}, got ${shown}`)
}

export function withoutTrailingSlashes(url: string): string {
  let end = url.length
  while (url[end - 1] === '/') end--
  return url.slice(0, end)
}
