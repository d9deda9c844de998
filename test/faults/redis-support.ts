/** What tests with a Redis in trouble have in common. */
import { inspect } from 'node:util'
import { expect } from 'vitest'
import { isNexusUploaderError } from '../../src/errors.ts'

export interface Failure {
  readonly code: string
  readonly status: number
  readonly retryable: boolean
  /** The code of what went wrong inside. */
  readonly cause: string
  /** How long it took, ms. */
  readonly time: number
}

/** What a call fails with; `null` when it does not. */
export async function failureOf(call: Promise<unknown>): Promise<Failure | null> {
  const start = performance.now()
  try {
    await call
    return null
  } catch (error) {
    if (!isNexusUploaderError(error)) throw error
    const { code, status, retryable } = error
    const cause = (error.cause as { code?: string } | undefined)?.code ?? ''
    return { code, status, retryable, cause, time: performance.now() - start }
  }
}

/** Everything that a log could show of a value. */
export function everythingOf(value: unknown): string {
  const seen = [inspect(value, { depth: 20, showHidden: true }), String(value), JSON.stringify(value)]
  if (value instanceof Error) seen.push(value.stack ?? '', value.message, everythingOf(value.cause ?? null))
  return seen.join('\n')
}

export const unavailable = { code: 'STORAGE_UNAVAILABLE', status: 503, retryable: true }
export const unreadable = { code: 'STATE_UNREADABLE', status: 503, retryable: true }
export const newer = { code: 'STATE_NEWER', status: 503, retryable: true }

/** Repeats `check` until it does not fail, for 10 s at most. */
export async function eventually(check: () => unknown): Promise<void> {
  const passes = async () => {
    await check()
    return true
  }
  await expect.poll(passes, { timeout: 10_000, interval: 10 }).toBe(true)
}
