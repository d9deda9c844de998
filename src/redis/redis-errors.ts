/**
 * What a failed command means. The errors of the clients are never passed on: they carry the command with its arguments,
 * and in some cases the address with the password.
 */
import { isNexusUploaderError, StorageUnavailableError } from '../errors.ts'

/** What went wrong with Redis, in words that hold no secret. Found in `cause` of the 503. */
export class RedisTrouble extends Error {
  override readonly name = 'RedisTrouble'
  /** The first word of Redis' answer (`OOM`, `READONLY`, …), the system's error (`ECONNREFUSED`), or what happened. */
  readonly code: string

  constructor(code: string, message: string) {
    super(message)
    this.code = code
  }
}

/** Answers whose text is fixed, so that it can be shown. */
const known =
  /\b(OOM|READONLY|LOADING|BUSY|MISCONF|NOAUTH|NOPERM|WRONGTYPE|NOREPLICAS|CLUSTERDOWN|MASTERDOWN|TRYAGAIN|CROSSSLOT)\b/
const replied = /^-?([A-Z][A-Z0-9_]+)( |$)/
const systemError = /\b(E[A-Z]{3,})\b/

/** Whether Redis answered, with an error: then it did not do what it was told. */
export function isErrorReply(error: unknown): boolean {
  return replied.test(messageOf(error)) && !systemError.test(messageOf(error).split(' ')[0] ?? '')
}

export function isMissingScript(error: unknown): boolean {
  return messageOf(error).includes('NOSCRIPT')
}

/** Whether a key holds something that is not of our kind. */
export function isWrongType(error: unknown): boolean {
  return codeOf(error) === 'WRONGTYPE'
}

/** 503 `STORAGE_UNAVAILABLE`, with a cause that tells operators what it was. */
export function redisUnavailable(error: unknown): Error {
  if (isNexusUploaderError(error)) return error
  return new StorageUnavailableError(undefined, { cause: troubleOf(error) })
}

export function troubleOf(error: unknown): RedisTrouble {
  if (error instanceof RedisTrouble) return error
  const message = messageOf(error)
  const code = codeOf(error)
  if (!isErrorReply(error)) return new RedisTrouble(code, `Redis cannot be reached: ${code}`)
  const [line = ''] = message.split('\n')
  return new RedisTrouble(
    code,
    known.test(message) ? `Redis answered: ${line.slice(0, 200)}` : `Redis answered ${code}`,
  )
}

function codeOf(error: unknown): string {
  if (error instanceof RedisTrouble) return error.code
  const message = messageOf(error)
  if (isErrorReply(error)) return known.exec(message)?.[1] ?? replied.exec(message)?.[1] ?? 'ERR'
  const { code, name } = (error ?? {}) as { code?: unknown; name?: unknown }
  if (typeof code === 'string' && /^[A-Z][A-Z0-9_]{2,40}$/.test(code)) return code
  return systemError.exec(message)?.[1] ?? (typeof name === 'string' && /^\w{1,60}$/.test(name) ? name : 'Error')
}

function messageOf(error: unknown): string {
  const { message } = (error ?? {}) as { message?: unknown }
  return typeof message === 'string' ? message : ''
}
