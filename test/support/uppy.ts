/**
 * The real Uppy in Node, with `installXhr`. Loaded without its types: they bring those of a browser with them, which do not
 * go together with Node's.
 */
import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { promisify } from 'node:util'

export interface UppyFile {
  readonly id: string
  readonly name: string
  readonly uploadURL?: string
  readonly error?: string
  /** What the server said, of a file that failed. */
  readonly response?: { readonly responseText?: string; readonly body?: Record<string, unknown> }
}

export interface UppyResult {
  readonly successful: UppyFile[]
  readonly failed: UppyFile[]
}

export interface UppyInstance {
  use(plugin: unknown, options: object): UppyInstance
  addFile(file: { name: string; type: string; data: Blob; meta?: Record<string, unknown> }): string
  upload(): Promise<UppyResult>
  retryAll(): Promise<UppyResult>
  getFile(id: string): UppyFile
  getFiles(): UppyFile[]
  removeFile(id: string): void
  pauseAll(): void
  resumeAll(): void
  on(event: string, listener: (...values: unknown[]) => void): UppyInstance
}

type UppyClass = new (options?: object) => UppyInstance

const root = join(import.meta.dirname, '../..')
const folderOfV5 = join(root, 'test/browser/uppy-v5')

/** Uppy 6 is among the packages of the project; npm cannot have both in one tree, so 5 is installed on demand. */
export async function loadUppy(version: 5 | 6, plugin: string): Promise<{ Uppy: UppyClass; plugin: unknown }> {
  if (version === 5 && !existsSync(join(folderOfV5, 'node_modules'))) {
    const flags = ['--no-audit', '--no-fund', '--no-package-lock', '--prefer-offline', '--ignore-scripts']
    await promisify(execFile)('npm', ['install', ...flags, '--prefix', folderOfV5])
  }
  const { resolve } = createRequire(join(version === 5 ? folderOfV5 : root, 'package.json'))
  const load = async (name: string) => (await import(pathToFileURL(resolve(name)).href)).default
  return { Uppy: await load('@uppy/core'), plugin: await load(plugin) }
}

/** Uppy tells the console about every error that a test provokes. */
export const silent = { debug() {}, warn() {}, error() {} }

export function fileOf(
  data: Buffer,
  name: string,
  type = 'application/octet-stream',
  meta: Record<string, unknown> = {},
) {
  return { name, type, data: new File([new Uint8Array(data)], name, { type }), meta }
}
