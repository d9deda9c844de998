/** A file system in which every call can be held up or made to fail, and random numbers that can be repeated. */
import { nodeFileSystem, type SessionFileSystem } from '../../src/sessions/session-file-system.ts'
import type { SessionRecord, UploadSession } from '../../src/types.ts'

/** Sees every call, of the file system and of each open file: may wait, throw, or do something else than `proceed`. */
export type Interceptor = (
  name: string,
  proceed: () => Promise<unknown>,
  args: unknown[],
  target: object,
) => Promise<unknown>

/** The same for calls that are made synchronously. */
export type SyncInterceptor = (name: string, proceed: () => unknown, args: unknown[]) => unknown

type Callable = (...args: unknown[]) => Promise<unknown>

export function interceptedFs(
  intercept: Interceptor,
  interceptSync: SyncInterceptor = (_, proceed) => proceed(),
): SessionFileSystem {
  const wrap = (target: object, prefix: string): object =>
    new Proxy(target, {
      get(_, key) {
        const member: unknown = Reflect.get(target, key)
        if (typeof member !== 'function') return member
        if (String(key).endsWith('Sync')) {
          return (...args: unknown[]) => interceptSync(String(key), () => member.apply(target, args), args)
        }
        return async (...args: unknown[]) => {
          const proceed = () => (member as Callable).apply(target, args)
          const result = await intercept(`${prefix}${String(key)}`, proceed, args, target)
          return key === 'open' ? wrap(result as object, 'handle.') : result
        }
      },
    })
  return wrap(nodeFileSystem, '') as SessionFileSystem
}

/** The same numbers in [0, 1) for the same seed. */
export function randomFrom(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x9e3779b9) >>> 0
    let mixed = state ^ (state >>> 16)
    mixed = Math.imul(mixed, 0x21f0aaad)
    mixed = Math.imul(mixed ^ (mixed >>> 15), 0x735a2d97)
    return ((mixed ^ (mixed >>> 15)) >>> 0) / 2 ** 32
  }
}

export const someId = '3f0c8f2e-8a53-4b6e-9d1c-0a4f5d6e7b8c'

/** A record whose content is `key`. */
export function newRecord(changes: Partial<UploadSession> = {}): UploadSession {
  return {
    ...{ id: someId, version: 1, expiresAt: 4_000_000_000_000, open: true, owner: null },
    ...{ format: 1, kind: 'upload', protocol: 'native', state: 'active', key: 'first' },
    ...{ fileName: 'f', mimeType: 'text/plain', metadata: {}, totalSize: 0, chunkSize: null, stride: null },
    ...{ partSize: 1, chunks: [], sentParts: [], multipartId: null, checksum: null, resumeId: null },
    ...{ completing: null, handedOver: false, object: null, createdAt: 0, updatedAt: 0 },
    ...changes,
  }
}

export function keyOf(record: SessionRecord | null): string | null {
  return record === null ? null : (record as UploadSession).key
}
