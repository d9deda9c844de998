/** Asks the application's `authorize` hook. What it throws refuses the action. */
import { UploadExpiredError, UploadNotFoundError } from '../errors.ts'
import type { UploadAction, UploadSession } from '../types.ts'
import type { EngineParts } from './engine-options.ts'

/** @throws UploadNotFoundError when the hook says no: the same answer as for an unknown id */
export async function authorize(
  parts: EngineParts,
  action: UploadAction,
  session: UploadSession | null,
  context: unknown,
): Promise<void> {
  if (!(await allows(parts, action, session, context))) throw new UploadNotFoundError()
}

export async function allows(
  parts: EngineParts,
  action: UploadAction,
  session: UploadSession | null,
  context: unknown,
): Promise<boolean> {
  const answer: unknown = await parts.options.hooks.authorize?.(action, session, context)
  return answer === undefined || answer === true
}

/** @throws UploadExpiredError for an upload that was aborted, refused by the application, or idle for too long */
export function requireOpen({ state, refusal }: UploadSession): void {
  if (state !== 'aborted' && state !== 'expired') return
  throw new UploadExpiredError({ aborted: state === 'aborted', ...(refusal && { details: { refusal } }) })
}
